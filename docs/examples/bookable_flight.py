"""A flight whose seats are booked: pure functions, with the log at the edge.

python -m docs.examples.bookable_flight
"""

from typing import Annotated

import msgspec
from msgspec.structs import replace

from eventlog import App, event
from eventlog.projections import Decider, Snapshots

# --- what can happen ---------------------------------------------------------


@event("flight.opened")
class Opened(msgspec.Struct, frozen=True):
    seats: frozenset[str]


@event("seat.booked")
class Booked(msgspec.Struct, frozen=True):
    seat: str
    passenger: str


@event("seat.cancelled")
class Cancelled(msgspec.Struct, frozen=True):
    seat: str


# --- what can be asked for ---------------------------------------------------


class Open(msgspec.Struct, frozen=True, tag=True):
    rows: Annotated[int, msgspec.Meta(ge=1)]


class Book(msgspec.Struct, frozen=True, tag=True):
    passenger: str
    seat: str | None = None  # any seat


class Cancel(msgspec.Struct, frozen=True, tag=True):
    seat: str


Command = Open | Book | Cancel


class RefusedError(Exception):
    """The rules do not allow it."""


# --- what is true, and what follows ------------------------------------------


class Flight(msgspec.Struct, frozen=True):
    """The state that decisions are made on: which seats there are, and who has them."""

    seats: frozenset[str] = frozenset()
    taken: dict[str, str] = {}

    @property
    def free(self) -> list[str]:
        return sorted(self.seats - self.taken.keys())


def evolve(flight: Flight, happened: object) -> Flight:
    match happened:
        case Opened(seats):
            return replace(flight, seats=seats)
        case Booked(seat, passenger):
            return replace(flight, taken={**flight.taken, seat: passenger})
        case Cancelled(seat):
            return replace(flight, taken={one: who for one, who in flight.taken.items() if one != seat})
    return flight


def decide(flight: Flight, command: Command) -> list[msgspec.Struct]:
    match command:
        case Open(rows):
            if flight.seats:
                raise RefusedError("the flight is open already")
            return [Opened(frozenset(f"{row}{letter}" for row in range(1, rows + 1) for letter in "AB"))]
        case Book(passenger, seat):
            if not flight.free:
                raise RefusedError("no seat is free")
            chosen = seat or flight.free[0]
            if chosen not in flight.free:
                raise RefusedError(f"seat {chosen} is not free")
            return [Booked(chosen, passenger)]
        case Cancel(seat):
            return [Cancelled(seat)] if seat in flight.taken else []


flight = Decider(
    "bookable-flight",
    initial=Flight(),
    evolve=evolve,
    decide=decide,
    snapshots=Snapshots(state=Flight, every=50),
)


# --- the edge ----------------------------------------------------------------


def main(url: str = "sqlite:///flights.db") -> None:
    app = App(url)
    app.log.init()
    stream = "flight-UA1545-2013-01-01"
    flight.handle(app.log, stream, Open(rows=1))
    flight.handle(app.log, stream, Book("Ada"))
    flight.handle(app.log, stream, Book("Grace", seat="1B"))
    try:
        flight.handle(app.log, stream, Book("Edsger"))
    except RefusedError as error:
        print(f"Edsger stays: {error}")
    print(flight.load(app.log, stream).state.taken)


if __name__ == "__main__":
    main()

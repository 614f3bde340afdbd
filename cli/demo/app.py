"""Flights out of New York in the first week of 2013: an application with an event log, small and whole.

Every flight is written into the application's own table, and what happened to it is appended to the log, in one
transaction. Three subscribers read the log: a board of delays, counts per carrier and day, and a mail for every arrival
that was more than two hours late. One of the handlers has a bug. Look for THE BUG.
"""

import os
import smtplib
from collections.abc import Iterator
from datetime import date, datetime, time
from email.message import EmailMessage
from typing import Any

import msgspec
from sqlalchemy import Column, Date, Integer, MetaData, String, Table, bindparam, insert, select, text

from eventlog import App, Context, Retry, event
from eventlog.cli.demo.flights import Flight

MAIL_SERVER = os.environ.get("EVENTLOG_DEMO_SMTP", "127.0.0.1:2525")

app = App(os.environ.get("EVENTLOG_URL", "sqlite:///flights.db"))


# Events: what happened. There is one stream per flight, day and origin.

STREAM = "flight-{carrier}{number}-{day}-{origin}"


class FlightEvent(msgspec.Struct, frozen=True):
    carrier: str
    number: int
    day: date
    origin: str
    dest: str


@event("flight.scheduled", stream=STREAM)
class Scheduled(FlightEvent, frozen=True):
    departs: datetime
    arrives: time  # on the clock of the destination


@event("flight.departed", stream=STREAM)
class Departed(FlightEvent, frozen=True):
    at: datetime
    delay: int  # minutes, negative when early


@event("flight.arrived", stream=STREAM)
class Arrived(FlightEvent, frozen=True):
    at: time
    delay: int | None  # not known for a flight that was diverted


@event("flight.cancelled", stream=STREAM)
class Cancelled(FlightEvent, frozen=True):
    pass


# Tables: the application's own one, and the two that projections make from the log.

metadata = MetaData()


def numbers(*names: str) -> list[Column[int]]:
    return [Column(name, Integer, nullable=False) for name in names]


flights = Table(
    "flights",
    metadata,
    Column("carrier", String(2), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("day", Date, primary_key=True),
    Column("origin", String(3), primary_key=True),
    Column("dest", String(3), nullable=False),
    Column("aircraft", String(6)),
)

airport_delays = Table(
    "airport_delays",
    metadata,
    Column("airport", String(3), primary_key=True),
    *numbers("arrivals", "late", "minutes", "worst"),
)

carrier_days = Table(
    "carrier_days",
    metadata,
    Column("carrier", String(2), primary_key=True),
    Column("day", Date, primary_key=True),
    *numbers("scheduled", "departed", "arrived", "cancelled", "minutes"),
)


def create_tables() -> None:
    """Make the log, and the application's own table. Projections make theirs when they are registered."""
    app.log.init()
    flights.create(app.engine)


# Append: the row of a flight and its events are one transaction. Both are there, or neither is.


def record(flight: Flight) -> None:
    which = {name: getattr(flight, name) for name in FlightEvent.__struct_fields__}
    with app.engine.begin() as transaction:
        transaction.execute(insert(flights), {**which, "aircraft": flight.aircraft})
        app.log.append(*what_happened(flight, which), tx=transaction)


def what_happened(flight: Flight, which: dict[str, Any]) -> Iterator[FlightEvent]:
    yield Scheduled(**which, departs=flight.departs, arrives=flight.arrives)
    if flight.departure is None:
        yield Cancelled(**which)
    else:
        yield Departed(**which, at=flight.departure.at, delay=flight.departure.delay)
    if flight.arrival is not None:
        yield Arrived(**which, at=flight.arrival.at, delay=flight.arrival.delay)


# Subscriber 1: the board of delays. What fails is parked at once: the rest of the board goes on.

delays = app.projection("delays", tables=[airport_delays], on_failure="park", retry=Retry(attempts=1))

ADD_ARRIVAL = text("""
    insert into airport_delays (airport, arrivals, late, minutes, worst)
    values (:airport, 1, cast(:minutes >= 15 as integer), :minutes, :minutes)
    on conflict (airport) do update set
        arrivals = airport_delays.arrivals + 1,
        late = airport_delays.late + excluded.late,
        minutes = airport_delays.minutes + excluded.minutes,
        worst = case when excluded.worst > airport_delays.worst then excluded.worst else airport_delays.worst end
""")


@delays
def arrival_on_board(arrival: Arrived, ctx: Context) -> None:
    # THE BUG: a diverted flight arrives without a delay. The type checker saw it, and was told to be quiet.
    # The fix: `arrival.delay or 0`.
    minutes = max(arrival.delay, 0)  # type: ignore[type-var]
    ctx.connection.execute(ADD_ARRIVAL, {"airport": arrival.dest, "minutes": minutes})


# Subscriber 2: what each carrier did on each day.

per_carrier = app.projection("carrier-days", tables=[carrier_days])

ADD_COUNTS = text("""
    insert into carrier_days (carrier, day, scheduled, departed, arrived, cancelled, minutes)
    values (:carrier, :day, :scheduled, :departed, :arrived, :cancelled, :minutes)
    on conflict (carrier, day) do update set
        scheduled = carrier_days.scheduled + excluded.scheduled,
        departed = carrier_days.departed + excluded.departed,
        arrived = carrier_days.arrived + excluded.arrived,
        cancelled = carrier_days.cancelled + excluded.cancelled,
        minutes = carrier_days.minutes + excluded.minutes
""").bindparams(bindparam("day", type_=Date))


@per_carrier
def scheduled(flight: Scheduled, ctx: Context) -> None:
    add_counts(ctx, flight, scheduled=1)


@per_carrier
def departed(flight: Departed, ctx: Context) -> None:
    add_counts(ctx, flight, departed=1)


@per_carrier
def arrived(flight: Arrived, ctx: Context) -> None:
    add_counts(ctx, flight, arrived=1, minutes=max(flight.delay or 0, 0))


@per_carrier
def cancelled(flight: Cancelled, ctx: Context) -> None:
    add_counts(ctx, flight, cancelled=1)


def add_counts(ctx: Context, flight: FlightEvent, **counts: int) -> None:
    nothing = {"scheduled": 0, "departed": 0, "arrived": 0, "cancelled": 0, "minutes": 0}
    ctx.connection.execute(ADD_COUNTS, {"carrier": flight.carrier, "day": flight.day, **nothing, **counts})


# Subscriber 3: a mail for every arrival more than two hours late. What was mailed cannot be taken back, so a rewind of
# this one wants --resend. The Message-ID is the same every time: a mail server may drop what it has seen.

mail = app.subscriber("delay-mail", retry=Retry(attempts=5))


@mail
def apologise(flight: Arrived, ctx: Context) -> None:
    if flight.delay is None or flight.delay <= 120:
        return
    message = EmailMessage()
    message["Message-ID"] = f"<{ctx.idempotency_key.replace(':', '.')}@flights.example>"
    message["From"] = "New York departures <noreply@flights.example>"
    message["To"] = f"{flight.dest.lower()}@airports.example"
    message["Subject"] = f"{flight.carrier} {flight.number} from {flight.origin} is {flight.delay} minutes late"
    message.set_content(f"It landed in {flight.dest} at {flight.at:%H:%M}. We are sorry.\n")
    with smtplib.SMTP(MAIL_SERVER, local_hostname="localhost", timeout=10) as server:
        server.send_message(message)


# `python app.py` shows the board.

if __name__ == "__main__":
    with app.engine.connect() as connection:
        board = connection.execute(select(airport_delays).order_by(airport_delays.c.minutes.desc())).all()
    for row in board[:12]:
        print(f"{row.airport}  {row.arrivals:4} arrivals, {row.late:3} late, {row.minutes / row.arrivals:5.1f} minutes")
    print(f"{len(board)} airports, {sum(row.arrivals for row in board):,} arrivals")

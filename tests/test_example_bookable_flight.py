"""The bookable flight: its rules as scenarios without a database, and its seats under eight customers at a time."""

import pytest

from docs.examples.bookable_flight import (
    Book,
    Booked,
    Cancel,
    Cancelled,
    Flight,
    Open,
    Opened,
    RefusedError,
    flight,
)
from eventlog.subscribers.app import App
from eventlog.testing import given
from tests.log_support import at_once

SEATS = frozenset({"1A", "1B"})


def test_a_flight_is_opened_once() -> None:
    given(flight).when(Open(rows=1)).then(Opened(SEATS))
    given(flight, Opened(SEATS)).when(Open(rows=1)).then_raises(RefusedError, match="open already")


def test_whoever_has_no_wish_gets_the_first_seat_that_is_free() -> None:
    given(flight, Opened(SEATS), Booked("1A", "Ada")).when(Book("Grace")).then(Booked("1B", "Grace"))


def test_a_seat_is_booked_once_and_only_if_there_is_one() -> None:
    booked = given(flight, Opened(SEATS), Booked("1A", "Ada"))

    booked.when(Book("Grace", seat="1A")).then_raises(RefusedError, match="seat 1A is not free")
    booked.when(Book("Grace", seat="9Z")).then_raises(RefusedError, match="seat 9Z is not free")


def test_a_full_flight_takes_nobody_until_somebody_cancels() -> None:
    full = (Opened(SEATS), Booked("1A", "Ada"), Booked("1B", "Grace"))

    given(flight, *full).when(Book("Edsger")).then_raises(RefusedError, match="no seat is free")
    given(flight, *full, Cancelled("1A")).when(Book("Edsger")).then(Booked("1A", "Edsger"))


def test_a_seat_that_nobody_has_is_cancelled_without_an_event() -> None:
    given(flight, Opened(SEATS)).when(Cancel("1A")).then()
    given(flight, Opened(SEATS), Booked("1A", "Ada")).when(Cancel("1A")).then(Cancelled("1A"))
    given(flight, Opened(SEATS)).then_state(Flight(seats=SEATS))


@pytest.mark.parametrize("rows", [10])
def test_eight_customers_at_a_time_book_every_seat_once(database_url: str, rows: int) -> None:
    app = App(database_url)
    app.log.init()
    flight.handle(app.log, "flight-1", Open(rows=rows))
    sold: list[str] = []

    def book(customer: int) -> None:
        for number in range(rows * 2 // 8 + 1):
            try:
                done = flight.handle(app.log, "flight-1", Book(f"{customer}/{number}"), attempts=100)
            except RefusedError:
                return
            sold.extend(one.data.seat for one in done.events)

    at_once(*(lambda customer=customer: book(customer) for customer in range(8)))

    assert sorted(sold) == sorted(flight.load(app.log, "flight-1").state.seats)
    app.engine.dispose()

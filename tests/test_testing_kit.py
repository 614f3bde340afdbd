"""The testing kit: scenarios that fail with what came and what was expected, logs that are gone, failures on demand."""

from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, insert, select

from docs.examples.bookable_flight import Book, Booked, Cancel, Flight, Opened, RefusedError, flight
from eventlog.errors import UsageError
from eventlog.events import Event
from eventlog.projections import Decider, View
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.testing import (
    HandlersFailedError,
    StillClock,
    drain,
    fail_next,
    given,
    make_retries_due,
    recorded,
    temporary_app,
)
from tests.subscribers_support import BugError, Sent

SEATS = frozenset({"1A", "1B"})
pytest_plugins = ["pytester"]


class Crates(msgspec.Struct, frozen=True):
    number: int
    weight: int = 0


def weights() -> View[Crates]:
    view = View("weights", row=Crates, key="number")

    @view
    def add(row: Crates | None, sent: Sent) -> Crates | None:
        weight = (row.weight if row else 0) + sent.weight
        return Crates(sent.number, weight) if weight else None

    return view


def mailing() -> tuple[App, list[int]]:
    app, sent = App("sqlite:///nowhere.db"), list[int]()

    @app.subscriber("mail", retry=Retry(attempts=3))
    def send(crate: Sent) -> None:
        sent.append(crate.number)

    return app, sent


def test_a_scenario_that_does_not_hold_says_what_came_and_what_was_expected() -> None:
    outcome = given(flight, Opened(SEATS)).when(Book("Ada"))

    with pytest.raises(AssertionError) as failed:
        outcome.then(Booked("1B", "Ada"))
    assert "expected: \n  Booked(seat='1B', passenger='Ada')" in str(failed.value)
    assert "got: \n  Booked(seat='1A', passenger='Ada')" in str(failed.value)
    with pytest.raises(AssertionError, match="was not refused"):
        outcome.then_raises(RefusedError)
    with pytest.raises(AssertionError, match="was refused"):
        given(flight).when(Book("Ada")).then()
    with pytest.raises(AssertionError, match="not with ValueError"):
        given(flight).when(Book("Ada")).then_raises(ValueError)
    with pytest.raises(AssertionError, match="no seat"):
        given(flight).when(Book("Ada")).then_raises(RefusedError, match="too heavy")
    with pytest.raises(AssertionError, match="comes to"):
        given(flight, Opened(SEATS)).then_state(Flight())


def test_a_scenario_that_holds_is_silent_and_gives_the_error_back() -> None:
    given(flight, Opened(SEATS)).when(Cancel("1A")).then()
    assert "no seat" in str(given(flight).when(Book("Ada")).then_raises(RefusedError))


def test_the_rows_of_a_view_are_compared_in_any_order_and_the_difference_is_shown() -> None:
    scenario = given(weights(), Sent(2, 5), Sent(1, 1), Sent(2, 1), Sent(3, 0))

    scenario.then_rows(Crates(1, 1), Crates(2, 6))
    with pytest.raises(AssertionError) as failed:
        scenario.then_rows(Crates(2, 7), Crates(1, 1))
    assert "missing: \n  Crates(number=2, weight=7)" in str(failed.value)
    assert "surplus: \n  Crates(number=2, weight=6)" in str(failed.value)


def test_rows_are_compared_by_keys_that_have_no_order() -> None:
    class Size(Enum):
        SMALL = "small"
        LARGE = "large"

    class Sized(msgspec.Struct, frozen=True):
        size: Size
        crates: int = 0

    view = View("sizes", row=Sized, key="size")

    @view.on(key=lambda sent: Size.LARGE if sent.weight > 10 else Size.SMALL)
    def count(row: Sized | None, sent: Sent, size: Size) -> Sized:
        return Sized(size, crates=(row.crates if row else 0) + 1)

    scenario = given(view, Sent(1, 99), Sent(2, 1), Sent(3, 1))
    scenario.then_rows(Sized(Size.SMALL, 2), Sized(Size.LARGE, 1))
    with pytest.raises(AssertionError, match="surplus"):
        scenario.then_rows(Sized(Size.SMALL, 2))
    with pytest.raises(AssertionError):
        scenario.then_rows(Sized(Size.SMALL, 2), Sized(Size.LARGE, 1), Sized(Size.LARGE, 1))


class Notes(msgspec.Struct, frozen=True):
    number: int
    notes: list[int] = []


def test_a_function_that_changes_its_row_in_place_is_refused_with_what_it_changed() -> None:
    view = View("noted", row=Notes, key="number")

    @view
    def add(row: Notes | None, sent: Sent) -> Notes:
        row = row or Notes(sent.number)
        row.notes.append(sent.weight)
        return row

    given(view, Sent(1, 5)).then_rows(Notes(1, [5]))
    with pytest.raises(UsageError, match="changes the row that it is given") as refused:
        given(view, Sent(1, 5), Sent(1, 6))
    assert "Notes(number=1, notes=[5, 6])" in str(refused.value)
    assert "replace" in refused.value.remedy


class Log(msgspec.Struct):
    weights: list[int] = []


def test_a_decider_that_changes_its_state_in_place_is_refused_since_streams_would_share_it() -> None:
    def evolve(state: Log, sent: Sent) -> Log:
        state.weights.append(sent.weight)
        return state

    with pytest.raises(UsageError, match="changes the state that it is given"):
        given(Decider("log", initial=Log(), evolve=evolve, decide=lambda state, command: []), Sent(1, 5))


def test_what_is_neither_view_nor_decider_is_sent_to_a_log() -> None:
    subject: Any = App("sqlite:///nowhere.db").projection("board")

    with pytest.raises(UsageError, match="neither a view nor a decider"):
        given(subject, Sent(1))


def test_recorded_events_are_as_a_log_would_give_them() -> None:
    first, second, third = recorded(Sent(1), Sent(1, 2), Event({"a": (1, 2)}, "odd.thing"))

    assert (first.stream, first.version, second.version, third.stream) == ("crate-1", 1, 2, "test")
    assert (first.data, third.data, third.position) == (Sent(1), {"a": [1, 2]}, 3)
    assert first.recorded_at < second.recorded_at


def test_a_temporary_log_is_empty_has_the_subscribers_of_another_and_is_gone_afterwards() -> None:
    service, sent = mailing()
    for _ in range(2):
        with temporary_app(service) as app:
            assert app.log.head() == 0
            app.log.append(Sent(7))
            assert drain(app).handled == 1
            file = Path(str(app.engine.url.database))
        assert not file.exists()
    assert sent == [7, 7]


def test_what_a_service_keeps_in_another_database_is_in_the_temporary_one_too(tmp_path: Path) -> None:
    elsewhere = tmp_path / "reports.db"
    service, seen = App("sqlite:///nowhere.db"), list[int]()

    @service.projection("reports", database=f"sqlite:///{elsewhere}")
    def report(crate: Sent) -> None:
        seen.append(crate.number)

    with temporary_app(service) as app:
        app.log.append(Sent(1))
        drain(app)
    assert (seen, elsewhere.exists()) == ([1], False)


def test_a_drain_raises_what_a_handler_raised_with_its_traceback() -> None:
    with temporary_app() as app:
        mail = app.subscriber("mail", retry=Retry(attempts=1))

        @mail
        def send(crate: Sent) -> None:
            raise BugError("wrong address")

        app.log.append(Sent(1))
        with pytest.raises(HandlersFailedError, match=r"mail, event 1: .*BugError: wrong address") as failed:
            drain(app)
        assert 'raise BugError("wrong address")' in str(failed.value)
        app.log.append(Sent(2))
        assert drain(app, allow_failures=True).failed == 1


def test_the_next_calls_fail_and_those_after_do_not() -> None:
    service, sent = mailing()
    with temporary_app(service) as app:
        app.log.append(Sent(1), Sent(2))
        with fail_next(service.subscribers["mail"], times=2, error=TimeoutError("no answer")) as failing:
            assert drain(app, allow_failures=True).failed == 2
            assert (failing.left, sent) == (0, [])
            assert make_retries_due(app, "mail") == 2
            drain(app)
            assert sent == [1, 2]
        app.log.append(Sent(3))
        drain(app)
    assert sent == [1, 2, 3]


def test_a_handler_of_lists_fails_too_and_a_projection_writes_each_event_once() -> None:
    table = Table("crates", MetaData(), Column("number", BigInteger, primary_key=True, autoincrement=False))
    with temporary_app() as app:
        board = app.projection("board", tables=[table])

        @board
        def add(crates: list[Sent], ctx: Context) -> None:
            ctx.connection.execute(insert(table), [{"number": one.number} for one in crates])

        app.log.append(*(Sent(number) for number in range(5)))
        failing = fail_next(board)
        assert drain(app, allow_failures=True).failed == 0
        failing.undo()
        with app.engine.connect() as connection:
            assert connection.scalars(select(table.c.number)).all() == [0, 1, 2, 3, 4]


def test_a_view_fails_on_demand_and_halts() -> None:
    view = weights()
    with temporary_app() as app:
        app.add(view)
        app.log.append(Sent(1), Sent(2))
        with fail_next(view, times=3) as failing, pytest.raises(HandlersFailedError, match="InjectedError"):
            drain(app)
        assert failing.left == 1


def test_a_clock_stands_still_until_it_is_moved() -> None:
    clock = StillClock()
    clock.advance(30)
    assert clock.monotonic() == 30.0


def test_pytest_finds_the_fixtures(pytester: Any) -> None:
    pytester.makepyfile(
        """
        import msgspec
        from eventlog import App, event
        from eventlog.testing import drain

        @event("mail.asked", stream="mail")
        class Asked(msgspec.Struct, frozen=True):
            to: str

        service = App("sqlite:///service.db")
        sent = []

        @service.subscriber("mail")
        def send(asked: Asked) -> None:
            sent.append(asked.to)

        def test_a_log_of_ones_own(eventlog_app):
            assert eventlog_app.log.head() == 0

        def test_the_service_on_a_log_of_its_own(eventlog_app_like):
            app = eventlog_app_like(service)
            app.log.append(Asked("ada"))
            drain(app)
            assert sent == ["ada"]
        """
    )
    outcome = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:xdist", "--timeout=60")
    outcome.assert_outcomes(passed=2)

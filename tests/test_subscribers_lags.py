"""How far behind subscribers are, and how fast they get on: counted by an index, for all of them at once."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import text

from eventlog.clock import SystemClock
from eventlog.log import EventLog
from eventlog.subscribers import lags
from eventlog.subscribers.lags import Lag, count_events, read_lags
from eventlog.subscribers.rates import WINDOW_SECONDS, Looks
from eventlog.subscribers.status import read_status
from tests.log_support import note, notes
from tests.subscribers_support import Bench, Sent

SCAN = re.compile(r"Seq Scan on events|^SCAN events\b", re.MULTILINE)
"""A plan that reads the whole log."""


class Clock(SystemClock):
    """Moved by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


def lags_of(log: EventLog, *checkpoints: int) -> dict[int, Lag]:
    with log.database.reader() as connection:
        mark = log.database.high_water_mark(connection)
        return read_lags(connection, log.database, checkpoints, mark=mark)


def test_every_checkpoint_has_its_own_lag(log: EventLog) -> None:
    positions = [one.position for one in log.append(*notes(7))]
    found = lags_of(log, 0, positions[2], positions[5], positions[6], positions[6] + 40)
    assert [(one.events, one.exact) for one in found.values()] == [
        (7, True),
        (4, True),
        (1, True),
        (0, True),
        (0, True),
    ]


def test_of_the_log_a_fixed_number_of_events_is_counted_and_no_more(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lags, "LAG_EXACT_MAX", 3)
    positions = [one.position for one in log.append(*notes(8))]
    counted: list[tuple[int, int]] = []
    count = lags.count_events

    def counting(connection: Any, database: Any, spans: Sequence[tuple[int, int]]) -> dict[tuple[int, int], int]:
        counted.extend(spans)
        return count(connection, database, spans)

    monkeypatch.setattr(lags, "count_events", counting)
    found = lags_of(log, 0, positions[2], positions[4], positions[6])
    assert [found[one].exact for one in (0, positions[2], positions[4], positions[6])] == [False, False, True, True]
    assert (found[0].events, found[positions[4]].events, found[positions[6]].events) == (8, 3, 1)
    assert sorted(counted) == [(positions[4], positions[6]), (positions[6], positions[7])]


def test_a_hundred_and_one_checkpoints_are_not_one_query_too_large(log: EventLog) -> None:
    positions = [one.position for one in log.append(*notes(130))]
    found = lags_of(log, *positions)
    assert [found[one].events for one in positions] == list(range(129, -1, -1))


def test_holes_are_no_lag(postgres_log: EventLog) -> None:
    done = postgres_log.append(note("done"))[0].position
    with postgres_log.database.transaction() as connection:
        postgres_log.append(*notes(20, stream="gone"), tx=connection)
        connection.rollback()
    assert lags_of(postgres_log, done)[done] == Lag(events=0, exact=True, seconds=0.0)


def test_the_age_is_that_of_the_first_event_that_is_not_done(log: EventLog) -> None:
    first, second = (one.position for one in log.append(*notes(2)))
    with log.database.transaction() as connection:
        _recorded_before(connection, log, first, seconds=7_200)
        _recorded_before(connection, log, second, seconds=60)
    found = lags_of(log, 0, first, second)
    assert 7_200 <= found[0].seconds < 7_260
    assert 60 <= found[first].seconds < 120
    assert found[second].seconds == 0


def test_no_query_of_status_scans_the_log(bench: Bench) -> None:
    """Its statements are run again as EXPLAIN, on a log that is long enough for an index to be worth it."""
    bench.log.append(*notes(2_000))
    readers(bench, {"mail": 100, "board": 1_900})
    with bench.transaction() as connection:
        connection.execute(text("analyze"))
    statements = statements_of(bench.log, lambda: read_status(bench.log.database))
    plans = "\n".join(plan_of(bench.log, *one) for one in statements if "events" in one[0])
    assert "events" in plans
    assert not SCAN.search(plans), plans


def test_a_look_costs_the_same_for_one_subscriber_and_for_forty(bench: Bench) -> None:
    bench.send(5)
    readers(bench, {"mail": 0})
    one = len(statements_of(bench.log, lambda: read_status(bench.log.database)))
    readers(bench, {f"mail-{number}": number % 5 for number in range(39)})
    assert len(read_status(bench.log.database).subscribers) == 40
    assert len(statements_of(bench.log, lambda: read_status(bench.log.database))) == one <= 10


def test_a_rate_is_what_was_done_between_two_looks(bench: Bench) -> None:
    app, clock = bench.app(), Clock()

    @app.subscriber("mail")
    def send(crate: Sent) -> None: ...

    app.register()
    looks = Looks([bench.log.database], clock=clock)
    first = looks.look()
    assert (first.rate, first.subscribers[0].rate) == (None, None)
    bench.send(6)
    clock.now += 2
    appended = looks.look()
    assert (appended.rate, appended.subscribers[0].rate) == (3.0, 0.0)
    app.drain()
    clock.now += 2
    assert looks.look().subscribers[0].rate == 1.5


def test_a_rate_forgets_what_was_long_ago_and_knows_none_after_a_rewind(bench: Bench) -> None:
    app, clock = bench.app(), Clock()

    @app.subscriber("mail")
    def send(crate: Sent) -> None: ...

    bench.send(5)
    app.drain()
    looks = Looks([bench.log.database], clock=clock)
    looks.look()
    with bench.transaction() as connection:
        connection.execute(bench.log.database.tables.checkpoints.update().values(position=0))
    clock.now += 1
    assert looks.look().subscribers[0].rate is None
    clock.now += WINDOW_SECONDS + 1
    looks.look()
    clock.now += 1
    assert looks.look().subscribers[0].rate == 0.0


def test_a_rate_counts_events_and_not_holes(postgres_log: EventLog) -> None:
    clock = Clock()
    looks = Looks([postgres_log.database], clock=clock)
    looks.look()
    with postgres_log.database.transaction() as connection:
        postgres_log.append(*notes(90, stream="gone"), tx=connection)
        connection.rollback()
    postgres_log.append(*notes(4))
    clock.now += 1
    assert looks.look().rate == 4.0


def test_spans_are_counted_together(log: EventLog) -> None:
    positions = [one.position for one in log.append(*notes(5))]
    spans = [(0, positions[1]), (0, positions[4]), (positions[4], positions[4])]
    with log.database.reader() as connection:
        assert list(count_events(connection, log.database, spans).values()) == [2, 5, 0]


def _recorded_before(connection: Any, log: EventLog, position: int, *, seconds: int) -> None:
    """Nobody may change an event; as the owner of the table one can have the trigger stand aside."""
    events = log.database.tables.events
    if connection.dialect.name == "postgresql":
        connection.execute(text("alter table eventlog.events disable trigger refuse_change"))
        connection.execute(
            text(f"update eventlog.events set recorded_at = recorded_at - interval '{seconds} s' where position = :at"),
            {"at": position},
        )
        connection.execute(text("alter table eventlog.events enable always trigger refuse_change"))
        return
    trigger = connection.scalar(text("select sql from sqlite_master where name = 'events_refuse_update'"))
    connection.execute(text("drop trigger events_refuse_update"))
    connection.execute(
        text(
            f"update {events.name} set recorded_at = strftime('%Y-%m-%dT%H:%M:%fZ', recorded_at, '-{seconds} seconds')"
            " where position = :at"
        ),
        {"at": position},
    )
    connection.exec_driver_sql(trigger)


def readers(bench: Bench, starts: dict[str, int]) -> None:
    """Register subscribers that begin at these positions."""
    app = bench.app()
    for name, start in starts.items():
        app.subscriber(name, start=start).on("**")(lambda recorded: None)
    app.register()


def statements_of(log: EventLog, work: Callable[[], object]) -> list[tuple[str, Any]]:
    """The statements that SQLAlchemy runs meanwhile, with their values; not those on the driver's own cursor."""
    statements: list[tuple[str, Any]] = []

    def on_execute(_c: Any, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        statements.append((statement, values))

    sqlalchemy.event.listen(log.engine, "before_cursor_execute", on_execute)
    try:
        work()
    finally:
        sqlalchemy.event.remove(log.engine, "before_cursor_execute", on_execute)
    return statements


def plan_of(log: EventLog, statement: str, values: Any) -> str:
    explain = "explain query plan" if log.engine.dialect.name == "sqlite" else "explain"
    with log.database.reader() as connection:
        rows = connection.exec_driver_sql(f"{explain} {statement}", values).all()
    return "\n".join(str(row[-1]) for row in rows)

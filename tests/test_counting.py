"""Counting stretches of the log, exactly and by estimate, and finding the place of a time; on both databases."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import Connection, event, func, select

from eventlog import counting
from eventlog.counting import Counted, count_types, first_recorded_since, recorded_between
from eventlog.log import EventLog
from eventlog.subscribers.control.replays import Range, start_replay
from tests.carried_support import BEGINNING, imported, line
from tests.subscribers_support import Bench, Lost, Sent

EVENTS = 2_000
TYPES = ("a.often", "a.often", "a.often", "b.seldom")


@pytest.fixture
def counted_log(log: EventLog) -> Iterator[tuple[EventLog, Connection]]:
    """Two thousand events of two types in streams of ten; a hole of a thousand positions in the middle."""
    draw = Random(7)
    lines = []
    for number in range(EVENTS):
        position = number + 1 + (1_000 if number >= EVENTS // 2 else 0)
        stream, version = f"s-{number // 10}", number % 10 + 1
        lines.append(line(position, stream=stream, version=version, type=draw.choice(TYPES), data=0))
    imported(log, lines)
    with log.database.reader() as connection:
        yield log, connection


def counts(found: Counted) -> dict[str, tuple[int, int]]:
    return {one.type: (one.count, one.before) for one in found.types}


def test_a_short_stretch_is_counted(counted_log: tuple[EventLog, Connection]) -> None:
    log, connection = counted_log
    found = count_types(connection, log.database, after=10, until=1_000, split=20)
    assert (found.exact, sum(one.count for one in found.types)) == (True, 990)
    assert (sum(one.before for one in found.types), sum(one.begun for one in found.types)) == (10, 99)
    assert min(one.first_recorded_at for one in found.types) == BEGINNING + timedelta(seconds=11)
    ends = recorded_between(connection, log.database, after=3, until=9)
    assert ends == (BEGINNING + timedelta(seconds=4), BEGINNING + timedelta(seconds=9))
    assert recorded_between(connection, log.database, after=1_000, until=2_000) == (None, None)


def test_a_long_stretch_is_estimated_and_said_to_be(
    counted_log: tuple[EventLog, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole is no events; the estimate is within a tenth, and the same each time."""
    log, connection = counted_log
    monkeypatch.setattr(counting, "WINDOW_POSITIONS", 5)
    exact = count_types(connection, log.database, after=0, until=3_000, split=2_200)
    guess = count_types(connection, log.database, after=0, until=3_000, split=2_200, exact_max=100)
    assert (exact.exact, guess.exact) == (True, False)
    for name, (count, before) in counts(exact).items():
        assert counts(guess)[name][0] == pytest.approx(count, rel=0.15)
        assert counts(guess)[name][1] == pytest.approx(before, rel=0.15)
    assert guess == count_types(connection, log.database, after=0, until=3_000, split=2_200, exact_max=100)


def test_what_is_looked_at_does_not_grow_with_the_log(
    counted_log: tuple[EventLog, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither statement of an estimate reads the table from end to end: each goes by positions."""
    log, connection = counted_log
    statements: list[tuple[str, Any]] = []

    @event.listens_for(log.engine, "before_cursor_execute")
    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    monkeypatch.setattr(counting, "STRETCH_MAX", 100)
    if log.engine.dialect.name == "postgresql":
        connection.exec_driver_sql("analyze eventlog.events")
        connection.exec_driver_sql("set enable_seqscan = off")
    count_types(connection, log.database, after=0, until=3_000, exact_max=100)
    first_recorded_since(connection, log.database, BEGINNING + timedelta(seconds=1_000))
    asked = [
        one for one in statements if "events" in one[0].lower() and one[0].lstrip()[:4].lower() in ("sele", "with")
    ]
    event.remove(log.engine, "before_cursor_execute", note)
    assert len(asked) >= 3
    for statement, parameters in asked:
        prefix = "explain query plan " if log.engine.dialect.name == "sqlite" else "explain "
        plan = " ".join(str(row) for row in connection.exec_driver_sql(prefix + statement, parameters).all())
        assert "SCAN events" not in plan
        assert "Seq Scan on events" not in plan


def test_a_time_is_found_where_a_scan_finds_it(
    counted_log: tuple[EventLog, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, connection = counted_log
    monkeypatch.setattr(counting, "STRETCH_MAX", 5)
    for seconds in (-5, 0, 1, 7, 999, 1_000, 1_500, 2_001, 2_999, 3_000):
        moment = BEGINNING + timedelta(seconds=seconds)
        assert first_recorded_since(connection, log.database, moment) == scanned(log, connection, moment)
    assert first_recorded_since(connection, log.database, datetime.now(UTC) + timedelta(days=1_000)) is None


def test_a_time_is_found_in_front_of_events_that_were_carried_in_from_before(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older ones stand at later positions then: a search that halves the log would land among them, and miss some."""
    monkeypatch.setattr(counting, "STRETCH_MAX", 5)
    recorded = [*range(500, 900), *range(400), *range(900, 1_000)]
    imported(
        log,
        [
            line(place, recorded_at=BEGINNING + timedelta(seconds=seconds), data=0)
            for place, seconds in enumerate(recorded, start=1)
        ],
    )
    with log.database.reader() as connection:
        for seconds in (0, 450, 700, 890, 950):
            moment = BEGINNING + timedelta(seconds=seconds)
            assert first_recorded_since(connection, log.database, moment) == scanned(log, connection, moment)


def scanned(log: EventLog, connection: Connection, moment: datetime) -> int | None:
    events = log.database.tables.events
    found = connection.scalar(select(func.min(events.c.position)).where(events.c.recorded_at >= moment))
    return None if found is None else int(found)


def test_what_the_plan_of_a_long_replay_has_not_met_is_counted_one_by_one(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event is looked at, so one of the two types is not met: it is there all the same."""
    monkeypatch.setattr(counting, "EXACT_MAX", 2)
    monkeypatch.setattr(counting, "WINDOWS", 1)
    monkeypatch.setattr(counting, "WINDOW_POSITIONS", 1)
    bench.log.append(Lost(1), Sent(2), Lost(3), Sent(4))
    app = bench.app()
    app.subscriber("mail").on("crate.*")(lambda recorded: None)
    app.drain()
    ranges = Range(types=("crate.sent",)), Range(types=("crate.lost",)), Range(stream="crate-3")
    *plans, by_stream = (start_replay(bench.log.database, "mail", one, dry_run=True) for one in ranges)
    met, not_met = sorted(plans, key=lambda plan: not plan.estimated)
    assert (met.estimated, met.events > 0) == (True, True)
    assert (not_met.estimated, not_met.events, by_stream.estimated, by_stream.events) == (False, 2, False, 1)

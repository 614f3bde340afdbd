"""The stated limits hold and are told; within them nothing grows: neither locks nor the time of one more append."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import quantiles
from typing import Any

import pytest
from sqlalchemy import Connection, text

from eventlog.errors import InvalidEventError
from eventlog.events import Event
from eventlog.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX
from eventlog.log import EventLog
from eventlog.query import Query
from tests.log_support import POLL_SECONDS, backend, everything, note, notes, opened
from tests.log_tags_support import index_rows, tagged

APPENDS = 4_000
BUCKETS = 256
"""Tags are locked by their hash, one of so many."""
GROWTH_MAX = 3.0
"""How much slower the last appends of a long transaction may be than the first: far above noise, far below linear."""


def locks(connection: Connection, pid: int | None = None) -> int:
    """The entries of the lock table that are advisory, all of them or one backend's."""
    question = "select count(*) from pg_locks where locktype = 'advisory' and (:pid = 0 or pid = :pid)"
    return int(connection.scalar(text(question), {"pid": pid or 0}) or 0)


def usual(seconds: list[float]) -> float:
    """What an append takes when nothing else takes the processor away."""
    return quantiles(seconds, n=10)[0]


@contextmanager
def watched_locks(log: EventLog) -> Iterator[list[int]]:
    """Counts the advisory locks of a PostgreSQL server while something runs; the list grows as it is counted."""
    counts: list[int] = []
    if log.engine.dialect.name == "sqlite":
        yield counts
        return
    over = threading.Event()

    def watch() -> None:
        with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            while not over.wait(POLL_SECONDS):
                counts.append(locks(connection))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    yield counts
    over.set()
    watcher.join()


def batch(count: int, *, streams: int, tagged_too: bool = False) -> list[Event[Any]]:
    return [
        Event(
            {"said": f"{number}"},
            "note.taken",
            f"s-{number % streams}",
            tags=[f"stream:{number % streams}"] if tagged_too else (),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("tagged_too", [False, True])
def test_thousands_of_appends_in_one_transaction_stay_as_fast_as_the_first(log: EventLog, tagged_too: bool) -> None:
    seconds: list[float] = []
    with log.engine.begin() as connection:
        for number in range(APPENDS):
            tags = (f"order:{number}",) if tagged_too else ()
            begun = time.perf_counter()
            log.append(tagged(*tags, stream=f"order-{number % 100}"), tx=connection)
            seconds.append(time.perf_counter() - begun)
        held = locks(connection, backend(connection)) if connection.dialect.name == "postgresql" else 1

    part = APPENDS // 10
    growth = usual(seconds[-part:]) / usual(seconds[:part])
    assert growth < GROWTH_MAX, f"the last tenth took {growth:.1f} times as long as the first"
    assert held == 1 if not tagged_too or log.engine.dialect.name == "sqlite" else held <= 1 + BUCKETS
    assert log.version("order-99") == APPENDS // 100


def test_the_largest_batch_over_fifty_thousand_streams_and_tags_is_recorded(log: EventLog) -> None:
    """It leaves the server's table of locks alone."""
    with watched_locks(log) as counts:
        appended = log.append(*batch(BATCH_EVENTS_MAX, streams=50_000, tagged_too=True))

    assert [event.position for event in appended] == list(range(1, BATCH_EVENTS_MAX + 1))
    assert {event.version for event in appended} == {1, 2}
    assert log.high_water_mark() == BATCH_EVENTS_MAX
    assert [event.position for event in log.read(stream="s-49999")] == [50_000, 100_000]
    assert [event.position for event in log.read(tags=["stream:49999"])] == [50_000, 100_000]
    if log.engine.dialect.name == "postgresql":
        assert BUCKETS <= max(counts) <= BUCKETS + 1


def test_the_largest_batch_of_untagged_events_holds_its_mark_alone(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log, watched_locks(log) as counts:
        log.append(*batch(20_000, streams=20_000))

    assert max(counts) == 1


def test_a_decision_by_many_tags_holds_no_more_locks_than_there_are_buckets(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log, log.engine.begin() as connection:
        for number in range(0, 1_024, 32):
            unless = [Query(tags=[f"tag:{number + one}"]) for one in range(32)]
            log.append(note("decided"), unless=unless, tx=connection)

        assert locks(connection) <= BUCKETS + 1


def test_one_event_more_than_an_append_may_hold_is_refused(log: EventLog) -> None:
    one = note("one")
    with pytest.raises(InvalidEventError, match=r"100,001 events; at most 100,000") as refused:
        log.append(*[one] * (BATCH_EVENTS_MAX + 1))

    assert "tx=" in refused.value.remedy
    assert everything(log) == []


def test_more_bytes_than_an_append_may_hold_are_refused_before_they_are_all_encoded(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.pending.BATCH_BYTES_MAX", 1_000)
    fits = [note("é" * 50) for _ in range(8)]
    log.append(*fits)

    with pytest.raises(InvalidEventError, match=r"more than 1,000 bytes of data and metadata") as refused:
        log.append(*fits, note("é" * 50), note("never encoded", stream=""))
    with pytest.raises(InvalidEventError, match="more than 1,000 bytes"):
        log.append(*fits, metadata={"by": "x" * 200})

    assert refused.value.remedy
    assert len(everything(log)) == 8


def test_a_batch_may_hold_so_many_bytes_that_a_message_of_the_database_holds_twice_as_many() -> None:
    """PostgreSQL takes a gigabyte in one message; a text in an array has each quote and backslash doubled at most."""
    assert 2 * BATCH_BYTES_MAX + 1_000 * BATCH_EVENTS_MAX < 2**30


def test_a_batch_beyond_the_limit_fits_into_one_transaction_in_parts(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.pending.BATCH_EVENTS_MAX", 10)
    many = notes(25)
    with log.engine.begin() as connection:
        for first in range(0, 25, 10):
            log.append(*many[first : first + 10], tx=connection)

    assert [event.version for event in everything(log)] == list(range(1, 26))
    assert index_rows(log) == []

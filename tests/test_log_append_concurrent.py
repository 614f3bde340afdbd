"""Appends at the same time: to one stream, to the same streams in other orders, with one expected version."""

from collections.abc import Callable, Sequence
from functools import partial

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, OperationalError

from eventlog.errors import DatabaseUnreachableError, EventLogError, WrongExpectedVersionError
from eventlog.events import Event
from eventlog.log import EventLog
from tests.log_support import (
    Background,
    at_once,
    engine_of,
    errors_of,
    everything,
    note,
    notes,
    opened,
    said,
    wait_until,
    waiting_for_locks,
)

WRITERS = 8
EACH = 25


def test_appends_of_many_threads_to_one_stream_are_all_recorded_without_a_gap(log: EventLog) -> None:
    def write(writer: int) -> int:
        return sum(len(log.append(note(f"{writer}.{number}"))) for number in range(EACH))

    outcomes = at_once(*[lambda writer=writer: write(writer) for writer in range(WRITERS)])

    recorded = everything(log)
    assert outcomes == [EACH] * WRITERS
    assert sorted(event.version for event in recorded) == list(range(1, WRITERS * EACH + 1))
    assert len(set(said(recorded))) == WRITERS * EACH


def test_the_order_of_versions_is_the_order_of_positions(log: EventLog) -> None:
    at_once(*[lambda: [log.append(*notes(2)) for _ in range(EACH)]] * WRITERS)

    versions = [event.version for event in log.read()]

    assert versions == list(range(1, 2 * WRITERS * EACH + 1))


def test_each_writer_reads_its_own_events_in_its_own_order(log: EventLog) -> None:
    def write(writer: int) -> None:
        for number in range(EACH):
            log.append(note(f"{writer}.{number}", stream=f"note-{writer % 3}"))

    at_once(*[lambda writer=writer: write(writer) for writer in range(WRITERS)])

    recorded = said(everything(log))
    for writer in range(WRITERS):
        mine = [text for text in recorded if text.startswith(f"{writer}.")]
        assert mine == [f"{writer}.{number}" for number in range(EACH)]


@pytest.mark.parametrize("count", [1, 3])
def test_of_many_appends_that_expect_one_version_exactly_one_wins(log: EventLog, count: int) -> None:
    log.append(note("first"))

    outcomes = at_once(*[lambda: log.append(*notes(count), expected=1)] * WRITERS)

    refused = errors_of(outcomes)
    assert len(refused) == WRITERS - 1
    assert {type(error) for error in refused} == {WrongExpectedVersionError}
    assert {str(error) for error in refused} == {f"stream 'note-1' is at version {1 + count}, expected 1"}
    assert log.version("note-1") == 1 + count


def test_of_many_appends_that_expect_no_stream_exactly_one_wins(log: EventLog) -> None:
    outcomes = at_once(*[lambda: log.append(note("first"), expected="none")] * WRITERS)

    assert len(errors_of(outcomes)) == WRITERS - 1
    assert len(everything(log)) == 1


def test_batches_over_the_same_streams_in_any_order_are_all_recorded(log: EventLog) -> None:
    forward = [note("forward", stream=f"note-{number}") for number in range(20)]

    def write(batch: list[Event[dict[str, str]]]) -> None:
        for _ in range(5):
            log.append(*batch)

    outcomes = at_once(*[lambda way=way: write([*forward][::way]) for way in (1, -1, 1, -1)])

    assert errors_of(outcomes) == []
    assert [log.version(f"note-{number}") for number in range(20)] == [20] * 20


def crossing(log: EventLog, append: Callable[[Sequence[Event[dict[str, str]]]], object]) -> list[object]:
    """Two batches that hold what the other one waits for.

    A has `a` and waits for `x`, B has `b` and waits for `x`. When whoever holds `x` gives it up, one of the two gets
    it and waits for the stream the other one has: a deadlock, whichever gets it.
    """
    with log.engine.connect() as holder:
        log.append(note("holder", stream="x"), tx=holder)
        batches = [[note(f"{first} first", stream=name) for name in (first, "x", last)] for first, last in ("ab", "ba")]
        appends = [Background(partial(append, batch)) for batch in batches]
        wait_until(lambda: waiting_for_locks(log.engine) == 2, what="both batches to wait for x")
        holder.rollback()
    return [append.outcome() for append in appends]


def test_two_batches_that_cross_are_both_recorded(postgres_log: EventLog) -> None:
    outcomes = crossing(postgres_log, lambda batch: postgres_log.append(*batch))

    assert errors_of(outcomes) == []
    assert [postgres_log.version(stream) for stream in "abx"] == [2, 2, 2]


def test_of_two_transactions_that_cross_one_is_told_that_it_was_a_deadlock(postgres_log: EventLog) -> None:
    """Only the caller can run his transaction again; the database is up, and he must not be told otherwise."""

    def append(batch: Sequence[Event[dict[str, str]]]) -> object:
        with postgres_log.engine.begin() as connection:
            return postgres_log.append(*batch, tx=connection)

    (refused,) = errors_of(crossing(postgres_log, append))

    assert "deadlock" in str(refused)
    assert not isinstance(refused, DatabaseUnreachableError)
    assert [postgres_log.version(stream) for stream in "abx"] == [1, 1, 1]


def test_an_append_waits_for_an_open_append_to_its_stream_and_comes_after_it(postgres_log: EventLog) -> None:
    with postgres_log.engine.connect() as first:
        postgres_log.append(note("first"), tx=first)
        second = Background(lambda: postgres_log.append(note("second")))
        wait_until(lambda: waiting_for_locks(postgres_log.engine), what="the second append to wait")
        first.commit()

        second.result()
    assert said(everything(postgres_log)) == ["first", "second"]


def test_an_append_that_waited_takes_the_version_of_one_that_was_rolled_back(postgres_log: EventLog) -> None:
    with postgres_log.engine.connect() as first:
        postgres_log.append(note("first"), tx=first)
        second = Background(lambda: postgres_log.append(note("second"), expected="none"))
        wait_until(lambda: waiting_for_locks(postgres_log.engine), what="the second append to wait")
        first.rollback()

        second.result()
    assert [(event.data["said"], event.version) for event in postgres_log.read()] == [("second", 1)]


def test_an_append_to_another_stream_does_not_wait_for_an_open_one(postgres_log: EventLog) -> None:
    with postgres_log.engine.connect() as first:
        postgres_log.append(note("first"), tx=first)

        (other,) = postgres_log.append(note("other", stream="note-2"))

    assert other.version == 1


def test_an_append_in_a_transaction_that_lost_the_race_runs_again_within_it(postgres_log: EventLog) -> None:
    with postgres_log.engine.connect() as first, postgres_log.engine.connect() as second:
        postgres_log.append(note("first"), tx=first)
        waiting = Background(lambda: postgres_log.append(*notes(2), tx=second))
        wait_until(lambda: waiting_for_locks(postgres_log.engine), what="the second append to wait")
        first.commit()
        waiting.result()
        second.commit()

    assert [event.version for event in postgres_log.read()] == [1, 2, 3]


def test_an_append_that_cannot_be_serialized_is_refused_for_what_it_is(postgres_log: EventLog) -> None:
    """The caller's transaction does not see the stream as it is: only he can run it again."""
    with postgres_log.engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("select count(*) from eventlog.events"))
        postgres_log.append(note("first"))
        with pytest.raises((DBAPIError, EventLogError), match="serialize") as refused:
            postgres_log.append(note("second"), tx=connection)

    assert not isinstance(refused.value, DatabaseUnreachableError)
    assert said(everything(postgres_log)) == ["first"]


def test_what_two_writers_read_and_write_back_is_not_lost(sqlite_url: str) -> None:
    """A transaction takes the write lock when it begins: none reads a count that another one is about to change."""
    with opened(sqlite_url) as log:
        with log.engine.begin() as connection:
            connection.exec_driver_sql("create table counts (value integer)")
            connection.exec_driver_sql("insert into counts values (0)")

        def count() -> None:
            for _ in range(EACH):
                with log.engine.begin() as connection:
                    value = connection.exec_driver_sql("select value from counts").scalar_one()
                    log.append(note(f"{value}"), tx=connection)
                    connection.exec_driver_sql("update counts set value = ?", (value + 1,))

        assert errors_of(at_once(*[count] * 4)) == []

        assert said(everything(log)) == [f"{value}" for value in range(4 * EACH)]


def test_a_transaction_takes_the_write_lock_with_its_first_statement(sqlite_url: str) -> None:
    with (
        opened(sqlite_url) as log,
        engine_of(sqlite_url, connect_args={"timeout": 0}) as other,
        log.engine.begin() as first,
        other.connect() as second,
    ):
        first.exec_driver_sql("select 1")

        with pytest.raises(OperationalError, match="locked"):
            second.exec_driver_sql("begin immediate")


def test_a_reader_is_not_kept_waiting_by_a_writer(sqlite_url: str) -> None:
    with opened(sqlite_url) as log:
        log.append(note("first"))
        with log.engine.begin() as connection:
            log.append(note("second"), tx=connection)

            assert said(everything(log)) == ["first"]

"""Conditions and writers at the same time on PostgreSQL: each interleaving that could let an event slip by, forced.

An append writes a tag under a shared lock and decides by it under an exclusive one, both held to the end of the
transaction. `models/decisions.py` goes through all interleavings of these steps; here the database takes them.
"""

from collections.abc import Iterator
from functools import partial

import pytest
from sqlalchemy import Connection, text

from eventlog.errors import AppendConditionError
from eventlog.log import EventLog
from eventlog.query import Query
from tests.log_support import Background, errors_of, everything, note, opened, positions, wait_until, waiting_for_locks
from tests.log_tags_support import insert_plainly, tagged, tags_in_buckets_of_their_own


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def first(log: EventLog) -> Iterator[Connection]:
    """A connection whose transaction is open while others come."""
    with log.engine.connect() as connection:
        yield connection


def decide(log: EventLog, *tags: str, after: int = 0, tx: Connection | None = None) -> object:
    return log.append(
        tagged(*tags, stream=f"decision-{tags[0]}"), unless=[Query(tags=[tag], after=after) for tag in tags], tx=tx
    )


def wait_for_waiters(log: EventLog, count: int = 1) -> None:
    wait_until(lambda: waiting_for_locks(log.engine) == count, what=f"{count} to wait for a lock")


@pytest.mark.parametrize("plainly", [True, False])
def test_a_decision_waits_for_an_open_writer_of_its_tag_and_sees_what_it_committed(
    log: EventLog, first: Connection, plainly: bool
) -> None:
    if plainly:
        insert_plainly(first, "a")
    else:
        log.append(tagged("a"), tx=first)
    decision = Background(lambda: decide(log, "a"))
    wait_for_waiters(log)
    first.commit()

    assert isinstance(decision.outcome(), AppendConditionError)
    assert positions(everything(log)) == [1]


def test_a_decision_waits_for_an_open_writer_of_its_tag_and_is_recorded_when_it_rolls_back(
    log: EventLog, first: Connection
) -> None:
    log.append(tagged("a"), tx=first)
    decision = Background(lambda: decide(log, "a"))
    wait_for_waiters(log)
    first.rollback()

    assert decision.result() == everything(log)


def test_a_batch_under_a_condition_waits_for_an_open_writer_as_well(log: EventLog, first: Connection) -> None:
    log.append(tagged("b", "a"), tagged("c"), tx=first)
    decision = Background(lambda: log.append(note("1"), note("2"), unless=Query(tags=["a", "b"])))
    wait_for_waiters(log)
    first.commit()

    assert isinstance(decision.outcome(), AppendConditionError)


@pytest.mark.parametrize("count", [1, 2])
def test_an_append_of_the_tag_waits_until_the_decision_has_committed_and_comes_after_it(
    log: EventLog, first: Connection, count: int
) -> None:
    decide(log, "a", tx=first)
    writer = Background(lambda: log.append(*[tagged("b", "a")] * count))
    wait_for_waiters(log)
    decide(log, "a", after=1, tx=first)
    first.commit()

    writer.result()
    assert [event.stream for event in log.read()] == ["decision-a", "decision-a", *["note-1"] * count]


def test_a_plain_insert_of_the_tag_waits_until_the_decision_has_committed(log: EventLog, first: Connection) -> None:
    decide(log, "a", tx=first)
    with log.engine.connect() as other:
        writer = Background(lambda: insert_plainly(other, "a"))
        wait_for_waiters(log)
        assert not writer.done
        first.commit()
        writer.result()
        other.commit()

    assert [event.stream for event in log.read()] == ["decision-a", "plain"]


@pytest.mark.parametrize("by_sql", [False, True])
def test_an_append_to_the_stream_of_a_decision_waits_before_it_holds_what_the_decision_needs(
    log: EventLog, first: Connection, by_sql: bool
) -> None:
    """The usual case: the course is tag and stream. Inserted first and locked then, the append would hold version 1 of
    the stream and wait for the tag, the decision hold the tag and wait for the version: a deadlock. In the caller's
    transaction, where it would be told and not be resolved by another try.
    """

    def write() -> None:
        with log.engine.begin() as connection:
            if by_sql:
                connection.execute(
                    text("select eventlog.append('course-1', 'note.taken', '1', tags => array['course:1'])")
                )
            else:
                log.append(tagged("course:1", stream="course-1"), tx=connection)

    decide(log, "course:1", tx=first)
    writer = Background(write)
    wait_for_waiters(log)
    log.append(note("decided", stream="course-1"), tx=first)
    first.commit()

    writer.result()
    assert [(event.stream, event.version) for event in log.read()] == [
        ("decision-course:1", 1),
        ("course-1", 1),
        ("course-1", 2),
    ]


def test_of_two_decisions_by_one_tag_the_second_waits_and_is_refused(log: EventLog, first: Connection) -> None:
    decide(log, "a", tx=first)
    second = Background(lambda: decide(log, "a"))
    wait_for_waiters(log)
    first.commit()

    assert isinstance(second.outcome(), AppendConditionError)


def test_of_two_decisions_by_one_tag_the_second_is_recorded_when_the_first_rolls_back(
    log: EventLog, first: Connection
) -> None:
    decide(log, "a", tx=first)
    second = Background(lambda: decide(log, "a"))
    wait_for_waiters(log)
    first.rollback()

    assert second.result() == everything(log)


def test_a_decision_that_a_savepoint_took_back_is_not_waited_for(log: EventLog, first: Connection) -> None:
    first.begin()
    with first.begin_nested() as savepoint:
        decide(log, "a", tx=first)
        savepoint.rollback()

    assert decide(log, "a")


def test_decisions_by_different_tags_do_not_wait_for_each_other(log: EventLog, first: Connection) -> None:
    one, other = tags_in_buckets_of_their_own(log, 2)
    decide(log, one, tx=first)

    assert decide(log, other)
    first.commit()


def test_writers_of_one_tag_do_not_wait_for_each_other(log: EventLog, first: Connection) -> None:
    log.append(tagged("a", stream="one"), tx=first)

    log.append(tagged("a", stream="other"))
    log.append(tagged("a", stream="batch"), tagged("a", stream="batch"))
    first.commit()

    assert len(list(log.read(tags=["a"]))) == 4


def test_an_untagged_append_never_waits_for_a_decision(log: EventLog, first: Connection) -> None:
    decide(log, "a", tx=first)

    log.append(note("untagged"))
    log.append(note("1"), note("2"))
    first.commit()

    assert len(everything(log)) == 4


def test_decisions_by_crossing_tags_do_not_deadlock(log: EventLog, first: Connection) -> None:
    """Both wait for what somebody else holds; let go, they take the locks in one order, however they name the tags.

    In the caller's transaction, where a deadlock would be told and not be resolved by another try.
    """
    tags = tags_in_buckets_of_their_own(log, 4)
    first.execute(text("select eventlog.lock_tags(null, :tags)"), {"tags": tags})

    def in_a_transaction(order: int) -> object:
        with log.engine.begin() as connection:
            return decide(log, *tags[::order], tx=connection)

    decisions = [Background(partial(in_a_transaction, order)) for order in (1, -1)]
    wait_for_waiters(log, 2)
    first.rollback()

    refused = errors_of([decision.outcome() for decision in decisions])
    assert [type(error) for error in refused] == [AppendConditionError]


def test_batches_with_crossing_tags_and_decisions_between_them_do_not_deadlock(
    log: EventLog, first: Connection
) -> None:
    """Each writes what the other one decides by, in opposite orders, with a batch of both between them."""
    one, other = tags_in_buckets_of_their_own(log, 2)
    first.execute(text("select eventlog.lock_tags(null, :tags)"), {"tags": [one, other]})

    def in_a_transaction(written: str, decided: str) -> object:
        batch = [tagged(written, stream=f"{written}-{number}") for number in range(2)]
        with log.engine.begin() as connection:
            return log.append(*batch, unless=Query(tags=[decided]) if decided else (), tags=[one, other], tx=connection)

    appends = [
        Background(partial(in_a_transaction, written, decided))
        for written, decided in [(one, other), (other, one), ("x", "")]
    ]
    wait_for_waiters(log, 3)
    first.rollback()

    outcomes = [append.outcome() for append in appends]
    assert {type(error) for error in errors_of(outcomes)} == {AppendConditionError}
    assert not isinstance(outcomes[2], Exception)


def test_what_commits_late_is_not_slipped_by(log: EventLog, first: Connection) -> None:
    """Position 1 is on its way while 2 has been committed: a reader sees neither, and decides from position 0."""
    log.append(tagged("a", stream="late"), tx=first)
    log.append(tagged("a", stream="early"))
    seen = everything(log)
    decision = Background(lambda: decide(log, "a", after=0))
    wait_for_waiters(log)
    first.rollback()

    error = decision.outcome()
    assert (seen, positions(everything(log))) == ([], [2])
    assert isinstance(error, AppendConditionError)
    assert error.position == 2


def test_an_insert_that_got_its_position_before_a_decision_did_refuses_the_next_one(
    log: EventLog, first: Connection
) -> None:
    """A plain INSERT draws position 2 and then waits for the decision, which gets 3. Who reads before the INSERT has
    committed sees nothing above position 1, so he decides from there, and the INSERT refuses him.
    """
    decide(log, "a", tx=first)
    with log.engine.connect() as other:
        writer = Background(lambda: insert_plainly(other, "a"))
        wait_for_waiters(log)
        decide(log, "a", after=1, tx=first)
        first.commit()
        writer.result()
        seen = positions(list(log.read(tags=["a"])))
        next_one = Background(lambda: decide(log, "a", after=seen[-1]))
        wait_for_waiters(log)
        other.commit()

    assert seen == [1]
    assert isinstance(next_one.outcome(), AppendConditionError)
    assert [(event.position, event.stream) for event in log.read()] == [
        (1, "decision-a"),
        (2, "plain"),
        (3, "decision-a"),
    ]


def test_a_lone_append_that_waited_for_a_decision_never_gets_a_position_before_it(
    log: EventLog, first: Connection
) -> None:
    """So whoever decided by a tag may decide again from the position of his own event, as long as nobody INSERTs."""
    decide(log, "a", tx=first)
    writer = Background(lambda: log.append(tagged("a")))
    wait_for_waiters(log)
    (own,) = log.append(tagged("a", stream="decision-a"), unless=Query(tags=["a"], after=1), tx=first)
    first.commit()
    writer.result()

    with pytest.raises(AppendConditionError):
        decide(log, "a", after=own.position)


def test_of_two_transactions_whose_decisions_cross_one_is_told_that_it_was_a_deadlock(log: EventLog) -> None:
    """One takes a and then b, the other b and then a, each holding what it has decided: only its owner repeats it."""
    one, other = tags_in_buckets_of_their_own(log, 2)

    def decide_and_end(tag: str, connection: Connection) -> object:
        try:
            return decide(log, tag, tx=connection)
        finally:
            connection.rollback()

    with log.engine.connect() as left, log.engine.connect() as right:
        decide(log, one, tx=left)
        decide(log, other, tx=right)
        crossing = [Background(partial(decide_and_end, *what)) for what in [(other, left), (one, right)]]
        outcomes = [decision.outcome() for decision in crossing]

    (refused,) = errors_of(outcomes)
    assert "deadlock" in str(refused)

"""Conditions of an append: it is refused when an event that matches one has been recorded after its position."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from eventlog.errors import (
    AppendConditionError,
    ConflictError,
    DatabaseUnreachableError,
    IdConflictError,
    UnsafeTransactionError,
    UsageError,
    WrongExpectedVersionError,
)
from eventlog.ids import new_id
from eventlog.limits import QUERIES_MAX
from eventlog.log import EventLog
from eventlog.query import Query
from eventlog.sqlite import prepare
from tests.log_support import engine_of, everything, note, notes, opened, said
from tests.log_tags_support import ODD_TAGS, insert_plainly, tagged


def is_refused(log: EventLog, *unless: Query, **arguments: Any) -> bool:
    """Whether an event that nobody looks for is refused under this condition."""
    try:
        log.append(note("decided", stream="decisions"), unless=unless, **arguments)
    except AppendConditionError:
        return True
    return False


def test_a_matching_event_refuses_the_append_and_is_named(log: EventLog) -> None:
    log.append(tagged("a"), tagged("a", type="note.closed"))

    with pytest.raises(AppendConditionError) as refused:
        log.append(tagged("a"), unless=Query(types=["note.closed"], tags=["a"]))

    assert (refused.value.position, refused.value.type) == (2, "note.closed")
    assert str(refused.value) == "event 2 (note.closed), tagged a, has been recorded after position 0"
    assert refused.value.remedy
    assert isinstance(refused.value, ConflictError)
    assert len(everything(log)) == 2


def test_without_a_matching_event_it_is_recorded(log: EventLog) -> None:
    log.append(tagged("b"), note("untagged"))

    (decided,) = log.append(tagged("a"), unless=Query(tags=["a"]))

    assert (decided.tags, everything(log)[-1]) == (("a",), decided)


@pytest.mark.parametrize(
    ("types", "refuses"),
    [
        ((), True),
        (("lesson.defined",), True),
        (("lesson.defined", "lesson.closed"), True),
        (("lesson.closed",), False),
        (("lesson",), False),
        (("lesson.*",), True),
        (("*.defined",), True),
        (("lesson.*.*",), False),
        (("**",), True),
        (("lesson.**",), True),
        (("student.*", "lesson.*"), True),
        (("Lesson.defined",), False),
    ],
)
def test_types_are_compared_as_names_or_as_patterns(log: EventLog, types: tuple[str, ...], refuses: bool) -> None:
    log.append(tagged("a", type="lesson.defined"))

    assert is_refused(log, Query(types=types, tags=["a"])) is refuses


@pytest.mark.parametrize(
    ("tags", "refuses"),
    [(["a"], True), (["b"], True), (["a", "b"], True), (["b", "a", "c"], True), (["a", "d"], False), (["A"], False)],
)
def test_an_event_matches_when_it_carries_all_the_tags(log: EventLog, tags: list[str], refuses: bool) -> None:
    log.append(tagged("a", "b", "c"), tagged("d"))

    assert is_refused(log, Query(tags=tags)) is refuses


def test_two_events_that_carry_half_of_the_tags_each_do_not_match(log: EventLog) -> None:
    log.append(tagged("a"), tagged("b"))

    assert not is_refused(log, Query(tags=["a", "b"]))


def test_of_several_queries_one_that_matches_is_enough(log: EventLog) -> None:
    log.append(tagged("a"))

    assert is_refused(log, Query(tags=["z"]), Query(types=["other"], tags=["a"]), Query(tags=["a"]))
    assert not is_refused(log, Query(tags=["z"]), Query(types=["other"], tags=["a"]), Query(tags=["a"], after=1))


def test_only_events_after_the_position_count(log: EventLog) -> None:
    log.append(tagged("a"), tagged("b"), tagged("a"))

    assert [is_refused(log, Query(tags=["a"], after=after)) for after in (0, 1, 2, 3)] == [True] * 3 + [False]


@pytest.mark.parametrize("count", [1, 3])
def test_a_position_beyond_the_end_of_the_log_is_refused(log: EventLog, count: int) -> None:
    """It comes from another log, or from before a restore: nothing that is recorded next would ever refuse."""
    log.append(note("only"))
    conditions = [Query(tags=["a"]), Query(tags=["b"], after=2)]

    with pytest.raises(UsageError, match="after position 2, beyond the end of the log at 1") as refused:
        log.append(*notes(count), unless=conditions)
    with log.engine.begin() as connection:
        with pytest.raises(UsageError, match="after position 2, beyond the end of the log at 1"):
            log.append(*notes(count), unless=conditions, tx=connection)
        log.append(note("after"), unless=Query(tags=["a"], after=1), tx=connection)

    assert refused.value.remedy
    assert said(everything(log)) == ["only", "after"]


def test_the_type_that_matches_is_found_behind_a_later_event_of_another_type(log: EventLog) -> None:
    """The database names the last event of each type: asked for the last event alone, it would name the wrong one."""
    log.append(tagged("a", type="one"), tagged("a", type="two"))

    assert is_refused(log, Query(types=["one"], tags=["a"]))
    assert not is_refused(log, Query(types=["one"], tags=["a"], after=1))


def test_every_tag_can_be_decided_by(log: EventLog, subtests: pytest.Subtests) -> None:
    for tag in ODD_TAGS:
        with subtests.test(tag=tag):
            log.append(tagged(tag, "beside"))

            assert is_refused(log, Query(tags=[tag]))
            assert is_refused(log, Query(tags=["beside", tag]))
            assert not is_refused(log, Query(tags=[tag + "x" if len(tag) < 100 else tag[1:]]))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_id_appended_again_is_returned_although_it_matches_its_own_condition(
    log: EventLog, count: int, in_transaction: bool
) -> None:
    events = [tagged("a", id=new_id()) for _ in range(count)]
    first = log.append(*events, unless=Query(tags=["a"]))

    if in_transaction:
        with log.engine.begin() as connection:
            again = log.append(*events, unless=Query(tags=["a"]), tx=connection)
    else:
        again = log.append(*events, unless=Query(tags=["a"]))

    assert again == first == everything(log)


def test_a_known_id_with_other_content_is_an_id_conflict_under_any_condition(log: EventLog) -> None:
    known = new_id()
    log.append(tagged("a", id=known))

    for after in (0, 1):
        with pytest.raises(IdConflictError):
            log.append(tagged("a", said="other", id=known), unless=Query(tags=["a"], after=after))


@pytest.mark.parametrize("count", [1, 3])
def test_a_refused_append_leaves_the_callers_transaction_usable_and_nothing_in_it(log: EventLog, count: int) -> None:
    log.append(tagged("a"))
    with Session(log.engine) as session, session.begin():
        log.append(note("before"), tx=session)
        with pytest.raises(AppendConditionError):
            log.append(*notes(count), unless=Query(tags=["a"]), tags=["b"], tx=session)
        log.append(note("after"), unless=Query(tags=["b"]), tx=session)

    assert said(everything(log)) == ["x", "before", "after"]


def test_a_refused_append_gives_its_locks_back(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log:
        log.append(tagged("a"))
        with log.engine.begin() as connection:
            with pytest.raises(AppendConditionError):
                log.append(tagged("b"), unless=[Query(tags=["a"]), Query(tags=["c"])], tx=connection)

            held = connection.scalar(text("select count(*) from pg_locks where locktype = 'advisory'"))
        assert held == 0


def test_an_earlier_event_of_the_same_transaction_refuses_too(log: EventLog) -> None:
    with log.engine.begin() as connection:
        (own,) = log.append(tagged("a"), tx=connection)

        assert is_refused(log, Query(tags=["a"]), tx=connection)
        assert not is_refused(log, Query(tags=["a"], after=own.position), tx=connection)


def test_an_event_a_savepoint_took_back_does_not_refuse(log: EventLog) -> None:
    with log.engine.begin() as connection:
        with connection.begin_nested() as savepoint:
            log.append(tagged("a"), tx=connection)
            savepoint.rollback()

        assert not is_refused(log, Query(tags=["a"]), tx=connection)


def test_the_events_of_an_append_do_not_refuse_each_other(log: EventLog) -> None:
    log.append(tagged("a"), tagged("a"), unless=Query(tags=["a"]))

    assert len(everything(log)) == 2


def test_a_plain_insert_refuses(log: EventLog) -> None:
    with log.engine.begin() as connection:
        insert_plainly(connection, "b", "a")

    assert is_refused(log, Query(tags=["a"]))


@pytest.mark.parametrize("in_transaction", [False, True])
def test_an_expected_version_holds_beside_a_condition(log: EventLog, in_transaction: bool) -> None:
    """Both must hold; when neither does, the version is what is told."""
    log.append(tagged("a", stream="decisions"))
    fine, matched = Query(tags=["a"], after=1), Query(tags=["a"])

    with log.engine.connect() as connection:
        tx = connection if in_transaction else None
        for condition, expected, error in [
            (fine, 0, WrongExpectedVersionError),
            (matched, 0, WrongExpectedVersionError),
            (matched, 1, AppendConditionError),
        ]:
            with pytest.raises(error):
                log.append(note("decided", stream="decisions"), expected=expected, unless=condition, tx=tx)
        (decided,) = log.append(note("decided", stream="decisions"), expected=1, unless=fine, tx=tx)
        connection.commit()
    assert decided.version == log.version("decisions") == 2


def test_a_condition_without_a_tag_is_refused(log: EventLog) -> None:
    for unless in (Query(), Query(types=["note.taken"]), [Query(tags=["a"]), Query(after=7)]):
        with pytest.raises(UsageError, match="names no tag") as refused:
            log.append(note("x"), unless=unless)
        assert refused.value.remedy
    assert log.head() == 0


def test_what_is_no_condition_is_refused(log: EventLog) -> None:
    with pytest.raises(UsageError, match="holds 'a'"):
        log.append(note("x"), unless=["a"])  # type: ignore[list-item]
    with pytest.raises(UsageError, match=f"{QUERIES_MAX + 1} queries; at most {QUERIES_MAX}"):
        log.append(note("x"), unless=[Query(tags=["a"])] * (QUERIES_MAX + 1))
    for wrong in ({"types": "note.taken"}, {"after": "1"}, {"after": True}):
        with pytest.raises(UsageError):
            Query(tags=["a"], **wrong)
    assert log.head() == 0


def test_as_many_queries_as_are_allowed_are_all_looked_at(log: EventLog) -> None:
    log.append(tagged(f"t:{QUERIES_MAX - 1}"))

    assert is_refused(log, *[Query(tags=[f"t:{number}"]) for number in range(QUERIES_MAX)])


def test_a_condition_with_nothing_to_append_is_checked_and_appends_nothing(log: EventLog) -> None:
    log.append(tagged("a"))

    assert log.append(unless=Query(tags=["a"])) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("count", [1, 2])
def test_another_isolation_level_is_refused_and_stays_usable(
    postgres_database_url: str, level: str, count: int
) -> None:
    with opened(postgres_database_url) as log:
        with log.engine.connect().execution_options(isolation_level=level) as connection:
            with pytest.raises(UnsafeTransactionError, match=f"READ COMMITTED, this transaction is {level}") as refused:
                log.append(*notes(count), unless=Query(tags=["a"]), tx=connection)
            assert refused.value.remedy
            log.append(note("unconditional"), tx=connection)
            connection.commit()

        assert said(everything(log)) == ["unconditional"]


def test_a_stricter_default_does_not_refuse_an_append_in_a_transaction_of_its_own(postgres_database_url: str) -> None:
    strict = f"{postgres_database_url}?options=-cdefault_transaction_isolation%3Dserializable"
    with opened(strict) as log:
        log.append(tagged("a"))

        assert is_refused(log, Query(tags=["a"]))
        assert not is_refused(log, Query(tags=["a"], after=1))


def test_a_decision_in_a_prepared_engine_of_the_callers_own_sees_everything(sqlite_url: str) -> None:
    with opened(sqlite_url) as log, engine_of(sqlite_url) as engine:
        prepare(engine)
        log.append(tagged("a"))
        with engine.begin() as connection:
            assert is_refused(log, Query(tags=["a"]), tx=connection)


def test_a_decision_from_an_old_snapshot_of_a_sqlite_file_cannot_be_committed(sqlite_url: str) -> None:
    """The caller's own engine begins DEFERRED: he has read, somebody appends, and his condition would hold for him."""
    deferred = {"isolation_level": None, "timeout": 0}
    with opened(sqlite_url) as log, engine_of(sqlite_url, connect_args=deferred) as engine, engine.connect() as old:
        old.exec_driver_sql("begin")
        old.exec_driver_sql("select count(*) from events")
        log.append(tagged("a"))

        with pytest.raises(DatabaseUnreachableError, match="locked"):
            log.append(note("decided"), unless=Query(tags=["a"]), tx=old)
        old.rollback()

        assert said(everything(log)) == ["x"]

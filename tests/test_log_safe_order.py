"""Nothing is missed and nothing comes twice, whatever order transactions commit in.

The interleavings that lose events are forced with explicit transactions; at the end many writers race against a
follower, and the same race without the marks shows that it can lose.
"""

from collections.abc import Iterator

import msgspec
import pytest
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from benchmarks.lost_events.adapters.adapter import Promise
from benchmarks.lost_events.adapters.rewindlog import Pages
from benchmarks.lost_events.race import enough, run_race
from benchmarks.lost_events.shapes import POSTGRES, Shape
from eventlog.database import Holder
from eventlog.errors import EventLogError
from eventlog.log import EventLog
from tests.log_support import (
    backend,
    engine_of,
    everything,
    new_seed,
    note,
    notes,
    opened,
    positions,
    said,
    wait_until,
)

WRITERS = 16
RACE_SECONDS = 2.0


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def early(log: EventLog) -> Iterator[Connection]:
    """A connection whose transaction will append first and commit last."""
    with log.engine.connect() as connection:
        yield connection


def marks(log: EventLog) -> int:
    question = "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 2 and mode = 'ShareLock'"
    with log.engine.connect() as connection:
        return int(connection.scalar(text(question)) or 0)


def test_an_open_append_holds_later_events_back_until_it_commits(log: EventLog, early: Connection) -> None:
    log.append(note("before"))
    log.append(note("early", stream="early"), tx=early)
    log.append(note("late"))

    assert (log.head(), log.high_water_mark(), said(everything(log))) == (3, 1, ["before"])

    early.commit()
    assert (log.high_water_mark(), said(everything(log))) == (3, ["before", "early", "late"])


def test_an_open_append_holds_later_events_back_until_it_is_rolled_back(log: EventLog, early: Connection) -> None:
    log.append(note("early"), tx=early)
    log.append(note("late", stream="late"))
    assert everything(log) == []

    early.rollback()

    assert (said(everything(log)), log.high_water_mark()) == (["late"], 2)


def test_the_first_event_of_a_log_is_not_passed_while_it_is_on_its_way(log: EventLog, early: Connection) -> None:
    """A fresh sequence says 1 before and after its first number: taken literally, event 1 would be passed."""
    assert (log.head(), log.high_water_mark()) == (0, 0)
    log.append(note("first"), tx=early)
    assert (log.head(), log.high_water_mark()) == (1, 0)

    early.commit()

    assert (log.high_water_mark(), positions(everything(log))) == (1, [1])


def test_a_first_event_that_was_rolled_back_leaves_a_hole_readers_pass(log: EventLog, early: Connection) -> None:
    log.append(note("first"), tx=early)
    early.rollback()
    assert (log.head(), log.high_water_mark()) == (1, 1)

    log.append(note("second"))

    assert positions(everything(log)) == [2]


def test_a_rollback_to_a_savepoint_lifts_the_mark_and_the_next_append_sets_one_anew(
    log: EventLog, early: Connection
) -> None:
    """The mark that was lifted lay below `between`; without a new one, `late` could be passed."""
    savepoint = early.begin_nested()
    log.append(note("undone"), tx=early)
    savepoint.rollback()
    log.append(note("between", stream="between"))
    assert said(everything(log)) == ["between"]

    log.append(note("early"), tx=early)
    log.append(note("late", stream="late"))
    assert (log.high_water_mark(), said(everything(log))) == (2, ["between"])

    early.commit()
    assert said(everything(log)) == ["between", "early", "late"]


def test_a_mark_set_before_a_savepoint_outlives_its_rollback(log: EventLog, early: Connection) -> None:
    log.append(note("early"), tx=early)
    savepoint = early.begin_nested()
    log.append(note("undone"), tx=early)
    savepoint.rollback()
    log.append(note("late", stream="late"))

    assert log.high_water_mark() == 0

    log.append(note("early again"), tx=early)
    early.commit()
    assert said(everything(log)) == ["early", "late", "early again"]


def test_a_mark_set_in_a_savepoint_outlives_its_release(log: EventLog, early: Connection) -> None:
    with early.begin_nested(), early.begin_nested():
        log.append(note("early"), tx=early)
    with early.begin_nested() as later:
        log.append(note("undone"), tx=early)
        later.rollback()
    log.append(note("late", stream="late"))
    assert log.high_water_mark() == 0

    early.commit()
    assert said(everything(log)) == ["early", "late"]


def test_a_failed_statement_inside_a_savepoint_does_not_leave_the_rest_unmarked(
    log: EventLog, early: Connection
) -> None:
    with pytest.raises(DBAPIError), early.begin_nested():
        early.execute(
            text("insert into eventlog.events (id, stream, version, type, data) values (null, 's', 1, 't', '1')")
        )
    log.append(note("between", stream="between"))
    log.append(note("early"), tx=early)
    log.append(note("late", stream="late"))

    assert said(everything(log)) == ["between"]
    early.commit()
    assert said(everything(log)) == ["between", "early", "late"]


def test_settings_that_are_reset_within_a_transaction_do_not_lose_its_mark(log: EventLog, early: Connection) -> None:
    log.append(note("early"), tx=early)
    early.execute(text("reset all"))
    log.append(note("early again"), tx=early)
    log.append(note("late", stream="late"))

    assert log.high_water_mark() == 0
    early.commit()
    assert said(everything(log)) == ["early", "early again", "late"]


def test_what_a_session_remembers_of_an_earlier_transaction_is_no_mark(log: EventLog, early: Connection) -> None:
    log.append(note("before"), tx=early)
    for name in ("marked", "low"):
        early.execute(
            text(f"select set_config('eventlog.{name}_eventlog', current_setting('eventlog.{name}_eventlog'), false)")
        )
    early.commit()
    log.append(note("between", stream="between"))

    log.append(note("early"), tx=early)

    assert (log.head(), log.high_water_mark()) == (3, 2)


def test_the_oldest_of_several_open_appends_decides(log: EventLog, early: Connection) -> None:
    with log.engine.connect() as second:
        log.append(note("first", stream="1"), tx=early)
        log.append(note("second", stream="2"), tx=second)
        log.append(note("third", stream="3"))
        assert log.high_water_mark() == 0
        early.commit()
        assert (log.high_water_mark(), said(everything(log))) == (1, ["first"])
        second.commit()

    assert said(everything(log)) == ["first", "second", "third"]


def test_a_transaction_that_only_reads_or_writes_other_tables_holds_nothing_back(
    log: EventLog, early: Connection
) -> None:
    early.execute(text("create table other (n integer)"))
    early.execute(text("insert into other values (1)"))
    early.execute(text("select * from eventlog.events"))

    log.append(note("late"))

    assert said(everything(log)) == ["late"]


def test_one_transaction_may_pass_what_another_one_reads_page_by_page(log: EventLog, early: Connection) -> None:
    log.append(*notes(3))
    reading = log.read()
    next(reading)
    log.append(note("early", stream="early"), tx=early)
    log.append(note("late", stream="late"))
    early.commit()

    assert positions(list(reading)) == [2, 3]
    assert said(list(log.read(after=3))) == ["early", "late"]


def test_two_logs_in_one_database_do_not_hold_each_other_back(log: EventLog, early: Connection) -> None:
    other = EventLog(log.engine, schema="other")
    other.init()
    log.append(note("early"), tx=early)
    other.append(note("other"))

    assert (other.high_water_mark(), said(everything(other))) == (1, ["other"])
    assert log.high_water_mark() == 0


def test_two_logs_can_be_appended_to_in_one_transaction(log: EventLog, early: Connection) -> None:
    other = EventLog(log.engine, schema="other")
    other.init()
    other.append(*notes(2))
    log.append(note("one"), tx=early)
    other.append(note("two", stream="two"), tx=early)
    log.append(note("one again"), tx=early)
    other.append(note("late", stream="late"))
    log.append(note("late", stream="late"))
    assert (log.high_water_mark(), other.high_water_mark()) == (0, 2)

    early.commit()

    assert said(everything(log)) == ["one", "one again", "late"]
    assert said(everything(other))[2:] == ["two", "late"]


def test_advisory_locks_of_others_hold_nothing_back(log: EventLog, early: Connection) -> None:
    for key in ("0", "1, 0", "'eventlog.subscribers'::regclass::oid::int, 0"):
        early.execute(text(f"select pg_advisory_lock_shared({key}), pg_advisory_xact_lock_shared({key})"))
    early.execute(text("select pg_advisory_xact_lock('eventlog.events'::regclass::oid::int, 1)"))

    log.append(*notes(2))

    assert log.high_water_mark() == 2


def test_marks_are_right_where_32_bits_end(log: EventLog, early: Connection, subtests: pytest.Subtests) -> None:
    """A mark holds the low 32 bits of a position, as a signed integer."""
    for head in (2**31 - 2, 2**31 + 9, 2**32 - 2, 2**32 + 9, 2**33 + 2**31 - 2, 2**62):
        with log.engine.begin() as connection:
            connection.execute(text(f"select setval('eventlog.events_position_seq', {head})"))
        with subtests.test(head=head):
            for place in range(head, head + 8, 2):
                log.append(note("early", stream="early"), tx=early)
                log.append(note("late", stream="late"))
                assert (log.head(), log.high_water_mark()) == (place + 2, place)
                early.commit()
                assert log.high_water_mark() == place + 2
            assert positions(list(log.read(after=head))) == list(range(head + 1, head + 9))


def test_the_mark_of_a_backend_that_was_terminated_vanishes(log: EventLog) -> None:
    with engine_of(str(log.engine.url.render_as_string(hide_password=False))) as engine:
        doomed = engine.connect()
        log.append(note("doomed"), tx=doomed)
        log.append(note("late", stream="late"))
        assert log.high_water_mark() == 0

        with log.engine.connect() as connection:
            connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": backend(doomed)})
        wait_until(lambda: marks(log) == 0, what="the mark to vanish")
        doomed.invalidate()
        doomed.close()

    assert (log.high_water_mark(), said(everything(log))) == (2, ["late"])


def test_a_prepared_transaction_holds_later_events_back_until_it_is_committed(
    log: EventLog, postgres_database_url: str
) -> None:
    with engine_of(postgres_database_url) as engine:
        with engine.connect() as connection:
            twophase = connection.begin_twophase("eventlog-prepared")
            log.append(note("prepared"), tx=connection)
            twophase.prepare()
            connection.invalidate()
        log.append(note("late", stream="late"))
        assert (log.high_water_mark(), marks(log)) == (0, 1)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("commit prepared 'eventlog-prepared'"))

    assert said(everything(log)) == ["prepared", "late"]


def test_who_holds_the_mark_back_is_named_farthest_back_first(log: EventLog, early: Connection) -> None:
    early.execute(text("set application_name = 'slow import'"))
    early.commit()
    log.append(note("early"), tx=early)
    with log.engine.connect() as second, log.engine.connect() as observer:
        log.append(note("second", stream="second"), tx=second)

        held = log.database.held_back_by(observer)

    assert [(holder.position, holder.application) for holder in held] == [(0, "slow import"), (1, "eventlog")]
    assert held[0].pid == backend(early)
    assert held[0].since is not None


def test_a_prepared_transaction_is_named_among_those_who_hold_the_mark_back(log: EventLog) -> None:
    with log.engine.connect() as connection:
        twophase = connection.begin_twophase("eventlog-held")
        log.append(note("prepared"), tx=connection)
        twophase.prepare()
        with log.engine.connect() as observer:
            (held,) = log.database.held_back_by(observer)
        twophase.rollback()

    assert held.position == 0
    assert msgspec.convert(msgspec.to_builtins(held), Holder) == held, "it is what its declaration says"


def test_nobody_holds_the_mark_back_when_nothing_is_on_its_way(log: EventLog) -> None:
    log.append(*notes(3))

    with log.engine.connect() as connection:
        assert log.database.held_back_by(connection) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_the_high_water_mark_is_refused_where_new_statements_do_not_see_what_was_committed(
    log: EventLog, level: str
) -> None:
    with (
        log.engine.connect().execution_options(isolation_level=level) as connection,
        pytest.raises((DBAPIError, EventLogError), match=f"needs READ COMMITTED, this transaction is {level}"),
    ):
        log.database.high_water_mark(connection)


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_append_under_a_stricter_isolation_is_marked_too(log: EventLog, level: str) -> None:
    with log.engine.connect().execution_options(isolation_level=level) as connection:
        log.append(note("early"), tx=connection)
        log.append(note("late", stream="late"))
        assert log.high_water_mark() == 0
        connection.commit()

    assert said(everything(log)) == ["early", "late"]


def test_a_database_whose_default_is_stricter_is_read_all_the_same(postgres_database_url: str, log: EventLog) -> None:
    """Somebody may set default_transaction_isolation for a whole database or role."""
    with log.engine.begin() as connection:
        name = connection.scalar(text("select current_database()"))
        connection.execute(text(f"alter database {name} set default_transaction_isolation = 'repeatable read'"))

    with opened(postgres_database_url) as strict:
        strict.append(note("first"))
        strict.append(*notes(2))

        assert len(everything(strict)) == 3


def test_an_insert_by_a_function_of_somebody_else_is_marked(log: EventLog, early: Connection) -> None:
    """A function with settings of its own must not take the mark with it when it returns."""
    early.execute(
        text(
            "create function place(n bigint) returns void language plpgsql"
            " set search_path = pg_temp set work_mem = '1MB' as $$"
            " begin insert into eventlog.events (id, stream, version, type, data)"
            " values (gen_random_uuid(), 'placed', n, 'note.taken', '{\"said\": \"placed\"}'); end $$"
        )
    )
    early.commit()
    early.execute(text("select place(1)"))
    log.append(note("late"))
    early.execute(text("select place(2)"))

    assert (log.high_water_mark(), marks(log)) == (0, 1)
    early.commit()
    assert said(everything(log)) == ["placed", "late", "placed"]


def test_an_insert_whose_error_a_function_swallowed_leaves_no_unmarked_append(log: EventLog, early: Connection) -> None:
    early.execute(
        text(
            "do $$ begin begin insert into eventlog.events (id, stream, version, type, data)"
            " values (gen_random_uuid(), 's', 0, 't', '1'); exception when others then null; end; end $$"
        )
    )
    log.append(note("between", stream="between"))
    log.append(note("early"), tx=early)
    log.append(note("late", stream="late"))

    assert (log.high_water_mark(), said(everything(log))) == (2, ["between"])


def test_sixteen_writers_and_a_follower_that_misses_nothing(postgres_database_url: str) -> None:
    race = run_race(
        Pages(postgres_database_url), writers=WRITERS, seconds=RACE_SECONDS, seed=new_seed(), until=enough(100)
    )

    assert race.verdict.faults == {}, race
    assert set(race.done) == POSTGRES - {Shape.NODE}, "every shape has occurred"


def test_the_same_race_misses_events_when_the_marks_are_taken_away(postgres_database_url: str) -> None:
    with engine_of(postgres_database_url) as engine, engine.begin() as connection:
        for trigger in ("mark_append", "guard_position"):
            connection.execute(text(f"alter table eventlog.events disable trigger {trigger}"))

    race = run_race(Unmarked(postgres_database_url), writers=WRITERS, seconds=RACE_SECONDS / 2, seed=new_seed())

    assert race.verdict.missed, race


class Unmarked(Pages):
    """The same log and reader; nothing is expected of it any more."""

    promise = Promise.LOSES

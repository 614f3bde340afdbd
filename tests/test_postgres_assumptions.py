"""What the protocols assume of PostgreSQL, asked of the server of the fixtures and of one of another major version.

The models in `tests/models` take these for granted. Asked elsewhere: that a SELECT of a sequence is ahead now and then
(`test_log_sequence.py`), that one lock is held however much is appended (`test_log_cost.py`), that a backend that is
terminated lets go of its marks and that prepared transactions keep theirs (`test_log_safe_order.py`), that PREPARE
refuses after NOTIFY (`test_doorbell_postgres.py`), and that a pooler keeps nothing of a session (`test_pgbouncer.py`).
"""

import contextlib
import importlib.util
import threading
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from sqlalchemy import make_url

from tests.log_support import Background, at_once, errors_of, wait_until
from tests.postgres_server import OLDER_WHEEL, server_of_the_wheel
from tests.test_log_sequence import COUNT_READS_AHEAD

Session = psycopg.Connection[tuple[Any, ...]]
Connect = Callable[[], Session]

HAS_OLDER = importlib.util.find_spec(OLDER_WHEEL) is not None
SERVERS = ["the server of the fixtures", "an older server"] if HAS_OLDER else ["the server of the fixtures"]


@pytest.fixture(scope="module")
def older_url() -> Iterator[str]:
    with server_of_the_wheel(wheel=OLDER_WHEEL) as url:
        yield url


@pytest.fixture(scope="module", params=SERVERS)
def database(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    """A database of this file's own on each of the servers."""
    server = request.getfixturevalue("older_url") if request.param == "an older server" else postgres_url
    url = make_url(server).set(drivername="postgresql")
    name = f"assumptions_{uuid.uuid4().hex}"
    with psycopg.connect(url.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))
        yield url.set(database=name).render_as_string(hide_password=False)
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@pytest.fixture
def connect(database: str) -> Iterator[Connect]:
    """Connections that see one schema of this test's own; each statement is a transaction, unless one is begun."""
    with contextlib.ExitStack() as stack:
        name = f"s{uuid.uuid4().hex}"

        def new() -> Session:
            options = f"-c search_path={name} -c lock_timeout=15s"
            session = stack.enter_context(psycopg.connect(database, autocommit=True, options=options))
            stack.callback(session.cancel_safe)
            return session

        new().execute(sql.SQL("create schema {}").format(sql.Identifier(name)))
        yield new


@pytest.fixture
def one(connect: Connect) -> Session:
    return connect()


@pytest.fixture
def other(connect: Connect) -> Session:
    return connect()


def ask(session: Session, question: str, *values: object) -> Any:
    """Return the only column of the only row."""
    row = session.execute(question.encode(), values).fetchone()
    assert row is not None
    return row[0]


def waits(observer: Session, session: Session) -> None:
    """Wait until a session waits for a lock."""
    pid = session.info.backend_pid
    question = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    wait_until(lambda: ask(observer, question, pid), what="a session to wait for a lock")


def is_refused(session: Session, statement: str) -> bool:
    """Tell whether a statement would have to wait for a lock."""
    try:
        with session.transaction():
            session.execute("set local lock_timeout = '50ms'")
            session.execute(statement.encode())
    except psycopg.errors.LockNotAvailable:
        return True
    return False


def test_two_major_versions_are_asked(postgres_url: str, request: pytest.FixtureRequest) -> None:
    """Where no wheel with an older server can be had there is one, and this says which."""
    urls = [postgres_url, *([request.getfixturevalue("older_url")] if HAS_OLDER else [])]
    majors = []
    for url in urls:
        with psycopg.connect(
            make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        ) as session:
            majors.append(session.info.server_version // 10_000)

    assert len(set(majors)) == len(urls), f"only PostgreSQL {majors[0]} is asked"
    assert min(majors) >= 16


def test_a_sequence_knows_no_transactions(one: Session, other: Session) -> None:
    """What was drawn is drawn: seen by others at once, and not taken back by a rollback."""
    one.execute("create sequence s")
    assert ask(other, "select pg_sequence_last_value('s')") is None

    with contextlib.suppress(psycopg.Rollback), one.transaction():
        one.execute("select nextval('s'), nextval('s')")
        assert ask(other, "select pg_sequence_last_value('s')") == 2
        raise psycopg.Rollback

    assert (ask(other, "select pg_sequence_last_value('s')"), ask(other, "select nextval('s')")) == (2, 3)


def test_a_sequence_is_never_read_ahead_of_what_was_given_out(one: Session, connect: Connect) -> None:
    one.execute("create sequence s")
    statement = COUNT_READS_AHEAD.format(reads=3_000, read="coalesce(pg_sequence_last_value('s'), 0)", sequence="s")

    def read_and_draw(session: Session) -> int:
        session.execute(statement.encode())
        return int(ask(session, "select current_setting('test.ahead')"))

    sessions = [connect() for _ in range(4)]
    outcomes = at_once(*(lambda session=session: read_and_draw(session) for session in sessions))
    assert outcomes == [0] * 4, errors_of(outcomes)


@pytest.fixture
def numbered(one: Session) -> None:
    """A table whose statement trigger notes what the sequence was at, and waits at the gate if it is closed."""
    one.execute(
        """
        create table numbered (n bigint generated always as identity, said text);
        create table noted (before bigint);
        create function note() returns trigger language plpgsql as $$
        begin
            insert into noted select coalesce(pg_sequence_last_value('numbered_n_seq'), 0);
            perform pg_advisory_xact_lock_shared(1, 1);
            perform pg_advisory_xact_lock_shared(4711);
            return null;
        end $$;
        create trigger note before insert on numbered for each statement execute function note();
        """
    )


@pytest.mark.usefixtures("numbered")
@pytest.mark.parametrize(
    "statement",
    [
        "insert into numbered (said) values ('a'), ('b')",
        "insert into numbered (said) select 'c' from generate_series(1, 3)",
        "insert into numbered (said) values ('a') on conflict do nothing",
        "with more as (insert into numbered (said) values ('d') returning n) select * from more",
        "merge into numbered using (values ('e')) as v (w) on false when not matched then insert (said) values (v.w)",
    ],
)
def test_a_statement_trigger_runs_before_the_first_default(one: Session, statement: str) -> None:
    one.execute("insert into numbered (said) values ('before')")
    one.execute("truncate noted")
    one.execute(statement.encode())

    assert [row[0] for row in one.execute("select before from noted")] == [1]
    assert ask(one, "select min(n) from numbered where said <> 'before'") == 2


@pytest.mark.usefixtures("numbered")
def test_a_statement_trigger_runs_before_copy_reads_a_row(one: Session, other: Session) -> None:
    with one.cursor().copy("copy numbered (said) from stdin") as copy:
        wait_until(lambda: ask(other, MARKS_OF, one.info.backend_pid), what="the trigger to run")
        assert ask(other, "select pg_sequence_last_value('numbered_n_seq')") is None
        copy.write_row(["a"])

    assert (ask(one, "select before from noted"), ask(one, "select n from numbered")) == (0, 1)


MARKS_OF = "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 2 and granted and pid = %s"


@pytest.mark.usefixtures("numbered")
def test_a_lock_is_seen_before_the_statement_that_took_it_returns(
    one: Session, other: Session, connect: Connect
) -> None:
    """The mark of an INSERT that still waits for something else holds readers back already."""
    gate = connect()
    gate.execute("select pg_advisory_lock(4711)")
    insert = Background(lambda: one.execute("insert into numbered (said) values ('a')"))
    waits(other, one)

    assert ask(other, MARKS_OF, one.info.backend_pid) == 1
    gate.execute("select pg_advisory_unlock(4711)")
    insert.result()


def test_locks_and_local_settings_go_with_their_savepoint(one: Session, other: Session) -> None:
    def remembered() -> tuple[str, int, str]:
        setting = ask(one, "select current_setting('test.marked', true)")
        return setting, ask(other, MARKS_OF, one.info.backend_pid), ask(one, "select pg_current_xact_id()::text")

    take = "select pg_advisory_xact_lock_shared(1, 1), set_config('test.marked', pg_current_xact_id()::text, true)"
    with one.transaction():
        this = ask(one, "select pg_current_xact_id()::text")
        with one.transaction(force_rollback=True):
            one.execute(take)
            assert remembered() == (this, 1, this), "a savepoint is of the same transaction"
        assert remembered() == ("", 0, this)
        with one.transaction():
            one.execute(take)
        assert remembered() == (this, 1, this), "what was released is kept"
        with one.transaction(force_rollback=True):
            one.execute(take)
        assert remembered() == (this, 1, this), "what was taken before is kept"

    assert (ask(one, "select current_setting('test.marked', true)"), ask(other, MARKS_OF, one.info.backend_pid)) == (
        "",
        0,
    )


@pytest.mark.parametrize(("key", "shown"), [(0, 0), (2**31 - 1, 2**31 - 1), (-(2**31), 2**31), (-1, 2**32 - 1)])
def test_a_lock_of_two_keys_is_shown_as_unsigned_numbers(one: Session, other: Session, key: int, shown: int) -> None:
    with one.transaction():
        one.execute("select pg_advisory_xact_lock_shared(%s, %s)", [key, key])
        question = "select classid::bigint, objid::bigint, objsubid, mode from pg_locks where locktype = 'advisory'"
        assert other.execute(question + " and pid = %s", [one.info.backend_pid]).fetchone() == (
            shown,
            shown,
            2,
            "ShareLock",
        )


WRITE = """
create procedure write(turns integer) language plpgsql as $$
begin
    for turn in 1..turns loop
        perform pg_advisory_xact_lock_shared(1, coalesce(pg_sequence_last_value('numbers_n_seq'), 0)::integer);
        insert into numbers default values;
        commit;
    end loop;
end $$
"""
READ = """
create function read(turns integer) returns bigint language plpgsql volatile as $$
declare
    head bigint;
    mark bigint;
    missed bigint := 0;
begin
    for turn in 1..turns loop
        head := coalesce(pg_sequence_last_value('numbers_n_seq'), 0);
        select least(head, min(objid::bigint)) into mark from pg_locks
        where locktype = 'advisory' and classid = 1 and objsubid = 2
            and database = (select oid from pg_database where datname = current_database());
        missed := missed + coalesce(mark, head) - (select count(*) from numbers where n <= coalesce(mark, head));
    end loop;
    return missed;
end $$
"""


def test_locks_go_after_rows_have_become_visible(one: Session, connect: Connect) -> None:
    """Whoever finds a lock gone finds the rows in the next statement of the same function: thousands of times."""
    one.execute(f"create table numbers (n bigint generated always as identity primary key); {WRITE}; {READ}".encode())
    writers = [connect() for _ in range(3)]

    def read() -> int:
        return int(ask(one, "select read(800)"))

    outcomes = at_once(read, *(lambda writer=writer: writer.execute("call write(800)") for writer in writers))

    assert errors_of(outcomes) == []
    assert outcomes[0] == 0
    assert ask(one, "select count(*) from numbers") == 2_400


SEES = """
create function sees() returns bigint language plpgsql {volatility} as $$
declare
    first bigint := (select count(*) from facts);
begin
    perform pg_advisory_xact_lock_shared(4711);
    return (select count(*) from facts) - first;
end $$
"""


@pytest.mark.parametrize(
    ("volatility", "isolation", "seen"),
    [("volatile", "read committed", 1), ("stable", "read committed", 0), ("volatile", "repeatable read", 0)],
)
def test_a_statement_has_a_new_snapshot_in_a_volatile_function_too(
    one: Session, other: Session, connect: Connect, volatility: str, isolation: str, seen: int
) -> None:
    """Under READ COMMITTED; the other two are what the functions of the schema must not be."""
    one.execute(f"create table facts (n integer); {SEES.format(volatility=volatility)}".encode())
    one.execute(f"set default_transaction_isolation = '{isolation}'".encode())
    gate = connect()
    gate.execute("select pg_advisory_lock(4711)")
    answer = Background(lambda: ask(one, "select sees()"))
    waits(other, one)
    other.execute("insert into facts values (1)")
    gate.execute("select pg_advisory_unlock(4711)")

    assert answer.result() == seen


@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_on_conflict_do_nothing_waits_for_the_outcome_of_the_other(
    one: Session, other: Session, connect: Connect, commits: bool
) -> None:
    one.execute("create table versions (stream text, version integer, unique (stream, version))")
    insert = "insert into versions values ('s', 1) on conflict do nothing"
    with one.transaction(force_rollback=not commits):
        one.execute(insert)
        second = Background(lambda: other.execute(insert).rowcount)
        waits(connect(), other)

    assert second.result() == (0 if commits else 1)
    assert ask(other, "select count(*) from versions") == 1, "a new statement sees what was waited for"


@pytest.fixture
def rows(one: Session) -> None:
    one.execute("create table parents (name text primary key, state text)")
    one.execute("create table rows (name text references parents on update cascade, position integer)")
    one.execute("insert into parents values ('mail', 'running')")
    one.execute("insert into rows values ('mail', 0)")


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("commits", [True, False], ids=["commits", "rolls back"])
def test_an_update_that_waited_looks_at_the_row_as_it_is_then(
    one: Session, other: Session, connect: Connect, commits: bool
) -> None:
    """The fence: of two that were read from the same position, the second changes no row."""
    fence = "update rows set position = position + 1 where position = 0"
    with one.transaction(force_rollback=not commits):
        one.execute(fence)
        second = Background(lambda: other.execute(fence).rowcount)
        waits(connect(), other)

    assert second.result() == (0 if commits else 1)
    assert ask(one, "select position from rows") == 1


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize(("lock", "strength"), [("update", "for update"), ("share", "for share")])
def test_a_locking_select_that_waited_returns_the_row_as_it_is_then(
    one: Session, other: Session, connect: Connect, lock: str, strength: str
) -> None:
    """Taking a lease waits for a fence, and reads the position it has moved to; a pause that came first is seen."""
    with one.transaction():
        one.execute("update rows set position = 7")
        read = Background(lambda: ask(other, f"select position from rows {strength}"))
        waits(connect(), other)

    assert read.result() == 7, lock


@pytest.mark.usefixtures("rows")
def test_foreign_keys_pass_an_operator_but_not_one_that_locks_for_update(one: Session, other: Session) -> None:
    insert = "insert into rows values ('mail', 1)"
    with one.transaction():
        one.execute("update parents set state = 'paused'")
        assert not is_refused(other, insert)
        assert is_refused(other, "select * from parents for share")
    with one.transaction():
        one.execute("select * from parents for no key update")
        assert not is_refused(other, insert)
    with one.transaction():
        one.execute("select * from parents for share")
        assert not is_refused(other, insert)
        assert not is_refused(other, "select * from parents for share")
        assert is_refused(other, "update parents set state = 'paused'")
    with one.transaction():
        one.execute("select * from parents for update")
        assert is_refused(other, insert)


@pytest.mark.usefixtures("rows")
def test_skip_locked_passes_by_what_somebody_holds(one: Session, other: Session) -> None:
    one.execute("insert into rows values ('mail', 1)")
    with one.transaction():
        one.execute("update rows set position = 5 where position = 1")
        found = other.execute("select position from rows for update skip locked").fetchall()

    assert found == [(0,)]


@pytest.mark.usefixtures("rows")
def test_a_transaction_that_is_left_idle_is_ended_with_its_locks(one: Session, other: Session) -> None:
    """The limit is set within the transaction, and for it alone."""
    one.execute("begin")
    one.execute("select set_config('idle_in_transaction_session_timeout', '100ms', true)")
    one.execute("update rows set position = 1")

    assert other.execute("update rows set position = position + 10").rowcount == 1
    assert ask(other, "select position from rows") == 10
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        one.execute("commit")


def test_session_locks_end_with_the_connection(one: Session, connect: Connect) -> None:
    sleeper = connect()
    sleeper.execute("select pg_advisory_lock_shared(4711)")
    assert ask(one, "select pg_try_advisory_lock(4711)") is False

    sleeper.close()

    wait_until(lambda: ask(one, "select pg_try_advisory_lock(4711)"), what="the lock to be free")


def test_the_bell_is_tried_and_given_back_in_one_expression(one: Session, other: Session) -> None:
    tries = "select case when pg_try_advisory_lock(4711) then pg_advisory_unlock(4711) else false end"
    with one.transaction():
        assert ask(one, tries) is True
        assert ask(other, tries) is True, "nothing of it is left until the transaction ends"
    other.execute("select pg_advisory_lock_shared(4711)")
    assert ask(one, tries) is False


def heard(listener: Session, *, count: int) -> list[str]:
    return [one.payload for one in listener.notifies(timeout=5, stop_after=count)]


def test_a_notification_is_delivered_at_commit_once_and_not_when_it_was_rolled_back(
    one: Session, other: Session
) -> None:
    one.execute("listen bell")
    with other.transaction():
        other.execute("select pg_notify('bell', 'a'), pg_notify('bell', 'a')")
        with other.transaction(force_rollback=True):
            other.execute("notify bell, 'undone with its savepoint'")
        other.execute("notify bell, 'a'")
        one.execute("select 1")
        assert list(one.notifies(timeout=0)) == [], "not before the commit"
    with other.transaction(force_rollback=True):
        other.execute("notify bell, 'undone'")
    other.execute("notify bell, 'last'")

    assert heard(one, count=2) == ["a", "last"]


def test_who_listens_before_a_commit_hears_what_was_notified_before(one: Session, other: Session) -> None:
    """A sleeper listens, and an append that notified earlier commits later."""
    with other.transaction():
        other.execute("notify bell, 'early'")
        one.execute("listen bell")

    assert heard(one, count=1) == ["early"]


def test_clock_timestamp_goes_on_within_a_transaction(one: Session) -> None:
    """Leases compare with it; now() is the moment at which the transaction began."""
    with one.transaction():
        stands, goes = (ask(one, f"select {clock}") for clock in ("now()", "clock_timestamp()"))
        threading.Event().wait(0.002)
        assert ask(one, "select now()") == stands
        assert ask(one, "select clock_timestamp()") > goes >= stands


def test_values_are_set_from_the_row_as_it_was(one: Session) -> None:
    """`place` in control/checkpoints.py asks for the old position while it sets a new one."""
    one.execute("create table places (position integer, in_hand integer)")
    one.execute("insert into places values (1, 5)")
    one.execute("update places set position = 3, in_hand = case when position <= 3 then in_hand else 3 end")

    assert one.execute("select * from places").fetchone() == (3, 5)

"""What a database role needs: one that may only append can append, and nothing else."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from eventlog.errors import PermissionDeniedError, WrongExpectedVersionError
from eventlog.log import EventLog
from tests.log_support import engine_of, everything, note, notes, opened, said

INSERT = "insert into eventlog.events (id, stream, version, type, data) values (gen_random_uuid(), 's', 1, 't', '1')"

APPEND = "select * from eventlog.append(stream => 's', type => 't', data => '1')"


@pytest.fixture
def owner(postgres_database_url: str) -> Iterator[Engine]:
    with engine_of(postgres_database_url) as engine:
        yield engine


@pytest.fixture
def appender_url(owner: Engine) -> Iterator[str]:
    """The account of a service: usage of the schema, select and insert on events."""
    yield from role(owner, "select, insert")


@pytest.fixture
def appender(appender_url: str) -> Iterator[EventLog]:
    with opened(appender_url) as log:
        yield log


@pytest.fixture
def writer(owner: Engine) -> Iterator[Engine]:
    """An account that may insert events and do nothing else."""
    for url in role(owner, "insert"):
        with engine_of(url) as engine:
            yield engine


@pytest.fixture
def caller(owner: Engine) -> Iterator[Engine]:
    """An account that may call the function append and do nothing else."""
    for url in role(owner, None):
        with owner.begin() as connection:
            connection.execute(text(f"grant execute on function eventlog.append to {make_url(url).username}"))
        with engine_of(url) as engine:
            yield engine


def role(owner: Engine, privileges: str | None) -> Iterator[str]:
    """An account with usage of the schema and these privileges on events."""
    name = f"eventlog_test_{uuid.uuid4().hex}"
    with owner.begin() as connection:
        connection.execute(text(f"create role {name} login password 'secret'"))
        connection.execute(text(f"grant usage on schema eventlog to {name}"))
        if privileges is not None:
            connection.execute(text(f"grant {privileges} on eventlog.events to {name}"))
    yield make_url(str(owner.url)).set(username=name, password="secret").render_as_string(hide_password=False)
    with owner.begin() as connection:
        connection.execute(text(f"drop owned by {name}"))
        connection.execute(text(f"drop role {name}"))


def test_a_role_that_may_append_appends_and_reads_through_the_library(appender: EventLog) -> None:
    appender.append(note("one"))
    appender.append(*notes(3), expected=1)
    with appender.engine.begin() as connection:
        appender.append(note("in a transaction"), tx=connection)

    assert said(everything(appender)) == ["one", "note-1 1", "note-1 2", "note-1 3", "in a transaction"]
    assert appender.head() == appender.high_water_mark() == 5
    with pytest.raises(WrongExpectedVersionError):
        appender.append(note("late"), expected=1)


def test_what_a_role_that_may_append_writes_is_held_back_like_any_other(appender: EventLog, owner: Engine) -> None:
    log = EventLog(owner)
    with appender.engine.connect() as connection:
        appender.append(note("early"), tx=connection)
        log.append(note("late", stream="late"))
        assert everything(log) == []
        connection.commit()

    assert said(everything(log)) == ["early", "late"]


FORBIDDEN = [
    "select * from eventlog.failures",
    "select * from eventlog.attempts",
    "select * from eventlog.checkpoints",
    "select * from eventlog.subscribers",
    "select * from eventlog.operations",
    "update eventlog.events set stream = 'x'",
    "delete from eventlog.events",
    "truncate eventlog.events",
    "update eventlog.checkpoints set position = 0",
    "insert into eventlog.failures (subscriber, position) values ('s', 1)",
    "delete from eventlog.failures",
    "drop table eventlog.events",
    "alter table eventlog.events disable trigger mark_append",
    "create table eventlog.mine (n integer)",
    "select setval('eventlog.events_position_seq', 1)",
    "select nextval('eventlog.events_position_seq')",
    "select nextval('eventlog.epochs')",
    "set session_replication_role = replica",
]


def test_a_role_that_may_append_can_do_nothing_else(appender: EventLog, subtests: pytest.Subtests) -> None:
    for statement in FORBIDDEN:
        with (
            subtests.test(statement),
            appender.engine.connect() as connection,
            pytest.raises(DBAPIError, match=r"permission denied|must be owner"),
        ):
            connection.execute(text(statement))


def test_a_role_with_insert_alone_inserts_and_is_marked(writer: Engine, owner: Engine) -> None:
    log = EventLog(owner)
    with writer.connect() as connection:
        connection.execute(text(INSERT))
        log.append(note("late"))
        assert everything(log) == []
        connection.commit()

    assert [event.stream for event in log.read()] == ["s", "note-1"]


def test_a_role_with_insert_alone_cannot_read_events(writer: Engine) -> None:
    with writer.connect() as connection, pytest.raises(DBAPIError, match="permission denied"):
        connection.execute(text("select count(*) from eventlog.events"))


def test_a_role_that_may_call_append_appends_and_is_marked(caller: Engine, owner: Engine) -> None:
    log = EventLog(owner)
    with caller.connect() as connection:
        connection.execute(text(APPEND))
        log.append(note("late"))
        assert everything(log) == []
        connection.commit()

    assert [event.stream for event in log.read()] == ["s", "note-1"]


def test_a_role_that_may_call_append_can_do_nothing_else(caller: Engine, subtests: pytest.Subtests) -> None:
    with caller.begin() as connection:
        connection.execute(text(APPEND))
    for statement in (*FORBIDDEN, INSERT, "select count(*) from eventlog.events"):
        with (
            subtests.test(statement),
            caller.connect() as connection,
            pytest.raises(DBAPIError, match=r"permission denied|must be owner"),
        ):
            connection.execute(text(statement))


def test_append_is_called_by_those_alone_who_were_granted_it(appender: EventLog, writer: Engine) -> None:
    for engine in (appender.engine, writer):
        with engine.connect() as connection, pytest.raises(DBAPIError, match="permission denied for function append"):
            connection.execute(text(APPEND))


def test_a_role_without_privileges_is_told_so(owner: Engine) -> None:
    name_and_url = role(owner, "select")
    with opened(next(name_and_url)) as log:
        assert everything(log) == []
        with pytest.raises(PermissionDeniedError, match="permission denied for table events") as denied:
            log.append(note("first"))

    assert denied.value.remedy
    assert "secret" not in str(denied.value)
    assert list(name_and_url) == []


def test_a_search_path_cannot_put_other_tables_or_functions_in_the_way(appender: EventLog, owner: Engine) -> None:
    """The trigger runs with the rights of its owner: what it calls must not be found where the caller likes."""
    log = EventLog(owner)
    with appender.engine.connect() as connection:
        connection.execute(text("create temporary table events (position bigint)"))
        connection.execute(text("create temporary table pg_locks (objid oid)"))
        connection.execute(text("set local search_path = pg_temp, public, pg_catalog"))
        appender.append(note("early"), tx=connection)
        log.append(note("late", stream="late"))

        assert (log.high_water_mark(), appender.database.high_water_mark(connection)) == (0, 0)
        connection.commit()

    assert said(everything(log)) == ["early", "late"]

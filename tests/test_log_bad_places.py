"""Databases and transactions a log cannot work with: a clear error, quickly, and nothing written."""

import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from eventlog.database import initialise
from eventlog.errors import (
    DatabaseUnreachableError,
    EventLogError,
    SchemaMissingError,
    SchemaTooNewError,
    UnsafeTransactionError,
    UsageError,
)
from eventlog.log import EventLog
from eventlog.schema import migrate
from eventlog.sqlite import prepare
from tests.log_support import backend, engine_of, everything, note, notes, opened, said, wait_until


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=memory&uri=true",
        "sqlite:///file::memory:?uri=true&cache=shared",
    ],
)
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="in-memory") as refused:
        EventLog(url)

    assert "sqlite:///events.db" in refused.value.remedy


def test_an_engine_for_a_database_in_memory_is_refused() -> None:
    with engine_of("sqlite://") as engine, pytest.raises(UsageError, match="in-memory"):
        EventLog(engine)


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "oracle://u:secret@h/d",
        "postgresql+psycopg2://u:secret@h/d",
        "sqlite+pysqlcipher:///x.db",
    ],
)
def test_a_database_or_driver_that_is_not_spoken_is_refused(url: str) -> None:
    with pytest.raises(UsageError) as refused:
        EventLog(url)

    assert refused.value.remedy
    assert "secret" not in f"{refused.value} {refused.value.remedy}"


@pytest.mark.parametrize("url", ["", "events.db", "://", "postgresql", "postgresql://h:port/d", 7, None])
def test_what_is_no_url_is_refused(url: Any) -> None:
    with pytest.raises(UsageError) as refused:
        EventLog(url)

    assert "sqlite:///" in refused.value.remedy


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg"])
def test_every_way_to_write_a_postgres_url_means_psycopg(scheme: str, postgres_database_url: str) -> None:
    with opened(f"{scheme}://{postgres_database_url.partition('://')[2]}") as log:
        log.append(note("first"))

        assert log.engine.dialect.driver == "psycopg"


def gone(observer: Connection, connection: Connection) -> bool:
    """Whether the server has no process any more for a connection that this side still holds."""
    driver: Any = connection.connection.driver_connection
    question = text("select count(*) from pg_stat_activity where pid = :pid")
    return not observer.scalar(question, {"pid": driver.info.backend_pid})


def unreachable(log: EventLog) -> None:
    """Every call says so within seconds, and tells no password."""
    calls = [
        lambda: log.append(note("first")),
        lambda: log.append(*notes(2)),
        lambda: list(log.read()),
        log.head,
        log.init,
    ]
    for call in calls:
        begun = time.monotonic()
        with pytest.raises(DatabaseUnreachableError) as refused:
            call()
        assert time.monotonic() - begun < 8
        assert refused.value.remedy
        assert "hunter2" not in f"{refused.value} {refused.value.remedy}"


def test_a_server_that_is_not_there_is_reported_without_the_password() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with opened(f"postgresql://ada:hunter2@127.0.0.1:{port}/log") as log:
            unreachable(log)


def test_a_server_that_accepts_and_never_answers_is_given_up() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        opened(f"postgresql://ada:hunter2@127.0.0.1:{silent.getsockname()[1]}/log?connect_timeout=2") as log,
    ):
        begun = time.monotonic()
        with pytest.raises(DatabaseUnreachableError, match="ada:\\*\\*\\*@127"):
            log.head()
        assert time.monotonic() - begun < 8


def test_a_server_that_never_answers_is_given_up_without_being_told_to() -> None:
    log = EventLog("postgresql://ada@127.0.0.1/log")

    assert 1 <= connect_arguments(log.engine)["connect_timeout"] <= 10


def connect_arguments(engine: Engine) -> dict[str, Any]:
    """What the engine would pass to the driver."""
    passed: dict[str, Any] = {}

    @sqlalchemy.event.listens_for(engine, "do_connect")
    def note_arguments(_dialect: object, _record: object, _arguments: object, options: dict[str, Any]) -> None:
        passed.update(options)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    return passed


def test_a_database_that_is_not_on_the_server_is_reported(postgres_database_url: str) -> None:
    url = make_url(postgres_database_url).set(database="eventlog_no_such_database", password="hunter2")
    with opened(url.render_as_string(hide_password=False)) as log:
        unreachable(log)


def test_a_connection_that_was_cut_is_reported_and_the_next_call_works(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log:
        # Not in one transaction: it would see the activity of others as it was at its first look.
        watching = log.engine.execution_options(isolation_level="AUTOCOMMIT")
        with log.engine.connect() as connection, watching.connect() as other:
            other.execute(text("select pg_terminate_backend(:pid)"), {"pid": backend(connection)})
            wait_until(lambda: gone(other, connection), what="the connection to be gone")
            with pytest.raises(DatabaseUnreachableError, match=r"terminat|closed|lost|reset|broken") as refused:
                log.append(note("first"), tx=connection)

        assert refused.value.remedy
        log.append(note("second"))
        assert said(everything(log)) == ["second"]


def test_a_pooled_connection_that_was_cut_is_reported_once_at_most(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log, engine_of(postgres_database_url) as other:
        log.append(note("first"))
        with other.begin() as connection:
            cut = text("select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'eventlog'")
            connection.execute(cut)
        with suppress(DatabaseUnreachableError):
            log.append(note("perhaps"))

        log.append(note("second"))
        assert said(everything(log))[-1] == "second"


def test_a_file_that_is_no_database_is_reported(tmp_path: Path) -> None:
    file = tmp_path / "log.db"
    content = b"this is no database, but it is long enough to look like one" * 30
    file.write_bytes(content)
    with opened(f"sqlite:///{file}") as log:
        unreachable(log)

    assert file.read_bytes() == content


def test_a_folder_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with opened(f"sqlite:///{tmp_path / 'nowhere' / 'log.db'}") as log:
        unreachable(log)


def test_reading_does_not_make_a_log(empty_database_url: str) -> None:
    with opened(empty_database_url) as log:
        for call in (lambda: list(log.read()), log.head, log.high_water_mark, lambda: log.append(note("first"))):
            with pytest.raises(SchemaMissingError, match="has no tables") as refused:
                call()
            assert "eventlog init" in refused.value.remedy

        assert sqlalchemy.inspect(log.engine).get_table_names() == []


def test_an_append_into_a_database_without_tables_leaves_the_callers_transaction_usable(
    empty_database_url: str,
) -> None:
    with opened(empty_database_url) as log:
        with log.engine.begin() as connection:
            connection.execute(text("create table mine (n integer)"))
            with pytest.raises(SchemaMissingError):
                log.append(note("first"), tx=connection)
            connection.execute(text("insert into mine values (1)"))
        with log.engine.connect() as connection:
            assert connection.scalar(text("select n from mine")) == 1


def test_tables_that_vanish_under_an_open_log_are_reported_as_missing(log: EventLog) -> None:
    log.append(note("first"))
    with log.engine.begin() as connection:
        postgres = log.engine.dialect.name == "postgresql"
        connection.execute(text("drop schema eventlog cascade" if postgres else "drop table events"))

    for call in (lambda: list(log.read()), lambda: log.append(note("second")), log.high_water_mark):
        with pytest.raises(SchemaMissingError) as refused:
            call()
        assert "eventlog init" in refused.value.remedy


def test_tables_of_a_later_release_are_refused_by_every_call(log: EventLog) -> None:
    with log.engine.begin() as connection:
        version = log.database.tables.sql_name("schema_version")
        connection.execute(text(f"update {version} set version_num = 'eventlog_9999'"))

    calls: list[Callable[[], object]] = [
        lambda: log.append(note("first")),
        lambda: list(log.read()),
        log.head,
        log.init,
    ]
    for call in calls:
        with pytest.raises(SchemaTooNewError, match="eventlog_9999 > eventlog_0") as refused:
            call()
        assert "upgrade rewindlog" in refused.value.remedy


def test_tables_of_an_earlier_release_are_refused_until_they_are_upgraded(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = (*migrate.known_revisions(), "eventlog_9998")
    monkeypatch.setattr(migrate, "known_revisions", lambda: known)

    calls: list[Callable[[], object]] = [lambda: log.append(note("first")), lambda: list(log.read())]
    for call in calls:
        with pytest.raises(SchemaMissingError, match="earlier release") as refused:
            call()
        assert "eventlog init" in refused.value.remedy


def test_a_connection_that_commits_every_statement_is_refused(log: EventLog) -> None:
    with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for count in (1, 2):
            with pytest.raises(UnsafeTransactionError) as refused:
                log.append(*notes(count), tx=connection)
            assert refused.value.remedy

    assert log.head() == 0


def test_the_transaction_of_another_kind_of_database_is_refused(sqlite_url: str, postgres_database_url: str) -> None:
    for here, there in ((sqlite_url, postgres_database_url), (postgres_database_url, sqlite_url)):
        with opened(here) as log, opened(there) as other, other.engine.connect() as connection:
            with pytest.raises(UnsafeTransactionError):
                log.append(note("first"), tx=connection)
            assert (log.head(), other.head()) == (0, 0)


@pytest.fixture
def legacy(sqlite_url: str) -> Iterator[Engine]:
    """An engine as a service makes it: the driver opens transactions late, and not for reads or savepoints."""
    with engine_of(sqlite_url) as engine:
        yield engine


def test_a_connection_in_the_drivers_legacy_mode_is_refused(sqlite_url: str, legacy: Engine) -> None:
    with opened(sqlite_url) as log:
        with (
            legacy.connect() as connection,
            pytest.raises(UnsafeTransactionError, match="legacy transaction mode") as refused,
        ):
            log.append(note("first"), tx=connection)

        assert "eventlog.sqlite.prepare(engine)" in refused.value.remedy
        assert log.head() == 0


def test_a_session_in_the_drivers_legacy_mode_is_refused_with_its_work_unharmed(
    sqlite_url: str, legacy: Engine
) -> None:
    with opened(sqlite_url) as log:
        with Session(legacy) as session:
            session.execute(text("create table mine (n integer)"))
            session.execute(text("insert into mine values (1)"))
            with pytest.raises(UnsafeTransactionError, match="legacy"):
                log.append(*notes(2), tx=session)
            session.commit()

        with legacy.connect() as connection:
            assert connection.scalar(text("select count(*) from mine")) == 1
        assert log.head() == 0


def test_a_prepared_engine_is_accepted_and_atomic(sqlite_url: str, legacy: Engine) -> None:
    assert prepare(legacy) is legacy
    with opened(sqlite_url) as log:
        for end in ("rollback", "commit"):
            with Session(legacy) as session:
                session.execute(text(f"create table {end}s (n integer)"))
                with session.begin_nested():
                    log.append(*notes(2), tx=session)
                getattr(session, end)()

        assert len(everything(log)) == 2
        assert set(sqlalchemy.inspect(legacy).get_table_names()) >= {"commits"}
        assert "rollbacks" not in sqlalchemy.inspect(legacy).get_table_names()


def test_preparing_an_engine_twice_is_preparing_it_once(sqlite_url: str, legacy: Engine) -> None:
    with opened(prepare(prepare(legacy))) as log, legacy.begin() as connection:
        log.append(note("first"), tx=connection)

    with opened(sqlite_url) as log:
        assert said(everything(log)) == ["first"]


def test_a_log_over_a_legacy_engine_appends_atomically_in_transactions_of_its_own(legacy: Engine) -> None:
    log = EventLog(legacy)
    (first,) = log.append(note("first"))

    with pytest.raises(EventLogError):
        log.append(*notes(2), note("again", id=first.id))

    assert said(everything(log)) == ["first"]


def test_a_connection_that_only_reads_is_refused_for_an_append(sqlite_url: str) -> None:
    with opened(sqlite_url) as log, log.engine.connect() as connection:
        with pytest.raises(UnsafeTransactionError):
            log.append(note("first"), tx=connection.execution_options(eventlog_read_only=True))

        assert log.head() == 0


def test_a_file_that_stays_locked_is_reported(sqlite_url: str, tmp_path: Path) -> None:
    with opened(sqlite_url) as log, closing(sqlite3.connect(tmp_path / "log.db", isolation_level=None)) as other:
        with log.engine.connect() as connection:
            connection.exec_driver_sql("pragma busy_timeout = 10")
        other.execute("begin immediate")

        with pytest.raises(DatabaseUnreachableError, match="locked") as refused:
            log.append(note("first"))
        other.execute("rollback")

        assert refused.value.remedy
        assert log.append(note("second"))[0].version == 1


def test_the_error_of_a_migration_names_both_revisions(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrate, "known_revisions", lambda: ("eventlog_0000",))

    with pytest.raises(SchemaTooNewError, match=r"eventlog_0\d+ > eventlog_0000"):
        initialise(log.database)


def test_what_goes_to_the_driver_directly_says_as_well_that_nobody_answers(postgres_database_url: str) -> None:
    """Lone appends and looks into the log take a connection without what SQLAlchemy has around it."""

    def refuse(*_: object) -> None:
        raise psycopg.OperationalError("connection refused")

    with opened(postgres_database_url) as log:
        log.append(note("first"))
        log.engine.dispose()
        sqlalchemy.event.listen(log.engine, "do_connect", refuse)
        with pytest.raises(DatabaseUnreachableError):
            log.append(note("second"))
        with pytest.raises(DBAPIError) as failed:
            log.doorbell.look()
        assert log.database.passing(failed.value)
        sqlalchemy.event.remove(log.engine, "do_connect", refuse)
        assert said(list(log.read())) == ["first"]

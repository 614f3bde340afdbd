"""Upgrades while others append and read: nothing is lost, nobody fails, or stands behind an upgrade in vain."""

import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from eventlog.errors import RefusedError
from eventlog.log import EventLog
from eventlog.schema import table_locks, version
from eventlog.schema.drift import differences
from eventlog.schema.migrate import SchemaState, known_revisions, schema_state, upgrade
from eventlog.schema.revisions import locked_by
from eventlog.schema.tables import tables
from eventlog.schema.version import SchemaBusyError, only_upgrade, read_revision
from tests.log_support import (
    Background,
    backend,
    engine_of,
    everything,
    note,
    wait_until,
    waiting_for_locks,
)
from tests.service_tree import Service

FIRST, *_, NEWEST = known_revisions()
OLDER = known_revisions()[:-1]
WRITERS = 3
APPENDS_AROUND = 30
"""How many events each writer appends before the upgrade begins, and after it has ended."""

INSERT = "insert into {events} (id, stream, version, type, data) values (:id, :stream, :version, 'note', '{{}}')"
"""What every release promises: an INSERT of these columns is all it takes."""


@pytest.fixture
def engine(postgres_empty_url: str) -> Iterator[Engine]:
    """A PostgreSQL database with a log of the first revision."""
    with engine_of(postgres_empty_url) as engine:
        upgrade(engine, until=FIRST)
        yield engine


@contextmanager
def held(engine: Engine) -> Iterator[Connection]:
    """A transaction that has appended and stays open."""
    with engine.connect() as connection:
        insert(connection, "held", 1)
        yield connection


def insert(connection: Connection, stream: str, version: int) -> None:
    events = tables(dialect=connection.dialect.name).sql_name("events")
    statement = text(INSERT.format(events=events))
    connection.execute(statement, {"id": str(uuid.uuid4()), "stream": stream, "version": version})


class Writer:
    """The release before: appends one event after the other by plain SQL, until enough have come after the upgrade."""

    def __init__(self, engine: Engine, stream: str, *, upgraded: threading.Event) -> None:
        self.engine = engine
        self.stream = stream
        self.upgraded = upgraded
        self.appended = 0
        self.warm = threading.Event()

    def __call__(self) -> int:
        later = 0
        while later < APPENDS_AROUND:
            with self.engine.begin() as connection:
                if connection.dialect.name == "sqlite":
                    connection.exec_driver_sql("begin immediate")
                insert(connection, self.stream, self.appended + 1)
            self.appended += 1
            later += self.upgraded.is_set()
            if self.appended == APPENDS_AROUND:
                self.warm.set()
        return self.appended


class Reader:
    """The release before: follows the log by its high-water mark, until it has seen the last event of each writer."""

    def __init__(self, engine: Engine, *, written: threading.Event) -> None:
        self.engine = engine
        self.written = written
        self.seen: list[tuple[str, int]] = []

    def __call__(self) -> int:
        after = 0
        while True:
            ended = self.written.is_set()
            page = self._page(after)
            self.seen += [(stream, version) for _, stream, version in page]
            if page:
                after = page[-1][0]
            elif ended:
                return after
            else:
                # Whoever reads a SQLite file without a pause hardly ever lets a writer commit.
                self.written.wait(0.01)

    def _page(self, after: int) -> list[tuple[int, str, int]]:
        log = tables(dialect=self.engine.dialect.name)
        page = f"select position, stream, version from {log.sql_name('events')} where position > {after} "
        with self.engine.connect() as connection:
            if log.schema is None:
                rows = connection.exec_driver_sql(f"{page} order by position limit 100")
            else:
                until = connection.exec_driver_sql(f"select {log.schema}.high_water_mark()").scalar_one()
                rows = connection.exec_driver_sql(f"{page} and position <= {until} order by position limit 100")
            return [(position, stream, version) for position, stream, version in rows]


@pytest.mark.parametrize("revision", OLDER)
def test_an_upgrade_under_traffic_loses_nothing_and_nobody_fails(empty_database_url: str, revision: str) -> None:
    """Writers and a reader of the release before go on throughout: every event is read once, in order."""
    # Whoever writes to a SQLite file waits for the others, here for longer than five seconds.
    patience = {"connect_args": {"timeout": 60}} if empty_database_url.startswith("sqlite") else {}
    with engine_of(empty_database_url, **patience) as engine:
        upgrade(engine, until=revision)
        upgraded, written = threading.Event(), threading.Event()
        writers = [Writer(engine, f"writer-{number}", upgraded=upgraded) for number in range(WRITERS)]
        reader = Reader(engine, written=written)
        writing = [Background(writer) for writer in writers]
        reading = Background(reader)
        for writer in writers:
            assert writer.warm.wait(30)

        assert upgrade(engine) is SchemaState.OLDER
        upgraded.set()
        counts = [one.result() for one in writing]
        written.set()
        reading.result()

        for writer, count in zip(writers, counts, strict=True):
            versions = [version for stream, version in reader.seen if stream == writer.stream]
            assert versions == list(range(1, writer.appended + 1)) == list(range(1, int(str(count)) + 1))
        with engine.connect() as connection:
            assert schema_state(connection) is SchemaState.CURRENT
        EventLog(engine).append(note("by this release"))


def test_the_locks_a_revision_takes_are_those_it_names(
    postgres_empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a revision locks against writers, of what was there before it, is in its LOCKS.

    Locking for all revisions at once, beforehand, is left out: it would hide what one of them takes.
    """
    monkeypatch.setattr("eventlog.schema.target.lock_tables", lambda *_given: None)
    with engine_of(postgres_empty_url) as engine:
        for revision in known_revisions():
            taken = _locks_against_writers(engine, revision)
            assert taken <= locked_by(revision), f"{revision} locks {taken}"


def _locks_against_writers(engine: Engine, revision: str) -> set[str]:
    """Run one revision, and see what it holds just before it commits, but for what it has made itself."""
    with engine.connect() as connection:
        before = set(connection.scalars(text("select oid from pg_class")))
    question = text(
        "select distinct oid, relname from pg_locks join pg_class on oid = relation where pid = pg_backend_pid()"
        " and relkind in ('r', 'p') and relnamespace = 'eventlog'::regnamespace"
        " and mode in ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"
    )
    with engine.connect() as connection, connection.begin():
        from eventlog.schema.migrate_steps import run_revisions

        run_revisions(connection, tables(dialect="postgresql"), [revision])
        return {name for oid, name in connection.execute(question) if oid in before}


def test_an_upgrade_waits_for_a_transaction_in_moments_that_let_others_append(engine: Engine) -> None:
    """Everybody would stand behind a lock that waits for one open transaction: here they get their turn."""
    with held(engine) as open_transaction:
        upgrading = Background(lambda: upgrade(engine))
        for version in range(1, 6):
            wait_until(lambda: waiting_for_locks(engine), what="the upgrade to wait")
            with engine.begin() as connection:
                insert(connection, "others", version)
        assert not upgrading.done
        open_transaction.commit()

    assert upgrading.result() is SchemaState.OLDER
    assert len(everything(EventLog(engine))) == 6


def test_an_upgrade_in_vain_names_who_holds_the_tables_and_changes_nothing(engine: Engine) -> None:
    url = engine.url.update_query_dict({"application_name": "billing"})
    with engine_of(url.render_as_string(hide_password=False)) as billing, held(billing) as open_transaction:
        named = rf"stayed in use in 2 tries of 0.5 s: pid {backend(open_transaction)} \(billing, idle"
        with pytest.raises(SchemaBusyError, match=named):
            upgrade(engine, lock_tries_max=2)

    with engine.connect() as connection:
        assert schema_state(connection) is SchemaState.OLDER
    assert upgrade(engine) is SchemaState.OLDER


def test_init_that_is_in_vain_is_refused_with_a_remedy(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.database.upgrade", lambda *given, **names: upgrade(*given, **names, lock_tries_max=1))
    with held(engine), pytest.raises(RefusedError, match=r"stayed in use in 1 tries") as refused:
        EventLog(engine).init()

    assert "nothing was changed" in refused.value.remedy


@pytest.mark.parametrize("revision", [one for one in known_revisions()[1:] if not locked_by(one)])
def test_an_upgrade_that_alters_no_table_waits_for_nobody(postgres_empty_url: str, revision: str) -> None:
    before = known_revisions()[known_revisions().index(revision) - 1]
    with engine_of(postgres_empty_url) as engine:
        upgrade(engine, until=before)
        with held(engine):
            upgrade(engine, until=revision, lock_tries_max=1)
        with engine.connect() as connection:
            assert read_revision(connection, tables(dialect="postgresql")) == revision


def test_nobody_who_waits_for_an_upgrade_is_made_a_victim_of_a_deadlock(engine: Engine) -> None:
    """The upgrade holds checkpoints and wants failures; the other one holds failures and wants checkpoints.

    PostgreSQL would end the one that finds the deadlock after a second: the upgrade has let go by then.
    """
    log = tables(dialect="postgresql")

    def lock_both() -> None:
        with engine.begin() as connection:
            table_locks.lock_tables(connection, log, {"failures", "checkpoints"})

    with engine.begin() as other:
        other.execute(text("lock table eventlog.failures in row exclusive mode"))
        upgrading = Background(lock_both)
        wait_until(lambda: waiting_for_locks(engine), what="the upgrade to wait for failures")
        other.execute(text("lock table eventlog.checkpoints in row exclusive mode"))

    upgrading.result()


def test_locking_leaves_the_setting_of_the_transaction_as_it_was(engine: Engine) -> None:
    """In a service's tree our revisions share a transaction with others."""
    with engine.begin() as connection:
        connection.execute(text("set local lock_timeout = '7s'"))
        only_upgrade(connection)
        table_locks.lock_tables(connection, tables(dialect="postgresql"), {"events"})

        assert connection.scalar(text("show lock_timeout")) == "7s"


def test_another_upgrade_is_not_waited_for_without_end(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "OTHER_UPGRADE_SECONDS_MAX", 1)
    with engine.connect() as other:
        only_upgrade(other)
        with pytest.raises(SchemaBusyError, match=rf"waited for 1 s: pid {backend(other)} "):
            upgrade(engine)

    assert upgrade(engine) is SchemaState.OLDER


def test_in_a_tree_of_a_service_an_upgrade_in_vain_says_the_same(engine: Engine, tmp_path: Path) -> None:
    service = Service.make(tmp_path / "service", str(engine.url))
    with held(engine) as open_transaction:
        done = service.alembic("upgrade", "heads", ONE_TRY="1")
        pid = backend(open_transaction)

    assert done.code != 0
    assert re.search(rf"FAILED: eventlog.events, .* stayed in use in 1 tries of 0.5 s: pid {pid}", done.out)
    with engine.connect() as connection:
        assert schema_state(connection) is SchemaState.OLDER


def test_an_index_that_was_made_beforehand_is_left_as_it_is(engine: Engine) -> None:
    """As docs/migrations.md advises for a large log: the release before appends while it is made."""
    index = text("select oid, relfilenode from pg_class where relname = 'events_type'")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("create index concurrently events_type on eventlog.events (type, position)")
        made = connection.execute(index).one()

    upgrade(engine)

    with engine.connect() as connection:
        assert connection.execute(index).one() == made
        assert differences(connection, tables(dialect="postgresql"), schema="eventlog") == []


def test_a_log_is_read_while_an_upgrade_keeps_its_writers_out(engine: Engine) -> None:
    with engine.begin() as connection:
        insert(connection, "before", 1)
    with engine.begin() as upgrading:
        log = tables(dialect="postgresql")
        table_locks.lock_tables(upgrading, log, {"events", "checkpoints"}, readable={"events"})

        with engine.connect() as reader:
            reader.execute(text("set lock_timeout = '2s'"))
            assert reader.scalar(text("select count(*) from eventlog.events")) == 1
            with pytest.raises(DBAPIError, match="lock timeout"):
                insert(reader, "meanwhile", 1)

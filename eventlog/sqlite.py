"""The log in one SQLite file, through the standard library's driver: with its doorbell the only file that knows it.

SQLite has one writer at a time, so the order of positions is the order of commits, and the high-water mark is simply
the last position. What must be right is that a transaction takes the write lock when it begins: one that reads first
and writes later can be told "database is locked" at once, and in the driver's legacy mode reads and savepoints stand
outside the transaction altogether. Engines made here begin every transaction with BEGIN IMMEDIATE; connections of an
engine that somebody else made are looked at, and refused when they would not be atomic.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, delete, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import TableClause

from eventlog import sqlite_carrying, sqlite_tables
from eventlog.bell import Bell, Look
from eventlog.carried import Carried
from eventlog.damage import REMEDY
from eventlog.database import (
    Database,
    Holder,
    Inserted,
    Lent,
    RecordedSince,
    Rights,
    Sizes,
    lent_by_pool,
    pool_errors,
    undone_on_error,
)
from eventlog.errors import (
    DamagedRowError,
    DatabaseFullError,
    DatabaseUnreachableError,
    EventLogError,
    SchemaMissingError,
    UnsafeTransactionError,
    UsageError,
)
from eventlog.events import StoredEvent
from eventlog.fixed import Fixed
from eventlog.page_sql import SqlWords, page_statement
from eventlog.pending import Expected, PendingEvent
from eventlog.query import AFTER_REMEDY, PageQuery, Query
from eventlog.schema.tables import tables
from eventlog.schema.timestamps import UnreadableTimeError, sqlite_text
from eventlog.sqlite_doorbell import SqliteBell, commits_of
from eventlog.sqlite_files import OpenedFile, replacements_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

BUSY_TIMEOUT_SECONDS = 10
READ_ONLY = "eventlog_read_only"
"""Execution option of a connection whose transactions shall not take the write lock."""

_COLUMNS = "position, id, stream, version, type, type_version, data, metadata, recorded_at, tags"
_PREPARED = "eventlog_begins_immediate"

_NO_ROOM = "disk is full"
_NO_FILE = ("unable to open", "readonly", "disk I/O")
"""What SQLite says of a disk and of a file that cannot be used."""


class SqliteDatabase:
    """One log in one SQLite file."""

    def __init__(self, url_or_engine: str | URL | Engine, *, schema: str) -> None:
        self.engine = _engine(url_or_engine)
        self.schema = schema
        self.follows: Database | None = None
        self.tables = tables(dialect="sqlite", schema=schema)
        self._commits = commits_of(self.engine)
        self._replacements = replacements_of(self.engine)
        self._events = self.tables.sql_name("events")
        self._epochs = self.tables.sql_name("epochs")
        self._event_tags = self.tables.sql_name("event_tags")
        self._select = f"select {_COLUMNS} from {self._events}"
        self._words = SqlWords(
            events=self._events,
            event_tags=self._event_tags,
            columns=_COLUMNS,
            parameter=lambda name: f":{name}",
            one_of=lambda name: f"in (select value from json_each(:{name}))",
            listed=lambda texts: msgspec.json.encode(texts).decode(),
            moment=_not_before,
            sorts_each=False,
        )

    @property
    def losses(self) -> int:
        """Only those of a file that was replaced: what was read from a file has been committed to it."""
        return self._replacements.count

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with lent_by_pool(self.engine) as connection, connection.begin(), undone_on_error(connection), _times():
            if not _driver(connection).in_transaction:
                connection.exec_driver_sql("begin immediate")
            elif not getattr(self.engine, _PREPARED, False):
                # Somebody else's engine may begin deferred; a write that changes nothing takes the lock now.
                connection.exec_driver_sql(f"update {self._epochs} set value = value where false")
            yield connection

    @contextmanager
    def reader(self) -> Iterator[Connection]:
        with lent_by_pool(self.engine) as connection, _times():
            yield connection.execution_options(**{READ_ONLY: True})

    def autocommit(self) -> AbstractContextManager[Lent] | None:
        return None

    def change(self, connection: Lent, statement: Fixed, values: Mapping[str, Any]) -> int:
        with self._driver_errors(statement.text):
            return int(_borrowed(connection).cursor().execute(statement.text, statement.values(values)).rowcount)

    def quick(self) -> AbstractContextManager[Lent]:
        return closing(self._borrow())

    steady = quick

    def session(self, connection: Lent) -> object:
        """There is one file, whoever reads it."""
        return self.engine

    def insert_alone(self, event: PendingEvent, expected: Expected) -> list[Inserted] | None:
        if not getattr(self.engine, _PREPARED, False):
            with self.transaction() as connection:
                return self.insert(connection, [event], expected)
        with closing(self._borrow()) as lent:
            self._run(lent, "begin immediate")
            try:
                inserted = self.insert(lent, [event], expected)
                self._commits.tell()
                self._run(lent, "commit")
            except BaseException:
                lent.rollback()
                raise
            return inserted

    def whereabouts(self, connection: Connection) -> object:
        return OpenedFile(connection.connection.dbapi_connection).identity

    def join(self, connection: Connection) -> AbstractContextManager[None]:
        if connection.dialect.driver not in ("pysqlite", "aiosqlite"):
            raise UnsafeTransactionError(
                f"the transaction runs on {connection.dialect.name}+{connection.dialect.driver}, the log on sqlite3",
                remedy="create the engine with sqlite:///file.db",
            )
        driver = _driver(connection)
        remedy = "use the log's own engine (app.engine), or call eventlog.sqlite.prepare(engine) after create_engine"
        if driver.isolation_level is not None and getattr(driver, "autocommit", -1) == -1:
            raise UnsafeTransactionError(
                "the connection is in the driver's legacy transaction mode, in which reads and savepoints stand outside"
                " the transaction: the events would not be atomic with the caller's own data",
                remedy=remedy,
            )
        if not connection.in_transaction():
            connection.begin()
        if not driver.in_transaction:
            raise UnsafeTransactionError(
                "the connection commits each statement at once: the events would not be in the caller's transaction",
                remedy=remedy,
            )
        return nullcontext()

    def insert(self, connection: Lent, pending: Sequence[PendingEvent], expected: Expected) -> list[Inserted] | None:
        streams = list(dict.fromkeys(pending_event.stream for pending_event in pending))
        versions = self.versions(connection, streams)
        if expected.version is not None and any(versions.get(stream, 0) != expected.version for stream in streams):
            return None
        now = self._rows(connection, "select strftime('%Y-%m-%dT%H:%M:%fZ', 'now')")[0][0]
        rows = [_row(item, versions.get(item.stream, 0) + item.number, now) for item in pending]
        try:
            self._insert_rows(connection, rows)
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.IntegrityError) and "UNIQUE" in str(error.orig):
                return None
            raise
        last = self._rows(connection, f"select max(position) from {self._events}")[0][0]
        recorded_at = datetime.fromisoformat(now)
        first = last - len(rows) + 1
        return [Inserted(first + place, row[2], recorded_at) for place, row in enumerate(rows)]

    def hold_positions(self, connection: Connection, tags: Sequence[str]) -> int:
        """The transaction holds the write lock, and nobody else appends."""
        return self.head(connection)

    def carry(self, connection: Connection, events: Sequence[Carried], *, keep_positions: bool) -> bool:
        try:
            with self._driver_errors("insert"):
                sqlite_carrying.carry(_driver(connection), self._events, events, keep_positions=keep_positions)
        except DBAPIError as error:
            if isinstance(error.orig, sqlite3.IntegrityError) and "UNIQUE" in str(error.orig):
                return False
            raise
        return True

    def recorded_since(
        self, connection: Connection, pending: Sequence[PendingEvent], conditions: Sequence[Query]
    ) -> list[RecordedSince]:
        """There is one writer at a time, and the transaction is it: no lock is needed."""
        head = self.head(connection)
        beyond = max(query.after for query in conditions)
        if beyond > head:
            raise UsageError(
                f"a condition after position {beyond}, beyond the end of the log at {head}", remedy=AFTER_REMEDY
            )
        also = f"exists (select 1 from {self._event_tags} as o where o.tag = value and o.position = f.position)"
        question = (
            f"select type, max(position) from {self._event_tags} as f where tag = ? and position > ?"
            f" and not exists (select 1 from json_each(?) where not {also}) group by type"
        )
        return [
            RecordedSince(query, event_type, position)
            for query in conditions
            for event_type, position in self._rows(
                connection, question, (query.tags[0], query.after, msgspec.json.encode(query.tags[1:]).decode())
            )
        ]

    def find(self, connection: Connection, ids: Collection[UUID]) -> dict[UUID, StoredEvent]:
        asked = msgspec.json.encode([str(one) for one in ids]).decode()
        rows = self._rows(connection, f"{self._select} where id in (select value from json_each(?))", [asked])
        return {found.id: found for found in (StoredEvent(*row) for row in rows)}

    def event_at(self, connection: Connection, position: int) -> StoredEvent | None:
        rows = self._rows(connection, f"{self._select} where position = ?", [position])
        return StoredEvent(*rows[0]) if rows else None

    def versions(self, connection: Lent, streams: Collection[str]) -> dict[str, int]:
        asked = msgspec.json.encode(list(streams)).decode()
        question = (
            f"select asked.value, (select max(version) from {self._events} where stream = asked.value)"
            " from json_each(?) as asked"
        )
        return {stream: version for stream, version in self._rows(connection, question, [asked]) if version}

    def head(self, connection: Lent) -> int:
        return int(self._rows(connection, f"select coalesce(max(position), 0) from {self._events}")[0][0])

    def high_water_mark(self, connection: Lent) -> int:
        return self.head(connection)

    def look(self, connection: Lent) -> Look:
        head = self.head(connection)
        return Look(head=head, high_water_mark=head, in_flight=False, session=self.session(connection))

    def bell_maker(self, listen_url: str | None) -> Callable[[], Bell]:
        if listen_url is not None:
            raise UsageError("a SQLite file is watched, not listened to", remedy="leave listen_url out")
        return lambda: SqliteBell(self.engine, self._commits)

    def page(self, connection: Lent, query: PageQuery) -> list[StoredEvent]:
        return [StoredEvent(*row) for row in self._rows(connection, *page_statement(self._words, query))]

    def next_epoch(self, connection: Connection) -> int:
        return int(self._rows(connection, f"update {self._epochs} set value = value + 1 returning value")[0][0])

    def sizes(self, connection: Connection) -> Sizes:
        return sqlite_tables.sizes(connection, [table.name for table in self.tables.metadata.sorted_tables])

    def held_back_by(self, connection: Connection) -> list[Holder]:
        return []

    def guard_owner(self, connection: Connection, *, seconds: float) -> None:
        """Nothing to do: a frozen writer holds the whole file, and no lock of it can be taken away."""

    def lock_tables(self, connection: Connection, names: Sequence[TableClause], *, seconds: float) -> None:
        """Nothing to do: the transaction holds the write lock of the file."""

    def empty_tables(self, connection: Connection, names: Sequence[TableClause]) -> None:
        connection.exec_driver_sql("pragma defer_foreign_keys = on")
        for name in names:
            connection.execute(delete(name))

    def holding_on(self, connection: Connection, names: Sequence[TableClause]) -> list[str]:
        return sqlite_tables.holding_on(connection, names)

    def rename_table(self, connection: Connection, name: TableClause, to: str, part: Callable[[str], str]) -> None:
        sqlite_tables.rename_table(connection, name, to)

    def rights_of(self, connection: Connection, name: TableClause) -> Rights:
        return Rights()

    def grant(self, connection: Connection, name: TableClause, rights: Rights) -> None:
        """Nothing to do: a file has no roles."""

    def passing(self, error: BaseException) -> bool:
        return self.is_own_lock(error) or _says(error, _NO_ROOM, *_NO_FILE)

    def timed_out(self, error: BaseException) -> bool:
        return False

    def ended_idle(self, error: BaseException) -> bool:
        return False

    def was_rolled_back(self, error: BaseException) -> bool:
        return False

    def queue_up(self, connection: Connection) -> None:
        """Nothing to do: there is one writer at a time."""

    def is_own_lock(self, error: BaseException) -> bool:
        """The transaction a handler is called in holds the write lock, so nobody else's lock can be in its way."""
        return _says(error, "locked")

    def translate(self, error: BaseException) -> EventLogError | None:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, sqlite3.Error):
            return None
        place = self.engine.url.database
        said = str(cause)
        if "no such table" in said and any(table.name in said for table in self.tables.metadata.sorted_tables):
            return SchemaMissingError(
                f"the log {self.schema!r} is not in {place}: {said}", remedy="run `eventlog init` with this database"
            )
        if _says(error, _NO_ROOM):
            return DatabaseFullError(
                f"{place}: {said}", remedy="make room where the file is; what was not committed is done again"
            )
        if "locked" in said:
            return DatabaseUnreachableError(
                f"{place} cannot be used: {said}",
                remedy="a transaction has kept the write lock for too long; append within it, if it is your own:"
                " tx=session, in a handler ctx.append",
            )
        if isinstance(cause, sqlite3.OperationalError | sqlite3.DatabaseError) and any(
            hint in said for hint in (*_NO_FILE, "not a database", "malformed")
        ):
            return DatabaseUnreachableError(
                f"{place} cannot be used: {said}",
                remedy="is the path right, and can the file and its folder be written?",
            )
        return None

    def transaction_is_usable(self, connection: Connection) -> bool:
        return not connection.closed and not connection.invalidated and _driver(connection).in_transaction

    def _insert_rows(self, connection: Lent, rows: list[tuple[Any, ...]]) -> None:
        sql = (
            f"insert into {self._events} (id, stream, version, type, type_version, data, metadata, recorded_at, tags)"
            " values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        )
        with self._driver_errors(sql):
            _borrowed(connection).cursor().executemany(sql, rows)

    def _rows(self, connection: Lent, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        """Run one statement on the driver's cursor, in whatever transaction the connection is in."""
        with self._driver_errors(sql):
            cursor = _borrowed(connection).cursor()
            cursor.execute(sql, values)
            return list(cursor.fetchall())

    def _borrow(self) -> PoolProxiedConnection:
        with self._driver_errors("connect"), pool_errors(self.engine):
            return self.engine.raw_connection()

    def _run(self, lent: PoolProxiedConnection, sql: str) -> None:
        with self._driver_errors(sql):
            lent.cursor().execute(sql)

    @contextmanager
    def _driver_errors(self, sql: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DBAPIError.instance(sql, None, error, sqlite3.Error, dialect=self.engine.dialect) from error


E = TypeVar("E", bound="Engine | AsyncEngine")


def prepare(engine: E) -> E:
    """Make every transaction of a SQLite engine begin with BEGIN IMMEDIATE, and its file fit for several processes.

    Call it once, before the engine's first connection; it returns the engine. A transaction that only reads can leave
    the write lock alone with `connection.execution_options(eventlog_read_only=True)`.
    """
    listened = engine if isinstance(engine, Engine) else engine.sync_engine
    if getattr(listened, _PREPARED, False):
        return engine

    replacements = replacements_of(listened)

    @event.listens_for(listened, "connect")
    def on_connect(driver: sqlite3.Connection, record: Any) -> None:
        driver.isolation_level = None
        driver.execute(f"pragma busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
        driver.execute("pragma synchronous = normal")
        driver.execute("pragma foreign_keys = on")
        driver.execute("pragma recursive_triggers = on")
        replacements.opened(driver, record.info)

    @event.listens_for(listened, "checkout")
    def on_checkout(driver: sqlite3.Connection, record: Any, _proxy: object) -> None:
        replacements.check(record.info)
        # SQLAlchemy leaves the legacy mode behind after somebody asked for AUTOCOMMIT.
        driver.isolation_level = None

    @event.listens_for(listened, "begin")
    def on_begin(connection: Connection) -> None:
        options = connection.get_execution_options()
        if not options.get(READ_ONLY) and options.get("isolation_level") != "AUTOCOMMIT":
            connection.exec_driver_sql("begin immediate")

    setattr(listened, _PREPARED, True)
    return engine


def _engine(url_or_engine: str | URL | Engine) -> Engine:
    if isinstance(url_or_engine, Engine):
        if url_or_engine.dialect.driver != "pysqlite":
            raise UsageError(
                f"the engine uses {url_or_engine.dialect.driver}, which this log does not speak",
                remedy="create it with sqlite:///file.db",
            )
        _refuse_memory(url_or_engine.url)
        return url_or_engine
    url = make_url(url_or_engine)
    if url.drivername not in ("sqlite", "sqlite+pysqlite", "sqlite+aiosqlite"):
        raise UsageError(f"{url.drivername} is not spoken here", remedy="use sqlite:///file.db")
    _refuse_memory(url)
    return prepare(create_engine(url.set(drivername="sqlite"), connect_args={"timeout": BUSY_TIMEOUT_SECONDS}))


def _refuse_memory(url: URL) -> None:
    database = url.database or ""
    if not database or ":memory:" in database or "mode=memory" in database or url.query.get("mode") == "memory":
        raise UsageError(
            "an in-memory SQLite database exists once per connection: a worker would not see what was appended",
            remedy="name a file, sqlite:///events.db, in a temporary folder if it shall not stay",
        )


@contextmanager
def _times() -> Iterator[None]:
    """A column of times is one of text here, and takes any."""
    try:
        yield
    except UnreadableTimeError as error:
        raise DamagedRowError(f"a row cannot be read: {error}", remedy=REMEDY) from error


def _borrowed(connection: Lent) -> Any:
    """Return what the pool has lent."""
    return connection.connection if isinstance(connection, Connection) else connection


def _says(error: BaseException, *words: str) -> bool:
    """Whether SQLite has said one of these about what it was to work with, and not about a statement."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    return isinstance(cause, sqlite3.OperationalError) and any(one in str(cause) for one in words)


def _driver(connection: Connection) -> Any:
    """The driver's own connection: sqlite3's, or aiosqlite's, which has the same attributes."""
    return connection.connection.driver_connection


def _row(item: PendingEvent, version: int, now: str) -> tuple[Any, ...]:
    return (
        str(item.id),
        item.stream,
        version,
        item.type,
        item.type_version,
        item.data_text,
        item.metadata_text,
        now,
        msgspec.json.encode(item.tags).decode() if item.tags else None,
    )


def _not_before(moment: datetime) -> str:
    """Rows hold milliseconds: what is recorded at or after a moment is at or after the next whole one."""
    return sqlite_text(moment + timedelta(microseconds=-moment.microsecond % 1000))

"""The seam between the log and a database: what the two databases must do, and choosing one by its URL.

Everything above this seam is the same on both. The hot path (append and read) goes through the driver's own cursors on
the connection SQLAlchemy lends; everything that happens once a batch or less is SQLAlchemy Core.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, Union
from uuid import UUID

import msgspec
from sqlalchemy import Connection, Engine, PoolProxiedConnection, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.sql.expression import TableClause

from eventlog.bell import Bell, Look
from eventlog.carried import Carried
from eventlog.errors import (
    DatabaseUnreachableError,
    EventLogError,
    RefusedError,
    SchemaMissingError,
    SchemaTooNewError,
    UsageError,
)
from eventlog.events import StoredEvent
from eventlog.fixed import Fixed
from eventlog.pending import Expected, PendingEvent
from eventlog.query import PageQuery, Query
from eventlog.schema.migrate import NewerSchemaError, SchemaState, current_revision, known_revisions, upgrade
from eventlog.schema.migrate import schema_state as read_schema_state
from eventlog.schema.tables import Tables, check_schema_name
from eventlog.schema.version import SchemaBusyError
from eventlog.shown_urls import shown_url

if TYPE_CHECKING:
    from sqlalchemy.orm import Session  # a third of what importing SQLAlchemy costs, and few hand one over

Transaction = Union["Session", Connection]
"""What a caller may hand over to have an append happen in his own transaction."""

Lent = Connection | PoolProxiedConnection
"""A connection of the engine's pool, with SQLAlchemy around it or, for the log's own short statements, without."""


class Inserted(msgspec.Struct, frozen=True):
    """What the database decided about one inserted event."""

    position: int
    version: int
    recorded_at: datetime


class RecordedSince(msgspec.Struct, frozen=True):
    """The last event of a type that carries the tags of a query, after the position it was decided at."""

    query: Query
    type: str
    position: int


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """A transaction that has appended and is still open, and holds the high-water mark back at `position`.

    `pid` is None for a prepared one, which has no process; `application` is then the name it was prepared under.
    """

    position: int
    pid: int | None
    application: str
    user: str
    since: datetime | None


class Relation(msgspec.Struct, frozen=True, kw_only=True):
    """A table or an index of the log, and what it takes on disk. `of` is the table an index is of, or itself."""

    name: str
    kind: str
    of: str
    bytes: int


class Right(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may do with a table, or with one column of it, and whether they may let others do it."""

    privilege: str
    column: str | None
    grantee: str
    is_grantable: bool


class Rights(msgspec.Struct, frozen=True, kw_only=True):
    """Who owns a table, where that is not the one who asks, and who may use it; names as a statement has them."""

    owner: str | None = None
    granted: tuple[Right, ...] = ()


class Sizes(msgspec.Struct, frozen=True, kw_only=True):
    """What the database takes on disk, and what of it each table and index of the log does, the largest first.

    There are no relations where looking would read the whole file.
    """

    database_bytes: int
    relations: tuple[Relation, ...]


class Database(Protocol):
    """One log in one database."""

    engine: Engine
    tables: Tables
    schema: str
    follows: "Database | None"
    """The database of the log, where the rows of subscribers are in this one and the events are in another."""

    @property
    def losses(self) -> int:
        """How many connections have been lost. What was read before a loss may be there no more: see `Feed`."""
        ...

    def transaction(self) -> AbstractContextManager[Connection]:
        """Open a transaction of our own, READ COMMITTED, able to write from its first statement; commit at the end."""
        ...

    def reader(self) -> AbstractContextManager[Connection]:
        """Lend a connection on which each statement sees everything committed before that statement."""
        ...

    def autocommit(self) -> AbstractContextManager[Lent] | None:
        """Lend a connection that commits each statement at once; None where that saves nothing."""
        ...

    def change(self, connection: Lent, statement: Fixed, values: Mapping[str, Any]) -> int:
        """Run a statement whose text is fixed; return how many rows it has changed."""
        ...

    def quick(self) -> AbstractContextManager[Lent]:
        """Lend what `reader` lends, at the least cost: for `head`, `high_water_mark`, `look` and `page`."""
        ...

    def steady(self) -> AbstractContextManager[Lent]:
        """Lend what `quick` lends, and have one server answer all its statements: behind a pooler, in a transaction."""
        ...

    def session(self, connection: Lent) -> object:
        """Return what is the same object while it is the same connection that is lent, so that the same server answers;
        None behind a pooler, where nobody knows.
        """
        ...

    def whereabouts(self, connection: Connection) -> object:
        """Return what tells the database, and the log in it, from others."""
        ...

    def join(self, connection: Connection) -> AbstractContextManager[None]:
        """Append within the block, as part of the transaction of a caller; raises `UnsafeTransactionError` at once."""
        ...

    def insert(self, connection: Lent, pending: Sequence[PendingEvent], expected: Expected) -> list[Inserted] | None:
        """Insert all the events, or return None when a version or an id was taken.

        When there were several, some rows may then stand, or the transaction is broken: the caller takes it back, or to
        a savepoint. A single one has left it as it was.
        """
        ...

    def insert_alone(self, event: PendingEvent, expected: Expected) -> list[Inserted] | None:
        """Insert one event in a transaction of its own, in one round trip where that can be had."""
        ...

    def hold_positions(self, connection: Connection, tags: Sequence[str]) -> int:
        """Keep all appends out until the transaction ends, and return the head; the first thing a transaction does.

        `tags` are those of the events that are to come. Raises `RefusedError` when an append stays open.
        """
        ...

    def carry(self, connection: Connection, events: Sequence[Carried], *, keep_positions: bool) -> bool:
        """Insert events of another log; return whether no id or version was taken, else the transaction is broken.

        Positions can be kept once they are held, if they rise from above the head on.
        """
        ...

    def recorded_since(
        self, connection: Connection, pending: Sequence[PendingEvent], conditions: Sequence[Query]
    ) -> list[RecordedSince]:
        """Look for events that carry the tags of a condition, after its position, whatever their types.

        Until the transaction ends nobody else records one, nor any that the tags of `pending` are decided by.
        """
        ...

    def find(self, connection: Connection, ids: Collection[UUID]) -> dict[UUID, StoredEvent]:
        """Read the events with these ids."""
        ...

    def event_at(self, connection: Connection, position: int) -> StoredEvent | None:
        """Read the event at a position."""
        ...

    def versions(self, connection: Connection, streams: Collection[str]) -> dict[str, int]:
        """Read the current versions of streams; a stream without events is left out."""
        ...

    def head(self, connection: Lent) -> int:
        """Read the highest position allocated so far."""
        ...

    def high_water_mark(self, connection: Lent) -> int:
        """Read the highest position at or below which nothing can appear any more."""
        ...

    def look(self, connection: Lent) -> Look:
        """Read the head, and after it the high-water mark: what one looks at before one sleeps."""
        ...

    def bell_maker(self, listen_url: str | None) -> Callable[[], Bell]:
        """Return what connects to the log's bell, by `listen_url` or as the log does. Raises `UsageError`.

        Each call of it connects anew, and raises `DatabaseError` when that is not possible.
        """
        ...

    def page(self, connection: Lent, query: PageQuery) -> list[StoredEvent]:
        """Read one page in the order of positions; never past a high-water mark read before, in its own statement."""
        ...

    def next_epoch(self, connection: Connection) -> int:
        """Draw an epoch, larger than every one drawn before."""
        ...

    def sizes(self, connection: Connection) -> Sizes:
        """Read what the tables of the log take on disk."""
        ...

    def held_back_by(self, connection: Connection) -> list[Holder]:
        """Name the transactions that hold the high-water mark back, the farthest back first."""
        ...

    def guard_owner(self, connection: Connection, *, seconds: float) -> None:
        """Let the database end this transaction when its owner freezes for longer than that, and drop its locks."""
        ...

    def lock_tables(self, connection: Connection, names: Sequence[TableClause], *, seconds: float) -> None:
        """Keep readers and writers out of these tables until the transaction ends. Raises `RefusedError`."""
        ...

    def empty_tables(self, connection: Connection, names: Sequence[TableClause]) -> None:
        """Remove all rows of tables that are locked. Raises `RefusedError` when other tables refer to them."""
        ...

    def holding_on(self, connection: Connection, names: Sequence[TableClause]) -> list[str]:
        """Name what would stay with tables, or be lost with them, if others took their names: views, keys, triggers."""
        ...

    def rename_table(self, connection: Connection, name: TableClause, to: str, part: Callable[[str], str]) -> None:
        """Rename a table, and as `part` says what of it has a name of its own: indexes, constraints, sequences."""
        ...

    def rights_of(self, connection: Connection, name: TableClause) -> Rights:
        """Read who owns a table, and who may use it."""
        ...

    def grant(self, connection: Connection, name: TableClause, rights: Rights) -> None:
        """Give a table an owner and rights; those on columns that it has not are left out."""
        ...

    def passing(self, error: BaseException) -> bool:
        """Tell whether an error says nothing about what was done: a lost connection, a deadlock, a full disk."""
        ...

    def timed_out(self, error: BaseException) -> bool:
        """Tell whether an error is a passing one that whoever sent the statement may be the cause of: it took longer
        than the database allows.
        """
        ...

    def ended_idle(self, error: BaseException) -> bool:
        """Tell whether the database has ended a transaction because nothing was done in it for too long."""
        ...

    def was_rolled_back(self, error: BaseException) -> bool:
        """Tell whether the database ended a transaction for the sake of another one, so that it can be run again."""
        ...

    def queue_up(self, connection: Connection) -> None:
        """Let nobody else who queued up append until this transaction ends; for those who got into a deadlock."""
        ...

    def is_own_lock(self, error: BaseException) -> bool:
        """Tell whether an error can only mean that a handler waited for the transaction it was called in."""
        ...

    def translate(self, error: BaseException) -> EventLogError | None:
        """Turn a database error into one of ours where it has a remedy; None where it has none."""
        ...

    def transaction_is_usable(self, connection: Connection) -> bool:
        """Tell whether a handler left its transaction open and unbroken."""
        ...


def open_database(url_or_engine: str | URL | Engine, *, schema: str) -> Database:
    """Choose the database a URL or an engine means. Nothing is connected yet. Raises `UsageError`."""
    try:
        check_schema_name(schema)
    except ValueError as error:
        raise UsageError(
            f"the log cannot be opened: {error}", remedy="name it in lower case letters, digits and _"
        ) from error
    dialect = _dialect(url_or_engine)
    if dialect == "postgresql":
        from eventlog.postgres import PostgresDatabase

        return PostgresDatabase(url_or_engine, schema=schema)
    if dialect == "sqlite":
        from eventlog.sqlite import SqliteDatabase

        return SqliteDatabase(url_or_engine, schema=schema)
    raise UsageError(
        f"{dialect} is not supported",
        remedy="use PostgreSQL (postgresql://...) or SQLite (sqlite:///file.db)",
    )


def initialise(database: Database) -> SchemaState:
    """Create or upgrade the tables; return the state that was found.

    Raises `SchemaTooNewError`, and `RefusedError` when somebody does not let go of the tables.
    """
    try:
        return upgrade(database.engine, schema=database.schema)
    except NewerSchemaError as error:
        raise _too_new(str(error)) from error
    except SchemaBusyError as error:
        raise RefusedError(str(error), remedy="nothing was changed: let them end, and upgrade again") from error


def check_schema(database: Database, connection: Connection) -> None:
    """Raise `SchemaMissingError` or `SchemaTooNewError` unless the tables are the ones this code knows."""
    state = read_schema_state(connection, schema=database.schema)
    if state is SchemaState.CURRENT:
        return
    if state is SchemaState.NEWER:
        found = current_revision(connection, schema=database.schema)
        raise _too_new(f"{found} > {known_revisions()[-1]}")
    detail = "has no tables" if state is SchemaState.MISSING else "has tables of an earlier release"
    raise SchemaMissingError(
        f"the log {database.schema!r} {detail} in {shown_url(database.engine.url)}",
        remedy="run `eventlog init` with this database",
    )


@contextmanager
def lent_by_pool(engine: Engine) -> Iterator[Connection]:
    """Lend a connection of an engine. Raises `DatabaseUnreachableError` when all of its pool stay in use."""
    with pool_errors(engine):
        connection = engine.connect()
    with connection:
        yield connection


@contextmanager
def pool_errors(engine: Engine) -> Iterator[None]:
    """Turn the complaint of a pool whose connections all stay in use into `DatabaseUnreachableError`."""
    try:
        yield
    except PoolTimeoutError as error:
        raise DatabaseUnreachableError(
            f"no connection to {engine.url.render_as_string(hide_password=True)} was free: {error}",
            remedy="give the engine a larger pool: create_engine(url, pool_size=..., max_overflow=...)",
        ) from error


@contextmanager
def events_of(database: Database, connection: Connection) -> Iterator[tuple[Database, Connection]]:
    """Lend the database that the events are in and a connection to it: this one, or the one that it follows."""
    if database.follows is None:
        yield database, connection
        return
    with database.follows.reader() as other:
        yield database.follows, other


def shown(database: Database) -> str:
    """Name a log for people: where it is, without who asks."""
    url = database.engine.url.set(username=None, password=None, query={})
    return f"{url.render_as_string()} {database.schema}"


@contextmanager
def translated(database: Database) -> Iterator[None]:
    """Turn a database error that has a remedy into one of ours; leave the others as SQLAlchemy raises them."""
    try:
        yield
    except DBAPIError as error:
        ours = database.translate(error)
        if ours is None:
            raise
        raise ours from error


@contextmanager
def undone_on_error(connection: Connection) -> Iterator[None]:
    """Roll the driver's transaction back when the block raises.

    SQLAlchemy forgets a transaction at the first attempt to commit it, also one that was refused on the way; the driver
    would then still be in it when the connection goes back to its pool.
    """
    try:
        yield
    except BaseException:
        if not (connection.closed or connection.invalidated):
            with suppress(Exception):
                connection.connection.rollback()
        raise


def connection_of(transaction: Transaction) -> Connection:
    """Return the connection a caller's Session or Connection writes through."""
    if isinstance(transaction, Connection):
        return transaction
    from sqlalchemy.orm import Session

    if isinstance(transaction, Session):
        return transaction.connection()
    raise UsageError(
        f"tx is a {type(transaction).__qualname__}",
        remedy="hand over the SQLAlchemy Session or Connection whose transaction the events belong to;"
        " append_async takes an AsyncSession or AsyncConnection",
    )


def _dialect(url_or_engine: str | URL | Engine) -> str:
    if isinstance(url_or_engine, Engine):
        return url_or_engine.dialect.name
    if hasattr(url_or_engine, "sync_engine"):
        raise UsageError(
            "the log cannot work on an AsyncEngine: workers and reads are plain functions",
            remedy="give its URL, App(async_engine.url), and hand its sessions to append_async(..., tx=session)",
        )
    try:
        name = make_url(url_or_engine).get_backend_name()
    except (ValueError, ArgumentError):
        # The parser quotes what it could not read, and that may be a part of a password.
        raise UsageError(
            "the log cannot be opened: its URL is none",
            remedy="give one like postgresql://user@host/database or sqlite:///events.db; write special characters of a"
            " password as %40, %2F and so on",
        ) from None
    return "postgresql" if name == "postgres" else name


def _too_new(revisions: str) -> SchemaTooNewError:
    return SchemaTooNewError(
        f"the tables were made by a later release of rewindlog than this one ({revisions})",
        remedy="upgrade rewindlog here; an older release must not write into newer tables",
    )

"""The log on PostgreSQL, through psycopg 3: the `postgres` files alone know this driver.

Appenders never wait for each other, and readers lose nothing all the same. Why that is right: a position is given out
at INSERT and appears at COMMIT, so readers must know which positions are still on their way. The database leaves a
mark (`schema/postgres/mark_append.sql`) before an append gets its first position, and the high-water mark
(`schema/postgres/high_water_mark.sql`) stays below every mark that still stands. A page is then read in a statement
of its own, after the mark: reading both in one statement, or under REPEATABLE READ, would use a snapshot older than
the mark, and skip what was committed in between.

The version of an event is `max(version) + 1` of its stream, and the unique (stream, version) decides between two
appends: the second one waits for the outcome of the first inside its INSERT, then finds its version taken and tries
again. That serialises per stream, takes no lock of ours, and costs a lone append one round trip.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from datetime import UTC
from typing import Any
from uuid import UUID

import msgspec
import psycopg
from psycopg import pq
from sqlalchemy import Connection, Engine, PoolProxiedConnection
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import TableClause

from eventlog import postgres_carrying, postgres_tables
from eventlog.bell import Bell, Look
from eventlog.carried import Carried
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
    DatabaseFullError,
    DatabaseReadOnlyError,
    DatabaseUnreachableError,
    EventLogError,
    PermissionDeniedError,
    RefusedError,
    SchemaMissingError,
    UnsafeTransactionError,
    UsageError,
)
from eventlog.events import StoredEvent
from eventlog.fixed import Fixed
from eventlog.page_sql import SqlWords, page_statement
from eventlog.pending import Expected, PendingEvent
from eventlog.postgres_connections import engine_for, is_standby, leaving_standbys, losses_of
from eventlog.postgres_doorbell import PostgresBell
from eventlog.postgres_insert import Inserts, is_taken
from eventlog.postgres_pooler import Driver, Pooler, driver_of, without_prepared_statements
from eventlog.query import AFTER_REMEDY, PageQuery, Query
from eventlog.schema.tables import tables
from eventlog.shown_urls import shown_url

_COLUMNS = """position, id, stream, version, type, type_version, data::text, metadata::text,
recorded_at at time zone 'UTC', tags"""
"""Times without a zone, which is UTC: the driver would look the session's up for each."""

_HOLDERS = """
select head + ((l.objid::bigint - head + 2147483648) & 4294967295) - 2147483648 as position,
       l.pid, coalesce(p.gid, a.application_name, ''), coalesce(p.owner, a.usename, ''),
       coalesce(p.prepared, a.xact_start)
from {schema}.head() as head,
     pg_locks as l
     left join pg_stat_activity as a using (pid)
     left join pg_prepared_xacts as p on l.virtualtransaction = '-1/' || p.transaction::text
where l.locktype = 'advisory' and l.objsubid = 2 and l.mode = 'ShareLock'
  and l.database = (select oid from pg_database where datname = current_database())
  and l.classid = '{events}'::regclass::oid
order by 1, 5
"""

_SESSION = "eventlog_session"
_CONNECTION_LOST = ("08", "57P")
_NO_RESOURCES = "53"
"""A full disk, no memory, no connection slot."""
_TIMED_OUT = "57014"
_PASSING_STATES = frozenset({"40001", "40P01", "25P03", "55P03", _TIMED_OUT})
"""Serialization failure, deadlock, idle in transaction, lock not available; a time-out."""


class PostgresDatabase:
    """One log in one PostgreSQL database, in a schema of its own."""

    def __init__(self, url_or_engine: str | URL | Engine, *, schema: str) -> None:
        self._pooler = Pooler()
        self.engine = engine_for(url_or_engine, self._pooler)
        self._losses = losses_of(self.engine)
        self.schema = schema
        self.follows: Database | None = None
        self.tables = tables(dialect="postgresql", schema=schema)
        names = {"schema": schema, "events": f"{schema}.events"}
        self._inserts = Inserts(schema=schema)
        self._holders = _HOLDERS.format(**names)
        self._words = SqlWords(
            events=names["events"],
            event_tags=f"{schema}.event_tags",
            columns=_COLUMNS,
            parameter=lambda name: f"%({name})s",
            one_of=lambda name: f"= any(%({name})s::text[])",
            listed=list,
            moment=lambda moment: moment,
            sorts_each=True,
        )
        self._select = f"select {_COLUMNS} from {schema}.events"
        self._read_committed = self.engine.execution_options(isolation_level="READ COMMITTED")
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        self._reads_in_transactions: bool | None = None

    @property
    def losses(self) -> int:
        return self._losses.count

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self._lend(self._read_committed) as connection, connection.begin(), undone_on_error(connection):
            yield connection

    def reader(self) -> AbstractContextManager[Connection]:
        return self._lend(self._read_committed if self._default_is_stricter() else self._autocommit)

    def autocommit(self) -> AbstractContextManager[Lent] | None:
        return None if self._default_is_stricter() else self._lend_driver()

    def change(self, connection: Lent, statement: Fixed, values: Mapping[str, Any]) -> int:
        borrowed = _borrowed(connection)
        with (
            _driver_errors(connection, self.engine.dialect, sql=statement.text),
            closing(borrowed.cursor()) as cursor,
        ):
            cursor.execute(statement.text, statement.values(values))
            return int(cursor.rowcount)

    def quick(self) -> AbstractContextManager[Lent]:
        return self._lend(self._read_committed) if self._default_is_stricter() else self._lend_driver()

    def steady(self) -> AbstractContextManager[Lent]:
        in_transaction = self._default_is_stricter() or self._pooler.is_noticed
        return self._lend(self._read_committed) if in_transaction else self._lend_driver()

    def session(self, connection: Lent) -> object:
        return None if self._pooler.is_noticed else _borrowed(connection).info.setdefault(_SESSION, object())

    def insert_alone(self, event: PendingEvent, expected: Expected) -> list[Inserted] | None:
        if self._default_is_stricter():
            with self.transaction() as connection:
                return self.insert(connection, [event], expected)
        with self._lend_driver() as lent:
            return self.insert(lent, [event], expected)

    def whereabouts(self, connection: Connection) -> object:
        question = "select oid, to_regclass(%s)::oid from pg_database where datname = current_database()"
        return tuple(self._rows(connection, question, [f"{self.schema}.events"])[0])

    def join(self, connection: Connection) -> AbstractContextManager[None]:
        if connection.dialect.driver not in ("psycopg", "psycopg_async"):
            raise UnsafeTransactionError(
                f"the transaction runs on {connection.dialect.name}+{connection.dialect.driver}, the log on psycopg 3",
                remedy="create the engine with postgresql+psycopg://",
            )
        if not connection.in_transaction():
            connection.begin()
        if _driver(connection).autocommit:
            raise UnsafeTransactionError(
                "the connection runs in AUTOCOMMIT: the events would not belong to the caller's transaction",
                remedy="hand over a connection with a transaction, or leave tx out",
            )
        return self._respecting_poolers(connection)

    def insert(self, connection: Lent, pending: Sequence[PendingEvent], expected: Expected) -> list[Inserted] | None:
        if len(pending) > 1 and not expected.unless and (tags := _tags_of(pending)):
            # In one order for all of them, which the trigger could not: it sees one event at a time.
            self._rows(connection, f"select {self.schema}.lock_tags(%s::text[], null)", [tags])
        if len(pending) == 1:
            rows = self._rows(connection, *self._inserts.one(pending[0], expected))
        else:
            rows = self._inserted_many(connection, pending, expected)
        if len(rows) != len(pending):
            return None
        return [Inserted(position, version, at.replace(tzinfo=UTC)) for position, version, at in sorted(rows)]

    def _inserted_many(self, connection: Lent, pending: Sequence[PendingEvent], expected: Expected) -> list[Any]:
        try:
            return self._rows(connection, *self._inserts.many(pending, expected))
        except DBAPIError as error:
            if is_taken(error, schema=self.schema):
                return []
            raise

    def hold_positions(self, connection: Connection, tags: Sequence[str]) -> int:
        return postgres_carrying.hold_positions(connection, self.schema, tags)

    def carry(self, connection: Connection, events: Sequence[Carried], *, keep_positions: bool) -> bool:
        with _driver_errors(connection, self.engine.dialect, sql="copy"):
            return postgres_carrying.carry(connection, self.schema, events, keep_positions=keep_positions)

    def recorded_since(
        self, connection: Connection, pending: Sequence[PendingEvent], conditions: Sequence[Query]
    ) -> list[RecordedSince]:
        asked = msgspec.json.encode([{"tags": one.tags, "after": one.after} for one in conditions]).decode()
        question = f"select * from {self.schema}.recorded_since(%s::text[], %s::json)"
        return [
            RecordedSince(conditions[number - 1], event_type, position)
            for number, event_type, position in self._rows(connection, question, [_tags_of(pending), asked])
        ]

    def find(self, connection: Connection, ids: Collection[UUID]) -> dict[UUID, StoredEvent]:
        rows = self._rows(connection, f"{self._select} where id = any(%s::uuid[])", [list(ids)])
        return {found.id: found for found in (StoredEvent(*row) for row in rows)}

    def event_at(self, connection: Connection, position: int) -> StoredEvent | None:
        rows = self._rows(connection, f"{self._select} where position = %s", [position])
        return StoredEvent(*rows[0]) if rows else None

    def versions(self, connection: Connection, streams: Collection[str]) -> dict[str, int]:
        question = (
            f"select asked.stream, (select max(version) from {self.schema}.events as e where e.stream = asked.stream)"
            " from unnest(%s::text[]) as asked(stream)"
        )
        return {stream: version for stream, version in self._rows(connection, question, [list(streams)]) if version}

    def head(self, connection: Lent) -> int:
        return int(self._rows(connection, f"select {self.schema}.head()")[0][0])

    def high_water_mark(self, connection: Lent) -> int:
        return int(self._rows(connection, f"select {self.schema}.high_water_mark()")[0][0])

    def look(self, connection: Lent) -> Look:
        head, mark, in_flight = self._rows(connection, f"select * from {self.schema}.look()")[0]
        return Look(head=head, high_water_mark=mark, in_flight=in_flight, session=self.session(connection))

    def bell_maker(self, listen_url: str | None) -> Callable[[], Bell]:
        engine = self.engine if listen_url is None else engine_for(listen_url, Pooler())
        tries_poolers = listen_url is not None
        return lambda: PostgresBell(engine, schema=self.schema, notify=self._notify, tries_poolers=tries_poolers)

    def page(self, connection: Lent, query: PageQuery) -> list[StoredEvent]:
        """Where types decide, the plan is made for them each time: one for any type would scan the log."""
        by_type = query.types or any(one.types for one in query.matching)
        with without_prepared_statements(driver_of(_borrowed(connection))) if by_type else nullcontext():
            rows = self._rows(connection, *page_statement(self._words, query))
        return [StoredEvent(*row) for row in rows]

    def next_epoch(self, connection: Connection) -> int:
        return int(self._rows(connection, f"select nextval('{self.schema}.epochs')")[0][0])

    def sizes(self, connection: Connection) -> Sizes:
        return postgres_tables.sizes(connection, self.schema)

    def held_back_by(self, connection: Connection) -> list[Holder]:
        return [
            Holder(position=position, pid=pid, application=application, user=user, since=since)
            for position, pid, application, user, since in self._rows(connection, self._holders)
        ]

    def guard_owner(self, connection: Connection, *, seconds: float) -> None:
        limit = f"{max(1, round(seconds * 1000))}ms"
        self._rows(connection, "select set_config('idle_in_transaction_session_timeout', %s, true)", [limit])

    def lock_tables(self, connection: Connection, names: Sequence[TableClause], *, seconds: float) -> None:
        quoted = ", ".join(connection.dialect.identifier_preparer.format_table(name) for name in names)
        self._rows(connection, "select set_config('lock_timeout', %s, true)", [f"{round(seconds * 1000)}ms"])
        try:
            connection.exec_driver_sql(f"lock table {quoted} in access exclusive mode")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "55P03":
                raise
            raise RefusedError(
                f"{quoted} stayed in use for {seconds:g} s", remedy="let long queries on it end, and try again"
            ) from error
        self._rows(connection, "select set_config('lock_timeout', '0', true)")

    def empty_tables(self, connection: Connection, names: Sequence[TableClause]) -> None:
        quoted = ", ".join(connection.dialect.identifier_preparer.format_table(name) for name in names)
        try:
            connection.exec_driver_sql(f"truncate {quoted}")
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != "0A000":
                raise
            raise RefusedError(
                f"{quoted} cannot be emptied: {str(error.orig).strip().splitlines()[0]}",
                remedy="a table that refers to a projection's tables belongs to the projection: declare it in tables=",
            ) from error

    def holding_on(self, connection: Connection, names: Sequence[TableClause]) -> list[str]:
        return postgres_tables.holding_on(connection, names)

    def rename_table(self, connection: Connection, name: TableClause, to: str, part: Callable[[str], str]) -> None:
        postgres_tables.rename_table(connection, name, to, part)

    def rights_of(self, connection: Connection, name: TableClause) -> Rights:
        return postgres_tables.rights_of(connection, name)

    def grant(self, connection: Connection, name: TableClause, rights: Rights) -> None:
        postgres_tables.grant(connection, name, rights)

    def passing(self, error: BaseException) -> bool:
        if isinstance(error, DBAPIError) and error.connection_invalidated:
            return True
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, psycopg.Error):
            return False
        state = cause.sqlstate
        if state is None:
            return isinstance(cause, psycopg.OperationalError)
        return state in _PASSING_STATES or state.startswith((*_CONNECTION_LOST, _NO_RESOURCES)) or is_standby(cause)

    def timed_out(self, error: BaseException) -> bool:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return isinstance(cause, psycopg.Error) and cause.sqlstate == _TIMED_OUT

    def ended_idle(self, error: BaseException) -> bool:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return isinstance(cause, psycopg.Error) and cause.sqlstate == "25P03"

    def was_rolled_back(self, error: BaseException) -> bool:
        cause = error.orig if isinstance(error, DBAPIError) else error
        return isinstance(cause, psycopg.Error) and cause.sqlstate in ("40001", "40P01")

    def queue_up(self, connection: Connection) -> None:
        """An advisory lock of the one-key form, which can neither be a mark nor be in the way of one."""
        self._rows(connection, f"select pg_advisory_xact_lock('{self.schema}.events'::regclass::oid::bigint)")

    def is_own_lock(self, error: BaseException) -> bool:
        return False

    def translate(self, error: BaseException) -> EventLogError | None:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if not isinstance(cause, psycopg.Error):
            return None
        place = shown_url(self.engine.url)
        if cause.sqlstate is None and "invalid connection option" in str(cause):
            return UsageError(f"{place}: {str(cause).strip()}", remedy="leave the option out of the URL")
        said = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
        if cause.sqlstate in {"42P01", "3F000", "42883"} and self.schema in said:
            return SchemaMissingError(
                f"the log {self.schema!r} is not in {place}: {said}", remedy="run `eventlog init` with this database"
            )
        if cause.sqlstate == "25000" and "READ COMMITTED" in said:
            return UnsafeTransactionError(said, remedy="use a transaction at READ COMMITTED, or leave tx out")
        if cause.sqlstate == "22023" and said.startswith("a condition after position"):
            return UsageError(said, remedy=AFTER_REMEDY)
        if cause.sqlstate == "42501":
            return PermissionDeniedError(
                f"{place}: {said}", remedy="grant the role what it needs, see docs/postgres.md"
            )
        if cause.sqlstate == "53100":
            return DatabaseFullError(
                f"{place}: {said}", remedy="make room for the server; what was not committed is done again"
            )
        if is_standby(cause):
            return DatabaseReadOnlyError(
                f"{place}: {said}",
                remedy="lead the URL to the primary: postgresql:///shop?host=one&host=other&target_session_attrs=read-write;"
                " or append in a transaction that may write",
            )
        unreachable = cause.sqlstate is None or cause.sqlstate.startswith(
            (*_CONNECTION_LOST, "28", "3D", _NO_RESOURCES)
        )
        if isinstance(cause, psycopg.OperationalError) and unreachable:
            return DatabaseUnreachableError(
                f"{place} does not answer: {said}", remedy="is the server up, and are host, port and database right?"
            )
        return None

    def transaction_is_usable(self, connection: Connection) -> bool:
        if connection.closed or connection.invalidated:
            return False
        return bool(_driver(connection).pgconn.transaction_status == pq.TransactionStatus.INTRANS)

    def _default_is_stricter(self) -> bool:
        """Whether a statement by itself is not READ COMMITTED here, since somebody set another default; asked once.

        Then each read is a transaction that says so, which costs round trips.
        """
        if self._reads_in_transactions is None:
            with self._lend(self._autocommit) as connection:
                default = self._rows(connection, "select current_setting('default_transaction_isolation')")[0][0]
            self._reads_in_transactions = default != "read committed"
        return self._reads_in_transactions

    @contextmanager
    def _lend(self, engine: Engine) -> Iterator[Connection]:
        with lent_by_pool(engine) as connection, leaving_standbys(connection), self._respecting_poolers(connection):
            yield connection

    @contextmanager
    def _lend_driver(self) -> Iterator[PoolProxiedConnection]:
        """Lend a connection of the pool without SQLAlchemy around it, which commits each statement by itself.

        A lone append and a worker's look into the log are statements as short as what SQLAlchemy does around them.
        """
        with closing(self._borrow()) as borrowed, leaving_standbys(borrowed):
            driver = driver_of(borrowed)
            before, driver.autocommit = driver.autocommit, True
            try:
                with self._respecting_poolers(borrowed):
                    yield borrowed
            finally:
                if not driver.closed:
                    driver.autocommit = before

    def _borrow(self) -> PoolProxiedConnection:
        """Take a connection out of the pool; a failure to connect is raised as SQLAlchemy does for its own."""
        try:
            with pool_errors(self.engine):
                return self.engine.raw_connection()
        except psycopg.Error as error:
            raise DBAPIError.instance(None, None, error, psycopg.Error, dialect=self.engine.dialect) from error

    @contextmanager
    def _respecting_poolers(self, connection: Lent) -> Iterator[None]:
        """Prepare nothing within the block if a pooler stands before the server."""
        borrowed = _borrowed(connection)
        with _driver_errors(connection, self.engine.dialect, sql=None):
            pooled = self._pooler.is_before(borrowed)
        with without_prepared_statements(driver_of(borrowed)) if pooled else nullcontext():
            yield

    def _notify(self, channel: str, payload: str) -> None:
        with self.transaction() as connection:
            self._rows(connection, "select pg_notify(%s, %s)", [channel, payload])

    def _rows(self, connection: Lent, sql: str, values: Any = None) -> list[Any]:
        """Run one statement on the driver's cursor, in whatever transaction the connection is in."""
        borrowed = _borrowed(connection)
        with _driver_errors(connection, self.engine.dialect, sql=sql), closing(borrowed.cursor()) as cursor:
            cursor.execute(sql, values)
            rows: list[Any] = cursor.fetchall()
            return rows


@contextmanager
def _driver_errors(connection: Lent, dialect: Dialect, *, sql: str | None) -> Iterator[None]:
    """Raise what the driver raises as SQLAlchemy does, and take a connection that was lost out of its pool."""
    borrowed = _borrowed(connection)
    try:
        yield
    except psycopg.Error as error:
        lost = bool(getattr(borrowed.driver_connection, "closed", False))
        if lost:
            connection.invalidate(error)
        raise DBAPIError.instance(
            sql, None, error, psycopg.Error, connection_invalidated=lost, dialect=dialect
        ) from error


def _borrowed(connection: Lent) -> Any:
    """Return what the pool has lent."""
    return connection.connection if isinstance(connection, Connection) else connection


def _driver(connection: Connection) -> Driver:
    return driver_of(connection.connection)


def _tags_of(pending: Sequence[PendingEvent]) -> list[str]:
    return list({tag for event in pending for tag in event.tags})

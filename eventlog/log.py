"""The log: append events, read them back in one global order.

Owns the two sentences every caller relies on: an append is part of the transaction it is given, and nobody else ends
that transaction; a read never goes past the high-water mark, so it never misses what commits late.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from eventlog.database import (
    Database,
    Inserted,
    PageQuery,
    Transaction,
    check_schema,
    connection_of,
    initialise,
    open_database,
    translated,
)
from eventlog.encoding import same_json
from eventlog.errors import (
    ConflictError,
    IdConflictError,
    UnknownEventError,
    UsageError,
    WrongExpectedVersionError,
)
from eventlog.event_types import decode, with_aliases
from eventlog.events import Recorded, StoredEvent
from eventlog.limits import STREAM_CHARACTERS_MAX
from eventlog.patterns import check_pattern, covers, is_exact
from eventlog.pending import Expected, PendingEvent, check_expected, prepare
from eventlog.schema.tables import DEFAULT_SCHEMA

PAGE_EVENTS = 1_000
POSITION_MAX = 2**63 - 1
APPEND_TRIES_MAX = 100
"""How often an append runs again because another one took its version; each try lets one other append through."""
DEADLOCKS_MAX = 10
"""How often an append in a transaction of its own runs again after the database ended it to resolve a deadlock."""


class EventLog:
    """An append-only log of events in one database.

    `url_or_engine` is a PostgreSQL or SQLite URL, or an SQLAlchemy engine for one (psycopg 3, sqlite3). Nothing is
    connected until the first call.
    """

    def __init__(self, url_or_engine: str | Engine, *, schema: str = DEFAULT_SCHEMA) -> None:
        self.database: Database = open_database(url_or_engine, schema=schema)
        self._schema_checked = False

    @property
    def engine(self) -> Engine:
        return self.database.engine

    def init(self) -> None:
        """Create the tables of the log, or upgrade them. Safe to call at every start, and from several processes."""
        with translated(self.database):
            initialise(self.database)

    def append(
        self,
        *events: object,
        stream: str | None = None,
        expected: int | str = "any",
        tx: Transaction | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[Recorded[Any]]:
        """Append events, in this order, and return them as recorded.

        Each is a Struct declared with `@event`, or an `Event`. `stream` serves for all that name none themselves, and
        goes before a declared template. `expected` is the version the stream must be at, `"none"` (it must not exist)
        or `"any"`. `metadata` goes with every event, under its own.

        `tx` is the Session or Connection whose transaction the events become part of; it is neither committed nor
        rolled back here, and a refused append leaves nothing in it and leaves it usable. Without `tx` the append has a
        transaction of its own. It is one statement for one event, and one for many.

        Appending an id that is recorded already with the same stream, type and data returns what was recorded.

        Raises `InvalidEventError` (nothing was sent), `WrongExpectedVersionError`, `IdConflictError`,
        `UnsafeTransactionError`, `SchemaMissingError`, `DatabaseUnreachableError`.
        """
        pending = prepare(events, stream=stream, metadata=metadata)
        wanted = check_expected(expected, pending)
        if not pending:
            return []
        with translated(self.database):
            if tx is not None:
                return self._append_within(connection_of(tx), pending, wanted)
            return self._append_alone(pending, wanted)

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        types: Sequence[str] = (),
        stream: str | None = None,
        limit: int | None = None,
    ) -> Iterator[Recorded[Any]]:
        """Read events in the order of positions: after < position <= until, and never past the high-water mark.

        Lazy: pages of a thousand are fetched as they are needed, no connection is held in between, and what is appended
        after the first page was fetched is not part of it. `types` may hold patterns (`flight.*`); a declared type also
        stands for the names it had before. Raises `UndecodableEventError` at an event that its class cannot read.
        """
        names = with_aliases(_check_patterns(types))
        return map(decode, self.read_stored(after=after, until=until, types=names, stream=stream, limit=limit))

    def read_stored(
        self, *, after: int, until: int | None, types: Sequence[str], stream: str | None, limit: int | None
    ) -> Iterator[StoredEvent]:
        """Read events as they are stored, data and metadata still JSON text, under exactly the types named."""
        patterns = _check_patterns(types)
        for name, value in (("after", after), ("until", until), ("limit", limit)):
            _check_number(name, value)
        if stream is not None and not _can_name_a_stream(stream):
            return iter(())
        exact = tuple(patterns) if all(map(is_exact, patterns)) else ()
        return self._pages(
            after=max(0, min(after, POSITION_MAX)),
            until=None if until is None else max(0, min(until, POSITION_MAX)),
            exact=exact,
            patterns=patterns,
            stream=stream,
            limit=None if limit is None else min(limit, POSITION_MAX),
        )

    def get(self, position_or_id: int | UUID) -> Recorded[Any]:
        """Read one event by its position or its id. Raises `UnknownEventError`."""
        if isinstance(position_or_id, bool) or not isinstance(position_or_id, int | UUID):
            raise UsageError(
                f"{position_or_id!r} is neither a position nor an id", remedy="give an int, or a uuid.UUID"
            )
        with self._reader() as connection:
            if isinstance(position_or_id, UUID):
                found = self.database.find(connection, [position_or_id]).get(position_or_id)
            elif 0 < position_or_id <= POSITION_MAX:
                found = self.database.event_at(connection, position_or_id)
            else:
                found = None
        if found is None:
            raise UnknownEventError(
                f"no event {position_or_id} is recorded",
                remedy="positions may have holes, and an event appears when its transaction commits",
            )
        return decode(found)

    def head(self) -> int:
        """Return the highest position allocated so far, 0 for an empty log. It may belong to an open transaction."""
        with self._reader() as connection:
            return self.database.head(connection)

    def high_water_mark(self) -> int:
        """Return the highest position at or below which nothing can appear any more."""
        with self._reader() as connection:
            return self.database.high_water_mark(connection)

    def version(self, stream: str) -> int:
        """Return the version a stream is at, 0 when it has no events."""
        if not _can_name_a_stream(stream):
            return 0
        with self._reader() as connection:
            return self.database.versions(connection, [stream]).get(stream, 0)

    def check(self, connection: Connection) -> None:
        """Raise `SchemaMissingError` or `SchemaTooNewError` unless the tables fit this code; asks once per log."""
        if not self._schema_checked:
            check_schema(self.database, connection)
            self._schema_checked = True

    def _append_alone(self, pending: list[PendingEvent], expected: Expected) -> list[Recorded[Any]]:
        deadlocks = 0
        for _ in range(APPEND_TRIES_MAX):
            try:
                inserted = self._insert_alone(pending, expected, queue_up=deadlocks > 0)
            except DBAPIError as error:
                deadlocks += 1
                if deadlocks <= DEADLOCKS_MAX and self.database.was_rolled_back(error):
                    continue
                raise
            if inserted is not None:
                return _recorded(pending, inserted)
            with self._reader() as connection:
                known = self._why_refused(connection, pending, expected)
            if known is not None:
                return known
        raise _out_of_tries(pending)

    def _insert_alone(
        self, pending: list[PendingEvent], expected: Expected, *, queue_up: bool
    ) -> list[Inserted] | None:
        with self._own_transaction(pending) as connection:
            self.check(connection)
            if queue_up:
                self.database.queue_up(connection)
            inserted = self.database.insert(connection, pending, expected)
            if inserted is None:
                connection.rollback()
        return inserted

    def _own_transaction(self, pending: list[PendingEvent]) -> AbstractContextManager[Connection]:
        """One event is one statement, which the database commits by itself where that saves a round trip."""
        single = self.database.autocommit() if len(pending) == 1 else None
        return single if single is not None else self.database.transaction()

    def _append_within(
        self, connection: Connection, pending: list[PendingEvent], expected: Expected
    ) -> list[Recorded[Any]]:
        self.database.join(connection)
        self.check(connection)
        for _ in range(APPEND_TRIES_MAX):
            inserted = self._insert_or_nothing(connection, pending, expected)
            if inserted is not None:
                return _recorded(pending, inserted)
            known = self._why_refused(connection, pending, expected)
            if known is not None:
                return known
        raise _out_of_tries(pending)

    def _insert_or_nothing(
        self, connection: Connection, pending: list[PendingEvent], expected: Expected
    ) -> list[Inserted] | None:
        """Insert all or none: several rows need a savepoint, since some of them may stand when one is refused."""
        if len(pending) == 1:
            return self.database.insert(connection, pending, expected)
        with connection.begin_nested() as savepoint:
            inserted = self.database.insert(connection, pending, expected)
            if inserted is None:
                savepoint.rollback()
        return inserted

    def _why_refused(
        self, connection: Connection, pending: list[PendingEvent], expected: Expected
    ) -> list[Recorded[Any]] | None:
        """Return the events if they are recorded already, raise for a conflict; None when another append came first."""
        known = self._recorded_before(connection, pending)
        if known is not None:
            return known
        if expected.version is not None:
            streams = list(dict.fromkeys(event.stream for event in pending))
            versions = self.database.versions(connection, streams)
            for stream in streams:
                actual = versions.get(stream, 0)
                if actual != expected.version:
                    raise WrongExpectedVersionError(stream=stream, expected=expected.version, actual=actual)
        return None

    def _recorded_before(self, connection: Connection, pending: list[PendingEvent]) -> list[Recorded[Any]] | None:
        given = [event.id for event in pending if event.id_given]
        found = self.database.find(connection, given) if given else {}
        if not found:
            return None
        changed = tuple(event.id for event in pending if event.id in found and not _same(event, found[event.id]))
        if changed:
            raise IdConflictError(f"event {changed[0]} is already recorded with other content", ids=changed)
        if len(found) < len(pending):
            raise IdConflictError(
                f"{len(found)} of the {len(pending)} events of this batch are already recorded", ids=tuple(found)
            )
        return [decode(found[event.id]) for event in pending]

    def _pages(
        self,
        *,
        after: int,
        until: int | None,
        exact: tuple[str, ...],
        patterns: list[str],
        stream: str | None,
        limit: int | None,
    ) -> Iterator[StoredEvent]:
        left = limit
        end: int | None = None
        while left is None or left > 0:
            size = PAGE_EVENTS if left is None or not _all_wanted(patterns, exact) else min(PAGE_EVENTS, left)
            with self._reader() as connection:
                if end is None:
                    mark = self.database.high_water_mark(connection)
                    end = mark if until is None else min(until, mark)
                query = PageQuery(after=after, until=end, limit=size, types=exact, stream=stream)
                page = self.database.page(connection, query)
            wanted = page if _all_wanted(patterns, exact) else [e for e in page if _matches(patterns, e.type)]
            yield from wanted[:left]
            if len(page) < size:
                return
            after = page[-1].position
            left = None if left is None else left - len(wanted)

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        with translated(self.database), self.database.reader() as connection:
            self.check(connection)
            yield connection


def _check_patterns(types: Sequence[str]) -> list[str]:
    if isinstance(types, str):
        raise UsageError(f"types={types!r} is a text", remedy=f"give a list: types=[{types!r}]")
    return [check_pattern(pattern) for pattern in types]


def _check_number(name: str, value: object) -> None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and (name != "limit" or value >= 0)):
        return
    raise UsageError(f"{name}={value!r} is no {'count' if name == 'limit' else 'position'}", remedy="give an int")


def _can_name_a_stream(stream: object) -> bool:
    if not isinstance(stream, str):
        raise UsageError(f"stream={stream!r} is no name", remedy="give the text that names the stream")
    return 0 < len(stream) <= STREAM_CHARACTERS_MAX and stream.isprintable()


def _recorded(pending: list[PendingEvent], inserted: list[Inserted]) -> list[Recorded[Any]]:
    return [
        Recorded(
            position=place.position,
            id=event.id,
            stream=event.stream,
            version=place.version,
            type=event.type,
            type_version=event.type_version,
            data=event.data,
            metadata=event.metadata,
            recorded_at=place.recorded_at,
        )
        for event, place in zip(pending, inserted, strict=True)
    ]


def _same(event: PendingEvent, stored: StoredEvent) -> bool:
    return (
        event.stream == stored.stream
        and event.type == stored.type
        and event.type_version == stored.type_version
        and same_json(event.data_text, stored.data)
    )


def _all_wanted(patterns: list[str], exact: tuple[str, ...]) -> bool:
    return not patterns or bool(exact)


def _matches(patterns: list[str], event_type: str) -> bool:
    return any(covers(pattern, event_type) for pattern in patterns)


def _out_of_tries(pending: list[PendingEvent]) -> ConflictError:
    return ConflictError(
        f"stream {pending[0].stream!r} was appended to by others {APPEND_TRIES_MAX} times in a row",
        remedy="append again; if this is the rule, spread the events over more streams",
    )

"""The log: append events, read them back in one global order, follow them as they come.

Owns the two sentences every caller relies on: an append is part of the transaction it is given, and nobody else ends
that transaction; a read never goes past the high-water mark, so it never misses what commits late.

The coroutines are the same code: an append in an async transaction runs on its connection by way of SQLAlchemy's
greenlets, and what has no transaction of the caller's runs in a thread.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar, Unpack
from uuid import UUID

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL

from eventlog.appending import Appender
from eventlog.bell import Look
from eventlog.database import (
    Database,
    Transaction,
    check_schema,
    connection_of,
    initialise,
    open_database,
    translated,
)
from eventlog.doorbell import POLL_SECONDS_MAX, POLL_SECONDS_MIN, SLOW_POLL_SECONDS, Doorbell
from eventlog.encoding import check_metadata
from eventlog.errors import UnknownEventError, UsageError
from eventlog.event_types import decode
from eventlog.events import Recorded, StoredEvent
from eventlog.pending import check_expected, prepare
from eventlog.query import POSITION_MAX, Query
from eventlog.reading import (
    Filters,
    Following,
    Selection,
    can_name_a_stream,
    check_range,
    pages,
    select,
    stream_pages,
)
from eventlog.schema.tables import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

M = TypeVar("M", bound=Callable[[], Mapping[str, Any]])

LINGER_SECONDS = 0.02
"""How long the pauses between polls grow before a follower goes to sleep."""


class EventLog:
    """An append-only log of events in one database.

    `url_or_engine` is a PostgreSQL or SQLite URL, or an SQLAlchemy engine for one (psycopg 3, sqlite3). The URL may be
    that of an async engine (`async_engine.url`): the log then has an engine of its own beside it. Nothing is connected
    until the first call. `listen_url` is the way to the same database that whoever waits for events listens on, where
    the log's own does not let notifications through (a pooler). `doorbell` is where they wait. Raises `UsageError`.
    """

    def __init__(
        self, url_or_engine: str | URL | Engine, *, schema: str = DEFAULT_SCHEMA, listen_url: str | None = None
    ) -> None:
        self.database: Database = open_database(url_or_engine, schema=schema)
        self.doorbell = Doorbell(self.database, listen_url=listen_url)
        self._schema_checked = False
        self._metadata_from: tuple[Callable[[], Mapping[str, Any]], ...] = ()
        self._appender = Appender(
            self.database, lend=self._reader, check=self.check, check_once=self._check_schema_once
        )

    @property
    def engine(self) -> Engine:
        return self.database.engine

    def init(self) -> None:
        """Create the tables of the log, or upgrade them. Safe to call at every start, and from several processes."""
        with translated(self.database):
            initialise(self.database)

    def listen_on(self, listen_url: str) -> None:
        """Wait for events by this way to the same database from now on. Before anybody waits. Raises `UsageError`."""
        self.doorbell = Doorbell(self.database, listen_url=listen_url)

    def metadata_from(self, function: M) -> M:
        """Declare what goes with the events of every append from now on: who asked, for which tenant, in which trace.

        The function is called once for each append, in the thread or coroutine that appends, and returns metadata;
        what `append` or the event itself says goes before it. It must be quick, and what it raises is the append's.
        """
        self._metadata_from = (*self._metadata_from, function)
        return function

    def append(
        self,
        *events: object,
        stream: str | None = None,
        expected: int | str = "any",
        tx: Transaction | None = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        unless: Query | Sequence[Query] = (),
    ) -> list[Recorded[Any]]:
        """Append events, in this order, and return them as recorded.

        Each is a Struct declared with `@event`, or an `Event`. `stream` serves for all that name none themselves, and
        goes before a declared template. `expected` is the version the stream must be at, `"none"` (it must not exist)
        or `"any"`. `metadata` goes with every event, under its own; so do `tags`.

        `unless` is one `Query` or several: the append is refused when an event that matches one of them has been
        recorded after its position. Give the position of the last event the decision was made from; 0 for none.

        `tx` is the Session or Connection whose transaction the events become part of; it is neither committed nor
        rolled back here, and a refused append leaves nothing in it and leaves it usable. Without `tx` the append has a
        transaction of its own. It is one statement for one event, and one for many; a condition is one more.

        Appending an id that is recorded already with the same stream, type, data and tags returns what was recorded.

        Raises `InvalidEventError` (nothing was sent), `WrongExpectedVersionError`, `AppendConditionError`,
        `IdConflictError`, `UnsafeTransactionError`, `SchemaMissingError`, `DatabaseUnreachableError`.
        """
        if self._metadata_from:
            metadata = self._with_declared(metadata)
        pending = prepare(events, stream=stream, metadata=metadata, tags=tags)
        wanted = check_expected(expected, pending, unless=unless)
        if not pending:
            return []
        with translated(self.database):
            return self._appender.append(pending, wanted, tx=tx)

    async def append_async(
        self,
        *events: object,
        stream: str | None = None,
        expected: int | str = "any",
        tx: "AsyncSession | AsyncConnection | None" = None,
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        unless: Query | Sequence[Query] = (),
    ) -> list[Recorded[Any]]:
        """Append events from a coroutine: `append`, in the transaction of an AsyncSession or AsyncConnection.

        Its engine is one of psycopg or aiosqlite (`pip install rewindlog[async]`); a SQLite one is made ready by
        `eventlog.sqlite.prepare`. Without `tx` the append has a transaction of its own, in a thread; cancelled, it may
        still be carried out.
        """
        append = partial(
            self.append, *events, stream=stream, expected=expected, metadata=metadata, tags=tags, unless=unless
        )
        if tx is None:
            return await asyncio.to_thread(append)
        if not hasattr(tx, "run_sync"):
            raise UsageError(
                f"tx is a {type(tx).__qualname__}", remedy="hand over an AsyncSession or AsyncConnection, or use append"
            )
        return await tx.run_sync(lambda transaction: append(tx=transaction))

    def read(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
        **filters: Unpack[Filters],
    ) -> Iterator[Recorded[Any]]:
        """Read events in the order of positions: after < position <= until, and never past the high-water mark.

        `backwards` begins with the last one; `limit` counts from where it begins. Events are narrowed down by `types`
        (names, or patterns like `flight.*`; a declared type also stands for the names it had before), `stream`,
        `stream_prefix`, `tags` (all of them), `matching` (a `Query`, or several of which one has to match), `since` and
        `before` (aware times, since <= recorded_at < before), `where` (values of the data by dotted paths:
        `{"customer.name": "ada"}`).

        Lazy: pages of a thousand are fetched as they are needed, no connection is held in between, and what is appended
        after the first page was fetched is not part of it. Tags, one stream, and types that are named in full (twenty
        at most) are looked up in an index, the other filters are a scan from `after` on. Raises
        `UndecodableEventError` at an event that its declared class cannot read.
        """
        selection = select(**filters).with_old_names()
        return map(decode, chain.from_iterable(self._pages(selection, after, until, limit, backwards=backwards)))

    def read_stored(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
        **filters: Unpack[Filters],
    ) -> Iterator[StoredEvent]:
        """Read events as they are stored, data and metadata still JSON text, under exactly the types named."""
        return chain.from_iterable(self._pages(select(**filters), after, until, limit, backwards=backwards))

    def read_stream(
        self, stream: str, *, after_version: int = 0, tx: Transaction | None = None
    ) -> Iterator[Recorded[Any]]:
        """Read the events of one stream in the order of their versions, up to the last one that is committed.

        What one decides from: unlike `read` it does not stop at the high-water mark, and so finds what was just
        appended also while other appends are in flight. Within `tx` it finds what that transaction has appended, too.
        Lazy, a query per thousand events. Raises `UndecodableEventError`, `UnsafeTransactionError`.
        """
        if not can_name_a_stream(stream):
            return iter(())
        lend = self._reader if tx is None else partial(self._joined, connection_of(tx))
        found = stream_pages(self.database, lend, stream, after_version=after_version)
        return map(decode, chain.from_iterable(found))

    def read_async(
        self,
        *,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        backwards: bool = False,
        **filters: Unpack[Filters],
    ) -> AsyncIterator[Recorded[Any]]:
        """Read events from a coroutine (`async for`): `read`, its pages fetched in a thread."""
        selection = select(**filters).with_old_names()
        return _each_async(self._pages(selection, after, until, limit, backwards=backwards))

    def follow(
        self, *, after: int = 0, stop: threading.Event | None = None, **filters: Unpack[Filters]
    ) -> Iterator[Recorded[Any]]:
        """Read events as they come, without an end, narrowed down like `read`; none is skipped.

        Keep the position of the last event you are done with, and follow after it the next time. While nothing comes it
        sleeps until an append wakes it, and looks every few seconds in any case. The iteration ends when `stop` is set.
        A database error is raised, and ends it too.
        """
        return _decoded(self.follow_stored(after=after, stop=stop, **filters))

    def follow_stored(
        self, *, after: int = 0, stop: threading.Event | None = None, **filters: Unpack[Filters]
    ) -> Iterator[StoredEvent]:
        """Read events as they come, data and metadata still JSON text: `follow` without decoding."""
        following = self._following(after, filters)
        return self._each_until(following, threading.Event() if stop is None else stop)

    def follow_async(self, *, after: int = 0, **filters: Unpack[Filters]) -> AsyncIterator[Recorded[Any]]:
        """Read events as they come from a coroutine (`async for`): `follow`, ended by breaking out or by cancelling.

        While nothing comes it looks every 5 to 250 ms, one cheap query each.
        """
        return _follow_async(self._following(after, filters))

    def get(self, position_or_id: int | UUID) -> Recorded[Any]:
        """Read one event by its position or its id. Raises `UnknownEventError`, `UndecodableEventError`."""
        return decode(self.get_stored(position_or_id))

    def get_stored(self, position_or_id: int | UUID) -> StoredEvent:
        """Read one event as it is stored, data and metadata still JSON text: `get` without decoding."""
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
        return found

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
        if not can_name_a_stream(stream):
            return 0
        with self._reader() as connection:
            return self.database.versions(connection, [stream]).get(stream, 0)

    def holds_open(self, position: int) -> bool:
        """Tell whether an event was appended by a transaction of this process that has not ended yet."""
        return self._appender.open_appends.hold(position)

    def check(self, connection: Connection) -> None:
        """Raise `SchemaMissingError` or `SchemaTooNewError` unless the tables fit this code; asks once per log."""
        if not self._schema_checked:
            check_schema(self.database, connection)
            self._schema_checked = True

    def _check_schema_once(self) -> None:
        if not self._schema_checked:
            with self.database.reader() as connection:
                self.check(connection)

    def with_metadata_of(self, other: "EventLog") -> None:
        """Have the same functions declared as another log has."""
        self._metadata_from = other._metadata_from

    def _with_declared(self, metadata: Mapping[str, Any] | None) -> dict[str, Any]:
        declared: dict[str, Any] = {}
        for function in self._metadata_from:
            declared |= function()
        return {**declared, **check_metadata(metadata)}

    def _pages(
        self, selection: Selection, after: int, until: int | None, limit: int | None, *, backwards: bool
    ) -> Iterator[list[StoredEvent]]:
        begin, end, count = check_range(after, until, limit)
        return pages(self.database, self._reader, selection, after=begin, until=end, limit=count, backwards=backwards)

    def _following(self, after: int, filters: Filters) -> Following:
        selection = select(**filters).with_old_names()
        begin, _, _ = check_range(after, None, None)
        return Following(self.database, self._reader, selection, after=begin)

    def _each_until(self, following: Following, stop: threading.Event) -> Iterator[StoredEvent]:
        """Events that keep coming are polled for, so that whoever appends need not ring for each of them."""
        pause_seconds = POLL_SECONDS_MIN
        with self.doorbell.sleeper(stop) as sleeper:
            while not stop.is_set():
                began = following.through
                for stored in chain.from_iterable(following.pages()):
                    yield stored
                    if stop.is_set():
                        return
                if following.through > began:
                    pause_seconds = POLL_SECONDS_MIN
                elif pause_seconds <= LINGER_SECONDS:
                    sleeper.wait(pause_seconds)
                    pause_seconds *= 2
                else:
                    with translated(self.database):
                        sleeper.sleep(partial(_allowance, following))

    @contextmanager
    def _joined(self, connection: Connection) -> Iterator[Connection]:
        with translated(self.database), self.database.join(connection):
            self.check(connection)
            yield connection

    @contextmanager
    def _reader(self) -> Iterator[Connection]:
        with translated(self.database), self.database.reader() as connection:
            self.check(connection)
            yield connection


def _decoded(events: Iterator[StoredEvent]) -> Iterator[Recorded[Any]]:
    """A generator, which a caller may close; then what it follows is closed too."""
    for stored in events:
        yield decode(stored)


def _allowance(following: Following, look: Look) -> float:
    """How long a follower may sleep, at a look."""
    return SLOW_POLL_SECONDS if look.high_water_mark <= following.through else 0.0


async def _each_async(pages_to_read: Iterator[list[StoredEvent]]) -> AsyncIterator[Recorded[Any]]:
    at_end: list[StoredEvent] = []
    while (page := await asyncio.to_thread(next, pages_to_read, at_end)) is not at_end:
        for stored in page:
            yield decode(stored)


async def _follow_async(following: Following) -> AsyncIterator[Recorded[Any]]:
    """Polls: a sleep would keep a thread of the loop's few for each follower."""
    pause_seconds = POLL_SECONDS_MIN
    while True:
        began = following.through
        async for recorded in _each_async(following.pages()):
            yield recorded
        if following.through > began:
            pause_seconds = POLL_SECONDS_MIN
        else:
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(POLL_SECONDS_MAX, pause_seconds * 2)

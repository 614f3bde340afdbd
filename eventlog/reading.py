"""Reading the log page by page: what a read is narrowed down to, and how its pages follow each other.

A read never goes past the high-water mark it saw first, and a follower never past the one it saw last: what commits
late is always still ahead of both.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, TypedDict

import msgspec
from sqlalchemy import Connection

from eventlog.data_fields import Field, check_where, hold
from eventlog.database import Database
from eventlog.errors import UsageError
from eventlog.event_types import with_aliases
from eventlog.events import StoredEvent
from eventlog.limits import STREAM_CHARACTERS_MAX
from eventlog.patterns import covers, is_exact
from eventlog.query import POSITION_MAX, PageQuery, Query, check_position, check_queries, check_types
from eventlog.tags import check_tags

PAGE_EVENTS = 1_000

Lend = Callable[[], AbstractContextManager[Connection]]
"""Lends a connection on which each statement sees everything committed before it."""


class Filters(TypedDict, total=False):
    """What a read may be narrowed down to. All that are given must hold.

    `types`: names or patterns (`flight.*`). `stream`: one stream; `stream_prefix`: those whose name begins so. `tags`:
    all of them are carried. `matching`: a `Query`, or several of which one has to match. `since`, `before`: aware
    times, since <= recorded_at < before. `where`: values of the data by dotted paths, `{"customer.name": "ada"}`.
    """

    types: Sequence[str]
    stream: str | None
    stream_prefix: str | None
    tags: Sequence[str]
    matching: Query | Sequence[Query]
    since: datetime | None
    before: datetime | None
    where: Mapping[str, Any]


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Filters that have been checked. `possible` is false where no event can match."""

    possible: bool
    types: tuple[str, ...]
    stream: str | None
    stream_prefix: str | None
    since: datetime | None
    before: datetime | None
    matching: tuple[Query, ...]
    where: tuple[Field, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the database decides alone; patterns over types are compared here, and so is data."""
        return not self.where and all(map(is_exact, self.types)) and all(query.is_exact for query in self.matching)

    def wants(self, event: StoredEvent) -> bool:
        """Tell whether an event the database has found is wanted."""
        of_type = not self.types or any(covers(pattern, event.type) for pattern in self.types)
        matches = of_type and (not self.matching or any(query.covers(event) for query in self.matching))
        return matches and (not self.where or hold(self.where, event.data))

    def with_old_names(self) -> "Selection":
        """Return the selection that also finds what was recorded under earlier names of the types it names."""
        return msgspec.structs.replace(
            self,
            types=tuple(with_aliases(self.types)),
            matching=tuple(query.with_old_names() for query in self.matching),
        )

    def page(self, *, after: int, until: int, limit: int, backwards: bool) -> PageQuery:
        """Ask for one page."""
        return PageQuery(
            after=after,
            until=until,
            limit=limit,
            backwards=backwards,
            types=self.types if all(map(is_exact, self.types)) else (),
            stream=self.stream,
            stream_prefix=self.stream_prefix,
            since=self.since,
            before=self.before,
            matching=self.matching,
        )


def select(
    *,
    types: Sequence[str] = (),
    stream: str | None = None,
    stream_prefix: str | None = None,
    tags: Sequence[str] = (),
    matching: Query | Sequence[Query] = (),
    since: datetime | None = None,
    before: datetime | None = None,
    where: Mapping[str, Any] | None = None,
) -> Selection:
    """Check what a read is narrowed down to; see `Filters`. Raises `UsageError`."""
    queries = check_queries(matching, name="matching")
    carried = check_tags(tags)
    if queries and carried:
        raise UsageError("tags and matching both name tags", remedy="put the tags into the queries of matching=")
    return Selection(
        possible=(stream is None or can_name_a_stream(stream))
        and (not stream_prefix or can_name_a_stream(stream_prefix)),
        types=check_types(types),
        stream=stream,
        stream_prefix=stream_prefix or None,
        since=_check_moment(since, name="since"),
        before=_check_moment(before, name="before"),
        matching=(Query(tags=carried),) if carried else queries,
        where=check_where(where or {}),
    )


def check_range(after: int, until: int | None, limit: int | None) -> tuple[int, int | None, int | None]:
    """Return the ends of a read, brought into the range of positions, and its limit. Raises `UsageError`."""
    if limit is not None and (type(limit) is not int or limit < 0):
        raise UsageError(f"limit={limit!r} is no count", remedy="give an int")
    return (
        check_position(after, name="after"),
        None if until is None else check_position(until, name="until"),
        None if limit is None else min(limit, POSITION_MAX),
    )


def can_name_a_stream(stream: object) -> bool:
    """Tell whether a stream of this name can have events. Raises `UsageError` for what is no text."""
    if not isinstance(stream, str):
        raise UsageError(f"stream={stream!r} is no name", remedy="give the text that names the stream")
    return 0 < len(stream) <= STREAM_CHARACTERS_MAX and stream.isprintable()


def pages(
    database: Database,
    lend: Lend,
    selection: Selection,
    *,
    after: int,
    until: int | None,
    limit: int | None,
    backwards: bool,
) -> Iterator[list[StoredEvent]]:
    """Read what is selected, page by page, up to the high-water mark at the first; no connection is held in between.

    A page may be empty where patterns over types are compared here.
    """
    if not selection.possible:
        return
    with lend() as connection:
        mark = database.high_water_mark(connection)
    end = mark if until is None else min(until, mark)
    yield from _pages_between(database, lend, selection, after=after, until=end, limit=limit, backwards=backwards)


class Following:
    """Reads what is selected as it comes, stretch by stretch. `through` is how far it has looked.

    The mark may go back between two looks; what was at or below it once stays complete, so each stretch is read to the
    very mark it was begun with.
    """

    def __init__(self, database: Database, lend: Lend, selection: Selection, *, after: int) -> None:
        self.through = after
        self._database = database
        self._lend = lend
        self._selection = selection

    def pages(self) -> Iterator[list[StoredEvent]]:
        """Read what has come since, page by page; no page at all where nothing has. That costs one cheap query."""
        with self._lend() as connection:
            moved = self._database.head(connection) > self.through
            mark = self._database.high_water_mark(connection) if moved else self.through
        if mark <= self.through:
            return
        if self._selection.possible:
            yield from _pages_between(
                self._database,
                self._lend,
                self._selection,
                after=self.through,
                until=mark,
                limit=None,
                backwards=False,
            )
        self.through = mark


def _pages_between(
    database: Database,
    lend: Lend,
    selection: Selection,
    *,
    after: int,
    until: int,
    limit: int | None,
    backwards: bool,
) -> Iterator[list[StoredEvent]]:
    left = limit
    while after < until and (left is None or left > 0):
        size = PAGE_EVENTS if left is None or not selection.is_exact else min(PAGE_EVENTS, left)
        query = selection.page(after=after, until=until, limit=size, backwards=backwards)
        with lend() as connection:
            found = database.page(connection, query)
        wanted = found if selection.is_exact else [event for event in found if selection.wants(event)]
        yield wanted[:left]
        if len(found) < size:
            return
        if backwards:
            until = found[-1].position - 1
        else:
            after = found[-1].position
        left = None if left is None else left - len(wanted)


def _check_moment(value: Any, *, name: str) -> datetime | None:
    if value is None or (isinstance(value, datetime) and value.tzinfo is not None):
        return value
    raise UsageError(f"{name}={value!r} is no point in time", remedy="give a datetime with a time zone")


def stream_pages(database: Database, lend: Lend, stream: str, *, after_version: int) -> Iterator[list[StoredEvent]]:
    """Read one stream, page by page, up to its last event that the connection can see.

    The high-water mark does not matter here: the versions of a stream have no holes, and whoever appends one has seen
    the one before.
    """
    while True:
        query = PageQuery(after=0, until=POSITION_MAX, limit=PAGE_EVENTS, stream=stream, after_version=after_version)
        with lend() as connection:
            page = database.page(connection, query)
        if page:
            yield page
            after_version = page[-1].version
        if len(page) < PAGE_EVENTS:
            return

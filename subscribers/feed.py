"""Reads the log for all subscribers of one worker, and decodes each event once.

Subscribers at the same place share a page. A poll asks for the head alone, which is one cheap read; the high-water mark
is asked for only when the head has moved past it.

Who wants few types, and is far behind, is given sparse pages: read by the index of types, they hold what it wants and
none of what lies between. Nothing is skipped by that: at or below the mark everything has appeared, so whatever a
statement does not find there by type is not there.

Nothing here outlives a lost connection, whoever has lost it, nor an error of the database: after a crash or a failover,
or when a log is put back to a copy of it, what was read may be gone, and its positions given out again. `Seen` is the
second guard, for what somebody has in hand by then.

A mark says nothing of another server, which may have lost what it counts, and have other appends on their way below it.
So it holds on the connection that told it, and is asked again where a page is read on another: that one may lead to a
standby that has been promoted. Behind a pooler nobody knows, and both are read in one transaction.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from eventlog.bell import Look
from eventlog.database import Lent
from eventlog.event_types import decode_data, is_immutable, with_data
from eventlog.events import Recorded, StoredEvent
from eventlog.log import EventLog
from eventlog.page_sql import TYPES_MERGED_MAX
from eventlog.query import PageQuery

PAGE_EVENTS = 2_000
"""Each page costs an effect two commits, of which each takes about as long as reading a few hundred events."""
PAGES_KEPT = 8

SPARSE_BEHIND_PAGES = 4
"""So many full pages have to lie ahead before any is read by types: nearer to the head subscribers share full ones."""
SPARSE_SHARE = 20
"""Who wanted less than one event in so many of the last full page is given a sparse one. By its index an event costs a
database a few times what it costs in a row of them, and each one that is not wanted costs the worker as much as one
that is."""


class FeedItem(msgspec.Struct, eq=False, gc=False):
    """One event of a page. Data that nobody can change is decoded once for all subscribers; other data for each call,
    so that what one handler does to it is not seen by the next. What no handler asks for is not made.

    Nothing it holds refers back to it, so the garbage collector need not look at it.
    """

    stored: StoredEvent
    _data: Any = msgspec.UNSET
    _recorded: Recorded[Any] | None = None
    hashed: tuple[object, int] | None = None
    """The rule that was last asked for the hash of the key, and the hash: at once, since threads share the item."""

    @property
    def position(self) -> int:
        return self.stored.position

    @property
    def type(self) -> str:
        return self.stored.type

    def data(self) -> Any:
        """Return the decoded data. Raises `UndecodableEventError`."""
        if self._data is not msgspec.UNSET:
            return self._data
        data = decode_data(self.stored)
        if is_immutable(data):
            self._data = data
        return data

    def recorded(self) -> Recorded[Any]:
        """Return the decoded event. Raises `UndecodableEventError`."""
        if self._recorded is not None:
            return self._recorded
        recorded = with_data(self.stored, self.data())
        if self._data is not msgspec.UNSET and not recorded.metadata:
            self._recorded = recorded
        return recorded

    def recorded_with(self, data: Any) -> Recorded[Any]:
        """Return the event with data that has been decoded before. Raises `UndecodableEventError`."""
        return self.recorded() if data is self._data else with_data(self.stored, data)


class Page:
    """A stretch of the log: every event with after < position <= scanned_through.

    A sparse one has every event of some types, and no other. Its `ending` is the last event of the log, of whatever
    type, when it was read, at or after what it reaches to. A full page has none, it knows all its events; what it
    reaches to beyond the last of them are positions that nothing had come to.
    """

    __slots__ = ("after", "ending", "items", "scanned_through")

    def __init__(
        self, *, after: int, items: list[FeedItem], scanned_through: int, ending: StoredEvent | None = None
    ) -> None:
        self.after = after
        self.items = items
        self.scanned_through = scanned_through
        self.ending = ending

    @property
    def last_event(self) -> int:
        """The position of the last event that it reaches to, or where it begins."""
        if self.ending is not None:
            return self.scanned_through
        return self.items[-1].position if self.items else self.after

    def following(self, position: int) -> "Page":
        """Return the part of the page that follows a position within it."""
        rest = [item for item in self.items if item.position > position]
        return Page(after=position, items=rest, scanned_through=self.scanned_through, ending=self.ending)

    def until(self, position: int, *, scanned_through: int) -> "Page":
        """Return the part of the page up to a position within it."""
        first = [item for item in self.items if item.position <= position]
        return Page(after=self.after, items=first, scanned_through=scanned_through, ending=self.ending)


class Feed:
    """The log as the subscribers of one worker read it. Safe to share between its threads.

    With `only_to_events` a page reaches to its last event and never beyond, and is a full one: for those who keep the
    id of the event that their checkpoint stands at, which may be any.
    """

    def __init__(self, log: EventLog, *, only_to_events: bool = False) -> None:
        self._log = log
        self._only_to_events = only_to_events
        self._lock = threading.Lock()
        self._mark = 0
        self._asked_on: object = None
        """The connection that told the mark. Another one may lead to another server, where it says nothing."""
        self._head = 0
        self._moves = 0
        self._forgotten = 0
        self._known_as_of = self._as_of()
        self._pages: OrderedDict[int, Page] = OrderedDict()
        self._sparse = SparsePages(log, marked=self._marked)

    @property
    def mark(self) -> int:
        """The high-water mark as last read."""
        return self._mark

    @property
    def moves(self) -> int:
        """How often the mark has been seen to move. It may go back and forth, so the mark itself does not tell."""
        return self._moves

    @property
    def in_flight(self) -> bool:
        """Whether positions have been given out that are not safe to read yet, as last seen."""
        return self._mark < self._head

    @property
    def is_stale(self) -> bool:
        """Whether what was read is to be forgotten, and nobody has looked again since."""
        return self._known_as_of != self._as_of()

    def refresh(self) -> int:
        """Look whether there is more to read, and return the high-water mark. One query while nothing moves."""
        database = self._log.database
        as_of = self._as_of()
        with database.quick() as connection:
            session = database.session(connection)
            head = mark = database.head(connection)
            if head != self._mark or not self._was_asked_on(session):
                mark = database.high_water_mark(connection)
        with self._lock:
            if as_of != self._as_of():
                # Who was asked may not be who is asked for the events.
                return mark
            if as_of != self._known_as_of:
                self._known_as_of = as_of
                self._drop()
            self._saw(head=head, mark=mark, session=session)
        return mark

    def saw(self, look: Look) -> None:
        """Take over what somebody else has looked at."""
        with self._lock:
            self._saw(head=look.head, mark=look.high_water_mark, session=look.session)

    def may_leave_out(self, after: int) -> bool:
        """Whether so much follows a position that a page may be sparse: if not, nobody need say what is wanted."""
        return not self._only_to_events and self._mark - after > SPARSE_BEHIND_PAGES * PAGE_EVENTS

    def page(self, *, after: int, until: int | None = None, types: frozenset[str] | None = None) -> Page:
        """Return events that follow a position, at most a page of them, none past the mark last read nor `until`.

        `types` are the names of all that is wanted. Others may be left out then; with None, none are. What is stale is
        looked at anew; a page has nothing where a connection is lost again meanwhile.
        """
        if self.is_stale:
            self.refresh()
        with self._lock:
            if self.is_stale:
                return Page(after=after, items=[], scanned_through=after)
            end = self._mark if until is None else min(until, self._mark)
            page = self._sparse_or_full(after, types)
        if page.scanned_through <= end:
            return page
        through = max(after, end)
        if self._only_to_events:
            through = max((item.position for item in page.items if item.position <= end), default=after)
        return page.until(end, scanned_through=through)

    def id_at(self, position: int) -> str | None:
        """Return the id of the event at a position, from the pages read or from the log; None where there is none."""
        with self._lock:
            for page in self._pages.values():
                if page.after < position <= page.scanned_through:
                    found = next((item.stored for item in page.items if item.position == position), None)
                    return None if found is None else str(found.id)
        with self._log.database.reader() as connection:
            stored = self._log.database.event_at(connection, position)
        return None if stored is None else str(stored.id)

    def _reach(self, items: list[FeedItem], after: int, through: int) -> int:
        if not self._only_to_events:
            return through
        return items[-1].position if items else after

    def forget(self) -> None:
        """Drop what was read: the connection it came from is gone, and who answers next may know another log."""
        with self._lock:
            self._forgotten += 1
            self._drop()

    def _as_of(self) -> tuple[int, int]:
        """What was read holds while this stays as it was."""
        return self._log.database.losses, self._forgotten

    def _drop(self) -> None:
        self._pages.clear()
        self._sparse.clear()
        self._saw(head=0, mark=0, session=None)

    def _saw(self, *, head: int, mark: int, session: object) -> None:
        if mark != self._mark:
            self._moves += 1
        self._head, self._mark, self._asked_on = head, mark, session

    def _was_asked_on(self, session: object) -> bool:
        return session is not None and session is self._asked_on

    def _marked(self, connection: Lent) -> int:
        """Return the mark up to which events can be read on a connection, which is asked where another one told it."""
        database = self._log.database
        session = database.session(connection)
        if self._was_asked_on(session):
            return self._mark
        mark = database.high_water_mark(connection)
        if mark >= self._mark:
            self._asked_on = session
        return min(mark, self._mark)

    def _sparse_or_full(self, after: int, types: frozenset[str] | None) -> Page:
        """A full page that is kept costs nothing, whoever it was read for."""
        page = kept_page(self._pages.values(), after)
        if types is None or not self.may_leave_out(after):
            return page or self._read(after)
        if page is None:
            page = self._sparse.page(types, after=after)
        if page is None:
            page = self._read(after)
        if page.ending is None:
            self._sparse.judge(page, types)
        return page

    def _read(self, after: int) -> Page:
        database = self._log.database
        with database.steady() as connection:
            mark = self._marked(connection)
            query = PageQuery(after=after, until=mark, limit=PAGE_EVENTS)
            rows = database.page(connection, query) if after < mark else []
        items = list(map(FeedItem, rows))
        through = rows[-1].position if len(rows) == PAGE_EVENTS else self._reach(items, after, max(after, mark))
        page = Page(after=after, items=items, scanned_through=through)
        if rows:
            self._pages[after] = page
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return page


class SparsePages:
    """The pages of a feed that were read by types, and whose turn it is to have such. Used under the feed's lock."""

    def __init__(self, log: EventLog, *, marked: Callable[[Lent], int]) -> None:
        self._log = log
        self._marked = marked
        self._pages: OrderedDict[tuple[frozenset[str], int], Page] = OrderedDict()
        self._rare: set[frozenset[str]] = set()

    def clear(self) -> None:
        """Drop what was read."""
        self._pages.clear()

    def page(self, types: frozenset[str], *, after: int) -> Page | None:
        """Return a page by types; None for those that are to have a full one."""
        if not 0 < len(types) <= TYPES_MERGED_MAX:
            return None
        page = kept_page((page for (of, _), page in self._pages.items() if of == types), after)
        if page is None and types in self._rare:
            page = self._read(types, after=after)
        return page

    def judge(self, page: Page, types: frozenset[str]) -> None:
        """Decide by how much is wanted of a full page whether the next is to be sparse; a part of one says little."""
        if len(page.items) == PAGE_EVENTS:
            wanted = sum(item.stored.type in types for item in page.items)
            if wanted * SPARSE_SHARE < PAGE_EVENTS:
                self._rare.add(types)
            else:
                self._rare.discard(types)

    def _read(self, types: frozenset[str], *, after: int) -> Page | None:
        """Read two statements: the last event that there is, and what is wanted up to there.

        In this order. Should somebody else answer the second one, who has lost what the first was told of, then the
        page's ending is in no log any more, and no checkpoint moves by it. The other way round it could be one that is
        there, and the page have missed what stands before it.
        """
        database = self._log.database
        with database.steady() as connection:
            mark = self._marked(connection)
            last = database.page(connection, PageQuery(after=after, until=mark, limit=1, backwards=True))
            if not last:
                return None
            (ending,) = last
            query = PageQuery(after=after, until=ending.position, limit=PAGE_EVENTS, types=tuple(sorted(types)))
            rows = database.page(connection, query)
        through = rows[-1].position if len(rows) == PAGE_EVENTS else ending.position
        if len(rows) * SPARSE_SHARE > through - after:
            self._rare.discard(types)
        page = Page(after=after, items=[*map(FeedItem, rows)], scanned_through=through, ending=ending)
        self._pages[types, after] = page
        if len(self._pages) > PAGES_KEPT:
            self._pages.popitem(last=False)
        return page


def kept_page(pages: Iterable[Page], after: int) -> Page | None:
    """Return what follows a position, of the first page that has it."""
    for page in pages:
        if page.after <= after < page.scanned_through:
            return page if page.after == after else page.following(after)
    return None

"""Reads the log for all subscribers of one worker, and decodes each event once.

Subscribers at the same place share a page. A poll asks for the head alone, which is one cheap read; the high-water mark
is asked for only when the head has moved past it. Nothing here outlives a lost connection, whoever has lost it, nor
an error of the database: after a crash or a failover, or when a log is put back to a copy of it, what was read may be
gone, and its positions given out again. `Seen` is the second guard, for what somebody has in hand by then.
"""

import threading
from collections import OrderedDict
from typing import Any

import msgspec

from eventlog.bell import Look
from eventlog.event_types import decode_data, is_immutable, with_data
from eventlog.events import Recorded, StoredEvent
from eventlog.log import EventLog
from eventlog.query import PageQuery

PAGE_EVENTS = 2_000
"""Each page costs an effect two commits, of which each takes about as long as reading a few hundred events."""
PAGES_KEPT = 8


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
    """A stretch of the log: every event with after < position <= scanned_through."""

    __slots__ = ("after", "items", "scanned_through")

    def __init__(self, *, after: int, items: list[FeedItem], scanned_through: int) -> None:
        self.after = after
        self.items = items
        self.scanned_through = scanned_through

    def following(self, position: int) -> "Page":
        """Return the part of the page that follows a position within it."""
        rest = [item for item in self.items if item.position > position]
        return Page(after=position, items=rest, scanned_through=self.scanned_through)


class Feed:
    """The log as the subscribers of one worker read it. Safe to share between its threads.

    With `only_to_events` a page reaches to its last event and never beyond: for those who keep that event's id.
    """

    def __init__(self, log: EventLog, *, only_to_events: bool = False) -> None:
        self._log = log
        self._only_to_events = only_to_events
        self._lock = threading.Lock()
        self._mark = 0
        self._head = 0
        self._moves = 0
        self._times_forgotten = self._refreshed_after = 0
        self._losses = log.database.losses
        self._pages: OrderedDict[int, Page] = OrderedDict()

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
        """Whether a connection has been lost since the last look: nothing is known then, and a page has nothing."""
        return self._losses != self._log.database.losses

    def refresh(self) -> int:
        """Look whether there is more to read, and return the high-water mark. One query while nothing moves."""
        database = self._log.database
        losses, times_forgotten = database.losses, self._times_forgotten
        with database.quick() as connection:
            head = mark = database.head(connection)
            if head != self._mark:
                mark = database.high_water_mark(connection)
        with self._lock:
            if times_forgotten != self._times_forgotten:
                # Who was asked may not be who is asked for the events.
                return mark
            self._refreshed_after = times_forgotten
            if losses != self._losses:
                self._losses = losses
                self._pages.clear()
                self._saw(head=0, mark=0)
            self._saw(head=head, mark=mark)
        return mark

    def saw(self, look: Look) -> None:
        """Take over what somebody else has looked at."""
        with self._lock:
            self._saw(head=look.head, mark=look.high_water_mark)

    def page(self, *, after: int, until: int | None = None) -> Page:
        """Return events that follow a position, at most a page of them, none past the mark last read nor `until`."""
        if self._refreshed_after != self._times_forgotten:
            self.refresh()
        with self._lock:
            if self.is_stale:
                return Page(after=after, items=[], scanned_through=after)
            end = self._mark if until is None else min(until, self._mark)
            page = self._kept(after)
            if page is None:
                page = self._read(after)
        if page.scanned_through <= end:
            return page
        within = [item for item in page.items if item.position <= end]
        return Page(after=page.after, items=within, scanned_through=self._reach(within, after, max(after, end)))

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
            self._times_forgotten += 1
            self._pages.clear()
            self._saw(head=0, mark=0)

    def _saw(self, *, head: int, mark: int) -> None:
        if mark != self._mark:
            self._moves += 1
        self._head, self._mark = head, mark

    def _kept(self, after: int) -> Page | None:
        for page in self._pages.values():
            if page.after <= after < page.scanned_through:
                return page if page.after == after else page.following(after)
        return None

    def _read(self, after: int) -> Page:
        mark = self._mark
        query = PageQuery(after=after, until=mark, limit=PAGE_EVENTS)
        with self._log.database.quick() as connection:
            rows = self._log.database.page(connection, query) if after < mark else []
        items = list(map(FeedItem, rows))
        through = rows[-1].position if len(rows) == PAGE_EVENTS else self._reach(items, after, max(after, mark))
        page = Page(after=after, items=items, scanned_through=through)
        if rows:
            self._pages[after] = page
            if len(self._pages) > PAGES_KEPT:
                self._pages.popitem(last=False)
        return page

"""What a partition has read of the log since its checkpoint: what its next checkpoint is witnessed by.

A server may lose what others have read already: a standby is promoted that had not been sent it, or a crash takes what
was committed asynchronously. The positions are given out again then, to other events. A worker that has the lost ones
in hand, and whose checkpoint's row is as it was, would move it past the new ones. So a checkpoint moves only if in each
stretch of the log that was read for it the last event is the one that was read: `Fence` compares them.

The last one suffices: while it stands where it was read, nothing can come before it, for a server that has a position
written down never gives out an earlier one again. And there is one for each page, for one page may have been read
before the loss, and the next after it.

Of a sparse page the last event before a checkpoint may not be known, but one at or after it is: the next that is
wanted, or the one that the page ends at. Where that one stands, so does everything before it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from uuid import UUID

import msgspec

from eventlog.events import StoredEvent
from eventlog.subscribers.feed import FeedItem, Page


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What was read at once: after < position <= through. `last` is the id of the last event in it, if there is one.

    In a sparse page it reaches to an event that is known, which may stand after what is asked about.
    """

    after: int
    through: int
    last: UUID | None


class Seen:
    """The stretches that one partition has read since its lease was taken. Used by the thread that has its turn."""

    def __init__(self) -> None:
        self._page: Page | None = None
        self._earlier: list[Stretch] = []

    def forget(self) -> None:
        """Have seen nothing: the lease was taken anew."""
        self._page, self._earlier = None, []

    def read(self, page: Page, *, settled: int) -> None:
        """Note a page that is worked off from now on; it begins where one has come to in the page before.

        What is at or below `settled`, the checkpoint, needs no witness any more.
        """
        if self._page is not None and page.after > self._page.after:
            self._earlier.append(_stretch(self._page, through=page.after))
        self._earlier = [one for one in self._earlier if one.through > settled]
        self._page = page

    def witnesses(self, *, above: int, through: int) -> tuple[Stretch, ...]:
        """Return what was read above one position and at or below another."""
        if self._page is None:
            return ()
        stretches = (*self._earlier, _stretch(self._page, through=through))
        return tuple(one for one in stretches if one.through > max(one.after, above))


def _stretch(page: Page, *, through: int) -> Stretch:
    if page.ending is not None:
        known = _known_from(page, through, page.ending)
        return Stretch(after=page.after, through=max(through, known.position), last=known.id)
    items: Sequence[FeedItem] = page.items
    place = bisect_right(items, through, key=_position)
    return Stretch(after=page.after, through=through, last=items[place - 1].stored.id if place else None)


def _known_from(page: Page, position: int, ending: StoredEvent) -> StoredEvent:
    """Return the first event at or after a position that a sparse page knows."""
    place = bisect_left(page.items, position, key=_position)
    return page.items[place].stored if place < len(page.items) else ending


def _position(item: FeedItem) -> int:
    return item.stored.position

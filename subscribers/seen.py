"""What a partition has read of the log since its checkpoint: what its next checkpoint is witnessed by.

A server may lose what others have read already: a standby is promoted that had not been sent it, or a crash takes what
was committed asynchronously. The positions are given out again then, to other events. A worker that has the lost ones
in hand, and whose checkpoint's row is as it was, would move it past the new ones. So a checkpoint moves only if in each
stretch of the log that was read for it the last event is the one that was read: `Fence` compares them.

One suffices: while it stands where it was read, nothing can come before it, for a server that has a position written
down never gives out an earlier one again. And there is one for each page, for one page may have been read before the
loss, and the next after it.

It is the first event at or after the checkpoint, so that positions which nothing had come to stand before it as well:
they are lost with the server's memory of having given them out. Of a sparse page it is the last event that there was
when it was read, since others are not known.

After the last event of a full page there is none. Such positions are passed in the worker's memory, and the row follows
later, when nothing is in hand; and then the log has to say first that it has given them out, and that nothing is on its
way to them.
"""

from bisect import bisect_left
from collections.abc import Sequence
from uuid import UUID

import msgspec

from eventlog.subscribers.feed import FeedItem, Page


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """What was read at once, and is relied on up to `reached`: of the events with after < position <= through the last
    one has the id `last`, if there is one. `is_open` is whether it stands before what is relied on.
    """

    after: int
    reached: int
    through: int
    last: UUID | None
    is_open: bool = False


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
            self._earlier.append(_stretch(self._page, reached=page.after))
        self._earlier = [one for one in self._earlier if one.reached > settled]
        self._page = page

    def witnesses(self, *, above: int, through: int) -> tuple[Stretch, ...]:
        """Return what was read above one position and at or below another."""
        if self._page is None:
            return ()
        stretches = (*self._earlier, _stretch(self._page, reached=through))
        return tuple(one for one in stretches if one.reached > max(one.after, above))


def _stretch(page: Page, *, reached: int) -> Stretch:
    if page.ending is not None:
        through = max(reached, page.ending.position)
        return Stretch(after=page.after, reached=reached, through=through, last=page.ending.id)
    items: Sequence[FeedItem] = page.items
    place = bisect_left(items, reached, key=_position)
    if place < len(items):
        witness = items[place].stored
        return Stretch(after=page.after, reached=reached, through=witness.position, last=witness.id)
    last = items[-1].stored.id if items else None
    return Stretch(after=page.after, reached=reached, through=reached, last=last, is_open=True)


def _position(item: FeedItem) -> int:
    return item.stored.position

"""What a partition has read of the log since its checkpoint: the witness that its next checkpoint is told with.

A server may lose what others have read already: a standby is promoted that had not been sent it, or a crash takes what
was committed asynchronously. The positions are given out again then, to other events. A worker that has the lost ones
in hand, and whose checkpoint's row is as it was, would move it past the new ones. So a checkpoint moves only if the
last event that the log has up to there is the last one that was read: `Lease.fence` compares the two.

That one suffices: while it stands where it was read, so does all before it, for a server that has the later position
written down never gives out an earlier one again.
"""

from bisect import bisect_right
from collections.abc import Sequence
from uuid import UUID

import msgspec

from eventlog.subscribers.feed import FeedItem, Page


class Witness(msgspec.Struct, frozen=True):
    """The last event between two checkpoints, by its id; None when there is none."""

    id: UUID | None


class Seen:
    """The pages of one partition since its lease was taken. Used by the thread that has its turn."""

    def __init__(self) -> None:
        self._items: Sequence[FeedItem] = ()
        self._before: FeedItem | None = None

    def forget(self) -> None:
        """Have seen nothing: the lease was taken anew."""
        self._items, self._before = (), None

    def read(self, page: Page) -> None:
        """Note a page that is being worked off; the next begins within it, or at its end."""
        self._before = self._last_through(page.after)
        self._items = page.items

    def witness(self, *, above: int, through: int) -> Witness:
        """Return the last event that was read above one position and at or below another."""
        last = self._last_through(through)
        return Witness(None if last is None or last.position <= above else last.stored.id)

    def _last_through(self, position: int) -> FeedItem | None:
        place = bisect_right(self._items, position, key=_position)
        return self._items[place - 1] if place else self._before


def _position(item: FeedItem) -> int:
    return item.stored.position

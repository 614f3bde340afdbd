"""What comes of a turn and of a batch, and how a transaction with handlers' writes can end otherwise."""

from dataclasses import dataclass, field

import msgspec

from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.ledger import EntryState, NewEntry


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: events handled, attempts that failed, and whether anything moved."""

    handled: int = 0
    failed: int = 0
    moved: bool = False

    def and_then(self, more: "Delivered") -> "Delivered":
        """Add what was done after it."""
        return Delivered(
            handled=self.handled + more.handled, failed=self.failed + more.failed, moved=self.moved or more.moved
        )


@dataclass(slots=True, kw_only=True)
class Ran:
    """What came of a batch, so far."""

    done: int = 0
    """How many of its events are through: handled, or written into the ledger and passed."""
    entries: list[NewEntry] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    """Keys that an entry of this batch holds back."""
    succeeded: set[str] = field(default_factory=set)
    """The handlers that had success."""
    stays: NewEntry | None = None
    """The entry that delivery waits at: nothing passes it."""
    outage: str | None = None
    """The handler whose outage begins with this."""
    again_through: int = 0
    """A list failed whose last event this is: its events have to be run one by one."""

    def add(self, entry: NewEntry) -> None:
        self.entries.append(entry)
        if entry.state not in (EntryState.SKIPPED, EntryState.RESOLVED):
            self.keys.add(entry.key)

    @property
    def failed(self) -> int:
        """How many of the calls failed; what a handler gave up by itself is handled."""
        return sum(one.attempt is not None and one.state is not EntryState.SKIPPED for one in self.entries)

    def delivered(self) -> Delivered:
        blocked = sum(one.attempt is None for one in self.entries)
        passed = self.failed - (1 if self.stays is not None else 0)
        return Delivered(handled=self.done - passed - blocked, failed=self.failed, moved=True)


class HandlerFailedError(Exception):
    """A handler has failed inside a transaction, which must now be rolled back."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(type(error).__name__))
        self.error = error


class InterruptedTurnError(Exception):
    """The database ended a transaction under a handler's feet; that says nothing about the event `item`, once."""

    def __init__(self, item: FeedItem, error: BaseException) -> None:
        super().__init__(str(error))
        self.item = item
        self.error = error


class EventFailedError(Exception):
    """A call for several events has failed at one of them, at this position; `error` is what was raised."""

    def __init__(self, position: int, error: BaseException) -> None:
        super().__init__(f"event {position}: {type(error).__name__}: {error}")
        self.position = position
        self.error = error


class CulpritError(Exception):
    """A transactional batch was rolled back because of one event; `item` is None when it was not one event's doing, and
    everything up to `through` has to be run one by one.
    """

    def __init__(self, item: FeedItem | None, error: BaseException, *, through: int, seconds: float) -> None:
        super().__init__(str(type(error).__name__))
        self.item = item
        self.error = error
        self.through = through
        self.seconds = seconds

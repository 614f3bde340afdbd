"""Who may run a partition, until when, and the fence that every one of a worker's transactions has to pass.

A lease is a row with an expiry on the database's clock, renewed by heartbeat. Taking it draws a new epoch. The epoch,
the owner and the position read from stand in the WHERE of the fence (`fence.py`), so a worker that was overtaken, or
whose checkpoint an operator moved, changes no row and rolls back. The position is part of it because a COMMIT whose
answer was lost would else be applied twice.

    free ----take----> held ----release----> free
                        |  ^
                  expiry|  |heartbeat, every third of the lease
                        v  |
                      expired ----take by another: new epoch, what was in hand is in doubt----> held
"""

import threading
from collections.abc import Callable
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, literal, or_, select, update

from eventlog.ahead import Ahead
from eventlog.bell import ring
from eventlog.clock import Clock
from eventlog.database import Database, Lent, events_of
from eventlog.errors import LeaseLostError, RestoredLogError
from eventlog.schema.timestamps import database_now, seconds_from_now
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.fence import Fence, Progress
from eventlog.subscribers.registration import RowLock, SubscriberRow, check_contract, read_subscriber


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What taking a lease found. `died` is whether the owner before has neither released it nor is ourselves;
    `outage_handler` and `outage_since`, the outage it left; `key_name`, what idempotency keys begin with.
    """

    epoch: int
    progress: Progress
    died: bool
    outage_handler: str | None
    outage_since: datetime | None
    key_name: str


class Lease:
    """The right to move one partition's checkpoint, as its owner knows it. Shared with the heartbeat's thread."""

    def __init__(
        self,
        *,
        database: Database,
        subscriber: str,
        partition: int,
        owner: str,
        seconds: float,
        clock: Clock,
        id_at: Callable[[int], str | None] | None = None,
    ) -> None:
        self.database = database
        self._id_at = id_at
        self.subscriber = subscriber
        self.partition = partition
        self.owner = owner
        self.seconds = seconds
        self.epoch = 0
        self.progress = Progress(position=0, in_hand=0, handled_through=0)
        self._clock = clock
        self._fence = Fence(database, subscriber=subscriber, partition=partition, owner=owner, seconds=seconds)
        self._valid_until = 0.0
        self._lock = threading.Lock()
        self._held = False

    @property
    def held(self) -> bool:
        """Whether we believe to hold it; the fence decides."""
        return self._held

    def take(self, subscriber: Subscriber) -> Taken | None:
        """Take the lease if it is free or has expired (T1); None while it belongs to somebody else, or is paused.

        One that we have lost sight of (a transaction whose outcome is not known) may be taken again at once.
        Raises `UnknownSubscriberError`, `RefusedError` when the code's contract is not the registered one, and
        `RestoredLogError`.
        """
        began = self._clock.monotonic()
        with self.database.transaction() as connection:
            row = read_subscriber(connection, self.database, self.subscriber, lock=RowLock.SHARED)
            check_contract(row, subscriber, self.database)
            taken = self._take(connection, row) if row.state == "running" else None
        if taken is not None:
            with self._lock:
                self.epoch, self.progress = taken.epoch, taken.progress
                self._held, self._valid_until = True, began + self.seconds
        return taken

    def check(self) -> None:
        """Raise `LeaseLostError` when the lease may have run out: asked before each call of a handler."""
        self.valid_until(self._clock.monotonic())

    def valid_until(self, now: float) -> float:
        """Return until when the lease stands for certain, on the monotonic clock. Raises `LeaseLostError`."""
        if not (self._held and now < self._valid_until):
            raise self._lost("its time ran out before it was renewed")
        return self._valid_until

    def fence(self, connection: Lent, progress: Progress) -> None:
        """Move the checkpoint within a transaction, and hold its row; raise `LeaseLostError` when no longer the owner.

        It comes after the handlers' writes and before every ledger row, in each of a worker's transactions. Call
        `passed` with the same progress once the transaction has committed.
        """
        if not self._passes_fence(connection, progress):
            raise self._lost("another worker or an operator has moved its checkpoint, or what was read is in no log")

    def passed(self, progress: Progress, *, since: float) -> None:
        """Note that a transaction with this fence has committed; it began at `since` on the monotonic clock."""
        with self._lock:
            self.progress = progress
            self._valid_until = max(self._valid_until, since + self.seconds)

    def now(self) -> float:
        """The moment a renewal is asked for, on the monotonic clock."""
        return self._clock.monotonic()

    def renewed(self, epoch: int, *, since: float) -> None:
        """Note that the expiry was pushed out (T5), as asked at `since`. Nothing, when it was taken anew meanwhile."""
        with self._lock:
            if self.epoch == epoch:
                self._valid_until = max(self._valid_until, since + self.seconds)

    def lost(self, epoch: int) -> None:
        """Note that the lease of this epoch is no longer ours. Nothing, when it was taken anew meanwhile."""
        with self._lock:
            if self.epoch == epoch:
                self._held = False

    def release(self, passed: Progress | None = None) -> None:
        """Let others have it at once (T6), and wake them. Nothing, when it is not ours.

        `passed` is how far the log has been passed without anything to do, if that is beyond the checkpoint. What is
        still announced then is left in hand: a call was interrupted, or the doubt that a dead owner has left was not
        cleared up. Delivered at most once, it must not be handed out again.
        """
        if not self._held:
            return
        in_hand = self.progress.in_hand
        self.forget()
        table = self.database.tables.checkpoints
        with self.database.transaction() as connection:
            has_passed = passed is not None and self._passes_fence(connection, passed)
            position = passed.position if passed is not None and has_passed else self.progress.position
            connection.execute(
                update(table)
                .where(*self._ours(self.epoch), table.c.position == position)
                .values(owner=None, expires_at=None, in_hand=max(position, in_hand))
            )
            ring(connection, self.database.tables)

    def forget(self) -> None:
        """Stop relying on it: it has to be taken again before anything else is done."""
        with self._lock:
            self._held = False

    def _passes_fence(self, connection: Lent, progress: Progress) -> bool:
        return self._fence.passes(
            connection,
            progress,
            epoch=self.epoch,
            before=self.progress.position,
            event=self._event_at(progress.position),
        )

    def _take(self, connection: Connection, subscriber: SubscriberRow) -> Taken | None:
        table = self.database.tables.checkpoints
        mine = (table.c.subscriber == self.subscriber) & (table.c.partition == self.partition)
        free = or_(table.c.owner.is_(None), table.c.owner == self.owner, table.c.expires_at <= database_now())
        row = connection.execute(select(table).where(mine, free).with_for_update()).one_or_none()
        if row is None:
            return None
        self._check_log(connection, subscriber, position=row.position, event_id=row.event_id)
        epoch = self.database.next_epoch(connection)
        connection.execute(
            update(table)
            .where(mine)
            .values(epoch=epoch, owner=self.owner, expires_at=seconds_from_now(literal(self.seconds)))
        )
        progress = Progress(position=row.position, in_hand=row.in_hand, handled_through=row.handled_through)
        return Taken(
            epoch=epoch,
            progress=progress,
            died=row.owner not in (None, self.owner),
            outage_handler=row.outage_handler,
            outage_since=row.outage_since,
            key_name=subscriber.first_name or subscriber.name,
        )

    def _event_at(self, position: int) -> dict[str, str | None]:
        """In another database than the log's, a checkpoint keeps the id of the event that it stands at."""
        if self._id_at is None or position == self.progress.position:
            return {}
        return {"at_event": self._id_at(position)}

    def _check_log(
        self, connection: Connection, subscriber: SubscriberRow, *, position: int, event_id: str | None
    ) -> None:
        """Raise `RestoredLogError` where the checkpoint stands beyond the log: it would pass by what comes there.

        Where the log is elsewhere it must also still have the event that the checkpoint stands at.
        """
        with events_of(self.database, connection) as (log, there):
            head = log.head(there)
            stored = log.event_at(there, position) if event_id is not None and position <= head else None
        if position <= head and (event_id is None or (stored is not None and str(stored.id) == event_id)):
            return
        ahead = Ahead(
            subscriber=self.subscriber,
            kind=subscriber.kind,
            partition=self.partition,
            position=position,
            head=head,
            event_id=event_id,
            elsewhere=self.database.follows is not None,
        )
        raise RestoredLogError(ahead.said, remedy=ahead.remedy)

    def _ours(self, epoch: int) -> tuple[ColumnElement[bool], ...]:
        """The row as it is while the lease of this epoch is ours."""
        table = self.database.tables.checkpoints
        return (
            table.c.subscriber == self.subscriber,
            table.c.partition == self.partition,
            table.c.epoch == epoch,
            table.c.owner == self.owner,
        )

    def _lost(self, why: str) -> LeaseLostError:
        self.forget()
        return LeaseLostError(
            f"{self.subscriber}/{self.partition}: the lease of epoch {self.epoch} is lost: {why}",
            remedy="nothing to do: the worker rolls back, and takes the lease again when it is free",
        )

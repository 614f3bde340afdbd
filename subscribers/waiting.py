"""Waiting until a subscriber has come to an event: reading one's own writes (P12).

What is waited for is the last event, up to the one named, that concerns each partition. A checkpoint that has come to
it has passed everything, whether or not its row says so already: rows are not written for events that nobody wants.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, or_, select

from eventlog.database import translated
from eventlog.errors import NotHandledError, UsageError, WaitTimeoutError
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.registration import SubscriberRow, read_subscriber
from eventlog.subscribers.runtime import Runtime

PAUSE_SECONDS_MIN = 0.002
PAUSE_SECONDS_MAX = 0.05

GIVEN_UP = (EntryState.PARKED, EntryState.BLOCKED, EntryState.SKIPPED)


def wait_for(runtime: Runtime, subscriber: Subscriber, position: int, *, timeout_seconds: float) -> None:
    """Return when a subscriber is done with everything up to a position. Polls: one or two cheap queries each time.

    Raises `NotHandledError` when the event there is parked, blocked or skipped, or when the subscriber has halted
    before it; `WaitTimeoutError`; and `UsageError` within the transaction that has appended it.
    """
    if runtime.log.holds_open(position):
        raise UsageError(
            f"event {position} belongs to a transaction that is still open: nobody can see it before it is committed",
            remedy="commit first, and wait then",
        )
    clock = runtime.clock
    ends, pause = clock.monotonic() + timeout_seconds, PAUSE_SECONDS_MIN
    waiting = _Waiting(runtime, subscriber, position)
    with translated(runtime.database):
        while not waiting.is_over():
            left = ends - clock.monotonic()
            if left <= 0:
                raise waiting.timed_out(timeout_seconds)
            if clock.wait(runtime.stop, min(pause, left)):
                return
            pause = min(PAUSE_SECONDS_MAX, pause * 2)


class _Waiting:
    def __init__(self, runtime: Runtime, subscriber: Subscriber, position: int) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._position = position
        self._wanted: dict[int, int] | None = None
        self._checkpoints: Mapping[int, int] = {}
        self._mark = 0

    def is_over(self) -> bool:
        with self._runtime.database.reader() as connection:
            row = read_subscriber(connection, self._runtime.database, self._subscriber.name)
            self._checkpoints = self._read_checkpoints(connection)
            if self._is_tried_again(connection, row):
                return False
        if min(self._checkpoints.values()) >= self._position:
            return True
        if self._mark < self._position:
            self._mark = self._runtime.log.high_water_mark()
            if self._mark < self._position:
                return False
        if self._wanted is None:
            self._wanted = self._last_wanted()
        return all(self._checkpoints[partition] >= last for partition, last in self._wanted.items())

    def timed_out(self, seconds: float) -> WaitTimeoutError:
        least = min(self._checkpoints.values())
        return WaitTimeoutError(
            f"{self._subscriber.name} has not come to event {self._position:,} in {seconds:g} s: its checkpoint is at"
            f" {least:,}",
            remedy="is a worker running? `eventlog status` tells how far it is, and whether it is paused or halted",
        )

    def _read_checkpoints(self, connection: Connection) -> dict[int, int]:
        table = self._runtime.database.tables.checkpoints
        question = select(table.c.partition, table.c.position).where(table.c.subscriber == self._subscriber.name)
        return {row.partition: row.position for row in connection.execute(question)}

    def _is_tried_again(self, connection: Connection, row: SubscriberRow) -> bool:
        """Whether the event has failed and will be tried again: under `park` a checkpoint is past it already.

        It must not have failed for good; under `halt`, none before it either.
        """
        table = self._runtime.database.tables.failures
        mine = table.c.subscriber == self._subscriber.name
        conditions = [(table.c.position == self._position) & table.c.state.in_((*GIVEN_UP, EntryState.RETRYING))]
        if row.declaration.on_failure is OnFailure.HALT:
            before = table.c.position.between(min(self._checkpoints.values()) + 1, self._position)
            conditions.append(before & (table.c.state == EntryState.PARKED))
        question = select(table.c.position, table.c.state, table.c.error_type, table.c.message)
        question = question.where(mine, or_(*conditions))
        found = connection.execute(question.order_by(table.c.position).limit(1)).one_or_none()
        if found is not None and found.state != EntryState.RETRYING:
            raise NotHandledError(
                f"event {found.position:,} is {found.state} for {row.name}: {found.error_type}: {found.message}",
                remedy=f"`eventlog failures {row.name}` lists what failed; retry or skip it",
            )
        return found is not None

    def _last_wanted(self) -> dict[int, int]:
        """The last event up to the position that each partition wants, of those that are not there yet."""
        behind = {partition for partition, at in self._checkpoints.items() if at < self._position}
        wanted: dict[int, int] = {}
        events = self._runtime.log.read_stored(
            after=min(self._checkpoints.values()),
            until=self._position,
            types=self._subscriber.routes.patterns,
            backwards=True,
        )
        for stored in events:
            item = FeedItem(stored)
            partition = self._partition_of(item)
            if partition in behind and self._subscriber.routes.find(item.type) is not None:
                wanted.setdefault(partition, item.position)
                if len(wanted) == len(behind):
                    break
        return wanted

    def _partition_of(self, item: FeedItem) -> int:
        if self._subscriber.partitions == 1:
            return 0
        return partition_of(self._subscriber.key.of(item), partitions=self._subscriber.partitions)

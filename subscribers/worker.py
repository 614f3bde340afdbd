"""Runs partitions: until the log has no more for them (`drain`), or until asked to stop (`Worker`).

The only place that starts threads. A worker has one thread that looks for work, a few that take turns with partitions
(so that a slow mail server does not hold a projection up), and one that renews leases.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import msgspec
from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import DBAPIError

from eventlog.errors import DatabaseError
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import OnFailure
from eventlog.subscribers.delivery import Delivered
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.runtime import Runtime

logger = logging.getLogger("eventlog.worker")

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.25
LOOK_AT_LEDGER_SECONDS = 1.0
RECONNECT_SECONDS_MAX = 30.0
THREADS_MAX = 8


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Events a subscriber handled, and attempts that failed."""

    handled: int = 0
    failed: int = 0


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What a drain did, in all and by subscriber."""

    handled: int
    failed: int
    subscribers: dict[str, Counts]


def drain(
    runtime: Runtime, partitions: Sequence[Partition], *, waiting: Callable[[str], None] | None = None
) -> Drained:
    """Deliver up to the high-water mark at the call, with the retries that are due; then let the leases go.

    Where another worker holds a lease, it is waited for until that worker has come as far, has halted, or is gone.
    `waiting` is told the name of a subscriber that is waited for.
    """
    until = runtime.feed.refresh()
    counts = {partition.subscriber.name: Counts() for partition in partitions}
    heartbeat = Heartbeat(runtime, partitions)
    try:
        with heartbeat:
            left = list(partitions)
            while left and not runtime.stop.is_set():
                left = [partition for partition in left if _drain_turn(partition, until, counts)]
                if left and not any(partition.lease.held for partition in left):
                    left = _wait_for_others(runtime, left, until, waiting)
    finally:
        for partition in partitions:
            partition.lease.release()
    return Drained(
        handled=sum(one.handled for one in counts.values()),
        failed=sum(one.failed for one in counts.values()),
        subscribers=counts,
    )


class Worker:
    """Runs partitions until stopped. `run` blocks; `start` and `stop` run it in a thread of its own."""

    def __init__(self, runtime: Runtime, partitions: Sequence[Partition]) -> None:
        self._runtime = runtime
        self._partitions = list(partitions)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.counts = {partition.subscriber.name: Counts() for partition in partitions}

    def start(self) -> None:
        """Run in a thread until `stop`."""
        self._thread = threading.Thread(target=self._run_in_thread, name="eventlog-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask to stop, wait for the events at hand, and raise what ended the worker before, if anything did."""
        self._runtime.stop.set()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def run(self) -> None:
        """Run until the runtime's stop is set; then finish the events at hand and release the leases.

        A database that goes away is waited for. An error of our own ends the worker.
        """
        with (
            Heartbeat(self._runtime, self._partitions),
            ThreadPoolExecutor(
                max_workers=min(THREADS_MAX, max(1, len(self._partitions))), thread_name_prefix="eventlog-turn"
            ) as pool,
        ):
            try:
                _Loop(self._runtime, self._partitions, pool, self._count).run()
            finally:
                self._runtime.stop.set()
        self._release()

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            logger.exception("the worker has ended")
            self._error = error

    def _count(self, partition: Partition, done: Delivered) -> None:
        _add(self.counts, partition, done)

    def _release(self) -> None:
        for partition in self._partitions:
            try:
                partition.lease.release()
            except (DBAPIError, DatabaseError):
                logger.warning("%s: the lease could not be released, it expires by itself", partition.subscriber.name)


class _Loop:
    """Looks for work and hands it to the pool, until stopped."""

    def __init__(
        self,
        runtime: Runtime,
        partitions: Sequence[Partition],
        pool: ThreadPoolExecutor,
        count: Callable[[Partition, Delivered], None],
    ) -> None:
        self._runtime = runtime
        self._partitions = partitions
        self._pool = pool
        self._count = count
        self._turns: dict[Future[Delivered], Partition] = {}
        self._look_at_ledger_at = 0.0
        self._due: set[str] = set()
        self._idle_seconds = POLL_SECONDS_MIN
        self._reconnect_seconds = 0.0

    def run(self) -> None:
        stop = self._runtime.stop
        while not stop.is_set():
            try:
                self._begin_turns()
                self._end_turns()
            except (DBAPIError, DatabaseError) as error:
                self._wait_for_database(error)
            else:
                self._reconnect_seconds = 0.0

    def _begin_turns(self) -> None:
        mark = self._runtime.feed.refresh()
        now = self._runtime.clock.monotonic()
        look = now >= self._look_at_ledger_at
        if look:
            self._look_at_ledger_at = now + LOOK_AT_LEDGER_SECONDS
            self._forget_what_was_moved()
            self._due = self._with_due_entries()
        busy = {id(partition) for partition in self._turns.values()}
        for partition in self._partitions:
            if id(partition) not in busy and self._has_work(partition, mark, look=look):
                self._turns[self._pool.submit(partition.turn)] = partition

    def _has_work(self, partition: Partition, mark: int, *, look: bool) -> bool:
        if not partition.lease.held:
            return look
        return partition.lease.progress.position < mark or (look and partition.subscriber.name in self._due)

    def _end_turns(self) -> None:
        if not self._turns:
            self._idle()
            return
        ended, _running = wait(self._turns, timeout=POLL_SECONDS_MAX, return_when=FIRST_COMPLETED)
        moved = False
        for turn in ended:
            partition = self._turns.pop(turn)
            done = turn.result()
            moved = moved or done.moved
            self._count(partition, done)
        if moved:
            self._idle_seconds = POLL_SECONDS_MIN
        elif ended:
            self._idle()

    def _idle(self) -> None:
        self._runtime.clock.wait(self._runtime.stop, self._idle_seconds)
        self._idle_seconds = min(POLL_SECONDS_MAX, self._idle_seconds * 2)

    def _forget_what_was_moved(self) -> None:
        """Notice within a second that an operator has moved a checkpoint; the heartbeat would notice later."""
        table = self._runtime.database.tables.checkpoints
        names = [partition.subscriber.name for partition in self._partitions]
        known = {id(partition): partition.lease.epoch for partition in self._partitions if partition.lease.held}
        question = select(table.c.subscriber, table.c.partition, table.c.epoch).where(table.c.subscriber.in_(names))
        with self._runtime.database.reader() as connection:
            epochs = {(row.subscriber, row.partition): row.epoch for row in connection.execute(question)}
        for partition in self._partitions:
            lease = partition.lease
            moved = epochs.get((lease.subscriber, lease.partition)) != lease.epoch
            # A lease taken after we asked has an epoch we have not seen yet, and is left alone.
            if moved and known.get(id(partition)) == lease.epoch:
                lease.forget()

    def _with_due_entries(self) -> set[str]:
        """Name the subscribers that have something due: one query for all of them."""
        table = self._runtime.database.tables.failures
        question = (
            select(table.c.subscriber)
            .where(
                table.c.subscriber.in_([partition.subscriber.name for partition in self._partitions]),
                table.c.state == EntryState.RETRYING,
                table.c.next_attempt_at <= database_now(),
            )
            .distinct()
        )
        with self._runtime.database.reader() as connection:
            return set(connection.scalars(question))

    def _wait_for_database(self, error: Exception) -> None:
        ours = self._runtime.database.translate(error)
        if not self._runtime.database.passing(error) and not isinstance(ours, DatabaseError):
            raise error
        self._runtime.feed.forget()
        for partition in self._partitions:
            partition.lease.forget()
        self._reconnect_seconds = min(RECONNECT_SECONDS_MAX, max(0.1, self._reconnect_seconds * 2))
        logger.warning("the database failed, next look in %.1f s: %s", self._reconnect_seconds, ours or error)
        self._runtime.clock.wait(self._runtime.stop, self._reconnect_seconds)


class Heartbeat:
    """Renews the leases of partitions while its block runs (T5), every third of their length."""

    def __init__(self, runtime: Runtime, partitions: Sequence[Partition]) -> None:
        self._runtime = runtime
        self._partitions = partitions
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="eventlog-heartbeat", daemon=True)

    def __enter__(self) -> "Heartbeat":
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._runtime.clock.wait(self._ended, self._runtime.lease_seconds / 3):
            for partition in self._partitions:
                if partition.lease.held:
                    self._renew(partition)

    def _renew(self, partition: Partition) -> None:
        """One short transaction each: a row that is busy delays no other. A missed beat is made up by the next."""
        try:
            with self._runtime.database.transaction() as connection:
                partition.lease.renew(connection)
        except (DBAPIError, DatabaseError) as error:
            logger.warning("%s: the lease could not be renewed: %s", partition.subscriber.name, error)


def _drain_turn(partition: Partition, until: int, counts: dict[str, Counts]) -> bool:
    """Take one turn; return whether the partition is to have another."""
    done = partition.turn(until=until)
    _add(counts, partition, done)
    if partition.refusal is not None:
        raise partition.refusal
    if done.moved or not partition.lease.held:
        return True
    partition.lease.release()
    return False


def _wait_for_others(
    runtime: Runtime, partitions: list[Partition], until: int, waiting: Callable[[str], None] | None
) -> list[Partition]:
    """Wait a little for partitions other workers hold; return those that are not yet as far as they will come."""
    left = [partition for partition in partitions if not _as_far_as_it_comes(runtime, partition, until)]
    for partition in left:
        if waiting is not None:
            waiting(partition.subscriber.name)
    if left:
        runtime.clock.wait(runtime.stop, POLL_SECONDS_MAX)
    return left


def _as_far_as_it_comes(runtime: Runtime, partition: Partition, until: int) -> bool:
    """Somebody else runs it: is it there, paused, or waiting at a failure?"""
    tables = runtime.database.tables
    mine = tables.checkpoints.c.subscriber == partition.subscriber.name
    here = tables.checkpoints.c.partition == partition.lease.partition
    waited_for = (
        select(func.count())
        .select_from(tables.failures)
        .where(
            tables.failures.c.subscriber == tables.checkpoints.c.subscriber,
            tables.failures.c.position > tables.checkpoints.c.position,
            or_(
                tables.failures.c.state.in_((EntryState.PARKED, EntryState.BLOCKED)),
                and_(
                    tables.failures.c.state == EntryState.RETRYING,
                    tables.failures.c.next_attempt_at > database_now(),
                ),
            ),
        )
        .scalar_subquery()
    )
    question = (
        select(tables.checkpoints.c.position, tables.subscribers.c.state, waited_for)
        .join(tables.subscribers, tables.subscribers.c.name == tables.checkpoints.c.subscriber)
        .where(mine, here)
    )
    with runtime.database.reader() as connection:
        position, state, failures = connection.execute(question).one()
    waits = partition.subscriber.on_failure is OnFailure.HALT and failures > 0
    return bool(position >= until or state != "running" or waits)


def _add(counts: dict[str, Counts], partition: Partition, done: Delivered) -> None:
    before = counts[partition.subscriber.name]
    counts[partition.subscriber.name] = Counts(
        handled=before.handled + done.handled, failed=before.failed + done.failed
    )

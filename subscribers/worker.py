"""Runs partitions: until the log has no more for them (`drain`), or until asked to stop (`Worker`).

A worker has one thread that looks for work, a few that take turns with partitions (so that a slow mail server does not
hold a projection up), and one that renews leases. When there is nothing to do it sleeps beside the log until it is
woken (`eventlog/doorbell.py`); what it has to look at before is in `agenda.py`.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager

import msgspec
from sqlalchemy import and_, func, or_, select
from sqlalchemy.exc import DBAPIError

from eventlog.bell import Look
from eventlog.doorbell import POLL_SECONDS_MAX, POLL_SECONDS_MIN, Sleeper
from eventlog.errors import DatabaseError, RefusedError, first_line
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.agenda import Agenda
from eventlog.subscribers.declaration import OnFailure
from eventlog.subscribers.fleet import Membership
from eventlog.subscribers.heartbeat import Heartbeat
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.results import Delivered
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.trouble import Trouble

logger = logging.getLogger("eventlog.worker")

LINGER_SECONDS = 0.02
"""How long the pauses between polls grow before the worker goes to sleep. While events keep coming it never does, and
whoever appends need not wake it."""

RECONNECT_SECONDS_MAX = 5.0
THREADS_MAX = 8
"""So many partitions take turns at a time, and beside them one replay and one rebuild that is taken into use."""


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
    runtime: Runtime,
    partitions: Sequence[Partition],
    *,
    waiting: Callable[[str], None] | None = None,
    refused: list[RefusedError] | None = None,
) -> Drained:
    """Deliver up to the high-water mark at the call, with the retries that are due; then let the leases go.

    Where another worker holds a lease, it is waited for until that worker has come as far, has halted, or is gone.
    `waiting` is told the name of a subscriber that is waited for. For one that this code may not run an error is added
    to `refused`, or raised at the end without that.
    """
    until = runtime.feed.refresh()
    counts = {partition.subscriber.name: Counts() for partition in partitions}
    heartbeat = Heartbeat(runtime, lambda: partitions)
    try:
        with heartbeat:
            left = list(partitions)
            while left and not runtime.stop.is_set():
                left = [partition for partition in left if _drain_turn(runtime, partition, until, counts)]
                if left and not any(partition.lease.held for partition in left):
                    left = _wait_for_others(runtime, left, until, waiting)
    finally:
        for partition in partitions:
            partition.release()
    errors = {one.subscriber.name: one.refusal for one in partitions if isinstance(one.refusal, RefusedError)}
    if refused is not None:
        refused.extend(errors.values())
    elif errors:
        raise all_refused(list(errors.values()))
    return Drained(
        handled=sum(one.handled for one in counts.values()),
        failed=sum(one.failed for one in counts.values()),
        subscribers=counts,
    )


def all_refused(errors: Sequence[RefusedError]) -> RefusedError:
    """Make one error of several."""
    if len(errors) == 1:
        return errors[0]
    return RefusedError("\n".join(map(str, errors)), remedy="; ".join(dict.fromkeys(one.remedy for one in errors)))


def all_drained(drained: Sequence[Drained]) -> Drained:
    """Sum up what several drains did."""
    return Drained(
        handled=sum(one.handled for one in drained),
        failed=sum(one.failed for one in drained),
        subscribers={name: counts for one in drained for name, counts in one.subscribers.items()},
    )


class Worker:
    """Runs partitions until stopped. `run` blocks; `start` and `stop` run it in a thread of its own."""

    def __init__(self, runtime: Runtime, partitions: Sequence[Partition]) -> None:
        self._runtime = runtime
        self._partitions = list(partitions)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._sleeper: Sleeper | None = None
        self.counts = {partition.subscriber.name: Counts() for partition in partitions}
        self._seen_at: float | None = None

    @property
    def seen_at(self) -> float | None:
        """When its loop has last had an answer of the database, on the runtime's clock; None before the first.

        At work and asleep it looks every few seconds; what is older says that it hangs, or that the database is away.
        """
        return self._seen_at

    def start(self) -> None:
        """Run in a thread until `stop`."""
        self._thread = threading.Thread(target=self._run_in_thread, name="eventlog-worker", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ask to stop, wait for the events at hand, and raise what ended the worker before, if anything did."""
        self._runtime.stop.set()
        if self._sleeper is not None:
            self._sleeper.wake()
        if self._thread is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error

    def wait(self) -> None:
        """Wait until the thread that `start` has begun ends."""
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Run until the runtime's stop is set; then finish the events at hand and release the leases.

        A database that goes away is waited for. An error of our own ends the worker.
        """
        runtime = self._runtime
        membership = Membership(
            runtime.database, owner=runtime.owner, seconds=runtime.lease_seconds, subscribers=self.counts
        )
        agenda = Agenda(runtime, self._partitions)
        with (
            runtime.log.doorbell.sleeper(runtime.stop) as self._sleeper,
            self._joined(membership),
            Heartbeat(runtime, lambda: agenda.partitions, also=(membership, agenda.replays)),
            ThreadPoolExecutor(
                max_workers=min(THREADS_MAX, len(self._partitions)) + 2, thread_name_prefix="eventlog-turn"
            ) as pool,
        ):
            try:
                _Loop(
                    runtime,
                    agenda,
                    pool=pool,
                    sleeper=self._sleeper,
                    count=self._count,
                    seen=self._seen,
                    membership=membership,
                ).run()
            finally:
                runtime.stop.set()
                self._release(agenda)

    @contextmanager
    def _joined(self, membership: Membership) -> Iterator[None]:
        """Be among the workers while the block runs. A database that is away then is the loop's business, not this."""
        with self._said_if_failing():
            membership.join()
        try:
            yield
        finally:
            with self._said_if_failing():
                membership.leave()

    @contextmanager
    def _said_if_failing(self) -> Iterator[None]:
        try:
            yield
        except (DBAPIError, DatabaseError) as error:
            logger.warning("the worker's row could not be written: %s", first_line(error))

    def _run_in_thread(self) -> None:
        try:
            self.run()
        except BaseException as error:
            logger.exception("the worker has ended")
            self._error = error

    def _seen(self) -> None:
        self._seen_at = self._runtime.clock.monotonic()

    def _count(self, partition: Partition, done: Delivered) -> None:
        _add(self.counts, partition, done)

    def _release(self, agenda: Agenda) -> None:
        releases = [partition.release for partition in agenda.partitions]
        for release in (*releases, agenda.replays.release, agenda.rebuilds.release):
            try:
                release()
            except (DBAPIError, DatabaseError):
                logger.warning("a lease could not be released, it expires by itself")


class Workers:
    """Several workers as one, for subscribers in several databases. They share one stop."""

    def __init__(self, workers: Sequence[Worker]) -> None:
        self._workers = workers

    @property
    def counts(self) -> dict[str, Counts]:
        return {name: count for worker in self._workers for name, count in worker.counts.items()}

    @property
    def seen_at(self) -> float | None:
        """That of the worker whose last answer is the oldest."""
        moments = [worker.seen_at for worker in self._workers]
        known = [one for one in moments if one is not None]
        return min(known) if len(known) == len(moments) else None

    def start(self) -> None:
        """Run all of them in threads until `stop`."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Stop all of them, and raise what ended one of them before, if anything did."""
        with ExitStack() as stack:
            for worker in self._workers:
                stack.callback(worker.stop)

    def run(self) -> None:
        """Run all of them until the runtime's stop is set, or one of them ends."""
        self.start()
        try:
            self._workers[0].wait()
        finally:
            self.stop()


class _Loop:
    """Looks for work and hands it to the pool, until stopped."""

    def __init__(
        self,
        runtime: Runtime,
        agenda: Agenda,
        *,
        pool: ThreadPoolExecutor,
        sleeper: Sleeper,
        count: Callable[[Partition, Delivered], None],
        seen: Callable[[], None],
        membership: Membership,
    ) -> None:
        self._runtime = runtime
        self._pool = pool
        self._sleeper = sleeper
        self._count = count
        self._seen = seen
        self._membership = membership
        self._agenda = agenda
        self._turns: dict[Future[Delivered], Callable[[Delivered | None], None]] = {}
        """What runs, and what is told when it has ended: what it did, or nothing when it failed."""
        self._pause_seconds = POLL_SECONDS_MIN
        self._reconnect_seconds = 0.0
        self._has_looked = False
        """Whether the sleep ended with a look that found something to do."""
        self._trouble = Trouble(runtime, logger)

    def run(self) -> None:
        while self._turns or not self._runtime.stop.is_set():
            try:
                self._end_turns()
                if self._runtime.stop.is_set():
                    wait(self._turns)
                    continue
                self._begin_turns()
                self._rest()
            except (DBAPIError, DatabaseError) as error:
                self._wait_for_database(error)
            else:
                self._reconnect_seconds = 0.0
                self._trouble.say_if_over()

    def _begin_turns(self) -> None:
        """Begin what there is to do. Who was woken has just looked into the log, and what is there goes before all
        else: somebody waits for it.
        """
        if self._has_looked:
            self._has_looked = False
            self._begin_ready()
            if self._turns:
                return
        self._runtime.feed.refresh()
        self._agenda.look_at_tables_if_due()
        self._seen()
        self._membership.can_run(self._agenda.runnable())
        self._begin_ready()
        replaying = self._agenda.replays.next()
        if replaying is not None:
            self._agenda.replays.began()
            self._submit(replaying.turn, self._agenda.replays.ended)
        finishing = self._agenda.rebuilds.next()
        if finishing is not None:
            self._agenda.rebuilds.began()
            self._submit(finishing.turn, self._agenda.rebuild_ended)

    def _begin_ready(self) -> None:
        for partition in self._agenda.leaving():
            self._begin(partition, partition.leave)
        for partition in self._agenda.ready():
            self._begin(partition, partition.turn)

    def _begin(self, partition: Partition, deed: Callable[[], Delivered]) -> None:
        def ended(done: Delivered | None) -> None:
            self._agenda.ended(partition, done)
            if done is not None:
                self._count(partition, done)

        self._agenda.began(partition)
        self._submit(deed, ended)

    def _submit(self, deed: Callable[[], Delivered], ended: Callable[[Delivered | None], None]) -> None:
        """Have a thread do it."""
        turn = self._pool.submit(deed)
        self._turns[turn] = ended
        turn.add_done_callback(lambda _turn: self._sleeper.wake())

    def _end_turns(self) -> None:
        for turn in [turn for turn in self._turns if turn.done()]:
            ended = self._turns.pop(turn)
            error = turn.exception()
            ended(None if error else turn.result())
            if error is not None:
                self._refuse_faults_of_ours(error)
                self._trouble.say("a turn has failed, and is taken again: %s", error)
            elif turn.result().moved:
                self._pause_seconds = POLL_SECONDS_MIN

    def _rest(self) -> None:
        """Wait for a turn to end, or for something new: first by polling, then asleep.

        Nobody is asked to wake us as long as something may come at any moment: while events keep coming, while an
        append is in flight, and for the first half second of a turn that others must not wait for.
        """
        if self._agenda.all_running:
            self._sleeper.wait(self._runtime.log.doorbell.slow_poll_seconds)
            return
        lingers = self._agenda.any_running or self._runtime.feed.in_flight
        if self._pause_seconds < (POLL_SECONDS_MAX if lingers else LINGER_SECONDS) or self._runtime.feed.in_flight:
            self._sleeper.wait(self._pause_seconds)
            self._pause_seconds = min(POLL_SECONDS_MAX, self._pause_seconds * 2)
        else:
            self._sleeper.sleep(self._allowance)

    def _allowance(self, look: Look) -> float:
        self._seen()
        seconds = self._agenda.allowance(look)
        self._has_looked = seconds <= 0
        return seconds

    def _wait_for_database(self, error: Exception) -> None:
        self._refuse_faults_of_ours(error)
        self._runtime.feed.forget()
        self._agenda.forget()
        self._reconnect_seconds = min(RECONNECT_SECONDS_MAX, max(0.1, self._reconnect_seconds * 2))
        self._trouble.say(f"the database failed, next look in {self._reconnect_seconds:.1f} s: %s", error)
        self._runtime.clock.wait(self._runtime.stop, self._reconnect_seconds * (0.75 + self._runtime.draw() / 2))

    def _refuse_faults_of_ours(self, error: BaseException) -> None:
        """Raise an error that is none of the database: it ends the worker, loudly."""
        database = self._runtime.database
        if isinstance(error, DatabaseError) or database.passing(error):
            return
        if not isinstance(database.translate(error), DatabaseError):
            raise error


def _drain_turn(runtime: Runtime, partition: Partition, until: int, counts: dict[str, Counts]) -> bool:
    """Take one turn; return whether the partition is to have another."""
    if runtime.feed.is_stale or runtime.feed.mark < until:
        runtime.feed.refresh()
    done = partition.turn(until=until)
    _add(counts, partition, done)
    if isinstance(partition.refusal, RefusedError):
        return False
    if partition.refusal is not None:
        raise partition.refusal
    if done.moved or not partition.lease.held or runtime.feed.is_stale:
        return True
    partition.release()
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
    """Somebody else runs it: is it there, paused, or waiting at a failure or in an outage?"""
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
        select(
            tables.checkpoints.c.position, tables.subscribers.c.state, tables.checkpoints.c.outage_handler, waited_for
        )
        .join(tables.subscribers, tables.subscribers.c.name == tables.checkpoints.c.subscriber)
        .where(mine, here)
    )
    with runtime.database.reader() as connection:
        position, state, outage, failures = connection.execute(question).one()
    waits = outage is not None or (partition.subscriber.on_failure is OnFailure.HALT and failures > 0)
    return bool(position >= until or state != "running" or waits)


def _add(counts: dict[str, Counts], partition: Partition, done: Delivered) -> None:
    before = counts.get(partition.subscriber.name, Counts())
    counts[partition.subscriber.name] = Counts(
        handled=before.handled + done.handled, failed=before.failed + done.failed
    )

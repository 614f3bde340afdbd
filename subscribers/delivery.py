"""Live delivery: what follows a checkpoint is handed to handlers, and the checkpoint moves.

Two modes, and they differ in what is one transaction:

transactional   handlers' writes, fence, ledger rows, checkpoint: one commit. Exactly once.
at least once   announce (in_hand, handled_through) and commit; handlers, outside any transaction; then fence, failed
                rows and checkpoint in one commit. A crash in between repeats at most what was announced, and says so.

A transactional batch runs without savepoints. When it fails, it is rolled back, and `CulpritError` tells the caller
which event to run alone.

What is a handler's failure, and what is not: a lost connection, a deadlock or a serialization failure says nothing
about the event, so it ends the turn and not the event.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventlog.errors import LeaseLostError, UsageError
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.guard import transaction_kept
from eventlog.subscribers.leases import Lease, Progress
from eventlog.subscribers.ledger import Attempt, EntryState, Failure, Problem, problem_of, record_failure
from eventlog.subscribers.routing import Handler
from eventlog.subscribers.runtime import Runtime

logger = logging.getLogger("eventlog.worker")

BATCH_SECONDS = {"sqlite": 0.05, "postgresql": 1.0}
"""How long a batch may take before what is done of it is settled; on SQLite nobody else can write meanwhile."""

LET_OTHERS_WRITE = {"sqlite": 0.25, "postgresql": 0.0}
"""How long the next batch is put off, in parts of the time that the one before took: who waits to write a SQLite file
does not queue, but asks again after up to a tenth of a second, and would hardly ever meet the moment between two."""


WORKER_DIED = Problem(
    error_type="WorkerDied",
    message="the worker that had this event in hand stopped without a word",
    traceback="",
    fingerprint="worker-died",
)
"""What is written for an attempt whose outcome nobody lived to tell."""


INTERRUPTIONS_MAX = 5
"""How often in a row the database may end the transaction of one event before that counts as the event's failure."""

NOT_A_FAILURE = (LeaseLostError, KeyboardInterrupt, GeneratorExit)
"""What may come out of a handler's call without being its failure. `sys.exit()` in a handler is one."""


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """What was done: events handled, attempts that failed, and whether anything moved."""

    handled: int = 0
    failed: int = 0
    moved: bool = False


class HandlerFailedError(Exception):
    """A handler has failed inside a transaction, which must now be rolled back."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


class InterruptedTurnError(Exception):
    """The database ended a transaction under a handler's feet; that says nothing about the event `item`, once."""

    def __init__(self, item: FeedItem, problem: Problem) -> None:
        super().__init__(problem.message)
        self.item = item
        self.problem = problem


class CulpritError(Exception):
    """A transactional batch was rolled back because of one event; `item` is None when it was not one event's doing."""

    def __init__(self, item: FeedItem | None, problem: Problem, *, seconds: float) -> None:
        super().__init__(problem.message)
        self.item = item
        self.problem = problem
        self.seconds = seconds


class Delivery:
    """Hands events of one partition to their handlers, under its lease."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, lease: Lease) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._lease = lease
        self._interrupted = (0, 0)
        self._batch_seconds = BATCH_SECONDS[runtime.database.engine.dialect.name]
        self._let_others_write = LET_OTHERS_WRITE[runtime.database.engine.dialect.name]

    def transactional(self, batch: Sequence[FeedItem], *, through: int) -> Delivered:
        """Run a batch and its checkpoint in one transaction (T2). Raises `CulpritError` with nothing written.

        A batch that takes long is cut: what was handled by then is committed, and the checkpoint stays there.
        """
        database, clock = self._runtime.database, self._runtime.clock
        began = clock.monotonic()
        done = 0
        try:
            with database.transaction() as connection:
                holds_since = clock.monotonic()
                database.guard_owner(connection, seconds=self._runtime.lease_seconds)
                with transaction_kept(connection):
                    for item in batch:
                        self._handle_within(connection, item)
                        done += 1
                        if self._time_to_settle(holds_since):
                            break
                to = through if done == len(batch) else batch[done - 1].position
                progress = self._moved_to(to, handed_through=batch[done - 1].position)
                self._lease.fence(connection, progress)
        except DBAPIError as error:
            seconds = clock.monotonic() - began
            raise CulpritError(None, self.problem_at_commit(error, seconds), seconds=seconds) from error
        self._lease.passed(progress, since=began)
        if self._let_others_write:
            clock.wait(self._runtime.stop, self._let_others_write * (clock.monotonic() - holds_since))
        return Delivered(handled=done, moved=True)

    def at_least_once(self, batch: Sequence[FeedItem], *, through: int) -> Delivered:
        """Announce a batch, hand it out, and settle what came of it (T3)."""
        began = self._runtime.clock.monotonic()
        handed_before = self._lease.progress.handled_through
        self.announce(batch[-1])
        failures: list[Failure] = []
        done = 0
        for item in batch:
            failure = self._handle_outside(item, redelivery=item.position <= handed_before)
            if failure is not None:
                failures.append(failure)
                if self._subscriber.on_failure is OnFailure.HALT:
                    break
            done += 1
            if self._time_to_settle(began):
                break
        to = through if done == len(batch) else batch[done - 1].position
        if failures and self._subscriber.on_failure is OnFailure.HALT:
            to = failures[0].attempt.position - 1
        self.settle(to, failures)
        handled = done - len(failures) if self._subscriber.on_failure is OnFailure.PARK else done
        return Delivered(handled=handled, failed=len(failures), moved=True)

    def announce(self, last: FeedItem) -> None:
        """Say what is about to be handed out, before it is: what a crash leaves in doubt is then known."""
        now = self._lease.progress
        announced = msgspec.structs.replace(
            now, in_hand=last.position, handled_through=max(now.handled_through, last.position)
        )
        if announced != now:
            with self.fenced(announced):
                pass

    def settle(self, to: int, failures: Sequence[Failure] = ()) -> None:
        """Move the checkpoint and write failed events into the ledger, in one transaction."""
        handed_through = max((failure.attempt.position for failure in failures), default=0)
        with self.fenced(self._moved_to(to, handed_through=handed_through)) as connection:
            for failure in failures:
                record_failure(connection, self._runtime.database.tables, failure)
        for failure in failures:
            self.say_failed(failure.attempt, failure.problem, failure.state)

    def first_failure(self, item: FeedItem, problem: Problem, *, seconds: float) -> Failure:
        """Make the ledger's record of an event that failed, and was not open in the ledger before."""
        state, wait_seconds = self.next_state(attempts=1)
        return Failure(
            subscriber=self._subscriber.name,
            partition=self._lease.partition,
            key=item.stored.stream,
            problem=problem,
            state=state,
            wait_seconds=wait_seconds,
            attempt=self.attempt(item.position, number=1, problem=problem, seconds=seconds),
        )

    def attempt(self, position: int, *, number: int, problem: Problem | None, seconds: float) -> Attempt:
        """Make the ledger's record of one call of a handler."""
        return Attempt(
            position=position,
            number=number,
            worker=self._runtime.owner,
            epoch=self._lease.epoch,
            duration_seconds=seconds,
            problem=problem,
        )

    def next_state(self, *, attempts: int) -> tuple[EntryState, float]:
        """Decide where an event stands after so many failed attempts, and how many seconds it waits."""
        retry = self._subscriber.retry
        if retry.spent(attempts):
            return EntryState.PARKED, 0.0
        return EntryState.RETRYING, retry.wait_seconds(attempts, draw=self._runtime.draw)

    def call(self, item: FeedItem, *, attempt: int, redelivery: bool, connection: Connection | None) -> None:
        """Decode an event and call its handler; raises what either raises, and `LeaseLostError` before the call."""
        self._lease.check()
        recorded = item.recorded()
        context = Context(
            event=recorded,
            subscriber=self._subscriber.name,
            attempt=attempt,
            redelivery=redelivery,
            epoch=self._lease.epoch,
            connection=connection,
            log=self._runtime.log,
            stop=self._runtime.stop,
        )
        self._handler(item).call(recorded, context)

    def call_within(self, connection: Connection, item: FeedItem, *, attempt: int, redelivery: bool) -> None:
        """Call a handler that writes through `connection`. Raises `HandlerFailedError`, also when the handler returned
        and left the transaction ended or broken: what it wrote would not commit together with the checkpoint. Raises
        `InterruptedTurnError` when it was the database that ended the transaction.
        """
        database, clock = self._runtime.database, self._runtime.clock
        ours = connection.get_transaction()
        began = clock.monotonic()
        try:
            self.call(item, attempt=attempt, redelivery=redelivery, connection=connection)
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            too_slow = clock.monotonic() - began >= self._runtime.lease_seconds
            ours_is_gone = not database.transaction_is_usable(connection)
            if database.passing(error) and ours_is_gone and not too_slow:
                raise InterruptedTurnError(item, problem_of(error)) from error
            if database.is_own_lock(error):
                error.add_note("Only one connection can write to a SQLite file: write through ctx.connection.")
            raise HandlerFailedError(problem_of(error)) from error
        if connection.get_transaction() is not ours or not database.transaction_is_usable(connection):
            raise HandlerFailedError(problem_of(self._broken(clock.monotonic() - began)))

    def interrupted_too_often(self, item: FeedItem) -> bool:
        """Count that the database ended a transaction while this event was handled in it.

        What costs its transaction several times in a row is not the database's bad luck any more.
        """
        position, times = self._interrupted
        times = times + 1 if position == item.position else 1
        self._interrupted = (item.position, times)
        return times >= INTERRUPTIONS_MAX

    @contextmanager
    def fenced(self, progress: Progress) -> Iterator[Connection]:
        """Open a transaction that has passed the fence and moved the checkpoint; the caller adds ledger rows to it."""
        began = self._runtime.clock.monotonic()
        with self._runtime.database.transaction() as connection:
            self._runtime.database.guard_owner(connection, seconds=self._runtime.lease_seconds)
            self._lease.fence(connection, progress)
            yield connection
        self._lease.passed(progress, since=began)

    def say_failed(self, attempt: Attempt, problem: Problem, state: EntryState) -> None:
        logger.warning(
            "%s/%d epoch %d: event %d failed in attempt %d and is %s: %s",
            self._subscriber.name,
            self._lease.partition,
            attempt.epoch,
            attempt.position,
            attempt.number,
            state,
            problem.error_type,
        )

    def problem_at_commit(self, error: DBAPIError, seconds: float) -> Problem:
        """Describe why a transaction with handlers' writes did not commit; raise the error when it is nobody's failure.

        A connection that is gone after longer than a lease was ended by the database because a handler left it idle.
        """
        if not self._runtime.database.passing(error):
            return problem_of(error)
        if seconds < self._runtime.lease_seconds:
            raise error
        return problem_of(self._broken(seconds))

    def _broken(self, seconds: float) -> UsageError:
        if seconds >= self._runtime.lease_seconds:
            return UsageError(
                f"the handler left its transaction idle for {seconds:.0f} s, and the database has ended it",
                remedy="do slow work outside a transaction: declare an effect that is delivered at least once",
            )
        return UsageError(
            "the handler returned, but it had committed, rolled back or broken the transaction it was called in",
            remedy="leave ctx.connection's transaction alone, and let database errors out of the handler",
        )

    def _handler(self, item: FeedItem) -> Handler:
        handler = self._subscriber.routes.find(item.type)
        if handler is None:
            raise UsageError(
                f"no handler of {self._subscriber.name!r} takes {item.type} any more",
                remedy="deploy code that handles it, or skip the entry",
            )
        return handler

    def _handle_within(self, connection: Connection, item: FeedItem) -> None:
        began = self._runtime.clock.monotonic()
        redelivery = item.position <= self._lease.progress.handled_through
        try:
            self.call_within(connection, item, attempt=1, redelivery=redelivery)
        except HandlerFailedError as error:
            seconds = self._runtime.clock.monotonic() - began
            raise CulpritError(item, error.problem, seconds=seconds) from error

    def _handle_outside(self, item: FeedItem, *, redelivery: bool) -> Failure | None:
        began = self._runtime.clock.monotonic()
        try:
            self.call(item, attempt=1, redelivery=redelivery, connection=None)
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            return self.first_failure(item, problem_of(error), seconds=self._runtime.clock.monotonic() - began)
        return None

    def _moved_to(self, position: int, *, handed_through: int) -> Progress:
        handled_through = max(self._lease.progress.handled_through, handed_through)
        return Progress(position=position, in_hand=position, handled_through=handled_through)

    def _time_to_settle(self, began: float) -> bool:
        return self._runtime.stop.is_set() or self._runtime.clock.monotonic() - began > self._batch_seconds


def log_turn(say: Callable[..., None], message: str, lease: Lease, *details: object) -> None:
    """Write one line about a partition, with its subscriber and epoch."""
    say(f"%s/%d epoch %d: {message}", lease.subscriber, lease.partition, lease.epoch, *details)

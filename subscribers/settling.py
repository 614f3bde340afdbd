"""Writing what came of events: checkpoint, ledger rows and the state of an outage, in one transaction behind the fence.

Everything a worker writes for its partition goes through `fenced`, or stands in the transaction of a batch that has
passed the same fence. A checkpoint that moves alone is the fence alone.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from sqlalchemy import Connection

from eventlog.subscribers.calls import Caller
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.fence import Progress
from eventlog.subscribers.held_back import HeldBack
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.ledger import Attempt, Entry, EntryState, NewEntry, record_entries
from eventlog.subscribers.log_lines import log_turn
from eventlog.subscribers.outage import Outage, begin_outage, end_outage
from eventlog.subscribers.outcomes import Verdict, judge
from eventlog.subscribers.problems import BLOCKED, Problem, problem_of
from eventlog.subscribers.results import Ran
from eventlog.subscribers.routing import Handler
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.seen import Seen

logger = logging.getLogger("eventlog.worker")


class Settling:
    """Writes for one partition, under its lease. `held_back` and `outage` are kept as what is written makes them."""

    def __init__(
        self,
        runtime: Runtime,
        subscriber: Subscriber,
        lease: Lease,
        *,
        caller: Caller,
        held_back: HeldBack,
        outage: Outage,
        seen: Seen,
    ) -> None:
        self.lease = lease
        self.held_back = held_back
        self.outage = outage
        self._runtime = runtime
        self._subscriber = subscriber
        self._caller = caller
        self._seen = seen

    def announce(self, last: FeedItem) -> None:
        """Say what is about to be handed out, before it is: what a crash leaves in doubt is then known."""
        now = self.lease.progress
        announced = msgspec.structs.replace(
            now, in_hand=last.position, handled_through=max(now.handled_through, last.position)
        )
        if announced != now:
            self._move_alone(announced)

    def settle(self, to: int, ran: Ran, *, in_hand: int = 0) -> None:
        """Move the checkpoint and write what came of events, in one transaction."""
        handed = max((one.position for one in ran.entries if one.attempt is not None), default=0)
        progress = self.moved_to(to, handed_through=max(handed, in_hand), in_hand=in_hand)
        if ran.entries or ran.outage is not None or self.outage.handler is not None:
            with self.fenced(progress) as connection:
                self.write(connection, ran)
        else:
            self._move_alone(progress)
        self.wrote(ran)

    def _move_alone(self, progress: Progress) -> None:
        """Move the checkpoint with nothing beside it: one statement, where the database can commit it by itself."""
        began = self._runtime.clock.monotonic()
        alone = None if progress.is_beyond else self._runtime.database.autocommit()
        if alone is None:
            with self.fenced(progress):
                return
        with alone as connection:
            self.lease.fence(connection, progress)
        self.lease.passed(progress, since=began)

    @contextmanager
    def fenced(self, progress: Progress) -> Iterator[Connection]:
        """Open a transaction that has passed the fence and moved the checkpoint; the caller adds ledger rows to it."""
        began = self._runtime.clock.monotonic()
        with self._runtime.database.transaction() as connection:
            self._runtime.database.guard_owner(connection, seconds=self._runtime.lease_seconds)
            self.lease.fence(connection, progress)
            yield connection
        self.lease.passed(progress, since=began)

    def moved_to(self, position: int, *, handed_through: int = 0, in_hand: int = 0, is_read: bool = True) -> Progress:
        """Where the partition stands with the checkpoint at a position; `is_read` is whether its pages led there."""
        now = self.lease.progress
        return Progress(
            position=position,
            in_hand=max(position, in_hand),
            handled_through=max(now.handled_through, handed_through),
            witnesses=self._seen.witnesses(above=now.position, through=position) if is_read else (),
        )

    def write(self, connection: Connection, ran: Ran) -> None:
        """Write entries, and the beginning or end of an outage, in a transaction that has passed the fence."""
        tables, name, partition = self._runtime.database.tables, self._subscriber.name, self.lease.partition
        if ran.entries:
            record_entries(connection, tables, ran.entries)
        outage = self.outage
        if outage.handler is not None and outage.since is not None and outage.handler in ran.succeeded:
            end_outage(
                connection,
                tables,
                subscriber=name,
                partition=partition,
                handler=outage.handler,
                since=outage.since,
                attempts=self._subscriber.retry.attempts,
            )
        elif ran.outage is not None:
            first = outage.first_position(ran.outage)
            outage.since = begin_outage(
                connection, tables, subscriber=name, partition=partition, handler=ran.outage, first_position=first
            )

    def wrote(self, ran: Ran) -> None:
        """Take in what was written, once it is committed."""
        self.held_back.wrote(ran.entries)
        for entry in ran.entries:
            if entry.attempt is not None:
                self.say_failed(entry.attempt, entry.problem, entry.state)
        outage = self.outage
        if outage.handler is not None and outage.handler in ran.succeeded:
            log_turn(
                logger.warning,
                "%s has had success again, the outage is over",
                self.lease,
                outage.handler,
                handler=outage.handler,
            )
            outage.restore(None, None)
        for handler in ran.succeeded:
            outage.succeeded(handler)
        if ran.outage is not None:
            outage.handler = ran.outage
            log_turn(
                logger.warning,
                "%s has failed %d times in a row: an outage; the partition waits at its place, and tries again",
                self.lease,
                ran.outage,
                self._subscriber.outage_after,
                handler=ran.outage,
            )

    def failure(self, item: FeedItem, error: BaseException | Problem, *, seconds: float, ran: Ran) -> NewEntry:
        """Make the entry of an event that failed in its first attempt, and add it to what the batch came to.

        Says also whether delivery stays at it, and whether an outage begins. `error` is a `Problem` when there is no
        exception to tell: its worker died.
        """
        handler = self._caller.handler_of(item).name
        verdict = self.verdict(error if isinstance(error, BaseException) else None, attempts=1)
        problem = error if isinstance(error, Problem) else problem_of(error, redact=self._subscriber.redact)
        entry = NewEntry(
            subscriber=self._subscriber.name,
            partition=self.lease.partition,
            position=item.position,
            key=self._subscriber.key.of(item),
            handler=handler,
            state=verdict.state,
            problem=problem,
            redelivery=True,
            wait_seconds=verdict.wait_seconds,
            reason=verdict.reason,
            attempt=self.attempt(item.position, number=1, problem=problem, state=verdict.state, seconds=seconds),
        )
        ran.add(entry)
        if self.counts_to_outage(verdict, handler, item.position):
            ran.outage = handler
        if self._stays(entry, handler, ran):
            ran.stays = entry
        return entry

    def blocked(self, item: FeedItem, key: str, handler: Handler, *, redelivery: bool) -> NewEntry:
        return NewEntry(
            subscriber=self._subscriber.name,
            partition=self.lease.partition,
            position=item.position,
            key=key,
            handler=handler.name,
            state=EntryState.BLOCKED,
            problem=BLOCKED,
            redelivery=redelivery,
        )

    def attempt(
        self, position: int, *, number: int, problem: Problem | None, state: EntryState, seconds: float
    ) -> Attempt:
        """Make the ledger's record of one call of a handler."""
        return Attempt(
            position=position,
            number=number,
            worker=self._runtime.owner,
            epoch=self.lease.epoch,
            duration_seconds=seconds,
            problem=problem,
            skipped=state is EntryState.SKIPPED,
        )

    def verdict(self, error: BaseException | None, *, attempts: int) -> Verdict:
        """Decide where an event stands after so many attempts."""
        return judge(
            error,
            retry=self._subscriber.retry,
            delivery=self._subscriber.delivery,
            attempts=attempts,
            draw=self._runtime.draw,
        )

    def counts_to_outage(self, verdict: Verdict, handler: str, position: int) -> bool:
        """Count a failure of a handler; return whether an outage begins with it. Under `halt` the subscriber waits
        anyway.
        """
        if not verdict.handler_fails or self._subscriber.on_failure is OnFailure.HALT:
            return False
        self.outage.failed(handler, position)
        return self.outage.begins(handler)

    def say_failed(self, attempt: Attempt, problem: Problem, state: EntryState) -> None:
        log_turn(
            logger.warning,
            "event %d failed in attempt %d and is %s: %s",
            self.lease,
            attempt.position,
            attempt.number,
            state,
            problem.error_type,
            position=attempt.position,
            attempt=attempt.number,
            state=state,
            error_type=problem.error_type,
        )

    def say_resolved(self, entry: Entry) -> None:
        log_turn(
            logger.info,
            "event %d was handled in attempt %d and is resolved",
            self.lease,
            entry.position,
            entry.attempts,
            position=entry.position,
            attempt=entry.attempts,
            state=EntryState.RESOLVED,
        )

    def _stays(self, entry: NewEntry, handler: str, ran: Ran) -> bool:
        if entry.state not in (EntryState.RETRYING, EntryState.PARKED):
            return False
        if self._subscriber.on_failure is OnFailure.HALT:
            return True
        in_outage = ran.outage == handler or self.outage.waits_at(handler)
        return in_outage and entry.state is EntryState.RETRYING and self._subscriber.concurrency == 1

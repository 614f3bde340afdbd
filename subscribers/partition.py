"""One partition of one subscriber in one process: takes turns, each of them a bounded piece of work.

A turn is: have the lease, clear up what a dead owner left in doubt, try what is due, deliver what follows the
checkpoint. What the partition keeps in memory (entries live delivery will meet, an event to run alone) is forgotten
with the lease and read again from the database.
"""

import logging
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from eventlog.errors import LeaseLostError, RefusedError
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.delivery import WORKER_DIED, CulpritError, Delivered, Delivery, InterruptedTurnError, log_turn
from eventlog.subscribers.feed import FeedItem, Page
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.ledger import Entry, EntryState, Problem, entries_above, read_entry
from eventlog.subscribers.retrying import Retrying
from eventlog.subscribers.runtime import Runtime

logger = logging.getLogger("eventlog.worker")

INTERRUPTED_TURNS_MAX = 5
"""How many turns in a row the database may interrupt before the worker is told."""


class Partition:
    """Runs one partition, turn by turn. One thread at a time may call `turn`."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, number: int = 0) -> None:
        self.subscriber = subscriber
        self.lease = Lease(
            database=runtime.database,
            subscriber=subscriber.name,
            partition=number,
            owner=runtime.owner,
            seconds=runtime.lease_seconds,
            clock=runtime.clock,
        )
        self._runtime = runtime
        self._delivery = Delivery(runtime, subscriber, self.lease)
        self._retrying = Retrying(runtime, subscriber, self.lease, self._delivery)
        self._ahead: dict[int, Entry] = {}
        self._unfinished: list[Entry] = []
        self._alone_through = 0
        self._suspect: int | None = None
        self._in_doubt = False
        self._said: str | None = None
        self._interrupted = 0
        self.refusal: RefusedError | None = None
        """Why the code may not run the partition, when the lease was last asked for."""

    def turn(self, *, until: int | None = None) -> Delivered:
        """Do one bounded piece of work, delivering nothing past `until`; nothing while another owner has the lease.

        A lost lease ends the turn, not the partition: the next turn takes it again. So does a database that interrupts
        it, by a deadlock or a lost connection; the error is raised when that happens several times in a row.
        """
        try:
            if not self._hold():
                return Delivered()
            done = self._retry_due(until)
            more = self._deliver(until)
        except LeaseLostError as error:
            log_turn(logger.info, "%s", self.lease, error)
            self.lease.forget()
            return Delivered(moved=True)
        except InterruptedTurnError as error:
            self.lease.forget()
            log_turn(logger.info, "the database interrupted event %d: %s", self.lease, error.item.position, error)
            return Delivered(moved=True)
        except DBAPIError as error:
            self.lease.forget()
            self._interrupted += 1
            if not self._runtime.database.passing(error) or self._interrupted > INTERRUPTED_TURNS_MAX:
                raise
            log_turn(logger.info, "the database interrupted the turn: %s", self.lease, error.orig)
            return Delivered(moved=True)
        self._interrupted = 0
        return Delivered(
            handled=done.handled + more.handled, failed=done.failed + more.failed, moved=done.moved or more.moved
        )

    def _hold(self) -> bool:
        if self.lease.held:
            return True
        try:
            taken = self.lease.take(self.subscriber)
        except RefusedError as error:
            self.refusal = error
            self._say_once(str(error))
            return False
        self.refusal = None
        if taken is None:
            return False
        self._said = None
        # What we may not have come to clear up, before we were interrupted ourselves, is still in doubt.
        self._in_doubt = self._in_doubt or taken.died
        self._alone_through = taken.progress.in_hand if self._in_doubt else 0
        with self._runtime.database.reader() as connection:
            self._ahead = entries_above(
                connection,
                self._runtime.database.tables,
                subscriber=self.subscriber.name,
                partition=self.lease.partition,
                position=taken.progress.position,
            )
        log_turn(
            logger.info,
            "lease taken at position %d%s",
            self.lease,
            taken.progress.position,
            "; its owner before has not released it" if taken.died else "",
        )
        self._unfinished = self._retrying.unfinished(died=self._in_doubt)
        return True

    def _retry_due(self, until: int | None) -> Delivered:
        handled = failed = 0
        moved = False
        mark = self._runtime.feed.mark if until is None else until
        unfinished, self._unfinished = self._unfinished, []
        for entry in unfinished + self._retrying.due(until=mark):
            if self._runtime.stop.is_set():
                break
            if entry.position > self.lease.progress.position + 1:
                # Delivery waits at it, but has not come up to it yet: something new may stand before it.
                continue
            done = self._retrying.run(entry)
            handled, failed, moved = handled + done.handled, failed + done.failed, moved or done.moved
            self._refresh_entry(entry.position)
        return Delivered(handled=handled, failed=failed, moved=moved)

    def _deliver(self, until: int | None) -> Delivered:
        now = self.lease.progress
        page = self._runtime.feed.page(after=now.position, until=until)
        if page.scanned_through <= now.position or self._runtime.stop.is_set():
            return Delivered()
        wanted = [item for item in page.items if self.subscriber.routes.find(item.type) is not None]
        due, blocked_at = self._not_in_ledger(wanted)
        if self._in_doubt:
            self._in_doubt = False
            counted = self._count_what_died(due)
            if counted is not None:
                return counted
        if not due:
            return self._pass_by(page, blocked_at)
        batch = self._next_batch(due)
        through = self._end_of(batch, due, page, blocked_at)
        if self.subscriber.delivery is Mode.AT_LEAST_ONCE:
            done = self._delivery.at_least_once(batch, through=through)
            self._after_failure(batch, done)
            return done
        return self._transactional(batch, through=through)

    def _not_in_ledger(self, wanted: Sequence[FeedItem]) -> tuple[list[FeedItem], int | None]:
        """Leave out events whose entry is open or skipped; under `halt`, stop before the first that is open."""
        if not self._ahead:
            return list(wanted), None
        due: list[FeedItem] = []
        for item in wanted:
            entry = self._ahead.get(item.position)
            halts = self.subscriber.on_failure is OnFailure.HALT
            if entry is not None and entry.open and halts and not due:
                entry = self._refresh_entry(item.position)
            if entry is None or not (entry.open or entry.state is EntryState.SKIPPED):
                due.append(item)
            elif entry.open and halts:
                return due, item.position
        return due, None

    def _pass_by(self, page: Page, blocked_at: int | None) -> Delivered:
        """Move the checkpoint over what nobody wants here, up to an event that is waited for."""
        to = page.scanned_through if blocked_at is None else blocked_at - 1
        if to <= self.lease.progress.position:
            return Delivered()
        self._delivery.settle(to)
        return Delivered(moved=True)

    def _next_batch(self, due: list[FeedItem]) -> list[FeedItem]:
        """Take events that run together: one alone where a crash or a failure has made it suspect."""
        if due[0].position <= self._alone_through or due[0].position == self._suspect:
            return due[:1]
        for place, item in enumerate(due):
            if item.position == self._suspect:
                return due[:place]
        return due

    def _end_of(self, batch: list[FeedItem], due: list[FeedItem], page: Page, blocked_at: int | None) -> int:
        """Where the checkpoint is when the batch is done: at the end of what was scanned, if nothing is left of it."""
        if len(batch) < len(due):
            return batch[-1].position
        return page.scanned_through if blocked_at is None else blocked_at - 1

    def _transactional(self, batch: list[FeedItem], *, through: int) -> Delivered:
        if batch[0].position <= self._alone_through:
            self._delivery.announce(batch[0])
        try:
            return self._delivery.transactional(batch, through=through)
        except InterruptedTurnError as error:
            self._suspect = error.item.position
            if len(batch) > 1 or not self._delivery.interrupted_too_often(error.item):
                raise
            return self._fail(error.item, error.problem, seconds=0.0)
        except CulpritError as error:
            if len(batch) > 1:
                return self._narrow_down(batch, error)
            return self._fail(batch[0], error.problem, seconds=error.seconds)

    def _narrow_down(self, batch: list[FeedItem], error: CulpritError) -> Delivered:
        """Nothing was written; the next turns run what comes before the culprit, and then the culprit alone."""
        if error.item is None:
            self._alone_through = batch[-1].position
        else:
            self._suspect = error.item.position
        log_turn(
            logger.info,
            "a batch of %d is run again around event %s: %s",
            self.lease,
            len(batch),
            self._suspect or "by event",
            error.problem.error_type,
        )
        return Delivered(moved=True)

    def _fail(self, item: FeedItem, problem: Problem, *, seconds: float) -> Delivered:
        failure = self._delivery.first_failure(item, problem, seconds=seconds)
        stays = self.subscriber.on_failure is OnFailure.HALT
        self._delivery.settle(item.position - 1 if stays else item.position, [failure])
        if stays:
            self._refresh_entry(item.position)
        return Delivered(failed=1, moved=True)

    def _after_failure(self, batch: list[FeedItem], done: Delivered) -> None:
        if done.failed and self.subscriber.on_failure is OnFailure.HALT:
            for item in batch:
                if item.position > self.lease.progress.position:
                    self._refresh_entry(item.position)
                    return

    def _count_what_died(self, due: list[FeedItem]) -> Delivered | None:
        """One event in doubt may have killed its worker: that was a failed attempt. More of them are run one by one.

        After a transactional owner's death nothing was announced; its first batch is run one by one, and announced.
        """
        in_hand = self.lease.progress.in_hand
        in_doubt = [item for item in due if item.position <= in_hand]
        if len(in_doubt) == 1:
            self._alone_through = 0
            return self._fail(in_doubt[0], WORKER_DIED, seconds=0.0)
        if not in_doubt and due and self.subscriber.delivery is Mode.TRANSACTIONAL:
            self._alone_through = due[-1].position
        return None

    def _refresh_entry(self, position: int) -> Entry | None:
        """Read an entry again that live delivery waits at; operators change entries without a new epoch."""
        if position <= self.lease.progress.position:
            self._ahead.pop(position, None)
            return None
        with self._runtime.database.reader() as connection:
            entry = read_entry(
                connection, self._runtime.database.tables, subscriber=self.subscriber.name, position=position
            )
        if entry is None or entry.state in (EntryState.RESOLVED, EntryState.SUPERSEDED):
            self._ahead.pop(position, None)
        else:
            self._ahead[position] = entry
        return entry

    def _say_once(self, message: str) -> None:
        if message != self._said:
            self._said = message
            logger.error("%s", message)

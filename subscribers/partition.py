"""One partition of one subscriber in one process: takes turns, each of them a bounded piece of work.

A turn is: have the lease, clear up what a dead owner left in doubt, try what is due, deliver what follows the
checkpoint. What the partition keeps in memory (the entries live delivery has to mind, an event to run alone, an outage)
is forgotten with the lease and read again from the database.

A checkpoint is written when something was handled. Where a stretch of the log had nothing for this partition, only
`reached` moves; the row follows with the next event that it wants, with the lease's release, or after a while.
"""

import logging
from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from eventlog.errors import LeaseLostError, NotFoundError, RefusedError, RestoredLogError, first_line, with_remedy
from eventlog.subscribers.calls import Caller
from eventlog.subscribers.control.lifecycle import stand_still
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.delivery import Delivery
from eventlog.subscribers.feed import FeedItem, Page
from eventlog.subscribers.handing_out import HandingOut
from eventlog.subscribers.held_back import HeldBack
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.ledger import Entry, EntryState
from eventlog.subscribers.log_lines import log_turn
from eventlog.subscribers.outage import Outage
from eventlog.subscribers.problems import OUTCOME_UNKNOWN, WORKER_DIED, Problem
from eventlog.subscribers.results import CulpritError, Delivered, InterruptedTurnError, Ran
from eventlog.subscribers.retrying import Retrying
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.seen import Seen
from eventlog.subscribers.settling import Settling
from eventlog.subscribers.share import Share

logger = logging.getLogger("eventlog.worker")

INTERRUPTED_TURNS_MAX = 5
"""How many turns in a row the database may interrupt before the worker is told."""

PASS_SECONDS = 5.0
"""How often a checkpoint is written at the most while nothing is wanted of what it passes."""


class Partition:
    """Runs one partition, turn by turn. One thread at a time may call `turn`."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, number: int = 0) -> None:
        self.subscriber = subscriber
        self.number = number
        self.lease = Lease(
            database=runtime.database,
            subscriber=subscriber.name,
            partition=number,
            owner=runtime.owner,
            seconds=runtime.lease_seconds,
            clock=runtime.clock,
            id_at=runtime.feed.id_at if runtime.is_elsewhere else None,
        )
        self._runtime = runtime
        self._held_back = HeldBack(runtime.database.tables, subscriber=subscriber.name, partition=number)
        self._outage = Outage(after=subscriber.outage_after)
        self._share = Share(runtime, subscriber, number)
        self._seen = Seen()
        self._caller = Caller(runtime, subscriber)
        self._settling = Settling(
            runtime,
            subscriber,
            self.lease,
            caller=self._caller,
            held_back=self._held_back,
            outage=self._outage,
            seen=self._seen,
        )
        handing_out = HandingOut(runtime, subscriber, self._settling, caller=self._caller)
        self._delivery = Delivery(runtime, subscriber, self._settling, handing_out)
        self._retrying = Retrying(
            runtime,
            subscriber,
            caller=self._caller,
            settling=self._settling,
            handing_out=handing_out,
            delivery=self._delivery,
        )
        self._pass_seconds = 0.0 if subscriber.is_shadow else PASS_SECONDS
        """Somebody waits for a shadow to catch up, and sees its checkpoint only."""
        self._unfinished: list[Entry] = []
        self._alone_through = 0
        self._suspect: int | None = None
        self._in_doubt = False
        self._reached = 0
        self._written_at = 0.0
        self._probe_at = 0.0
        self._said: str | None = None
        self._interrupted = 0
        self._losses = 0
        """Where the log is elsewhere: its lost connections when it was last asked whether it is what it was."""
        self.refusal: RefusedError | NotFoundError | None = None
        """Why the code may not run the partition, when the lease was last asked for."""

    @property
    def reached(self) -> int:
        """Through which position the partition has gone, whether or not its checkpoint has been written since."""
        return max(self._reached, self.lease.progress.position)

    @property
    def writes_at(self) -> float | None:
        """When the checkpoint's row is to follow what was passed over, on the monotonic clock; None when it has."""
        if not self.lease.held or self._reached <= self.lease.progress.position:
            return None
        return self._written_at + self._pass_seconds

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
            self._forget()
            return Delivered(moved=True)
        except InterruptedTurnError as error:
            self._forget()
            position = error.item.position
            log_turn(
                logger.info,
                "the database interrupted event %d: %s",
                self.lease,
                position,
                first_line(error.error),
                position=position,
            )
            return Delivered(moved=True)
        except DBAPIError as error:
            self._forget()
            self._interrupted += 1
            if not self._runtime.database.passing(error) or self._interrupted > INTERRUPTED_TURNS_MAX:
                raise
            log_turn(logger.info, "the database interrupted the turn: %s", self.lease, first_line(error))
            return Delivered(moved=True)
        self._interrupted = 0
        return done.and_then(more)

    def release(self) -> None:
        """Let the lease go, with the checkpoint where the partition has come to."""
        passes = self._reached > self.lease.progress.position
        self.lease.release(self._settling.moved_to(self._reached) if passes else None)

    def leave(self) -> Delivered:
        """Let the lease go, as a turn of its own: the partition is paused, or somebody else's share."""
        self.release()
        return Delivered()

    def _forget(self) -> None:
        """Rely on nothing that was read before the turn failed: it may be of a log that has been put back since."""
        self.lease.forget()
        self._runtime.feed.forget()

    def _hold(self) -> bool:
        losses = self._runtime.log.database.losses
        if self.lease.held and not (self._runtime.is_elsewhere and losses != self._losses):
            return True
        self._losses = losses
        try:
            taken = self.lease.take(self.subscriber)
        except (RefusedError, NotFoundError) as error:
            self.refusal = error
            if self.subscriber.is_shadow and isinstance(error, NotFoundError):
                log_turn(logger.info, "the rebuild is over", self.lease)
                return False
            self._say_once(with_remedy(error))
            if isinstance(error, RestoredLogError):
                stand_still(self._runtime.database, self.subscriber.name, reason=str(error))
            return False
        self.refusal = None
        if taken is None:
            return False
        self._said = None
        # What we may not have come to clear up, before we were interrupted ourselves, is still in doubt. At most once,
        # our own interruption leaves the same doubt as somebody else's death.
        hands_out_once = self.subscriber.delivery is Mode.AT_MOST_ONCE
        self._in_doubt = self._in_doubt or taken.died or hands_out_once
        self._alone_through = taken.progress.in_hand if self._in_doubt else 0
        self._reached = taken.progress.position
        self._seen.forget()
        self._probe_at = 0.0
        self._caller.key_name = taken.key_name
        self._outage.restore(taken.outage_handler, taken.outage_since)
        self._load()
        log_turn(
            logger.info,
            "lease taken at position %d%s",
            self.lease,
            taken.progress.position,
            "; its owner before has not released it" if taken.died else "",
            position=taken.progress.position,
        )
        self._unfinished = self._retrying.unfinished(died=taken.died or hands_out_once)
        return True

    def _load(self) -> None:
        database = self._runtime.database
        with database.reader() as connection:
            self._held_back.load(connection, above=self.lease.progress.position)
            self._share.load(connection)

    def _retry_due(self, until: int | None) -> Delivered:
        unfinished, self._unfinished = self._unfinished, []
        done = Delivered()
        if not unfinished and not self._held_back.holds_any:
            return done
        mark = self._runtime.feed.mark if until is None else until
        for entry in unfinished + self._retrying.due(until=mark, waits_at=self._waits_at()):
            if self._runtime.stop.is_set():
                break
            if not self._has_come_up_to(entry):
                # What was interrupted is due at no time: nobody would think of it again.
                self._unfinished += [one for one in unfinished if one is entry]
                continue
            tried = self._retrying.run(entry, until=mark)
            self._after(tried)
            done = done.and_then(tried)
        return done

    def _has_come_up_to(self, entry: Entry) -> bool:
        """Whether everything before an entry is done with. If it is, the checkpoint is made to say so: what is closed
        above it would be delivered once more.
        """
        if entry.position > self.reached + 1:
            return False
        if entry.position > self.lease.progress.position + 1:
            self._settling.settle(self.reached, Ran())
        return True

    def _waits_at(self) -> tuple[str, int] | None:
        """The handler in an outage, and the event that is waited at: of its events only that one is tried."""
        if self._outage.handler is None:
            return None
        waiting = self._held_back.first_above(self.lease.progress.position, handler=self._outage.handler)
        return None if waiting is None else (self._outage.handler, waiting)

    def _deliver(self, until: int | None) -> Delivered:
        now = self.reached
        page = self._share.page(after=now, until=until)
        if page.scanned_through <= now and self.writes_at is not None:
            return self._pass_by(page, None)
        if page.scanned_through <= now or self._runtime.stop.is_set() or not self._may_deliver():
            return Delivered()
        self._seen.read(page, settled=self.lease.progress.position)
        wanted = self._share.wanted(page)
        due, waits_before = self._not_in_ledger(wanted)
        if self._in_doubt:
            cleared = self._clear_up(due, page, waits_before=waits_before, until=until)
            if cleared is not None:
                return cleared
        if not due:
            return self._pass_by(page, waits_before)
        batch = self._next_batch(due)
        self._ask_about_keys(batch)
        done = self._hand_out(batch, through=self._end_of(batch, due, page, waits_before))
        self._written_at = self._runtime.clock.monotonic()
        self._after(done)
        log_turn(
            logger.debug,
            "%d handled, %d failed, checkpoint at %d",
            self.lease,
            done.handled,
            done.failed,
            self.lease.progress.position,
            position=self.lease.progress.position,
        )
        return done

    def _may_deliver(self) -> bool:
        """Not while too much is open, nor right after a handler in an outage has failed again."""
        if self._outage.handler is not None and self._runtime.clock.monotonic() < self._probe_at:
            return False
        if self._held_back.open_count < self.subscriber.failures_max:
            return True
        self._load()
        if self._held_back.open_count < self.subscriber.failures_max:
            return True
        self._say_once(
            f"{self.subscriber.name}/{self.number}: {self._held_back.open_count:,} failures are open, and no more are"
            " taken on (failures_max): retry or skip them"
        )
        return False

    def _not_in_ledger(self, wanted: Sequence[FeedItem]) -> tuple[list[FeedItem], int | None]:
        """Leave out events whose entry is open or skipped; stop before the first that is waited at."""
        if self._held_back.is_empty:
            return list(wanted), None
        due: list[FeedItem] = []
        for item in wanted:
            held = self._held_back.at(item.position)
            if held is not None and held.open and not due and self._waits(held.state, held.handler):
                self._refresh(held.key)
                held = self._held_back.at(item.position)
            if held is None:
                due.append(item)
            elif held.open and self._waits(held.state, held.handler):
                return due, item.position
        return due, None

    def _waits(self, state: EntryState, handler: str | None) -> bool:
        if self.subscriber.on_failure is OnFailure.HALT:
            return True
        return state is EntryState.RETRYING and self._outage.waits_at(handler)

    def _pass_by(self, page: Page, waits_before: int | None) -> Delivered:
        """Go over what nobody wants here, up to an event that is waited for; the row need not follow at once."""
        to = page.scanned_through if waits_before is None else waits_before - 1
        before = self.reached
        self._reached = max(self._reached, to)
        now = self._runtime.clock.monotonic()
        if waits_before is None and now - self._written_at < self._pass_seconds:
            return Delivered(moved=to > before)
        if self._reached <= self.lease.progress.position:
            return Delivered()
        self._settling.settle(self._reached, Ran())
        self._written_at = now
        self._held_back.passed(self._reached)
        return Delivered(moved=True)

    def _next_batch(self, due: list[FeedItem]) -> list[FeedItem]:
        """Take events that run together: one alone where a crash or a failure has made it suspect."""
        if due[0].position <= self._alone_through or due[0].position == self._suspect:
            return due[:1]
        if self._suspect is None:
            return due
        return [item for item in due if item.position < self._suspect] or due

    def _end_of(self, batch: list[FeedItem], due: list[FeedItem], page: Page, waits_before: int | None) -> int:
        """Where the checkpoint is when the batch is done: at the last event of the page, if nothing is left of it."""
        if len(batch) < len(due):
            return batch[-1].position
        return page.last_event if waits_before is None else waits_before - 1

    def _ask_about_keys(self, batch: Sequence[FeedItem]) -> None:
        """Whatever would be held back is looked up again: an operator may have closed what it waits behind."""
        if self.subscriber.on_failure is OnFailure.HALT or not self._held_back.holds_any:
            return
        keys = {self.subscriber.key.of(item) for item in batch}
        self._refresh(*(key for key in keys if self._held_back.holds(key)))

    def _refresh(self, *keys: str) -> None:
        if keys:
            with self._runtime.database.reader() as connection:
                self._held_back.refresh_keys(connection, keys, above=self.lease.progress.position)

    def _hand_out(self, batch: list[FeedItem], *, through: int) -> Delivered:
        match self.subscriber.delivery:
            case Mode.TRANSACTIONAL:
                return self._transactional(batch, through=through)
            case Mode.AT_MOST_ONCE:
                return self._delivery.at_most_once(batch, through=through)
        ran = self._delivery.at_least_once(batch, through=through)
        self._alone_through = max(self._alone_through, ran.again_through)
        return ran.delivered()

    def _transactional(self, batch: list[FeedItem], *, through: int) -> Delivered:
        if batch[0].position <= self._alone_through:
            self._settling.announce(batch[0])
        try:
            return self._delivery.transactional(batch, through=through)
        except InterruptedTurnError as error:
            self._suspect = error.item.position
            if len(batch) > 1 or not self._delivery.interrupted_too_often(error.item):
                raise
            return self._fail(error.item, error.error, seconds=0.0)
        except CulpritError as error:
            if len(batch) > 1:
                return self._narrow_down(batch, error)
            return self._fail(batch[0], error.error, seconds=error.seconds)

    def _narrow_down(self, batch: list[FeedItem], error: CulpritError) -> Delivered:
        """Nothing was written; the next turns run what comes before the culprit, and then the culprit alone."""
        if error.item is None:
            self._alone_through = error.through
        else:
            self._suspect = error.item.position
        log_turn(
            logger.info,
            "a batch of %d is run again around event %s: %s",
            self.lease,
            len(batch),
            self._suspect or "by event",
            type(error.error).__name__,
            position=self._suspect,
            error_type=type(error.error).__name__,
        )
        return Delivered(moved=True)

    def _fail(
        self, item: FeedItem, error: BaseException | Problem, *, seconds: float, passing: Sequence[FeedItem] = ()
    ) -> Delivered:
        """Write that an event failed. Of `passing`, what the checkpoint passes on its way waits behind failures."""
        ran = Ran(done=1)
        for one in passing:
            if one.position < item.position:
                handler, key = self._caller.handler_of(one), self.subscriber.key.of(one)
                ran.add(self._settling.blocked(one, key, handler, redelivery=True))
        self._settling.failure(item, error, seconds=seconds, ran=ran)
        self._settling.settle(item.position if ran.stays is None else item.position - 1, ran)
        return Delivered(failed=1, moved=True) if ran.failed else Delivered(handled=1, moved=True)

    def _clear_up(
        self, due: list[FeedItem], page: Page, *, waits_before: int | None, until: int | None
    ) -> Delivered | None:
        """See to what a dead owner had in hand. One event may have killed it: that was a failed attempt. More of them
        are run one by one. At most once, they are all left to an operator.

        After a transactional owner's death nothing was announced; its first batch is run one by one, and announced.
        """
        in_hand = self._all_in_hand(due, page, waits_before=waits_before, until=until)
        if self.subscriber.delivery is Mode.AT_MOST_ONCE:
            if in_hand is None:
                return Delivered()
            self._in_doubt, self._alone_through = False, 0
            return self._leave_to_operator(in_hand) if in_hand else None
        self._in_doubt = False
        before = in_hand or [item for item in due if item.position <= self.lease.progress.in_hand]
        self._ask_about_keys([*due, *before])
        in_doubt = [item for item in before if not self._is_blocked(item)]
        if len(in_doubt) == 1 and in_hand is not None:
            self._alone_through = 0
            return self._fail(in_doubt[0], WORKER_DIED, seconds=0.0, passing=before)
        if not in_doubt and due and self.subscriber.delivery is Mode.TRANSACTIONAL:
            self._alone_through = due[-1].position
        return None

    def _all_in_hand(
        self, due: list[FeedItem], page: Page, *, waits_before: int | None, until: int | None
    ) -> list[FeedItem] | None:
        """Read everything that was announced and is not in the ledger. Who announced it may have read longer pages than
        we, or have passed by others whose rows it had no reason to write. None while the log cannot be read so far,
        since the mark may go back for a moment.
        """
        in_hand, through = self.lease.progress.in_hand, page.scanned_through
        found = [item for item in due if item.position <= in_hand]
        while through < in_hand and waits_before is None:
            page = self._share.page(after=through, until=until)
            if page.scanned_through <= through:
                return None
            self._seen.read(page, settled=self.lease.progress.position)
            more, waits_before = self._not_in_ledger(self._share.wanted(page))
            found += [item for item in more if item.position <= in_hand]
            through = page.scanned_through
        return found

    def _is_blocked(self, item: FeedItem) -> bool:
        if self.subscriber.on_failure is OnFailure.HALT or not self._held_back.holds_any:
            return False
        return self._held_back.holds(self.subscriber.key.of(item))

    def _leave_to_operator(self, in_doubt: list[FeedItem]) -> Delivered:
        ran = Ran(done=len(in_doubt))
        for item in in_doubt:
            self._settling.failure(item, OUTCOME_UNKNOWN, seconds=0.0, ran=ran)
        stays = self.subscriber.on_failure is OnFailure.HALT
        self._settling.settle(in_doubt[0].position - 1 if stays else in_doubt[-1].position, ran)
        return Delivered(failed=len(in_doubt), moved=True)

    def _after(self, done: Delivered) -> None:
        """Pace the next try of a handler that is in an outage."""
        self._held_back.passed(self.lease.progress.position)
        if self._outage.handler is not None and done.failed:
            wait = self.subscriber.retry.wait_seconds(max(1, self._outage.probes), draw=self._runtime.draw)
            self._probe_at = self._runtime.clock.monotonic() + wait

    def _say_once(self, message: str) -> None:
        if message != self._said:
            self._said = message
            logger.error("%s", message, extra={"subscriber": self.subscriber.name, "partition": self.number})

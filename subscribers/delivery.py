"""Live delivery: what follows a checkpoint is handed to handlers, and the checkpoint moves.

Three modes, and they differ in what is one transaction:

transactional   handlers' writes, fence, ledger rows, checkpoint: one commit. Exactly once.
at least once   announce (in_hand, handled_through) and commit; handlers, outside any transaction; then fence, ledger
                rows and checkpoint in one commit. A crash in between repeats at most what was announced, and says so.
at most once    as at least once, one call at a time, each announced by the commit that settles the one before. What a
                crash leaves in hand is never handed out again by itself.

A transactional batch runs without savepoints. When it fails, it is rolled back, and `CulpritError` tells the caller
which event to run alone.

What is a handler's failure, and what is not: a lost connection, a deadlock or a serialization failure says nothing
about the event, so it ends the turn and not the event.
"""

from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.guard import lent
from eventlog.subscribers.handing_out import SETTLE_SECONDS, HandingOut
from eventlog.subscribers.results import CulpritError, Delivered, InterruptedTurnError, Ran
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.settling import Settling

TRANSACTION_SECONDS = {"sqlite": 0.05, "postgresql": SETTLE_SECONDS}
"""How long a transactional batch may take before it is committed; on SQLite nobody else can write meanwhile."""

LET_OTHERS_WRITE = {"sqlite": 0.25, "postgresql": 0.0}
"""How long the next batch is put off, in parts of the time that the one before took: who waits to write a SQLite file
does not queue, but asks again after up to a tenth of a second, and would hardly ever meet the moment between two."""

INTERRUPTIONS_MAX = 5
"""How often in a row the database may end the transaction of one event before that counts as the event's failure."""


class Delivery:
    """Hands events of one partition to their handlers, under its lease."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, settling: Settling, handing_out: HandingOut) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._lease = settling.lease
        self._settling = settling
        self._handing_out = handing_out
        self._interrupted = (0, 0)
        dialect = runtime.database.engine.dialect.name
        self._transaction_seconds = TRANSACTION_SECONDS[dialect]
        self._let_others_write = LET_OTHERS_WRITE[dialect]

    def transactional(self, batch: Sequence[FeedItem], *, through: int) -> Delivered:
        """Run a batch and its checkpoint in one transaction (T2). Raises `CulpritError` with nothing written.

        A batch that takes long is cut: what was handled by then is committed, and the checkpoint stays there.
        """
        database, clock = self._runtime.database, self._runtime.clock
        began = clock.monotonic()
        ran, writes_are_through = Ran(), False
        try:
            with database.transaction() as connection:
                holds_since = clock.monotonic()
                database.guard_owner(connection, seconds=self._runtime.lease_seconds)
                with lent(connection, self._subscriber.renamed_tables):
                    self._handing_out.run_within(
                        connection, batch, ran, holds_since=holds_since, seconds=self._transaction_seconds
                    )
                to = through if ran.done == len(batch) else batch[ran.done - 1].position
                progress = self._settling.moved_to(to, handed_through=batch[ran.done - 1].position)
                self._lease.fence(connection, progress)
                self._settling.write(connection, ran)
                writes_are_through = True
        except DBAPIError as error:
            seconds = clock.monotonic() - began
            if ran.done and self.lost(error):
                raise InterruptedTurnError(batch[ran.done - 1], error) from error
            cause = self.failure_at_commit(error, seconds, commits=writes_are_through)
            raise CulpritError(None, cause, through=batch[-1].position, seconds=seconds) from error
        self._lease.passed(progress, since=began)
        self._settling.wrote(ran)
        if self._let_others_write:
            clock.wait(self._runtime.stop, self._let_others_write * (clock.monotonic() - holds_since))
        return ran.delivered()

    def at_least_once(self, batch: Sequence[FeedItem], *, through: int) -> Ran:
        """Announce a batch, hand it out, and settle what came of it (T3)."""
        handed_before = self._lease.progress.handled_through
        self._settling.announce(batch[-1])
        ran = self._handing_out.hand_out(batch, handed_before=handed_before)
        self._settle(ran, batch, through=through)
        return ran

    def at_most_once(self, batch: Sequence[FeedItem], *, through: int) -> Delivered:
        """Announce a call, make it, settle it together with the announcement of the next (T3')."""
        handed_before = self._lease.progress.handled_through
        began = self._runtime.clock.monotonic()
        rest: Sequence[FeedItem] = batch
        now: Sequence[FeedItem] = self._handing_out.next_few(batch)
        self._settling.announce(now[-1])
        done = Delivered()
        while now:
            ran = self._handing_out.hand_out(now, handed_before=handed_before)
            rest = rest[len(now) :]
            in_time = not self._handing_out.time_to_settle(began, SETTLE_SECONDS)
            goes_on = ran.stays is None and ran.outage is None and ran.done == len(now) and in_time
            coming = self._handing_out.next_few(rest) if rest and goes_on else ()
            self._settle(ran, now, through=now[-1].position if rest else through, coming=coming)
            done = done.and_then(ran.delivered())
            now = coming
        return done

    def interrupted_too_often(self, item: FeedItem) -> bool:
        """Count that the database ended a transaction while this event was handled in it.

        What costs its transaction several times in a row is not the database's bad luck any more.
        """
        position, times = self._interrupted
        times = times + 1 if position == item.position else 1
        self._interrupted = (item.position, times)
        return times >= INTERRUPTIONS_MAX

    def lost(self, error: DBAPIError) -> bool:
        """Tell whether a transaction is over because its connection is gone, and nobody knows why."""
        return error.connection_invalidated and not self._runtime.database.ended_idle(error)

    def failure_at_commit(self, error: DBAPIError, seconds: float, *, commits: bool) -> BaseException:
        """Tell why a transaction with handlers' writes did not commit; raise the error when it is nobody's failure.

        A handler's failure is what its transaction does not survive: that it left it idle for too long, or that what it
        wrote cannot be committed, or not in time. `commits` is whether everything of ours was written before.
        """
        database = self._runtime.database
        if database.ended_idle(error):
            return self._handing_out.broken(seconds)
        if database.passing(error) and not (commits and database.timed_out(error)):
            raise error
        return error

    def _settle(self, ran: Ran, batch: Sequence[FeedItem], *, through: int, coming: Sequence[FeedItem] = ()) -> None:
        """Settle a batch, up to the end of the unbroken run of what is done; `coming` is announced with it."""
        if ran.stays is not None:
            to = ran.stays.position - 1
        elif ran.done == len(batch):
            to = through
        elif ran.done:
            to = batch[ran.done - 1].position
        else:
            return
        self._settling.settle(to, ran, in_hand=coming[-1].position if coming else 0)

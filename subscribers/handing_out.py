"""Handing events to handlers: which run together, which have to wait, and what a handler's failure is.

Nothing here moves a checkpoint. What came of the calls is collected in `Ran`, and settled by who asked for them.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future

from sqlalchemy import Connection

from eventlog.errors import UsageError
from eventlog.subscribers.calls import NOT_A_FAILURE, Call, Caller
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.log_lines import log_turn
from eventlog.subscribers.results import CulpritError, EventFailedError, HandlerFailedError, InterruptedTurnError, Ran
from eventlog.subscribers.routing import Handler, Wants
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.settling import Settling, logger
from eventlog.subscribers.side_by_side import SideBySide

LIST_EVENTS_MAX = 1_000
"""How many events a handler of lists is given at a time: when one of them fails, they are handed out one by one."""

SETTLE_SECONDS = 1.0
"""At the latest after so long, and the call at hand, a checkpoint is written."""


LOOK_SECONDS = 0.001
"""How often a batch of short calls asks whether it is to end."""


class HandingOut:
    """Makes the calls of one partition, under its lease."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, settling: Settling, *, caller: Caller) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._settling = settling
        self._caller = caller
        self._lease = settling.lease
        self._held_back = settling.held_back
        self._outage = settling.outage

    def hand_out(self, batch: Sequence[FeedItem], *, handed_before: int) -> Ran:
        """Make the calls of a batch, until it is through or something ends it earlier."""
        if self._subscriber.concurrency > 1 and len(batch) > 1 and self._outage.handler is None:
            return self._hand_out_side_by_side(batch, handed_before)
        ran = Ran()
        began = self._runtime.clock.monotonic()
        if not self._held_back.holds_any and self._outage.handler is None:
            self._hand_out_alone(batch, ran, began)
            if ran.done == len(batch) or ran.stays is not None or ran.outage is not None:
                return ran
            if ran.done and self.time_to_settle(began, SETTLE_SECONDS):
                return ran
        for handler, items in self._units(batch[ran.done :]):
            blocked = Ran(keys=ran.keys)
            free = self._pass_by_blocked(handler, items, blocked, handed_before=handed_before)
            if free:
                self._hand_out_unit(self._call(handler, free, handed_before, None), ran)
            if ran.stays is not None or ran.again_through:
                return ran
            ran.entries += blocked.entries
            ran.done += len(items)
            in_outage = ran.outage is not None or self._outage.waits_at(handler.name)
            if in_outage or self.time_to_settle(began, SETTLE_SECONDS):
                return ran
        return ran

    def run_within(
        self,
        connection: Connection,
        batch: Sequence[FeedItem],
        ran: Ran,
        *,
        holds_since: float,
        seconds: float,
    ) -> None:
        """Make the calls of a batch within a transaction, until it is through or it is time to commit.

        Raises `CulpritError` and `InterruptedTurnError`; the transaction is then to be rolled back.
        """
        handed_before = self._lease.progress.handled_through
        for handler, items in self._units(batch):
            free = self._pass_by_blocked(handler, items, ran, handed_before=handed_before)
            if free:
                self._handle_within(connection, self._call(handler, free, handed_before, connection))
                ran.succeeded.add(handler.name)
            ran.done += len(items)
            if self.time_to_settle(holds_since, seconds) or self._outage.waits_at(handler.name):
                return

    def call_within(self, connection: Connection, call: Call) -> None:
        """Call a handler that writes through `connection`. Raises `HandlerFailedError`, also when the handler returned
        and left the transaction ended or broken: what it wrote would not commit together with the checkpoint. Raises
        `InterruptedTurnError` when it was the database that ended the transaction.
        """
        database, clock = self._runtime.database, self._runtime.clock
        ours = connection.get_transaction()
        began = clock.monotonic()
        self._lease.check()
        try:
            self._caller.call(call)
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            ours_is_gone = not database.transaction_is_usable(connection)
            its_own_doing = database.timed_out(error) or database.ended_idle(error)
            if database.passing(error) and ours_is_gone and not its_own_doing:
                raise InterruptedTurnError(call.items[0], error) from error
            if database.is_own_lock(error):
                error.add_note("Only one connection can write to a SQLite file: write through ctx.connection.")
            raise HandlerFailedError(error) from error
        if connection.get_transaction() is not ours or not database.transaction_is_usable(connection):
            raise HandlerFailedError(self.broken(clock.monotonic() - began))

    def call_outside(self, call: Call) -> BaseException | None:
        """Call a handler outside any transaction; return what it raised."""
        self._lease.check()
        try:
            self._caller.call(call)
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            return error
        return None

    def next_few(self, rest: Sequence[FeedItem]) -> list[FeedItem]:
        """The events at-most-once delivery has in hand at a time."""
        if self._subscriber.concurrency > 1:
            return list(rest[: self._subscriber.concurrency])
        return list(next(self._units(rest))[1])

    def time_to_settle(self, began: float, seconds: float, *, least: bool = True) -> bool:
        return least and (self._runtime.stop.is_set() or self._runtime.clock.monotonic() - began > seconds)

    def _hand_out_alone(self, batch: Sequence[FeedItem], ran: Ran, began: float) -> None:
        """Call plain functions with one event each, up to the first event that fails or needs more than that.

        What is asked between two calls is most of what catching up with a long log costs. It is the time, and whether
        the lease stands; about the stop, and whether to settle, nobody need know more often than each millisecond.
        """
        find, may_call_alone = self._subscriber.routes.find, self._caller.may_call_alone
        monotonic, succeeded = self._runtime.clock.monotonic, ran.succeeded
        known: Handler | None = None
        wants_data, look_at = True, -math.inf
        for item in batch:
            handler = find(item.stored.type)
            if handler is None:
                break
            if handler is not known:
                if not may_call_alone(handler):
                    break
                known, wants_data = handler, handler.wants is Wants.DATA
            now = monotonic()
            if now >= look_at:
                if ran.done and self.time_to_settle(began, SETTLE_SECONDS):
                    break
                look_at = min(now + LOOK_SECONDS, self._lease.valid_until(now))
            try:
                result = handler.function(item.data() if wants_data else item.recorded())
                if result is not None:
                    handler.check(result)
            except NOT_A_FAILURE:
                raise
            except BaseException as error:
                self._succeeded(ran)
                seconds = monotonic() - now
                self._settling.failure(item, error, seconds=seconds, ran=ran)
                ran.done += ran.stays is None
                return
            succeeded.add(handler.name)
            ran.done += 1
        self._succeeded(ran)

    def _succeeded(self, ran: Ran) -> None:
        for name in ran.succeeded:
            self._outage.succeeded(name)

    def _hand_out_unit(self, call: Call, ran: Ran) -> None:
        began = self._runtime.clock.monotonic()
        error = self.call_outside(call)
        if error is None:
            ran.succeeded.add(call.handler.name)
            self._outage.succeeded(call.handler.name)
            return
        seconds = self._runtime.clock.monotonic() - began
        if len(call.items) > 1 and self._subscriber.delivery is not Mode.AT_MOST_ONCE:
            ran.again_through = call.items[-1].position
            log_turn(
                logger.info,
                "a list of %d is run again one by one: %s",
                self._lease,
                len(call.items),
                type(error).__name__,
                handler=call.handler.name,
                error_type=type(error).__name__,
            )
            return
        for item in call.items:
            self._settling.failure(item, error, seconds=seconds, ran=ran)

    def _hand_out_side_by_side(self, batch: Sequence[FeedItem], handed_before: int) -> Ran:
        ran, clock = Ran(), self._runtime.clock
        began = clock.monotonic()
        begun: dict[int, float] = {}
        keys = [self._subscriber.key.of(item) for item in batch]

        def begin(place: int) -> "Future[None] | None":
            item = batch[place]
            handler = self._caller.handler_of(item)
            if not self._pass_by_blocked(handler, [item], ran, handed_before=handed_before):
                return None
            self._lease.check()
            begun[place] = clock.monotonic()
            return self._caller.begin(self._call(handler, [item], handed_before, None))

        def ended(place: int, error: BaseException | None) -> None:
            handler = self._caller.handler_of(batch[place]).name
            if error is None:
                ran.succeeded.add(handler)
                self._outage.succeeded(handler)
            elif isinstance(error, NOT_A_FAILURE):
                raise error
            else:
                self._settling.failure(batch[place], error, seconds=clock.monotonic() - begun[place], ran=ran)

        def goes_on() -> bool:
            return ran.outage is None and not self.time_to_settle(began, SETTLE_SECONDS, least=bool(begun))

        ran.done = SideBySide(keys, width=self._subscriber.concurrency, begin=begin, ended=ended, goes_on=goes_on).run()
        return ran

    def _handle_within(self, connection: Connection, call: Call) -> None:
        began = self._runtime.clock.monotonic()
        try:
            self.call_within(connection, call)
        except HandlerFailedError as error:
            seconds = self._runtime.clock.monotonic() - began
            raise CulpritError(
                _culprit(call, error.error), error.error, through=call.items[-1].position, seconds=seconds
            ) from error

    def _call(
        self, handler: Handler, items: Sequence[FeedItem], handed_before: int, connection: Connection | None
    ) -> Call:
        return Call(
            handler=handler,
            items=items,
            attempt=1,
            redelivery=items[0].position <= handed_before,
            epoch=self._lease.epoch,
            connection=connection,
        )

    def _pass_by_blocked(
        self, handler: Handler, items: Sequence[FeedItem], ran: Ran, *, handed_before: int
    ) -> Sequence[FeedItem]:
        """Return the events that need not wait behind an earlier one of their key; make entries of the others."""
        if self._subscriber.on_failure is OnFailure.HALT or not (ran.keys or self._held_back.holds_any):
            return items
        free = []
        for item in items:
            key = self._subscriber.key.of(item)
            if key in ran.keys or self._held_back.holds(key):
                ran.add(self._settling.blocked(item, key, handler, redelivery=item.position <= handed_before))
            else:
                free.append(item)
        return free

    def _units(self, batch: Sequence[FeedItem]) -> Iterator[tuple[Handler, Sequence[FeedItem]]]:
        """Cut a batch into calls: one event each, or for a handler of lists those that follow each other."""
        start = 0
        while start < len(batch):
            handler = self._caller.handler_of(batch[start])
            end = start + 1
            last = min(len(batch), start + LIST_EVENTS_MAX)
            while handler.takes_list and end < last and self._is_same(batch[end], handler):
                end += 1
            yield handler, batch[start:end]
            start = end

    def _is_same(self, item: FeedItem, handler: Handler) -> bool:
        """Whether an event goes to the same function, which may be registered several times."""
        other = self._caller.handler_of(item)
        return other is handler or other.function is handler.function

    def broken(self, seconds: float) -> UsageError:
        if seconds >= self._runtime.lease_seconds:
            return UsageError(
                f"the handler left its transaction idle for {seconds:.0f} s, and the database has ended it",
                remedy="do slow work outside a transaction: declare an effect that is delivered at least once",
            )
        return UsageError(
            "the handler returned, but it had committed, rolled back or broken the transaction it was called in",
            remedy="leave ctx.connection's transaction alone, and let database errors out of the handler",
        )


def _culprit(call: Call, error: BaseException) -> FeedItem | None:
    """The event that a call has failed at: its only one, or the one that the error tells."""
    if len(call.items) == 1:
        return call.items[0]
    position = error.position if isinstance(error, EventFailedError) else None
    return next((item for item in call.items if item.position == position), None)

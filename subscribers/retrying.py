"""Trying failed events again (T4): the same decoding, the same handler, and the ledger tells what came of it.

The attempt is counted in a transaction of its own before the handler is called, in all modes: one that kills its
worker has been counted, and cannot do so for ever. A result is written only under the fence, and only to an entry that
is still as it was read, so an operator who skips an entry while its handler runs has the last word.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventlog.errors import LeaseLostError, UsageError
from eventlog.subscribers.calls import Call, Caller
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.delivery import Delivery
from eventlog.subscribers.due import Held, blocked_behind, due_entries, unfinished_entries
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.fence import Progress
from eventlog.subscribers.guard import lent
from eventlog.subscribers.handing_out import HandingOut
from eventlog.subscribers.ledger import (
    Attempt,
    Entry,
    EntryState,
    begin_attempt,
    close_entry,
    fail_again,
    record_attempt,
)
from eventlog.subscribers.problems import OUTCOME_UNKNOWN, WORKER_DIED, Problem, problem_of
from eventlog.subscribers.results import Delivered, HandlerFailedError, InterruptedTurnError, Ran
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.settling import Settling

DUE_ENTRIES_MAX = 100
"""How many due entries one turn takes up, and how many of one key behind each, before live delivery has its turn."""


class Retrying:
    """Tries the due entries of one partition, under its lease."""

    def __init__(
        self,
        runtime: Runtime,
        subscriber: Subscriber,
        *,
        caller: Caller,
        settling: Settling,
        handing_out: HandingOut,
        delivery: Delivery,
    ) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._caller = caller
        self._settling = settling
        self._handing_out = handing_out
        self._delivery = delivery
        self._lease = settling.lease
        self._tables = runtime.database.tables

    def due(self, *, until: int, waits_at: tuple[str, int] | None) -> list[Entry]:
        """Read at most `DUE_ENTRIES_MAX` entries that are due; of a handler in an outage only the one waited at."""
        with self._runtime.database.reader() as connection:
            return due_entries(
                connection,
                self._tables,
                subscriber=self._subscriber.name,
                partition=self._lease.partition,
                until=until,
                limit=DUE_ENTRIES_MAX,
                only_waiting=waits_at,
            )

    def run(self, entry: Entry, *, until: int) -> Delivered:
        """Try one entry again, and while that has success what waits behind it, in order, up to the checkpoint.

        What waits above it, since before partitions were changed or a move was undone, is due when delivery has come
        there: closing it moves the checkpoint past it, and past everything between.
        """
        done = self._run_one(entry)
        behind: Sequence[Entry] = ()
        if done.handled and entry.position <= self._lease.progress.position:
            behind = self._behind(entry, until=min(until, self._lease.progress.position))
        for one in behind:
            if self._runtime.stop.is_set() or one.state is not EntryState.BLOCKED:
                break
            more = self._run_one(one)
            done = done.and_then(more)
            if not more.handled:
                break
        return done

    def unfinished(self, *, died: bool) -> list[Entry]:
        """Return the entries whose attempt was counted and then interrupted, to be made now.

        If the worker that made them died, that was how they ended: they have failed, and none is returned.
        """
        with self._runtime.database.reader() as connection:
            unfinished = unfinished_entries(
                connection, self._tables, subscriber=self._subscriber.name, partition=self._lease.partition
            )
        if not died:
            return unfinished
        unknown = self._subscriber.delivery is Mode.AT_MOST_ONCE
        for entry in unfinished:
            self._failed(entry, OUTCOME_UNKNOWN if unknown else WORKER_DIED, seconds=0.0)
        return []

    def _behind(self, entry: Entry, *, until: int) -> Sequence[Entry]:
        with self._runtime.database.reader() as connection:
            return blocked_behind(connection, self._tables, entry, until=until, limit=DUE_ENTRIES_MAX)

    def _run_one(self, entry: Entry) -> Delivered:
        """Try one entry. One that somebody changed meanwhile is left as that one wrote it."""
        try:
            counted = self._counted(entry)
            call = self._call(counted, redelivery=entry.redelivery)
            if isinstance(call, UsageError):
                return self._failed(counted, call, seconds=0.0)
            if self._subscriber.delivery is Mode.TRANSACTIONAL:
                return self._within(counted, call)
            return self._outside(counted, call)
        except LeaseLostError:
            if not self._lease.held:
                raise
            self._ask_again(entry)
            return Delivered()

    def _call(self, entry: Entry, *, redelivery: bool) -> Call | UsageError:
        try:
            item = self._item(entry)
            handler = self._caller.handler_of(item)
        except UsageError as error:
            return error
        return Call(
            handler=handler,
            items=(item,),
            attempt=entry.attempts,
            redelivery=redelivery,
            epoch=self._lease.epoch,
        )

    def _counted(self, entry: Entry) -> Entry:
        """Count the attempt, unless it was counted before it was interrupted."""
        if entry.state is EntryState.RETRYING and entry.next_attempt_at is None:
            return entry
        with self._settling.fenced(self._lease.progress) as connection:
            return begin_attempt(connection, self._tables, entry)

    def _within(self, entry: Entry, call: Call) -> Delivered:
        clock, database = self._runtime.clock, self._runtime.database
        began = clock.monotonic()
        progress, ran = self._progress_past(entry), Ran(succeeded={call.handler.name})
        handler_is_through = writes_are_through = False
        try:
            with database.transaction() as connection:
                database.guard_owner(connection, seconds=self._runtime.lease_seconds)
                with lent(connection, self._subscriber.renamed_tables):
                    self._handing_out.call_within(connection, msgspec.structs.replace(call, connection=connection))
                handler_is_through = True
                self._lease.fence(connection, progress)
                self._close(connection, entry, ran, seconds=clock.monotonic() - began)
                writes_are_through = True
        except InterruptedTurnError as error:
            return self._interrupted(entry, error, seconds=clock.monotonic() - began)
        except HandlerFailedError as error:
            return self._failed(entry, error.error, seconds=clock.monotonic() - began)
        except DBAPIError as error:
            seconds = clock.monotonic() - began
            if handler_is_through and self._delivery.lost(error):
                return self._interrupted(entry, InterruptedTurnError(call.items[0], error), seconds=seconds)
            failure = self._delivery.failure_at_commit(error, seconds, commits=writes_are_through)
            return self._failed(entry, failure, seconds=seconds)
        self._lease.passed(progress, since=began)
        return self._closed(entry, ran)

    def _interrupted(self, entry: Entry, error: InterruptedTurnError, *, seconds: float) -> Delivered:
        if not self._delivery.interrupted_too_often(error.item):
            raise error
        return self._failed(entry, error.error, seconds=seconds)

    def _outside(self, entry: Entry, call: Call) -> Delivered:
        clock = self._runtime.clock
        began = clock.monotonic()
        error = self._handing_out.call_outside(call)
        seconds = clock.monotonic() - began
        if error is not None:
            return self._failed(entry, error, seconds=seconds)
        ran = Ran(succeeded={call.handler.name})
        with self._settling.fenced(self._progress_past(entry)) as connection:
            self._close(connection, entry, ran, seconds=seconds)
        return self._closed(entry, ran)

    def _close(self, connection: Connection, entry: Entry, ran: Ran, *, seconds: float) -> None:
        close_entry(connection, self._tables, entry, state=EntryState.RESOLVED)
        self._record(connection, entry, problem=None, state=EntryState.RESOLVED, seconds=seconds)
        self._settling.write(connection, ran)

    def _closed(self, entry: Entry, ran: Ran) -> Delivered:
        self._settling.held_back.drop(entry.position)
        self._settling.wrote(ran)
        self._settling.say_resolved(entry)
        return Delivered(handled=1, moved=True)

    def _failed(self, entry: Entry, error: BaseException | Problem, *, seconds: float) -> Delivered:
        """Write what became of an attempt that did not succeed."""
        verdict = self._settling.verdict(error if isinstance(error, BaseException) else None, attempts=entry.attempts)
        problem = error if isinstance(error, Problem) else problem_of(error, redact=self._subscriber.redact)
        state, skipped = verdict.state, verdict.state is EntryState.SKIPPED
        ran = Ran()
        if entry.handler is not None and verdict.handler_fails:
            self._settling.outage.tried_in_vain(entry.handler)
        with self._settling.fenced(self._progress_past(entry) if skipped else self._lease.progress) as connection:
            fail_again(
                connection,
                self._tables,
                entry,
                problem,
                state=state,
                wait_seconds=verdict.wait_seconds,
                reason=verdict.reason,
            )
            self._record(connection, entry, problem=problem, state=state, seconds=seconds)
            self._settling.write(connection, ran)
        held = Held(position=entry.position, key=entry.key, state=state, handler=entry.handler)
        self._settling.held_back.changed(held)
        self._settling.wrote(ran)
        attempt = self._attempt(entry, problem=problem, state=state, seconds=seconds)
        self._settling.say_failed(attempt, problem, state)
        return Delivered(handled=1, moved=True) if skipped else Delivered(failed=1, moved=True)

    def _record(
        self, connection: Connection, entry: Entry, *, problem: Problem | None, state: EntryState, seconds: float
    ) -> None:
        attempt = self._attempt(entry, problem=problem, state=state, seconds=seconds)
        record_attempt(connection, self._tables, attempt, subscriber=entry.subscriber, round_number=entry.round)

    def _attempt(self, entry: Entry, *, problem: Problem | None, state: EntryState, seconds: float) -> Attempt:
        return self._settling.attempt(
            entry.position, number=entry.attempts, problem=problem, state=state, seconds=seconds
        )

    def _progress_past(self, entry: Entry) -> Progress:
        """Where the checkpoint is once the entry is closed: past it, where delivery has been waiting at it."""
        now = self._lease.progress
        if entry.position <= now.position:
            return now
        return self._settling.moved_to(
            entry.position, handed_through=entry.position, in_hand=now.in_hand, is_read=False
        )

    def _ask_again(self, entry: Entry) -> None:
        with self._runtime.database.reader() as connection:
            above = self._lease.progress.position
            self._settling.held_back.refresh_keys(connection, [entry.key], above=above)

    def _item(self, entry: Entry) -> FeedItem:
        log = self._runtime.log.database
        with log.reader() as connection:
            stored = log.event_at(connection, entry.position)
        if stored is None:
            raise UsageError(
                f"the ledger points at event {entry.position}, which is not in the log",
                remedy=f"`eventlog skip {entry.subscriber} {entry.position} --reason ...` closes it",
            )
        return FeedItem(stored)

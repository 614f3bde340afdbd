"""Trying failed events again (T4): the same decoding, the same handler, and the ledger tells what came of it.

The attempt is counted in a transaction of its own before the handler is called, in both modes: one that kills its
worker has been counted, and cannot do so for ever. A result is written only under the fence, and only to an entry that
is still as it was read, so an operator who skips an entry while its handler runs has the last word.
"""

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventlog.errors import LeaseLostError
from eventlog.subscribers.declaration import Delivery as Mode
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.delivery import (
    NOT_A_FAILURE,
    WORKER_DIED,
    Delivered,
    Delivery,
    HandlerFailedError,
    InterruptedTurnError,
)
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.guard import transaction_kept
from eventlog.subscribers.leases import Lease, Progress
from eventlog.subscribers.ledger import (
    Entry,
    EntryState,
    Problem,
    begin_attempt,
    close_entry,
    due_entries,
    fail_again,
    problem_of,
    record_attempt,
    unfinished_entries,
)
from eventlog.subscribers.runtime import Runtime

DUE_ENTRIES_MAX = 100
"""How many due entries one turn takes up before live delivery has its turn again."""


class Retrying:
    """Tries the due entries of one partition, under its lease."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, lease: Lease, delivery: Delivery) -> None:
        self._runtime = runtime
        self._subscriber = subscriber
        self._lease = lease
        self._delivery = delivery
        self._tables = runtime.database.tables

    def due(self, *, until: int) -> list[Entry]:
        """Read the entries that are due, at most `DUE_ENTRIES_MAX`."""
        with self._runtime.database.reader() as connection:
            return due_entries(
                connection,
                self._tables,
                subscriber=self._subscriber.name,
                partition=self._lease.partition,
                until=until,
                limit=DUE_ENTRIES_MAX,
            )

    def run(self, entry: Entry) -> Delivered:
        """Try one entry again. An entry that somebody changed meanwhile is left as that one wrote it."""
        item = self._item(entry)
        try:
            counted = self._counted(entry)
            if self._subscriber.delivery is Mode.TRANSACTIONAL:
                return self._within(counted, item, redelivery=entry.redelivery)
            return self._outside(counted, item, redelivery=entry.redelivery)
        except LeaseLostError:
            if not self._lease.held:
                raise
            return Delivered()

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
        for entry in unfinished:
            self._failed(entry, WORKER_DIED, seconds=0.0)
        return []

    def _counted(self, entry: Entry) -> Entry:
        """Count the attempt, unless it was counted before it was interrupted."""
        if entry.next_attempt_at is None:
            return entry
        with self._delivery.fenced(self._lease.progress) as connection:
            return begin_attempt(connection, self._tables, entry)

    def _within(self, entry: Entry, item: FeedItem, *, redelivery: bool) -> Delivered:
        clock, database = self._runtime.clock, self._runtime.database
        began = clock.monotonic()
        progress = self._progress_past(entry)
        try:
            with database.transaction() as connection:
                database.guard_owner(connection, seconds=self._runtime.lease_seconds)
                with transaction_kept(connection):
                    self._delivery.call_within(connection, item, attempt=entry.attempts, redelivery=redelivery)
                self._lease.fence(connection, progress)
                close_entry(connection, self._tables, entry, state=EntryState.RESOLVED)
                self._record(connection, entry, problem=None, seconds=clock.monotonic() - began)
        except InterruptedTurnError as error:
            if not self._delivery.interrupted_too_often(item):
                raise
            return self._failed(entry, error.problem, seconds=clock.monotonic() - began)
        except HandlerFailedError as error:
            return self._failed(entry, error.problem, seconds=clock.monotonic() - began)
        except DBAPIError as error:
            seconds = clock.monotonic() - began
            return self._failed(entry, self._delivery.problem_at_commit(error, seconds), seconds=seconds)
        self._lease.passed(progress, since=began)
        return Delivered(handled=1, moved=True)

    def _outside(self, entry: Entry, item: FeedItem, *, redelivery: bool) -> Delivered:
        clock = self._runtime.clock
        began = clock.monotonic()
        try:
            self._delivery.call(item, attempt=entry.attempts, redelivery=redelivery, connection=None)
        except NOT_A_FAILURE:
            raise
        except BaseException as error:
            return self._failed(entry, problem_of(error), seconds=clock.monotonic() - began)
        with self._delivery.fenced(self._progress_past(entry)) as connection:
            close_entry(connection, self._tables, entry, state=EntryState.RESOLVED)
            self._record(connection, entry, problem=None, seconds=clock.monotonic() - began)
        return Delivered(handled=1, moved=True)

    def _failed(self, entry: Entry, problem: Problem, *, seconds: float) -> Delivered:
        state, wait_seconds = self._delivery.next_state(attempts=entry.attempts)
        with self._delivery.fenced(self._lease.progress) as connection:
            fail_again(connection, self._tables, entry, problem, state=state, wait_seconds=wait_seconds)
            self._record(connection, entry, problem=problem, seconds=seconds)
        attempt = self._delivery.attempt(entry.position, number=entry.attempts, problem=problem, seconds=seconds)
        self._delivery.say_failed(attempt, problem, state)
        return Delivered(failed=1, moved=True)

    def _record(self, connection: Connection, entry: Entry, *, problem: Problem | None, seconds: float) -> None:
        attempt = self._delivery.attempt(entry.position, number=entry.attempts, problem=problem, seconds=seconds)
        record_attempt(connection, self._tables, attempt, subscriber=entry.subscriber, round_number=entry.round)

    def _progress_past(self, entry: Entry) -> Progress:
        """Where the checkpoint is once the entry is resolved: past it, where delivery has been waiting at it."""
        now = self._lease.progress
        if entry.position <= now.position:
            return now
        return Progress(
            position=entry.position,
            in_hand=entry.position,
            handled_through=max(now.handled_through, entry.position),
        )

    def _item(self, entry: Entry) -> FeedItem:
        with self._runtime.database.reader() as connection:
            stored = self._runtime.database.event_at(connection, entry.position)
        assert stored is not None, f"the ledger points at event {entry.position}, which is not in the log"
        return FeedItem(stored)

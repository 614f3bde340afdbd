"""Keeping leases while a worker is at it (T5): every third of their length, all of a worker's in one statement.

A row that somebody else holds locked, a batch at its fence or an operator, is passed by and delays no other: the fence
renews as well, and the next beat comes. A lease that is no longer ours is forgotten, so that an idle worker notices a
rewind.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from sqlalchemy import Connection, literal, select, tuple_, update
from sqlalchemy.exc import DBAPIError

from eventlog.errors import DatabaseError
from eventlog.schema.timestamps import seconds_from_now
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.trouble import Trouble

logger = logging.getLogger("eventlog.worker")


class Renewable(Protocol):
    """What else a worker keeps while it lives: its own row, a replay."""

    def renew(self, connection: Connection) -> None:
        """Push the expiry out."""
        ...


class Heartbeat:
    """Renews the leases of partitions, and what else is to be kept, while its block runs; reports overlong calls.

    `partitions` tells which there are now.
    """

    def __init__(
        self, runtime: Runtime, partitions: Callable[[], Sequence[Partition]], *, also: Sequence[Renewable] = ()
    ) -> None:
        self._runtime = runtime
        self._partitions = partitions
        self._also = also
        self._trouble = Trouble(runtime, logger)
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
            self._runtime.running_calls.report_overdue()
            try:
                self._beat()
            except (DBAPIError, DatabaseError) as error:
                self._trouble.say("the leases could not be renewed, the next try comes: %s", error)
            else:
                self._trouble.say_if_over()

    def _beat(self) -> None:
        held = [partition.lease for partition in self._partitions() if partition.lease.held]
        if not held and not self._also:
            return
        with self._runtime.database.transaction() as connection:
            if held:
                renew_leases(connection, held)
            for one in self._also:
                one.renew(connection)


def renew_leases(connection: Connection, leases: Sequence[Lease]) -> None:
    """Push out the expiry of leases of one owner; one that is no longer ours is forgotten. Two statements at the most,
    and none that waits.
    """
    first = leases[0]
    table = first.database.tables.checkpoints
    asked = [(lease, lease.epoch, lease.now()) for lease in leases]
    place = tuple_(table.c.subscriber, table.c.partition)
    free = select(table.c.subscriber, table.c.partition).where(table.c.owner == first.owner)
    renewed = connection.execute(
        update(table)
        .where(place.in_(free.with_for_update(skip_locked=True)), table.c.owner == first.owner)
        .values(expires_at=seconds_from_now(literal(first.seconds)))
        .returning(table.c.subscriber, table.c.partition, table.c.epoch)
    ).all()
    ours = {(row.subscriber, row.partition, row.epoch) for row in renewed}
    missing = [one for one in asked if (one[0].subscriber, one[0].partition, one[1]) not in ours]
    for lease, epoch, began in asked:
        if (lease.subscriber, lease.partition, epoch) in ours:
            lease.renewed(epoch, since=began)
    if missing:
        _forget_lost(connection, missing)


def _forget_lost(connection: Connection, missing: Sequence[tuple[Lease, int, float]]) -> None:
    """What was not renewed is either locked at this moment, or ours no more: a plain read tells."""
    first = missing[0][0]
    table = first.database.tables.checkpoints
    rows = connection.execute(
        select(table.c.subscriber, table.c.partition, table.c.epoch).where(table.c.owner == first.owner)
    )
    still = {(row.subscriber, row.partition, row.epoch) for row in rows}
    for lease, epoch, _ in missing:
        if (lease.subscriber, lease.partition, epoch) not in still:
            lease.lost(epoch)

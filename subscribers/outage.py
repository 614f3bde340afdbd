"""An outage is not ten thousand failures: after so many failures of one handler in a row, its partition waits.

    counting --so many failures of one handler, no success between--> OUTAGE: the partition waits at its place
        ^                                                                |  the event it waits at is tried on its own
        |                                                                |  attempts; spent, it is parked and the next
        |                                                                |  event of the handler takes its place
        +---- one success of the handler; what failed in the run is due--+

Only events that come live count: what is tried again out of the ledger has filled it already, and where nothing else
comes a few poisoned events would be an outage each time they are tried. A success counts wherever it comes from.

The event waited at has attempts of its own, or one poisoned event would stop a partition for ever. What a handler
decides about one event (`Park`, `Skip`, a final exception) says nothing of an outage. The count is kept in memory, the
outage in the checkpoint's row: who takes the lease over goes on with it.
"""

from datetime import datetime

from sqlalchemy import Connection, and_, or_, select, update

from eventlog.schema.tables import Tables
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.ledger import EntryState


class Outage:
    """Counts the failures of each handler of one partition, and knows which of them is in an outage."""

    def __init__(self, *, after: int) -> None:
        self.handler: str | None = None
        self.since: datetime | None = None
        self.probes = 0
        """How many events have been tried in vain since it began; paces those after them."""
        self._after = after
        self._runs: dict[str, int] = {}
        self._first: dict[str, int] = {}

    def restore(self, handler: str | None, since: datetime | None) -> None:
        """Take over what the row says when a lease is taken."""
        self.handler, self.since, self.probes = handler, since, 0
        self._runs.clear()
        self._first.clear()

    def failed(self, handler: str, position: int) -> None:
        """Count a failure of a handler at an event that came live."""
        self._runs[handler] = self._runs.get(handler, 0) + 1
        self._first.setdefault(handler, position)
        self.tried_in_vain(handler)

    def tried_in_vain(self, handler: str) -> None:
        """Take note of a failure that begins no outage: an event in the ledger was tried again."""
        if handler == self.handler:
            self.probes += 1

    def succeeded(self, handler: str) -> None:
        """Count a success."""
        if self._runs:
            self._runs.pop(handler, None)
            self._first.pop(handler, None)

    def begins(self, handler: str) -> bool:
        """Tell whether the handler has now failed so often that an outage begins."""
        return self.handler is None and self._runs.get(handler, 0) >= self._after

    def waits_at(self, handler: str | None) -> bool:
        """Tell whether an event of this handler that has failed is waited at."""
        return self.handler is not None and handler == self.handler

    def first_position(self, handler: str) -> int:
        return self._first[handler]


def begin_outage(
    connection: Connection, tables: Tables, *, subscriber: str, partition: int, handler: str, first_position: int
) -> datetime:
    """Note an outage in the checkpoint's row, which this transaction holds by its fence; return since when.

    It began with the first failure of the run, which stands in the ledger.
    """
    failures, checkpoints = tables.failures, tables.checkpoints
    since = connection.scalar(
        select(failures.c.last_failed_at).where(
            failures.c.subscriber == subscriber, failures.c.position == first_position
        )
    )
    if since is None:
        since = connection.scalar(select(database_now()))
    assert isinstance(since, datetime)
    connection.execute(
        update(checkpoints)
        .where(checkpoints.c.subscriber == subscriber, checkpoints.c.partition == partition)
        .values(outage_handler=handler, outage_since=since)
    )
    return since


def end_outage(
    connection: Connection,
    tables: Tables,
    *,
    subscriber: str,
    partition: int,
    handler: str,
    since: datetime,
    attempts: int,
) -> None:
    """Clear the outage, and make due what the handler failed at in it, also what was parked for want of attempts."""
    failures, checkpoints = tables.failures, tables.checkpoints
    connection.execute(
        update(checkpoints)
        .where(checkpoints.c.subscriber == subscriber, checkpoints.c.partition == partition)
        .values(outage_handler=None, outage_since=None)
    )
    spent = and_(failures.c.state == EntryState.PARKED, failures.c.attempts >= attempts, failures.c.reason.is_(None))
    waiting = and_(failures.c.state == EntryState.RETRYING, failures.c.next_attempt_at.is_not(None))
    connection.execute(
        update(failures)
        .where(
            failures.c.subscriber == subscriber,
            failures.c.partition == partition,
            failures.c.handler == handler,
            failures.c.last_failed_at >= since,
            or_(spent, waiting),
        )
        .values(state=str(EntryState.RETRYING), next_attempt_at=database_now(), revision=failures.c.revision + 1)
    )

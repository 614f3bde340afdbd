"""How one subscriber stands on its way to a position: what somebody who waits for it looks at, again and again."""

import msgspec
from sqlalchemy import Connection, select

from eventlog.database import Database, events_of
from eventlog.patterns import covers
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.control.checkpoints import live_owners
from eventlog.subscribers.control.places import mark_of
from eventlog.subscribers.declaration import OnFailure
from eventlog.subscribers.fleet import read_workers
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.registration import SubscriberRow, read_subscriber

LOOKED_AT_MAX = 10_000
"""How many positions are looked at for an event the subscriber wants; farther away, its row is waited for."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """Where a subscriber is, of `until`. `state` is running, paused or halted; `workers` run it, or can."""

    name: str
    state: str
    checkpoint: int
    until: int
    caught_up: bool
    workers: tuple[str, ...]


def read_standing(database: Database, name: str, *, until: int | None = None) -> Standing:
    """Read how a subscriber stands, up to the high-water mark if nothing else is named.

    It has caught up when there is no event of its types between: rows are not written for those that nobody wants.
    Raises `UnknownSubscriberError`.
    """
    with database.reader() as connection:
        row = read_subscriber(connection, database, name)
        end = mark_of(connection, database) if until is None else until
        table = database.tables.checkpoints
        question = select(table, database_now().label("now")).where(table.c.subscriber == name)
        rows = connection.execute(question).all()
        runs = (one.owner for one in read_workers(connection, database, alive_only=True) if name in one.subscribers)
        checkpoint = min(one.position for one in rows)
        return Standing(
            name=name,
            state=_state(connection, database, row, checkpoint),
            checkpoint=checkpoint,
            until=end,
            caught_up=checkpoint >= end or not _wants(connection, database, row, after=checkpoint, until=end),
            workers=tuple(sorted({*live_owners(rows), *runs})),
        )


def _state(connection: Connection, database: Database, row: SubscriberRow, checkpoint: int) -> str:
    if row.state != "running" or row.declaration.on_failure is not OnFailure.HALT:
        return row.state
    failures = database.tables.failures
    parked = select(failures.c.position).where(
        failures.c.subscriber == row.name,
        failures.c.position > checkpoint,
        failures.c.state == EntryState.PARKED,
    )
    return row.state if connection.execute(parked.limit(1)).first() is None else "halted"


def _wants(connection: Connection, database: Database, row: SubscriberRow, *, after: int, until: int) -> bool:
    if until - after > LOOKED_AT_MAX:
        return True
    with events_of(database, connection) as (log, there):
        events = log.tables.events
        between = select(events.c.type).where(events.c.position > after, events.c.position <= until).distinct()
        return any(covers(pattern, one) for one in there.scalars(between) for pattern in row.declaration.patterns)

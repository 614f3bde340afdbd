"""Changing the number of partitions (C6), with nothing lost, nothing handled twice, and the order of each key kept.

The new partitions all begin at the least position of the old ones, so nothing is skipped. What an old partition had
handled beyond that stands below its floor (`floors.py`), and is passed by. Ledger entries are hashed anew. A second
change has to wait until no floor matters any more: floors of floors would have to be kept.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, bindparam, delete, insert, select, update

from eventlog.database import Database, translated
from eventlog.errors import RefusedError
from eventlog.subscribers.control.checkpoints import (
    lock_checkpoints,
    refuse_while_in_hand,
    refuse_while_replayed,
    refuse_without_log,
)
from eventlog.subscribers.control.rebuilds import refuse_while_rebuilt
from eventlog.subscribers.declaration import PARTITIONS_MAX
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber

ENTRIES_AT_ONCE = 5_000


class Repartitioned(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber with another number of partitions: all begin at `position`, up to `floor` some events are passed by
    because they are done with; `entries` of its ledger were assigned anew.
    """

    subscriber: str
    before: int
    partitions: int
    position: int
    floor: int
    entries: int
    operation: int | None
    undo: str | None


def repartition(
    database: Database, name: str, partitions: int, *, reason: str | None = None, dry_run: bool = False
) -> Repartitioned:
    """Give a subscriber so many partitions. Code has to declare the same number from then on: other code is refused.

    Raises `UnknownSubscriberError`, and `RefusedError` when it has so many already, while floors of the last change
    matter, and while a replay runs.
    """
    if not 1 <= partitions <= PARTITIONS_MAX:
        raise RefusedError(
            f"{partitions} is no number of partitions", remedy=f"give a whole number from 1 to {PARTITIONS_MAX:,}"
        )
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        rows = lock_checkpoints(connection, database, name)
        refuse_without_log(row, database)
        refuse_while_rebuilt(connection, database, name, "repartitioned")
        planned = _plan(row, rows, partitions)
        _refuse_floors(connection, database, name, planned.position)
        refuse_while_in_hand(rows, row, "repartitioned")
        refuse_while_replayed(connection, database, name, "repartitioned")
        if dry_run:
            return planned
        entries = _carry_out(connection, database, row, rows, planned)
        done = Operation(
            action="partitions",
            subscriber=name,
            before={"partitions": len(rows), "positions": [one.position for one in rows]},
            after={"partitions": partitions, "positions": [planned.position] * partitions},
            reason=reason,
            undo=planned.undo,
        )
        number = record(connection, database.tables, done)
    return msgspec.structs.replace(planned, entries=entries, operation=number)


def _plan(row: SubscriberRow, rows: Sequence[Row[Any]], partitions: int) -> Repartitioned:
    if len(rows) == partitions:
        raise RefusedError(f"{row.name} has {partitions} partitions already", remedy="there is nothing to do")
    return Repartitioned(
        subscriber=row.name,
        before=len(rows),
        partitions=partitions,
        position=min(one.position for one in rows),
        floor=max(one.position for one in rows),
        entries=0,
        operation=None,
        undo=f"eventlog partitions {row.name} {len(rows)}",
    )


def _refuse_floors(connection: Connection, database: Database, name: str, least: int) -> None:
    table = database.tables.floors
    highest = max(connection.scalars(select(table.c.position).where(table.c.subscriber == name)), default=0)
    if least < highest:
        raise RefusedError(
            f"{name}: a partition is at {least:,}, and what the last change of their number left reaches to"
            f" {highest:,}",
            remedy="let workers come so far, then change it again",
        )


def _carry_out(
    connection: Connection, database: Database, row: SubscriberRow, rows: Sequence[Row[Any]], planned: Repartitioned
) -> int:
    tables = database.tables
    connection.execute(delete(tables.floors).where(tables.floors.c.subscriber == row.name))
    if planned.floor > planned.position:
        floors = [
            {"subscriber": row.name, "partition": one.partition, "partitions": len(rows), "position": one.position}
            for one in rows
        ]
        connection.execute(insert(tables.floors), floors)
    connection.execute(delete(tables.checkpoints).where(tables.checkpoints.c.subscriber == row.name))
    handled_through = max(one.handled_through for one in rows)
    event_id = next(one.event_id for one in rows if one.position == planned.position)
    for partition in range(planned.partitions):
        connection.execute(
            insert(tables.checkpoints).values(
                subscriber=row.name,
                partition=partition,
                position=planned.position,
                event_id=event_id,
                in_hand=planned.position,
                handled_through=handled_through,
                epoch=database.next_epoch(connection),
            )
        )
    declaration = msgspec.structs.replace(row.declaration, partitions=planned.partitions)
    connection.execute(
        update(tables.subscribers)
        .where(tables.subscribers.c.name == row.name)
        .values(partitions=planned.partitions, declaration=declaration.encode())
    )
    return _assign_entries(connection, database, row.name, planned.partitions)


def _assign_entries(connection: Connection, database: Database, name: str, partitions: int) -> int:
    """Every entry, open or closed, goes where live delivery would bring its event."""
    table = database.tables.failures
    change = (
        update(table)
        .where(table.c.subscriber == name, table.c.position == bindparam("at"))
        .values(partition=bindparam("to"), revision=table.c.revision + 1)
    )
    assigned, after = 0, 0
    while True:
        some = connection.execute(
            select(table.c.position, table.c.key)
            .where(table.c.subscriber == name, table.c.position > after)
            .order_by(table.c.position)
            .limit(ENTRIES_AT_ONCE)
        ).all()
        if not some:
            return assigned
        places = [{"at": one.position, "to": partition_of(one.key, partitions=partitions)} for one in some]
        connection.execute(change, places)
        assigned, after = assigned + len(some), some[-1].position

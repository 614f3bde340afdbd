"""What a worker asks of the ledger: which entries live delivery has to mind, and which are due.

An entry is due when its time has come and no other open entry of its key stands before it. That is asked of the rows
each time and kept nowhere, so nothing has to be released when the one in front is resolved or skipped.
"""

from collections.abc import Collection
from datetime import datetime

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, case, literal_column, or_, select

from eventlog.schema.tables import OPEN_STATES, Tables
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.ledger import Entry, EntryState, entry_from


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """What live delivery has to know of an entry."""

    position: int
    key: str
    state: EntryState
    handler: str | None

    @property
    def open(self) -> bool:
        return self.state in OPEN_STATES


def held_entries(
    connection: Connection, tables: Tables, *, subscriber: str, partition: int, above: int, keys: Collection[str] = ()
) -> list[Held]:
    """Read the entries live delivery has to mind: those that are open, and those above a position that were skipped.

    With `keys`, only theirs.
    """
    table = tables.failures
    skipped_above = (table.c.state == EntryState.SKIPPED) & (table.c.position > above)
    question = select(table.c.position, table.c.key, table.c.state, table.c.handler).where(
        table.c.subscriber == subscriber,
        table.c.partition == partition,
        or_(table.c.state.in_(OPEN_STATES), skipped_above),
    )
    if keys:
        question = question.where(table.c.key.in_(keys))
    return [
        Held(position=row.position, key=row.key, state=EntryState(row.state), handler=row.handler)
        for row in connection.execute(question)
    ]


def first_of_its_key(failures: Table) -> ColumnElement[bool]:
    """Whether no other open entry of its key stands before it: only then may it be tried."""
    earlier = failures.alias("earlier")
    return ~(
        select(literal_column("1"))
        .select_from(earlier)
        .where(
            earlier.c.subscriber == failures.c.subscriber,
            earlier.c.partition == failures.c.partition,
            earlier.c.key == failures.c.key,
            earlier.c.position < failures.c.position,
            earlier.c.state.in_(OPEN_STATES),
        )
        .exists()
    )


def due_at(failures: Table) -> ColumnElement[datetime]:
    """When the first entry of a key is due: a blocked one as soon as it is the first, null for one left alone."""
    return case(
        (failures.c.state == EntryState.BLOCKED, failures.c.first_failed_at),
        (failures.c.state == EntryState.RETRYING, failures.c.next_attempt_at),
    )


def due_entries(
    connection: Connection,
    tables: Tables,
    *,
    subscriber: str,
    partition: int,
    until: int,
    limit: int,
    only_waiting: tuple[str, int] | None = None,
) -> list[Entry]:
    """Read the entries that are due, the lowest position first: the first of their key, and their time has come.

    `only_waiting` is a handler in an outage and the position it waits at: of that handler's, only that one.
    """
    table = tables.failures
    question = select(tables.failures).where(
        table.c.subscriber == subscriber,
        table.c.partition == partition,
        table.c.position <= until,
        table.c.state.in_((EntryState.RETRYING, EntryState.BLOCKED)),
        due_at(table) <= database_now(),
        first_of_its_key(table),
    )
    if only_waiting is not None:
        handler, position = only_waiting
        question = question.where(or_(table.c.handler.is_distinct_from(handler), table.c.position == position))
    rows = connection.execute(question.order_by(table.c.position).limit(limit))
    return [entry_from(row._mapping) for row in rows]


def blocked_behind(connection: Connection, tables: Tables, entry: Entry, *, until: int, limit: int) -> list[Entry]:
    """Read what waits behind an entry that has just been closed: the open entries of its key, the lowest first."""
    table = tables.failures
    rows = connection.execute(
        select(tables.failures)
        .where(
            table.c.subscriber == entry.subscriber,
            table.c.partition == entry.partition,
            table.c.key == entry.key,
            table.c.position > entry.position,
            table.c.position <= until,
            table.c.state.in_(OPEN_STATES),
        )
        .order_by(table.c.position)
        .limit(limit)
    )
    return [entry_from(row._mapping) for row in rows]


def unfinished_entries(connection: Connection, tables: Tables, *, subscriber: str, partition: int) -> list[Entry]:
    """Read the entries whose attempt was counted and has no outcome."""
    table = tables.failures
    rows = connection.execute(
        select(tables.failures)
        .where(
            table.c.subscriber == subscriber,
            table.c.partition == partition,
            table.c.state == EntryState.RETRYING,
            table.c.next_attempt_at.is_(None),
        )
        .order_by(table.c.position)
    )
    return [entry_from(row._mapping) for row in rows]

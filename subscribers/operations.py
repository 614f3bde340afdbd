"""The record of what was done to subscribers: by whom, why, from where to where, and the command that undoes it."""

import getpass
import socket
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select

from eventlog.bell import ring
from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.schema.tables import Tables


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One change of a subscriber. `before` and `after` are small and JSON-able; moves tell positions per partition.

    `undo` is the command that takes it back, None where there is none; `{operation}` in it, also as it is kept, stands
    for the operation's number, which nobody knows when the row is written, and no row of history is ever changed.
    """

    action: str
    subscriber: str
    before: Any
    after: Any
    reason: str | None = None
    undo: str | None = None


class OperationRow(Operation, frozen=True, kw_only=True):
    """An operation as it stands in the record, under its number. `actor` is who has done it."""

    operation: int
    at: datetime
    actor: str


def record(connection: Connection, tables: Tables, operation: Operation) -> int:
    """Write the operation in the caller's transaction, wake every worker when it commits, and return its number."""
    statement = insert(tables.operations).values(
        action=operation.action,
        subscriber=operation.subscriber,
        actor=actor(),
        reason=operation.reason,
        before=_text(operation.before),
        after=_text(operation.after),
        undo=operation.undo,
    )
    number = connection.execute(statement.returning(tables.operations.c.id)).scalar_one()
    assert isinstance(number, int)
    ring(connection, tables)
    return number


def read_operations(database: Database, *, subscriber: str | None = None, limit: int) -> list[OperationRow]:
    """Read what was done, to one subscriber or to all, the latest first; also to those that are removed."""
    table = database.tables.operations
    question = select(table).order_by(table.c.id.desc()).limit(limit)
    if subscriber is not None:
        question = question.where(table.c.subscriber == subscriber)
    with translated(database), database.reader() as connection:
        return [_recorded(row) for row in connection.execute(question)]


def _recorded(row: Row[Any]) -> OperationRow:
    with readable(f"operation {row.id}"):
        before, after = msgspec.json.decode(row.before), msgspec.json.decode(row.after)
    return OperationRow(
        operation=row.id,
        at=row.at,
        action=row.action,
        subscriber=row.subscriber,
        actor=row.actor,
        reason=row.reason,
        before=before,
        after=after,
        undo=undo_command(row.undo, operation=row.id),
    )


def undo_command(undo: str | None, *, operation: int) -> str | None:
    """Return the command that takes an operation back, from the `undo` that is kept of it."""
    return None if undo is None else undo.replace("{operation}", str(operation))


def actor() -> str:
    """Name who runs this process, as well as the system knows."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"{user}@{socket.gethostname()}"


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()

"""The record of what was done to subscribers: by whom, why, from where to where, and the command that undoes it."""

import getpass
import socket
from typing import Any

import msgspec
from sqlalchemy import Connection, insert

from eventlog.bell import ring
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

"""Keeps a handler from ending the transaction it is called in.

A handler that commits would make the writes of the batch permanent without the checkpoint, and the batch would then
be run again: everything before it twice. Finding that out afterwards is too late, so it is refused when it is tried.
What goes around SQLAlchemy, through the driver's own connection, cannot be refused; it is noticed after the handler.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, event

from eventlog.errors import UsageError
from eventlog.subscribers.renaming import TableNames, tables_renamed

_ENDS_TRANSACTION = re.compile(
    r"(\s|--[^\n]*\n|/\*.*?\*/|;)*"
    r"(commit|end|abort|begin|start\s+transaction|prepare\s+transaction|rollback(?!\s+(work\s+|transaction\s+)?to\b))\b",
    re.IGNORECASE | re.DOTALL,
)


@contextmanager
def lent(connection: Connection, renamed: TableNames) -> Iterator[None]:
    """Lend a connection to handlers while the block runs: it cannot be committed, and may name other tables."""
    with transaction_kept(connection), tables_renamed(connection, renamed):
        yield


@contextmanager
def transaction_kept(connection: Connection) -> Iterator[None]:
    """Refuse, while the block runs, to commit or roll back through this connection. Savepoints are free to use."""

    def refuse(_connection: Connection) -> None:
        raise _not_yours()

    def look_at(
        _connection: Connection, _cursor: Any, statement: str, _parameters: Any, _context: Any, _many: bool
    ) -> None:
        if _ENDS_TRANSACTION.match(statement):
            raise _not_yours()

    listeners = (("commit", refuse), ("rollback", refuse), ("before_cursor_execute", look_at))
    for name, listener in listeners:
        event.listen(connection, name, listener)
    try:
        yield
    finally:
        for name, listener in listeners:
            event.remove(connection, name, listener)


def _not_yours() -> UsageError:
    return UsageError(
        "a handler may not end the transaction it is called in",
        remedy="leave ctx.connection's transaction alone: it is committed together with the checkpoint",
    )

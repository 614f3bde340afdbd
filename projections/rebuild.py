"""Making a projection's tables anew, in place: emptied, and filled again from the log by the worker.

One transaction: the tables are locked first (a worker locks them before its checkpoint, and so must we), then emptied;
the checkpoint goes to where the projection began, and what comes again counts as never handed out.
"""

import msgspec
from sqlalchemy import TableClause
from sqlalchemy import table as named_table
from sqlalchemy.exc import IntegrityError

from eventlog.database import Database, translated
from eventlog.errors import RefusedError
from eventlog.subscribers.control.moves import Action, Move, carry_out, plan
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber

LOCK_SECONDS = 10.0
"""How long to wait for readers and the worker to leave the tables; they wait behind us meanwhile."""


def owns_tables(row: SubscriberRow) -> bool:
    """Tell whether a rewind to the start can empty the subscriber's tables, and so is a rebuild."""
    return bool(row.declaration.tables)


def rebuild_in_place(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> Move:
    """Empty a projection's tables and set its checkpoint to where it began. Readers find them empty until the worker is
    through. Raises `UnknownSubscriberError`, and `RefusedError` when it owns no tables or is at its start already.
    """
    try:
        return _rebuild(database, name, reason, dry_run=dry_run)
    except IntegrityError as error:
        raise RefusedError(
            f"the tables of {name!r} cannot be emptied: {error.orig}",
            remedy="a table that refers to a projection's tables belongs to the projection: declare it in tables=",
        ) from error


def _rebuild(database: Database, name: str, reason: str | None, *, dry_run: bool) -> Move:
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name)
        if not owns_tables(row):
            raise RefusedError(
                f"subscriber {name!r} owns no tables that could be emptied",
                remedy="declare them: app.projection(name, tables=[...]), or rewind it",
            )
        tables = [_table(fullname) for fullname in row.declaration.tables]
        if not dry_run:
            database.lock_tables(connection, tables, seconds=LOCK_SECONDS)
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        planned = plan(connection, database, row, row.start_position, Action.REWIND)
        move = msgspec.structs.replace(planned, emptied=row.declaration.tables, needs_resend=False)
        if dry_run:
            return move
        database.empty_tables(connection, tables)
        return carry_out(connection, database, move, reason=reason, forget_handled=True)


def _table(fullname: str) -> TableClause:
    schema, _, name = fullname.rpartition(".")
    return named_table(name, schema=schema or None)

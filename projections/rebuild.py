"""Making a projection's tables anew, in place: emptied, and filled again from the log by the worker.

One transaction: the tables are locked first (a worker locks them before its checkpoint, and so must we), then emptied;
the checkpoint goes to where the projection began, and what comes again counts as never handed out.
"""

import msgspec
from sqlalchemy.exc import IntegrityError

from eventlog.database import Database, translated
from eventlog.errors import RefusedError
from eventlog.subscribers.control.checkpoints import refuse_without_log
from eventlog.subscribers.control.moves import Action, Move, carry_out, plan
from eventlog.subscribers.control.rebuilds import drop_tables, refuse_while_rebuilt
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.owned_tables import clause, create_tables
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber, redeclare, refuse_owned

LOCK_SECONDS = 10.0
"""How long to wait for readers and the worker to leave the tables; they wait behind us meanwhile."""


def owns_tables(row: SubscriberRow) -> bool:
    """Tell whether a rewind to the start can empty the subscriber's tables, and so is a rebuild."""
    return bool(row.declaration.tables)


def rebuild_in_place(
    database: Database,
    name: str,
    *,
    declared: Subscriber | None = None,
    reason: str | None = None,
    dry_run: bool = False,
) -> Move:
    """Empty a projection's tables and set its checkpoint to where it began. Readers find them empty until the worker is
    through. Raises `UnknownSubscriberError`, and `RefusedError` when it owns no tables or is at its start already.

    With `declared` the tables are made anew as code declares them now, with the columns and the version of today.
    """
    try:
        return _rebuild(database, name, declared, reason, dry_run=dry_run)
    except IntegrityError as error:
        raise RefusedError(
            f"the tables of {name!r} cannot be emptied: {error.orig}",
            remedy="a table that refers to a projection's tables belongs to the projection: declare it in tables=",
        ) from error


def _rebuild(database: Database, name: str, declared: Subscriber | None, reason: str | None, *, dry_run: bool) -> Move:
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name)
        refuse_without_log(row, database)
        if not owns_tables(row):
            raise RefusedError(
                f"subscriber {name!r} owns no tables that could be emptied",
                remedy="declare them: app.projection(name, tables=[...]), or rewind it",
            )
        tables = [clause(fullname) for fullname in row.declaration.tables]
        if not dry_run:
            database.lock_tables(connection, tables, seconds=LOCK_SECONDS)
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        renews = declared is not None
        planned = plan(connection, database, row, row.start_position, Action.REWIND, may_stay=renews)
        move = msgspec.structs.replace(planned, emptied=row.declaration.tables, needs_resend=False)
        if dry_run:
            return move
        if declared is None:
            database.empty_tables(connection, tables)
        else:
            refuse_owned(connection, database, declared)
            refuse_while_rebuilt(connection, database, name, "rebuilt in place")
            drop_tables(connection, database, row.declaration.tables)
            create_tables(connection, declared.tables)
            redeclare(connection, database, row, declared)
        return carry_out(connection, database, move, reason=reason, forget_handled=True)

"""Making a projection's tables anew, in place: emptied, and filled again from the log by the worker.

One transaction: the tables are locked first (a worker locks them before its checkpoint, and so must we), then emptied;
the checkpoint goes to where the projection began, and what comes again counts as never handed out.
"""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.expression import TableClause

from eventlog.database import Database, translated
from eventlog.errors import RefusedError
from eventlog.subscribers.control.checkpoints import refuse_without_log
from eventlog.subscribers.control.moves import Action, Move, carry_out, plan
from eventlog.subscribers.control.rebuilds import (
    drop_tables,
    refuse_held_tables,
    refuse_taken_names,
    refuse_while_rebuilt,
)
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.fitting_tables import misfits
from eventlog.subscribers.owned_tables import (
    clause,
    create_lacking_indexes,
    create_tables,
    has_columns,
    missing,
    missing_names,
    shape_in_database,
)
from eventlog.subscribers.registration import (
    RowLock,
    SubscriberRow,
    read_subscriber,
    redeclare,
    refuse_owned,
    without_tables,
)

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

    With `declared` the projection is then at the version of today. Where its tables have the columns of today they are
    only emptied, and what is tied to them stays: indexes, views, policies, rights. Where they have others, or are gone,
    they are dropped and made anew with the same rights; that is refused while something else would be lost with them.
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
        absent = missing_names(connection, row.declaration.tables)
        if absent and declared is None:
            raise without_tables(row, absent)
        there = [clause(fullname) for fullname in row.declaration.tables if fullname not in absent]
        if there and not dry_run:
            database.lock_tables(connection, there, seconds=LOCK_SECONDS)
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        stay = declared is None or _may_stay(connection, database, row, declared)
        renews = declared is not None
        planned = plan(connection, database, row, row.start_position, Action.REWIND, may_stay=renews)
        move = msgspec.structs.replace(planned, emptied=row.declaration.tables, needs_resend=False)
        if dry_run:
            return move
        if declared is not None and not stay:
            _make_anew(connection, database, row, declared, there)
        else:
            database.empty_tables(connection, there)
        if declared is not None:
            create_lacking_indexes(connection, declared.tables)
            redeclare(connection, database, row, declared)
        return carry_out(connection, database, move, reason=reason, forget_handled=True)


def _may_stay(connection: Connection, database: Database, row: SubscriberRow, declared: Subscriber) -> bool:
    """Tell whether it is enough to empty the tables. Raises `RefusedError` where others have to be made and may not."""
    refuse_owned(connection, database, declared)
    refuse_while_rebuilt(connection, database, row.name, "rebuilt in place")
    stored = row.shape or shape_in_database(connection, declared.tables)
    as_declared = has_columns(stored, declared.shape(database.engine.dialect))
    if as_declared and not misfits(connection, declared.tables) and not missing(connection, declared.tables):
        return True
    refuse_held_tables(connection, database, row, "made anew")
    refuse_taken_names(connection, row, declared)
    return False


def _make_anew(
    connection: Connection,
    database: Database,
    row: SubscriberRow,
    declared: Subscriber,
    there: Sequence[TableClause],
) -> None:
    """Drop the tables that are there, and make those of today; who could use one before can use it again."""
    rights = {str(one.fullname): database.rights_of(connection, one) for one in there}
    drop_tables(connection, database, row.declaration.tables)
    create_tables(connection, declared.tables)
    for name in rights.keys() & set(declared.table_names):
        database.grant(connection, clause(name), rights[name])

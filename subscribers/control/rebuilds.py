"""Making a projection anew beside the live one (P11): begin it, look at it, cancel it.

A rebuild is a row of its own and a shadow: a subscriber `NAME@rebuild-OPERATION` with tables of its own, delivered to
like any other, from where the projection began. Readers and the live one go on meanwhile. Workers whose code declares
the version that is being made run the shadow, and take it into use when it has caught up; see `exchange.py`.

running --exchanged--> done --go_back--> reverted
   |                    |  with `keep` the tables of before stay, as the subscriber `NAME@kept-OPERATION`
   +------cancelled-----> cancelled
"""

from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, delete, func, insert, select, update

from eventlog.bell import ring
from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import Kind, Subscriber
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.owned_tables import (
    beside,
    clause,
    create_beside,
    differences,
    has_columns,
    missing,
    missing_names,
)
from eventlog.subscribers.registration import (
    SHADOW_MARK,
    RowLock,
    SubscriberRow,
    insert_subscriber,
    read_subscriber,
    without_tables,
)


class RebuildState(StrEnum):
    """Where a rebuild stands; the picture is at the top of the file."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    REVERTED = "reverted"


class Rebuild(msgspec.Struct, frozen=True, kw_only=True):
    """One rebuild beside the live projection, or the plan of one (`operation` is 0).

    `shadow` is the subscriber that fills the new tables. `kept` is the one that has the tables of before, None when
    they were dropped or there are none yet.
    """

    operation: int
    subscriber: str
    shadow: str
    state: RebuildState
    version: int
    shape: str
    keep: bool
    kept: str | None
    started_at: datetime | None
    ended_at: datetime | None

    @property
    def suffix(self) -> str:
        """What the names of its tables end with."""
        return f"__r{self.operation}"


def begin_rebuild(
    database: Database,
    subscriber: Subscriber,
    *,
    keep: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> Rebuild:
    """Make new tables for a projection as code declares it now, and a shadow that fills them from the log.

    One that runs already for the same version and columns is returned. With `keep` the tables of before stay when the
    new ones are taken into use, so that `go_back` can bring them back, also where that runs already. Raises
    `UnknownSubscriberError`, and `RefusedError` when it owns no tables, when another version is being made, or when
    something holds on to the tables.
    """
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, subscriber.name, lock=RowLock.EXCLUSIVE)
        planned = _planned(row, subscriber, database, keep=keep)
        running = running_rebuild(connection, database, subscriber.name)
        if running is not None:
            _refuse_another(running, planned)
            return running if running.keep or not keep else _keep(connection, database, running, dry_run=dry_run)
        beside(subscriber.tables, planned.suffix)
        if absent := missing_names(connection, row.declaration.tables):
            raise without_tables(row, absent)
        refuse_held_tables(connection, database, row, "exchanged", shape=planned.shape)
        refuse_taken_names(connection, row, subscriber)
        return planned if dry_run else _begin(connection, database, row, subscriber, planned=planned, reason=reason)


def cancel_rebuild(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> Rebuild:
    """Give a rebuild up: its tables are dropped, the live ones have never been touched.

    Raises `NotFoundError` when none runs.
    """
    with translated(database), database.transaction() as connection:
        rebuild = _running(connection, database, name)
        if dry_run:
            return rebuild
        shadow = read_subscriber(connection, database, rebuild.shadow)
        drop_tables(connection, database, shadow.declaration.tables)
        read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        # It may have been taken into use while we waited for its tables; then there is nothing to cancel.
        rebuild = _running(connection, database, name)
        release_live(connection, database, rebuild)
        remove_rows(connection, database, rebuild.shadow)
        end_rebuild(connection, database, rebuild, RebuildState.CANCELLED, kept=None)
        done = Operation(
            action="cancel-rebuild", subscriber=name, before={"rebuild": rebuild.operation}, after=None, reason=reason
        )
        record(connection, database.tables, done)
    return msgspec.structs.replace(rebuild, state=RebuildState.CANCELLED)


def read_rebuilds(database: Database, *, subscriber: str | None = None) -> list[Rebuild]:
    """Read the rebuilds of one projection or of all, the latest first."""
    with translated(database), database.reader() as connection:
        question = _rebuilds(database).limit(100)
        if subscriber is not None:
            question = question.where(database.tables.rebuilds.c.subscriber == subscriber)
        return [rebuild_from(row) for row in connection.execute(question)]


def read_rebuild(database: Database, operation: int) -> Rebuild:
    """Read one rebuild. Raises `NotFoundError`."""
    with translated(database), database.reader() as connection:
        return find_rebuild(connection, database, operation)


def find_rebuild(connection: Connection, database: Database, operation: int) -> Rebuild:
    """Read one rebuild within a transaction. Raises `NotFoundError`."""
    question = _rebuilds(database).where(database.tables.rebuilds.c.operation == operation)
    found = connection.execute(question).one_or_none()
    if found is None:
        raise NotFoundError(f"operation {operation} is no rebuild", remedy="`eventlog rebuilds` lists them")
    return rebuild_from(found)


def was_tried(database: Database, name: str, version: int) -> bool:
    """Tell whether a version of a projection has been begun before, whatever came of it."""
    table = database.tables.rebuilds
    with translated(database), database.reader() as connection:
        question = select(func.count()).where(table.c.subscriber == name, table.c.version == version)
        return bool(connection.scalar(question))


def running_rebuild(connection: Connection, database: Database, name: str) -> Rebuild | None:
    """Read the rebuild of a projection that runs now."""
    table = database.tables.rebuilds
    running = _rebuilds(database).where(table.c.subscriber == name, table.c.state == RebuildState.RUNNING)
    found = connection.execute(running).one_or_none()
    return None if found is None else rebuild_from(found)


def kept_rebuild(connection: Connection, database: Database, name: str) -> Rebuild | None:
    """Read the rebuild whose tables of before are kept; there is one at the most."""
    table = database.tables.rebuilds
    kept = _rebuilds(database).where(table.c.subscriber == name, table.c.kept.is_not(None))
    found = connection.execute(kept.limit(1)).one_or_none()
    return None if found is None else rebuild_from(found)


def _running(connection: Connection, database: Database, name: str) -> Rebuild:
    rebuild = running_rebuild(connection, database, name)
    if rebuild is None:
        raise NotFoundError(f"no rebuild of {name!r} runs", remedy="`eventlog rebuilds` lists them")
    return rebuild


def refuse_while_rebuilt(connection: Connection, database: Database, name: str, deed: str) -> None:
    """Raise `RefusedError` while the projection is being made anew."""
    running = running_rebuild(connection, database, name)
    if running is not None:
        raise RefusedError(
            f"{name} cannot be {deed} while rebuild {running.operation} of it runs",
            remedy=f"wait for it, or cancel it: `eventlog rebuild {name} --cancel`",
        )


def refuse_held_tables(
    connection: Connection, database: Database, row: SubscriberRow, deed: str, *, shape: str | None = None
) -> None:
    """Raise `RefusedError` when something would go on with the old tables after others have come, or be lost with them.

    With a `shape` that the tables have already they might be emptied instead, and the error says so.
    """
    absent = missing_names(connection, row.declaration.tables)
    found = database.holding_on(connection, [clause(name) for name in row.declaration.tables if name not in absent])
    if not found:
        return
    may_be_emptied = shape is not None and has_columns(row.shape, shape) and not any(map(_goes_with_rows, found))
    instead = ", or rebuild in place, which empties them and leaves it alone: `--in-place`"
    raise RefusedError(
        f"the tables of {row.name!r} cannot be {deed}: {', '.join(found)} would keep the old ones, or be lost",
        remedy=f"drop it and make it again afterwards{instead if may_be_emptied else ''}",
    )


def _goes_with_rows(holding: str) -> bool:
    """Tell whether what holds on to a table keeps it from being emptied, or would be emptied with it."""
    return holding.startswith(("foreign key", "inheritance"))


def release_live(connection: Connection, database: Database, rebuild: Rebuild) -> None:
    """Give the leases of the live projection back that were taken for the shadow; see `exchange.hold_live`."""
    table = database.tables.checkpoints
    connection.execute(
        update(table)
        .where(table.c.subscriber == rebuild.subscriber, table.c.owner == rebuild.shadow)
        .values(owner=None, expires_at=None)
    )


def drop_tables(connection: Connection, database: Database, names: tuple[str, ...]) -> None:
    """Drop tables that may refer to each other."""
    quoted = [connection.dialect.identifier_preparer.format_table(clause(name)) for name in names]
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"drop table if exists {', '.join(quoted)}".replace("%", "%%"))
        return
    connection.exec_driver_sql("pragma defer_foreign_keys = on")
    for one in reversed(quoted):
        connection.exec_driver_sql(f"drop table if exists {one}")


def remove_rows(connection: Connection, database: Database, name: str) -> None:
    """Forget a subscriber with its checkpoints and its ledger."""
    table = database.tables.subscribers
    connection.execute(delete(table).where(table.c.name == name))


def end_rebuild(
    connection: Connection, database: Database, rebuild: Rebuild, state: RebuildState, *, kept: str | None
) -> None:
    """Write what has come of a rebuild, and wake the workers."""
    table = database.tables.rebuilds
    connection.execute(
        update(table)
        .where(table.c.operation == rebuild.operation)
        .values(state=str(state), subscriber=rebuild.subscriber, kept=kept, ended_at=database_now())
    )
    ring(connection, database.tables)


def _planned(row: SubscriberRow, subscriber: Subscriber, database: Database, *, keep: bool) -> Rebuild:
    shape = subscriber.shape(database.engine.dialect)
    if shape is None or not row.declaration.tables or row.kind != Kind.PROJECTION:
        raise RefusedError(
            f"subscriber {row.name!r} owns no tables that could be made anew",
            remedy="declare them: app.projection(name, tables=[...]), or rewind it",
        )
    if subscriber.version < row.version:
        raise RefusedError(
            f"projection {row.name!r} is at version {row.version}, and this code declares version {subscriber.version}",
            remedy="deploy the newest code, or declare a higher version",
        )
    return Rebuild(
        operation=0,
        subscriber=row.name,
        shadow="",
        state=RebuildState.RUNNING,
        version=subscriber.version,
        shape=shape,
        keep=keep,
        kept=None,
        started_at=None,
        ended_at=None,
    )


def refuse_taken_names(connection: Connection, row: SubscriberRow, subscriber: Subscriber) -> None:
    """Names that the live one does not have must be free: nobody can be asked when the tables are exchanged."""
    absent = missing(connection, subscriber.tables)
    taken = set(subscriber.declaration.tables) - set(row.declaration.tables) - set(absent)
    if taken:
        raise RefusedError(
            f"table {min(taken)!r}, which {row.name!r} is to have, is there already and belongs to somebody else",
            remedy="name another table, or drop or rename that one",
        )


def _keep(connection: Connection, database: Database, running: Rebuild, *, dry_run: bool) -> Rebuild:
    """Have one that runs keep the tables of before. Under the lock of the subscriber's row it is not in use yet."""
    if not dry_run:
        table = database.tables.rebuilds
        connection.execute(update(table).where(table.c.operation == running.operation).values(keep=True))
        done = Operation(
            action="keep", subscriber=running.subscriber, before=None, after={"rebuild": running.operation}
        )
        record(connection, database.tables, done)
    return msgspec.structs.replace(running, keep=True)


def _refuse_another(running: Rebuild, planned: Rebuild) -> None:
    if (running.version, running.shape) == (planned.version, planned.shape):
        return
    if running.version == planned.version:
        other = f"the same version and other columns: {differences(running.shape, planned.shape)}"
    else:
        other = f"version {running.version}, and this code declares version {planned.version}"
    then = "workers then begin the higher version by themselves, " if planned.version > running.version else ""
    raise RefusedError(
        f"rebuild {running.operation} of {running.subscriber!r} runs, of {other}",
        remedy=f"let it end, {then}or cancel it: `eventlog rebuild {running.subscriber} --cancel`",
    )


def _begin(
    connection: Connection,
    database: Database,
    row: SubscriberRow,
    subscriber: Subscriber,
    *,
    planned: Rebuild,
    reason: str | None,
) -> Rebuild:
    done = Operation(
        action="rebuild",
        subscriber=row.name,
        before={"version": row.version},
        after={"version": subscriber.version, "beside": True},
        reason=reason,
        undo=f"eventlog rebuild {row.name} --cancel",
    )
    number = record(connection, database.tables, done)
    rebuild = msgspec.structs.replace(planned, operation=number, shadow=f"{row.name}{SHADOW_MARK}rebuild-{number}")
    shadow = shadow_of(subscriber, rebuild)
    create_beside(connection, subscriber.tables, shadow.renamed_tables)
    insert_subscriber(connection, database, shadow, position=row.start_position)
    values = {
        name: getattr(rebuild, name) for name in ("operation", "subscriber", "shadow", "version", "shape", "keep")
    }
    connection.execute(insert(database.tables.rebuilds).values(state=str(RebuildState.RUNNING), **values))
    return rebuild


def shadow_of(subscriber: Subscriber, rebuild: Rebuild) -> Subscriber:
    """Make the subscriber that fills a rebuild's tables, with the handlers of the live one."""
    return subscriber.shadow(rebuild.shadow, beside(subscriber.tables, rebuild.suffix))


def _rebuilds(database: Database) -> Select[Any]:
    return select(database.tables.rebuilds).order_by(database.tables.rebuilds.c.operation.desc())


def rebuild_from(row: Row[Any]) -> Rebuild:
    """Make a rebuild of its row. Raises `DamagedRowError`."""
    values = {name: row._mapping[name] for name in Rebuild.__struct_fields__}
    with readable(f"rebuild {row.operation}"):
        return Rebuild(**{**values, "state": RebuildState(row.state)})

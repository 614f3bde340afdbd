"""Taking a rebuilt projection into use, and going back: the names of two sets of tables, exchanged in one transaction.

When the shadow has nearly caught up, the live one is held: its epochs are raised and its leases taken, for a while and
by nobody who would deliver anything. The shadow then comes to where the live one stands, and the names are exchanged:
of the tables, and of the two subscribers, so that checkpoints and ledgers go with their tables. Whoever reads sees the
one or the other, each as far as its checkpoint; never an empty table, never half of one.

What makes that right is the comparison of the checkpoints under the locks, not the hold; the hold only makes sure that
it comes true. It has an end, so a worker that dies in between costs the live one a lease, and nothing else.

Locks are taken in the order that holds everywhere: tables, subscribers, checkpoints.
"""

import msgspec
from sqlalchemy import Connection, func, literal, select, update
from sqlalchemy.exc import DBAPIError

from eventlog.bell import ring
from eventlog.database import Database, translated
from eventlog.errors import DatabaseError, NotFoundError
from eventlog.schema.timestamps import seconds_from_now
from eventlog.subscribers.control.checkpoints import Placed, lock_checkpoints, place
from eventlog.subscribers.control.rebuilds import (
    Rebuild,
    RebuildState,
    drop_tables,
    end_rebuild,
    find_rebuild,
    kept_rebuild,
    read_rebuild,
    refuse_held_tables,
    refuse_while_rebuilt,
    release_live,
    remove_rows,
    shadow_of,
)
from eventlog.subscribers.declaration import PARTITIONS_MAX, Subscriber
from eventlog.subscribers.ledger import supersede_above
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.owned_tables import clause, with_suffix
from eventlog.subscribers.registration import SHADOW_MARK, RowLock, SubscriberRow, read_subscriber

LOCK_SECONDS = 0.5
"""How long to wait for readers to leave the tables. Others queue up behind us: it is short, and tried again."""

KEPT = "kept"
"""The state of a subscriber whose tables are kept: nobody delivers to it."""

LONGER_LOCK_SECONDS = 10.0
"""How long an operator waits who goes back."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far a rebuild and the live projection are: the least of a shadow's partitions, the furthest of the live ones.

    `live_least` is where the live projection's slowest partition is.
    """

    shadow: int
    live: int
    live_least: int

    @property
    def caught_up(self) -> bool:
        return self.shadow >= self.live


class WentBack(msgspec.Struct, frozen=True, kw_only=True):
    """A projection whose tables of before are in use again: of which version, and where its checkpoint is."""

    subscriber: str
    from_version: int
    to_version: int
    checkpoint: int
    operation: int | None


def read_standing(connection: Connection, database: Database, rebuild: Rebuild) -> Standing:
    """Read how far both are. One query."""
    table = database.tables.checkpoints
    rows = connection.execute(
        select(table.c.subscriber, func.min(table.c.position).label("least"), func.max(table.c.position).label("most"))
        .where(table.c.subscriber.in_([rebuild.shadow, rebuild.subscriber]))
        .group_by(table.c.subscriber)
    ).all()
    found = {row.subscriber: row for row in rows}
    if rebuild.shadow not in found or rebuild.subscriber not in found:
        raise NotFoundError(f"rebuild {rebuild.operation} is gone", remedy="`eventlog rebuilds` tells what came of it")
    live = found[rebuild.subscriber]
    return Standing(shadow=found[rebuild.shadow].least, live=live.most, live_least=live.least)


def hold_live(database: Database, rebuild: Rebuild, *, seconds: float) -> None:
    """Take the leases of the live projection for so long, so that its checkpoints stand still."""
    table = database.tables.checkpoints
    with database.transaction() as connection:
        read_subscriber(connection, database, rebuild.subscriber, lock=RowLock.EXCLUSIVE)
        for row in lock_checkpoints(connection, database, rebuild.subscriber):
            connection.execute(
                update(table)
                .where(table.c.subscriber == rebuild.subscriber, table.c.partition == row.partition)
                .values(
                    epoch=database.next_epoch(connection),
                    owner=rebuild.shadow,
                    expires_at=seconds_from_now(literal(seconds)),
                )
            )


def let_go_of_live(database: Database, rebuild: Rebuild) -> None:
    """Give the leases back that `hold_live` took; what has been taken over meanwhile stays as it is."""
    with database.transaction() as connection:
        release_live(connection, database, rebuild)
        ring(connection, database.tables)


def exchange(
    database: Database, subscriber: Subscriber, rebuild: Rebuild, *, lock_seconds: float = LOCK_SECONDS
) -> bool:
    """Take a rebuild into use if it is as far as the live projection; tell whether that was done, now or before.

    Raises `RefusedError` when readers do not let go of the tables in time, or something holds on to them; nothing is
    changed then.
    """
    try:
        return _exchange_if_caught_up(database, subscriber, rebuild, lock_seconds)
    except (DBAPIError, DatabaseError):
        # Whoever was faster has taken the tables' names while we waited for them.
        now = read_rebuild(database, rebuild.operation)
        if now.state is RebuildState.RUNNING:
            raise
        return now.state is RebuildState.DONE


def _exchange_if_caught_up(database: Database, subscriber: Subscriber, rebuild: Rebuild, lock_seconds: float) -> bool:
    with translated(database), database.transaction() as connection:
        live = read_subscriber(connection, database, rebuild.subscriber)
        tables = live.declaration.tables + shadow_of(subscriber, rebuild).declaration.tables
        database.lock_tables(connection, [clause(one) for one in tables], seconds=lock_seconds)
        live = read_subscriber(connection, database, rebuild.subscriber, lock=RowLock.EXCLUSIVE)
        now = find_rebuild(connection, database, rebuild.operation)
        if now.state is not RebuildState.RUNNING:
            return now.state is RebuildState.DONE
        shadow = read_subscriber(connection, database, rebuild.shadow, lock=RowLock.EXCLUSIVE)
        for row in (live, shadow):
            lock_checkpoints(connection, database, row.name)
        if not read_standing(connection, database, rebuild).caught_up:
            return False
        refuse_held_tables(connection, database, live, "exchanged")
        _exchange(connection, database, now, live=live, shadow=shadow, tables=subscriber.declaration.tables)
        return True


def go_back(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> WentBack:
    """Bring back the tables that a rebuild has replaced and kept; those of the rebuild are dropped.

    Their checkpoint and ledger come back with them, and what was appended since is delivered to them by code of their
    version. Raises `NotFoundError` when none are kept, and `RefusedError` while the projection is being rebuilt.
    """
    with translated(database), database.transaction() as connection:
        live = read_subscriber(connection, database, name)
        rebuild, kept = _kept(connection, database, name)
        refuse_while_rebuilt(connection, database, name, "brought back")
        rows = lock_checkpoints(connection, database, kept.name) if dry_run else ()
        if not dry_run:
            tables = [clause(one) for one in live.declaration.tables + kept.declaration.tables]
            database.lock_tables(connection, tables, seconds=LONGER_LOCK_SECONDS)
            live = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
            kept = read_subscriber(connection, database, kept.name, lock=RowLock.EXCLUSIVE)
            lock_checkpoints(connection, database, live.name)
            rows = lock_checkpoints(connection, database, kept.name)
        back = WentBack(
            subscriber=name,
            from_version=live.version,
            to_version=kept.version,
            checkpoint=min(row.position for row in rows),
            operation=None,
        )
        if dry_run:
            return back
        refuse_held_tables(connection, database, live, "exchanged")
        return msgspec.structs.replace(
            back, operation=_go_back(connection, database, rebuild, live=live, kept=kept, reason=reason)
        )


def drop_kept(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> tuple[str, ...]:
    """Drop the tables that a rebuild has replaced and kept; return their names. Raises `NotFoundError`."""
    with translated(database), database.transaction() as connection:
        rebuild, kept = _kept(connection, database, name)
        tables = kept.declaration.tables
        if dry_run:
            return tables
        _drop_kept(connection, database, rebuild, kept)
        done = Operation(action="drop-kept", subscriber=name, before={"tables": tables}, after=None, reason=reason)
        record(connection, database.tables, done)
        return tables


def _exchange(
    connection: Connection,
    database: Database,
    rebuild: Rebuild,
    *,
    live: SubscriberRow,
    shadow: SubscriberRow,
    tables: tuple[str, ...],
) -> None:
    """`tables` are the names by which code knows them, in the order of the shadow's own."""
    earlier = kept_rebuild(connection, database, live.name)
    if earlier is not None and earlier.kept is not None:
        _drop_kept(connection, database, earlier, read_subscriber(connection, database, earlier.kept))
    for made, known_as in zip(shadow.declaration.tables, tables, strict=True):
        if known_as in live.declaration.tables:
            database.grant(connection, clause(made), database.rights_of(connection, clause(known_as)))
    aside = f"{live.name}{SHADOW_MARK}kept-{rebuild.operation}"
    kept_tables = _put_aside(connection, database, rebuild, live.declaration.tables)
    for made, known_as in zip(shadow.declaration.tables, tables, strict=True):
        _rename(connection, database, made, known_as, drops=rebuild.suffix)
    operation = _record_exchange(connection, database, rebuild, live=live, shadow=shadow, aside=aside)
    _take_place(connection, database, shadow, live=live, aside=aside, tables=tables)
    if rebuild.keep:
        _declare(connection, database, aside, live, tables=kept_tables, state=KEPT)
    else:
        _hand_ledger_on(connection, database, aside, to=live.name, operation=operation)
        remove_rows(connection, database, aside)
    end_rebuild(connection, database, rebuild, RebuildState.DONE, kept=aside if rebuild.keep else None)


def _go_back(
    connection: Connection,
    database: Database,
    rebuild: Rebuild,
    *,
    live: SubscriberRow,
    kept: SubscriberRow,
    reason: str | None,
) -> int:
    suffix = _kept_suffix(rebuild)
    names = tuple(name.removesuffix(suffix) for name in kept.declaration.tables)
    drop_tables(connection, database, live.declaration.tables)
    for now, then in zip(kept.declaration.tables, names, strict=True):
        _rename(connection, database, now, then, drops=suffix)
    aside = f"{live.name}{SHADOW_MARK}dropped"
    _take_place(connection, database, kept, live=live, aside=aside, tables=names)
    remove_rows(connection, database, aside)
    end_rebuild(connection, database, rebuild, RebuildState.REVERTED, kept=None)
    before, after = {"version": live.version}, {"version": kept.version}
    done = Operation(action="go-back", subscriber=live.name, before=before, after=after, reason=reason)
    return record(connection, database.tables, done)


def _put_aside(
    connection: Connection, database: Database, rebuild: Rebuild, tables: tuple[str, ...]
) -> tuple[str, ...]:
    """Give the old tables other names, or drop them."""
    if not rebuild.keep:
        drop_tables(connection, database, tables)
        return ()
    suffix = _kept_suffix(rebuild)
    for name in tables:
        table = clause(name)
        database.rename_table(connection, table, table.name + suffix, lambda part: with_suffix(part, suffix))
    return tuple(name + suffix for name in tables)


def _rename(connection: Connection, database: Database, name: str, to: str, *, drops: str) -> None:
    """Rename a table, and of its parts what their names have of a suffix."""
    database.rename_table(connection, clause(name), clause(to).name, lambda part: part.replace(drops, ""))


def _record_exchange(
    connection: Connection,
    database: Database,
    rebuild: Rebuild,
    *,
    live: SubscriberRow,
    shadow: SubscriberRow,
    aside: str,
) -> int:
    done = Operation(
        action="exchange",
        subscriber=live.name,
        before={"version": live.version, "rebuild": rebuild.operation},
        after={"version": shadow.version, "kept": aside if rebuild.keep else None},
        undo=f"eventlog rebuild {live.name} --back" if rebuild.keep else None,
    )
    return record(connection, database.tables, done)


def _take_place(
    connection: Connection,
    database: Database,
    new: SubscriberRow,
    *,
    live: SubscriberRow,
    aside: str,
    tables: tuple[str, ...],
) -> None:
    """Give the live subscriber's name to another; what was the live one stays under the name `aside`.

    The foreign keys take a name to whatever belongs to a subscriber; the list of rebuilds belongs to the name.
    """
    subscribers, rebuilds = database.tables.subscribers, database.tables.rebuilds
    for now, then in ((live.name, aside), (new.name, live.name)):
        connection.execute(update(subscribers).where(subscribers.c.name == now).values(name=then))
    connection.execute(update(rebuilds).where(rebuilds.c.subscriber == aside).values(subscriber=live.name))
    _declare(connection, database, live.name, new, tables=tables, state=live.state, reason=live.state_reason)
    connection.execute(update(subscribers).where(subscribers.c.name == live.name).values(first_name=live.first_name))
    for name in (aside, live.name):
        rows = lock_checkpoints(connection, database, name)
        place(connection, database, name, [Placed(partition=row.partition, position=row.position) for row in rows])


def _declare(
    connection: Connection,
    database: Database,
    name: str,
    row: SubscriberRow,
    *,
    tables: tuple[str, ...],
    state: str,
    reason: str | None = None,
) -> None:
    declaration = msgspec.structs.replace(row.declaration, tables=tables)
    table = database.tables.subscribers
    connection.execute(
        update(table)
        .where(table.c.name == name)
        .values(declaration=declaration.encode(), state=state, state_reason=reason)
    )


def _hand_ledger_on(connection: Connection, database: Database, name: str, *, to: str, operation: int) -> None:
    """Close the entries of the old ledger, and keep them where the new one has none for the same event."""
    table = database.tables.failures
    everywhere = range(PARTITIONS_MAX)
    supersede_above(
        connection, database.tables, subscriber=name, partitions=everywhere, position=0, operation=operation
    )
    other = table.alias()
    taken = select(other.c.position).where(other.c.subscriber == to)
    connection.execute(
        update(table).where(table.c.subscriber == name, table.c.position.not_in(taken)).values(subscriber=to)
    )


def _kept(connection: Connection, database: Database, name: str) -> tuple[Rebuild, SubscriberRow]:
    rebuild = kept_rebuild(connection, database, name)
    if rebuild is None or rebuild.kept is None:
        raise NotFoundError(
            f"no earlier tables of {name!r} are kept", remedy="say --keep when a rebuild is begun: its tables then stay"
        )
    return rebuild, read_subscriber(connection, database, rebuild.kept)


def _drop_kept(connection: Connection, database: Database, rebuild: Rebuild, kept: SubscriberRow) -> None:
    drop_tables(connection, database, kept.declaration.tables)
    remove_rows(connection, database, kept.name)
    table = database.tables.rebuilds
    connection.execute(update(table).where(table.c.operation == rebuild.operation).values(kept=None))


def _kept_suffix(rebuild: Rebuild) -> str:
    return f"__k{rebuild.operation}"

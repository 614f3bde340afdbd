"""What operators do to subscribers while workers run: rewind, undo, retry, skip.

Each is one transaction: the subscriber's row, its checkpoints in order, the plan again under the locks, the ledger,
one operation. A rewind draws new epochs, so whatever a worker is in the middle of fails at its fence and is rolled
back; the lease is let go at once. Nobody has to stop a worker first.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, and_, case, desc, func, select, update

from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.patterns import covers
from eventlog.schema.tables import OPEN_STATES
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import Kind
from eventlog.subscribers.ledger import (
    Entry,
    EntryState,
    close_entry,
    entry_from,
    make_due,
    restore_superseded,
    supersede_above,
    superseded_by,
)
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber

ENTRIES_MAX = 10_000
"""How many ledger entries of a subscriber one retry or skip changes at the most; the next one takes up the rest."""

Resolve = Callable[[Connection, SubscriberRow], int]
"""Reads, inside the transaction, the position a checkpoint is to be moved to."""


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint that was moved, or would be: where from and to, and what is delivered again because of it.

    `events` are those of the subscriber's types in between, `already_handled` how many of them its handlers have seen
    before, failures that are still open left out; `needs_resend` is whether that needs somebody's word. `superseded`
    counts ledger entries that were open. `operation` is None when nothing was changed.
    """

    subscriber: str
    kind: str
    from_position: int
    to_position: int
    next_event: int
    events: int
    by_type: dict[str, int]
    already_handled: int
    needs_resend: bool
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    superseded: int
    emptied: tuple[str, ...]
    operation: int | None
    undo: str | None


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """A rewind that was taken back, or would be: where the checkpoint goes, and how many entries come back."""

    subscriber: str
    from_position: int
    to_position: int
    restored: int
    operation: int | None


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Ledger entries that were changed, or would be."""

    entries: tuple[Entry, ...]
    operation: int | None


def rewind(
    database: Database,
    name: str,
    resolve: Resolve,
    *,
    resend: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> Move:
    """Move a subscriber's checkpoint back (C1). What follows the new position is delivered again.

    `resolve` says where to: `after_position`, `since`, `to_start`. Entries of the ledger above it are superseded; they
    are kept, and `undo` brings them back. Raises `UnknownSubscriberError`, and `RefusedError` when that is no way back,
    or when events would be handled twice and `resend` does not say that this is meant.
    """
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        move = plan_rewind(connection, database, row, resolve(connection, row))
        if dry_run:
            return move
        if move.needs_resend and not resend:
            raise not_twice(move)
        return carry_out(connection, database, move, reason=reason, forget_handled=False)


def to_start(_connection: Connection, row: SubscriberRow) -> int:
    """Resolve to where the subscriber began."""
    return row.start_position


def after_position(position: int) -> Resolve:
    """Resolve to a position, whose followers are delivered next."""
    return lambda _connection, _row: position


def since(database: Database, moment: datetime) -> Resolve:
    """Resolve to just before the first event recorded at or after a moment, on the database's clock."""

    def resolve(connection: Connection, _row: SubscriberRow) -> int:
        events = database.tables.events
        first = connection.scalar(select(func.min(events.c.position)).where(events.c.recorded_at >= moment))
        if first is None:
            raise RefusedError(
                f"nothing has been recorded since {moment.isoformat()}",
                remedy="give an earlier time; `eventlog read` shows when events were recorded",
            )
        return int(first) - 1

    return resolve


def plan_rewind(connection: Connection, database: Database, row: SubscriberRow, to: int) -> Move:
    """Tell what a rewind would do. Under the lock of the subscriber's row it stays true until the transaction ends."""
    checkpoints, events = database.tables.checkpoints, database.tables.events
    held = select(checkpoints).where(checkpoints.c.subscriber == row.name).order_by(checkpoints.c.partition)
    now = connection.execute(held.with_for_update()).one()
    if to >= now.position:
        raise RefusedError(
            f"{row.name}: the checkpoint is at {now.position:,}, and a rewind never passes anything over"
            f" (asked for {max(to, 0):,}, next event {to + 1:,})",
            remedy="name an event at or below the checkpoint",
        )
    to = max(to, 0)
    between = and_(events.c.position > to, events.c.position <= now.position)
    handed = func.sum(case((events.c.position <= now.handled_through, 1), else_=0))
    counts = connection.execute(
        select(
            events.c.type,
            func.count(),
            handed,
            func.min(events.c.recorded_at),
            func.max(events.c.recorded_at),
            func.min(events.c.position),
        )
        .where(between)
        .group_by(events.c.type)
        .order_by(events.c.type)
    ).all()
    mine = [one for one in counts if any(covers(pattern, one[0]) for pattern in row.declaration.patterns)]
    failures = database.tables.failures
    above = (failures.c.subscriber == row.name) & (failures.c.position > to)
    open_above = connection.scalar(
        select(func.count()).select_from(failures).where(above, failures.c.state.in_(OPEN_STATES))
    )
    not_handled = connection.scalar(
        select(func.count())
        .select_from(failures)
        .where(
            above,
            failures.c.state.in_((*OPEN_STATES, EntryState.SKIPPED)),
            failures.c.position <= min(now.position, now.handled_through),
        )
    )
    already_handled = max(0, sum(one[2] for one in mine) - (not_handled or 0))
    return Move(
        subscriber=row.name,
        kind=row.kind,
        from_position=now.position,
        to_position=to,
        next_event=min((one[5] for one in counts), default=to + 1),
        events=sum(one[1] for one in mine),
        by_type={one[0]: one[1] for one in mine},
        already_handled=already_handled,
        needs_resend=already_handled > 0 and not row.declaration.idempotent,
        first_recorded_at=min((one[3] for one in mine), default=None),
        last_recorded_at=max((one[4] for one in mine), default=None),
        superseded=open_above or 0,
        emptied=(),
        operation=None,
        undo=None,
    )


def carry_out(
    connection: Connection, database: Database, move: Move, *, reason: str | None, forget_handled: bool
) -> Move:
    """Do what was planned, in the same transaction. After `forget_handled` nothing counts as handed out before."""
    _place(connection, database, move.subscriber, move.to_position, handled_through=0 if forget_handled else None)
    operation = record(
        connection,
        database.tables,
        Operation(
            action="rebuild" if move.emptied else "rewind",
            subscriber=move.subscriber,
            before={"positions": [move.from_position]},
            after={"positions": [move.to_position]},
            reason=reason,
        ),
    )
    supersede_above(
        connection,
        database.tables,
        subscriber=move.subscriber,
        position=move.to_position,
        operation=operation,
    )
    undo = None if move.emptied else f"eventlog undo {operation}"
    return msgspec.structs.replace(move, operation=operation, undo=undo)


def undo(database: Database, operation: int, *, reason: str | None = None, dry_run: bool = False) -> Undone:
    """Take a rewind back (C3): the checkpoint returns to where it was, and the entries the rewind closed come back.

    What has been delivered again meanwhile stays delivered. Raises `NotFoundError`, and `RefusedError` for anything but
    the subscriber's last operation, for a rebuild, and when the checkpoint has come as far by itself.
    """
    with translated(database), database.transaction() as connection:
        operations = database.tables.operations
        found = connection.execute(select(operations).where(operations.c.id == operation)).one_or_none()
        if found is None:
            raise NotFoundError(f"no operation {operation} is recorded", remedy="every move prints its undo command")
        row = read_subscriber(connection, database, found.subscriber, lock=RowLock.EXCLUSIVE)
        back_to = _undoable(connection, database, found)
        checkpoints = database.tables.checkpoints
        now = connection.scalars(
            select(checkpoints.c.position).where(checkpoints.c.subscriber == row.name).with_for_update()
        ).one()
        if now >= back_to:
            raise RefusedError(
                f"{row.name}: the checkpoint has come to {now:,} by itself, where it was before operation {operation}",
                remedy="there is nothing left to undo",
            )
        undone = Undone(
            subscriber=row.name,
            from_position=now,
            to_position=back_to,
            restored=superseded_by(connection, database.tables, subscriber=row.name, above=now, operation=operation),
            operation=None,
        )
        if dry_run:
            return undone
        _place(connection, database, row.name, back_to, handled_through=None)
        done = Operation(
            action="undo",
            subscriber=row.name,
            before={"positions": [now], "operation": operation},
            after={"positions": [back_to]},
            reason=reason,
        )
        number = record(connection, database.tables, done)
        restore_superseded(connection, database.tables, subscriber=row.name, above=now, operation=operation)
    return msgspec.structs.replace(undone, operation=number)


def retry(
    database: Database,
    name: str | None,
    positions: Sequence[int] = (),
    *,
    reason: str | None = None,
    dry_run: bool = False,
) -> Changed:
    """Make entries of the ledger due now (C4): these of a subscriber, all its open ones, or all open ones of the log.

    A worker runs them. Raises `UnknownSubscriberError`, `NotFoundError` for a position that is not in the ledger, and
    `RefusedError` for one that is not open.
    """

    def change(connection: Connection, entry: Entry) -> None:
        make_due(connection, database.tables, entry)

    return _change_entries(database, name, positions, "retry", change, reason=reason, dry_run=dry_run)


def skip(database: Database, name: str, positions: Sequence[int], *, reason: str, dry_run: bool = False) -> Changed:
    """Give entries up (C4): they are not tried again, and what waits behind them goes on. Raises as `retry` does."""

    def change(connection: Connection, entry: Entry) -> None:
        close_entry(connection, database.tables, entry, state=EntryState.SKIPPED, reason=reason)

    return _change_entries(database, name, positions, "skip", change, reason=reason, dry_run=dry_run)


def _change_entries(
    database: Database,
    name: str | None,
    positions: Sequence[int],
    action: str,
    change: Callable[[Connection, Entry], None],
    *,
    reason: str | None,
    dry_run: bool,
) -> Changed:
    with translated(database), database.transaction() as connection:
        subscribers = database.tables.subscribers.c.name
        names = [name] if name is not None else list(connection.scalars(select(subscribers).order_by(subscribers)))
        changed: list[Entry] = []
        operation = None
        for one in names:
            read_subscriber(connection, database, one, lock=RowLock.EXCLUSIVE)
            entries = _entries_to_change(connection, database, one, positions)
            changed += entries
            if dry_run or not entries:
                continue
            for entry in entries:
                change(connection, entry)
            before = {"entries": {str(entry.position): entry.state for entry in entries}}
            done = Operation(action=action, subscriber=one, before=before, after=None, reason=reason)
            operation = record(connection, database.tables, done)
    return Changed(entries=tuple(changed), operation=operation)


def _entries_to_change(connection: Connection, database: Database, name: str, positions: Sequence[int]) -> list[Entry]:
    failures = database.tables.failures
    question = (
        select(failures)
        .where(failures.c.subscriber == name)
        .order_by(_due_last(failures), failures.c.position)
        .limit(ENTRIES_MAX)
    )
    wanted = failures.c.position.in_(positions) if positions else _retriable(failures)
    found = [entry_from(row._mapping) for row in connection.execute(question.where(wanted).with_for_update())]
    missing = set(positions) - {entry.position for entry in found}
    if missing:
        raise NotFoundError(
            f"{name} has no failure at {', '.join(f'{one:,}' for one in sorted(missing))}",
            remedy=f"`eventlog failures {name}` lists them",
        )
    for entry in found:
        if not entry.open:
            raise RefusedError(
                f"{name}: the failure at {entry.position:,} is {entry.state}",
                remedy="only open failures can be retried or skipped; rewind to have an event delivered again",
            )
    return found


def _retriable(failures: Table) -> ColumnElement[bool]:
    """Open, and not being tried at this moment."""
    being_tried = (failures.c.state == EntryState.RETRYING) & failures.c.next_attempt_at.is_(None)
    return failures.c.state.in_(OPEN_STATES) & ~being_tried


def _due_last(failures: Table) -> ColumnElement[int]:
    """Order what a retry changes before what is due anyway, so that one after the other reaches all."""
    return case((failures.c.next_attempt_at <= database_now(), 1), else_=0)


def _place(
    connection: Connection, database: Database, name: str, position: int, *, handled_through: int | None
) -> None:
    """Set a checkpoint, draw a new epoch, and let the lease go: a worker in the middle of something fails its fence."""
    table = database.tables.checkpoints
    values: dict[str, Any] = {"position": position, "in_hand": position, "owner": None, "expires_at": None}
    if handled_through is not None:
        values["handled_through"] = handled_through
    connection.execute(
        update(table).where(table.c.subscriber == name).values(epoch=database.next_epoch(connection), **values)
    )


def _undoable(connection: Connection, database: Database, found: Any) -> int:
    operations = database.tables.operations
    last = connection.scalar(
        select(operations.c.id)
        .where(operations.c.subscriber == found.subscriber, operations.c.action.not_in(("retry", "skip")))
        .order_by(desc(operations.c.id))
        .limit(1)
    )
    if found.action != "rewind":
        raise RefusedError(f"operation {found.id} is a {found.action}", remedy="only a rewind can be undone")
    if last != found.id:
        raise RefusedError(
            f"operation {found.id} is not the last one on {found.subscriber!r}, that is {last}",
            remedy="undo the last one first, or rewind to where you want to be",
        )
    return int(msgspec.json.decode(found.before)["positions"][0])


def not_twice(move: Move) -> RefusedError:
    """Make the error for a move that needs `resend`."""
    if move.kind == Kind.PROJECTION:
        return RefusedError(
            f"{move.subscriber}: {move.already_handled:,} events have been applied already, and the projection does not"
            " say that it may see them again",
            remedy="rewind it to its start, which empties its tables (--to-start); declare it idempotent=True if it is;"
            " or say --resend to apply them again as they are",
        )
    return RefusedError(
        f"{move.subscriber}: {move.already_handled:,} events have been handled already, and their effects would happen"
        " again",
        remedy="say --resend if that is meant; --dry-run shows which events they are",
    )

"""Moving checkpoints: rewind (C1), advance (C2), and seek, which is the one or the other for each partition.

`rewind` never passes anything over, `advance` never goes back. Where the partitions of a subscriber stand at different
positions, each goes where it has to go; the plan then counts what lies between for all of them together, which is more
than will come (`exact` says so).
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, select, update

from eventlog.counting import count_types, recorded_between
from eventlog.database import Database, events_of, translated
from eventlog.errors import RefusedError
from eventlog.patterns import covers
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.control.checkpoints import (
    Placed,
    live_owners,
    lock_checkpoints,
    place,
    refuse_while_in_hand,
    refuse_while_replayed,
    refuse_without_log,
    replayed_through,
)
from eventlog.subscribers.control.places import Resolve, mark_of
from eventlog.subscribers.declaration import Kind
from eventlog.subscribers.fleet import read_workers
from eventlog.subscribers.ledger import EntryState, supersede_above
from eventlog.subscribers.operations import Operation, record, undo_command
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber


class Action(StrEnum):
    """The ways to move a checkpoint."""

    REWIND = "rewind"
    ADVANCE = "advance"
    SEEK = "seek"
    REBUILD = "rebuild"


class PartitionMove(msgspec.Struct, frozen=True, kw_only=True):
    """The move of one partition's checkpoint."""

    partition: int
    from_position: int
    to_position: int


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """Checkpoints that were moved, or would be: where from and to, and what is delivered again or passed over.

    `from_position` and `to_position` are the least of the partitions. `events` are those of the subscriber's types in
    between; of a rewind they come again, and `already_handled` is how many of them its handlers have seen before,
    failures that are still open left out; `needs_resend` is whether that needs somebody's word. `superseded` counts
    ledger entries that were open. `estimated` is whether there are so many events that they were not counted one by
    one. `workers` run the subscriber, or can. `operation` is None when nothing was changed.
    """

    action: str
    subscriber: str
    kind: str
    from_position: int
    to_position: int
    next_event: int
    events: int
    exact: bool
    estimated: bool
    by_type: dict[str, int]
    already_handled: int
    needs_resend: bool
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    superseded: int
    emptied: tuple[str, ...]
    partitions: tuple[PartitionMove, ...]
    workers: tuple[str, ...]
    operation: int | None = None
    undo: str | None = None

    @property
    def goes_back(self) -> bool:
        return any(one.to_position < one.from_position for one in self.partitions)


def rewind(
    database: Database,
    name: str,
    resolve: Resolve,
    *,
    resend: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> Move:
    """Move a subscriber's checkpoints back (C1). What follows the new position is delivered again.

    `resolve` says where to: `after_position`, `back_by`, `since`, `to_start`, `to_failure`. Entries of the ledger above
    it are superseded; they are kept, and `undo` brings them back. Raises `UnknownSubscriberError`, and `RefusedError`
    when that is no way back, when events would be handled twice and `resend` does not say that this is meant, or while
    a replay runs.
    """
    return _move(database, name, resolve, Action.REWIND, resend=resend, reason=reason, dry_run=dry_run)


def advance(
    database: Database, name: str, resolve: Resolve, *, reason: str | None = None, dry_run: bool = False
) -> Move:
    """Move a subscriber's checkpoints forward (C2), to the high-water mark at most; what lies between is not delivered.

    Failures stay what they are. Raises `UnknownSubscriberError`, and `RefusedError` when that is no way forward, or
    while a replay runs.
    """
    return _move(database, name, resolve, Action.ADVANCE, resend=False, reason=reason, dry_run=dry_run)


def seek(
    database: Database,
    name: str,
    resolve: Resolve,
    *,
    resend: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> Move:
    """Move a subscriber's checkpoints to a position, back or forward. Raises as `rewind` and `advance` do."""
    return _move(database, name, resolve, Action.SEEK, resend=resend, reason=reason, dry_run=dry_run)


def plan(
    connection: Connection, database: Database, row: SubscriberRow, to: int, action: Action, *, may_stay: bool = False
) -> Move:
    """Tell what a move would do. Under the lock of the subscriber's row it stays true until the transaction ends.

    Raises `RefusedError` where no checkpoint would move, unless it `may_stay`.
    """
    rows = lock_checkpoints(connection, database, row.name)
    asked = to = max(to, 0)
    if action in (Action.ADVANCE, Action.SEEK):
        to = min(asked, mark_of(connection, database))
    moves = tuple(_of_partition(one, to, action) for one in rows)
    if not may_stay and all(one.to_position == one.from_position for one in moves):
        raise _no_way(row, rows, to, action, asked=asked)
    handled_through = max(replayed_through(connection, database, row.name), *(one.handled_through for one in rows))
    planned = _counted(connection, database, row, handled_through=handled_through, moves=moves, action=action)
    runs = (one.owner for one in read_workers(connection, database, alive_only=True) if row.name in one.subscribers)
    return msgspec.structs.replace(planned, workers=tuple(sorted({*live_owners(rows), *runs})))


def carry_out(
    connection: Connection, database: Database, move: Move, *, reason: str | None, forget_handled: bool
) -> Move:
    """Do what was planned, in the same transaction. After `forget_handled` nothing counts as handed out before."""
    handled = 0 if forget_handled else None
    place(
        connection,
        database,
        move.subscriber,
        [Placed(partition=one.partition, position=one.to_position, handled_through=handled) for one in move.partitions],
    )
    undo = None if move.emptied else "eventlog undo {operation}"
    done = Operation(
        action=Action.REBUILD if move.emptied else move.action,
        subscriber=move.subscriber,
        before={"positions": [one.from_position for one in move.partitions]},
        after={"positions": [one.to_position for one in move.partitions]},
        reason=reason,
        undo=undo,
    )
    operation = record(connection, database.tables, done)
    back_to = _back_to(move)
    if back_to is not None:
        supersede_above(
            connection,
            database.tables,
            subscriber=move.subscriber,
            partitions=_partitions_back(move),
            position=back_to,
            operation=operation,
        )
        _lower_floors(connection, database, move.subscriber, back_to)
    return msgspec.structs.replace(move, operation=operation, undo=undo_command(undo, operation=operation))


def not_twice(move: Move) -> RefusedError:
    """Make the error for a move that needs `resend`."""
    handled = f"{'about ' if move.estimated else ''}{move.already_handled:,} events have been"
    if move.kind == Kind.PROJECTION:
        return RefusedError(
            f"{move.subscriber}: {handled} applied already, and the projection does not say that it may see them again",
            remedy="rewind it to its start, which empties its tables (--to-start); declare it idempotent=True if it is;"
            " or say --resend to apply them again as they are",
        )
    return RefusedError(
        f"{move.subscriber}: {handled} handled already, and their effects would happen again",
        remedy="say --resend if that is meant; --dry-run shows how many events of which types come again, and"
        f" `eventlog read --from {move.next_event}` the events",
    )


def _move(
    database: Database,
    name: str,
    resolve: Resolve,
    action: Action,
    *,
    resend: bool,
    reason: str | None,
    dry_run: bool,
) -> Move:
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        refuse_without_log(row, database)
        move = plan(connection, database, row, resolve(connection, row), action)
        if dry_run:
            return move
        refuse_while_replayed(connection, database, name, "moved")
        if not resend:
            if move.needs_resend:
                raise not_twice(move)
            refuse_while_in_hand(_going_back(connection, database, move), row, "moved back")
        return carry_out(connection, database, move, reason=reason, forget_handled=False)


def _going_back(connection: Connection, database: Database, move: Move) -> list[Row[Any]]:
    """The checkpoints that a move takes back."""
    back = {one.partition for one in move.partitions if one.to_position < one.from_position}
    return [one for one in lock_checkpoints(connection, database, move.subscriber) if one.partition in back]


def _of_partition(row: Row[Any], to: int, action: Action) -> PartitionMove:
    goes = {Action.ADVANCE: max(row.position, to), Action.SEEK: to}.get(action, min(row.position, to))
    return PartitionMove(partition=row.partition, from_position=row.position, to_position=goes)


def _no_way(row: SubscriberRow, rows: Sequence[Row[Any]], to: int, action: Action, *, asked: int) -> RefusedError:
    least, most = min(one.position for one in rows), max(one.position for one in rows)
    stands = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    if to < asked:
        return RefusedError(
            f"{row.name}: the checkpoint is at {stands}, and the high-water mark at {to:,}: nothing passes that"
            f" (asked for {asked:,}, next event {asked + 1:,})",
            remedy="there is nothing above it to pass over yet; advance when there is",
        )
    if action is Action.ADVANCE:
        return RefusedError(
            f"{row.name}: the checkpoint is at {stands}, and an advance never goes back"
            f" (asked for {to:,}, next event {to + 1:,})",
            remedy="name an event above the checkpoint and at or below the high-water mark",
        )
    if action is Action.SEEK:
        return RefusedError(f"{row.name}: the checkpoint is at {stands} already", remedy="there is nothing to do")
    return RefusedError(
        f"{row.name}: the checkpoint is at {stands}, and a rewind never passes anything over"
        f" (asked for {to:,}, next event {to + 1:,})",
        remedy="name an event at or below the checkpoint",
    )


def _counted(
    connection: Connection,
    database: Database,
    row: SubscriberRow,
    *,
    handled_through: int,
    moves: tuple[PartitionMove, ...],
    action: Action,
) -> Move:
    low = min(min(one.from_position, one.to_position) for one in moves)
    high = max(max(one.from_position, one.to_position) for one in moves)
    to = min(one.to_position for one in moves)
    with events_of(database, connection) as (log, there):
        counted = count_types(there, log, after=low, until=high, split=handled_through)
        events = log.tables.events
        following = there.scalar(select(func.min(events.c.position)).where(events.c.position > to))
        first, last = (None, None) if counted.exact else recorded_between(there, log, after=low, until=high)
    mine = [one for one in counted.types if any(covers(pattern, one.type) for pattern in row.declaration.patterns)]
    move = Move(
        action=action,
        subscriber=row.name,
        kind=row.kind,
        from_position=min(one.from_position for one in moves),
        to_position=to,
        next_event=following or to + 1,
        events=sum(one.count for one in mine),
        exact=counted.exact and len({(one.from_position, one.to_position) for one in moves}) == 1,
        estimated=not counted.exact,
        by_type={one.type: one.count for one in mine},
        already_handled=0,
        needs_resend=False,
        first_recorded_at=first or min((one.first_recorded_at for one in mine), default=None),
        last_recorded_at=last or max((one.last_recorded_at for one in mine), default=None),
        superseded=0,
        emptied=(),
        partitions=moves,
        workers=(),
    )
    back_to = _back_to(move)
    if back_to is None:
        return move
    not_handled = _not_handled(connection, database, move, through=min(high, handled_through))
    already = max(0, sum(one.before for one in mine) - not_handled)
    # An estimate may miss what is rare: where anything may have been handled, somebody's word is needed.
    again = handled_through > low if move.estimated else already > 0
    return msgspec.structs.replace(
        move,
        already_handled=already,
        needs_resend=again and not row.declaration.idempotent,
        superseded=_open_above(connection, database, move),
    )


def _back_to(move: Move) -> int | None:
    """The position partitions go back to; None when none does. One that stands below it stays where it is."""
    return max(one.to_position for one in move.partitions) if move.goes_back else None


def _partitions_back(move: Move) -> tuple[int, ...]:
    """The partitions whose events come again; a rewind concerns all, also those that stand below its place."""
    if move.action != Action.SEEK:
        return tuple(one.partition for one in move.partitions)
    return tuple(one.partition for one in move.partitions if one.to_position < one.from_position)


def _open_above(connection: Connection, database: Database, move: Move) -> int:
    failures = database.tables.failures
    above = _above(move, failures)
    question = select(func.count()).select_from(failures).where(above, failures.c.state.in_(OPEN_STATES))
    return connection.scalar(question) or 0


def _not_handled(connection: Connection, database: Database, move: Move, *, through: int) -> int:
    """How many events between were handed out, and are open or were given up."""
    failures = database.tables.failures
    unhandled = failures.c.state.in_((*OPEN_STATES, EntryState.SKIPPED))
    question = (
        select(func.count())
        .select_from(failures)
        .where(_above(move, failures), unhandled, failures.c.position <= through)
    )
    return connection.scalar(question) or 0


def _above(move: Move, failures: Any) -> Any:
    mine = failures.c.subscriber == move.subscriber
    return and_(mine, failures.c.partition.in_(_partitions_back(move)), failures.c.position > _back_to(move))


def _lower_floors(connection: Connection, database: Database, name: str, position: int) -> None:
    table = database.tables.floors
    connection.execute(
        update(table).where(table.c.subscriber == name, table.c.position > position).values(position=position)
    )

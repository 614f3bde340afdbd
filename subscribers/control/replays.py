"""Replays: a bounded range of the log delivered again to one effect, beside its live checkpoint.

    RUNNING --came to the end of its range--> DONE
       |----cancelled by an operator--------> CANCELLED

A replay has a place of its own and touches neither checkpoint nor ledger: what fails is an attempt of the operation.
Events whose failure is open are left out, since trying them again is what a retry is for. It never reaches past the
subscriber's checkpoint: what lies above comes live. Who executes it is told in `replaying.py`.
"""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, func, insert, select, update

from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.patterns import covers
from eventlog.reading import Selection
from eventlog.reading import select as select_events
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.control.checkpoints import lock_checkpoints, refuse_while_replayed
from eventlog.subscribers.declaration import Kind
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber


class ReplayState(StrEnum):
    """Where a replay stands; the drawing is at the top of this file. That events failed is counted beside it."""

    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"


class Range(msgspec.Struct, frozen=True, kw_only=True):
    """Which events are meant: after < position <= until, and all that is given beside it."""

    after: int = 0
    until: int | None = None
    types: tuple[str, ...] = ()
    stream: str | None = None
    since: datetime | None = None
    before: datetime | None = None

    def selection(self) -> Selection:
        """Check the filters. Raises `UsageError`."""
        selected = select_events(types=self.types, stream=self.stream, since=self.since, before=self.before)
        return selected.with_old_names()


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A replay as it stands."""

    operation: int
    subscriber: str
    state: ReplayState
    chosen: Range
    new_keys: bool
    position: int
    until: int
    handled: int
    failed: int
    owner: str | None


class ReplayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that was started, or would be. `left_out` counts events whose failure is open."""

    subscriber: str
    after: int
    until: int
    events: int
    by_type: dict[str, int]
    left_out: int
    new_keys: bool
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    operation: int | None
    undo: str | None


def start_replay(
    database: Database,
    name: str,
    chosen: Range,
    *,
    new_keys: bool = False,
    reason: str | None = None,
    dry_run: bool = False,
) -> ReplayPlan:
    """Have a range delivered again to an effect; the workers that run it do so, beside live delivery.

    The idempotency key of an event stays what it was, so a partner that knows it drops the repeat; with `new_keys` it
    has the operation's number at its end. One replay of a subscriber runs at a time. Raises `UnknownSubscriberError`,
    `UsageError` for filters that make no sense, and `RefusedError` for a projection, for a range in which the
    subscriber has nothing behind it, and while another replay of it runs.
    """
    selection = chosen.selection()
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        if row.kind == Kind.PROJECTION:
            raise RefusedError(
                f"{name} is a projection, and would count the events twice",
                remedy=f"rebuild it: `eventlog rewind {name} --to-start`",
            )
        reached = min(one.position for one in lock_checkpoints(connection, database, name))
        until = reached if chosen.until is None else min(chosen.until, reached)
        plan = _plan(
            connection, database, row, msgspec.structs.replace(chosen, until=until), selection, new_keys=new_keys
        )
        if plan.events == 0:
            raise RefusedError(
                f"{name}: there is no event to replay after {chosen.after:,} up to {until:,}, where its checkpoint is",
                remedy="choose another range; what is above the checkpoint comes by itself",
            )
        if dry_run:
            return plan
        refuse_while_replayed(connection, database, name, "replayed")
        number = _insert(connection, database, plan, chosen, reason)
    return msgspec.structs.replace(plan, operation=number, undo=f"eventlog replay --cancel {number}")


def cancel_replay(database: Database, operation: int, *, reason: str | None = None) -> Replay:
    """Stop a replay where it is; what it has handled stays handled. Raises `NotFoundError`, `RefusedError`."""
    with translated(database), database.transaction() as connection:
        replay = _read(connection, database, operation)
        read_subscriber(connection, database, replay.subscriber, lock=RowLock.EXCLUSIVE)
        table = database.tables.replays
        running = (table.c.operation == operation) & (table.c.state == ReplayState.RUNNING)
        cancelled = connection.execute(
            update(table).where(running).values(state=str(ReplayState.CANCELLED), owner=None, expires_at=None)
        )
        if cancelled.rowcount != 1:
            raise RefusedError(f"replay {operation} is {replay.state}", remedy="there is nothing to cancel")
        record(
            connection,
            database.tables,
            Operation(
                action="cancel replay",
                subscriber=replay.subscriber,
                before={"operation": operation, "position": replay.position},
                after=None,
                reason=reason,
            ),
        )
        return _read(connection, database, operation)


def read_replay(database: Database, operation: int) -> Replay:
    """Read how a replay stands. Raises `NotFoundError`."""
    with translated(database), database.reader() as connection:
        return _read(connection, database, operation)


def read_replays(database: Database, *, subscriber: str | None = None) -> list[Replay]:
    """Read the replays of one subscriber, or all, the newest first. Raises `UnknownSubscriberError`."""
    table = database.tables.replays
    question = select(table).order_by(table.c.operation.desc())
    with translated(database), database.reader() as connection:
        if subscriber is not None:
            read_subscriber(connection, database, subscriber)
            question = question.where(table.c.subscriber == subscriber)
        return [replay_from(row) for row in connection.execute(question)]


def replay_from(row: Row[Any]) -> Replay:
    """Make a replay of a row of `replays`."""
    return Replay(
        operation=row.operation,
        subscriber=row.subscriber,
        state=ReplayState(row.state),
        chosen=msgspec.json.decode(row.chosen, type=Range),
        new_keys=bool(row.new_keys),
        position=row.position,
        until=row.until,
        handled=row.handled,
        failed=row.failed,
        owner=row.owner,
    )


def open_positions(connection: Connection, database: Database, name: str, *, after: int, until: int) -> Sequence[int]:
    """Read the positions in a range whose failure is open."""
    failures = database.tables.failures
    return connection.scalars(
        select(failures.c.position).where(
            failures.c.subscriber == name,
            failures.c.position > after,
            failures.c.position <= until,
            failures.c.state.in_(OPEN_STATES),
        )
    ).all()


def _read(connection: Connection, database: Database, operation: int) -> Replay:
    table = database.tables.replays
    row = connection.execute(select(table).where(table.c.operation == operation)).one_or_none()
    if row is None:
        raise NotFoundError(f"operation {operation} is no replay", remedy="`eventlog replays` lists them")
    return replay_from(row)


def _plan(
    connection: Connection,
    database: Database,
    row: SubscriberRow,
    chosen: Range,
    selection: Selection,
    *,
    new_keys: bool,
) -> ReplayPlan:
    """Count what is meant: one query over the range, by type."""
    events = database.tables.events
    until = chosen.until or 0
    within = [events.c.position > chosen.after, events.c.position <= until]
    if chosen.stream is not None:
        within.append(events.c.stream == chosen.stream)
    if chosen.since is not None:
        within.append(events.c.recorded_at >= chosen.since)
    if chosen.before is not None:
        within.append(events.c.recorded_at < chosen.before)
    counts = connection.execute(
        select(events.c.type, func.count(), func.min(events.c.recorded_at), func.max(events.c.recorded_at))
        .where(and_(*within))
        .group_by(events.c.type)
        .order_by(events.c.type)
    ).all()
    wanted = [
        one
        for one in counts
        if any(covers(pattern, one[0]) for pattern in row.declaration.patterns)
        and (not selection.types or any(covers(pattern, one[0]) for pattern in selection.types))
    ]
    left_out = 0
    still_open = open_positions(connection, database, row.name, after=chosen.after, until=until)
    if still_open and wanted:
        of_them = (
            select(func.count())
            .select_from(events)
            .where(and_(*within), events.c.position.in_(still_open), events.c.type.in_([one[0] for one in wanted]))
        )
        left_out = connection.scalar(of_them) or 0
    return ReplayPlan(
        subscriber=row.name,
        after=chosen.after,
        until=until,
        events=sum(one[1] for one in wanted) - left_out,
        by_type={one[0]: one[1] for one in wanted},
        left_out=left_out,
        new_keys=new_keys,
        first_recorded_at=min((one[2] for one in wanted), default=None),
        last_recorded_at=max((one[3] for one in wanted), default=None),
        operation=None,
        undo=None,
    )


def _insert(connection: Connection, database: Database, plan: ReplayPlan, chosen: Range, reason: str | None) -> int:
    done = Operation(
        action="replay",
        subscriber=plan.subscriber,
        before=None,
        after={"after": plan.after, "until": plan.until, "events": plan.events, "new_keys": plan.new_keys},
        reason=reason,
        undo="eventlog replay --cancel {operation}",
    )
    number = record(connection, database.tables, done)
    connection.execute(
        insert(database.tables.replays).values(
            operation=number,
            subscriber=plan.subscriber,
            state=str(ReplayState.RUNNING),
            chosen=msgspec.json.encode(chosen).decode(),
            new_keys=plan.new_keys,
            position=plan.after,
            in_hand=plan.after,
            until=plan.until,
            handled=0,
            failed=0,
            epoch=database.next_epoch(connection),
        )
    )
    return number

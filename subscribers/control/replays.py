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
from sqlalchemy import ColumnElement, Connection, Row, and_, func, insert, literal, select, true, update

from eventlog.counting import Counted, count_each, count_types, first_recorded_since, is_long
from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.patterns import covers
from eventlog.reading import Selection
from eventlog.reading import select as select_events
from eventlog.schema.tables import OPEN_STATES
from eventlog.schema.timestamps import seconds_from_now
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


class Executor(msgspec.Struct, frozen=True, kw_only=True):
    """Who is to execute a replay from its first moment on: the name of a runtime, and how long its lease is."""

    owner: str
    lease_seconds: float


class ReplayPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A replay that was started, or would be. `left_out` counts events whose failure is open.

    `estimated` is whether there are so many events that they were not counted one by one.
    """

    subscriber: str
    after: int
    until: int
    events: int
    estimated: bool
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
    executor: Executor | None = None,
    dry_run: bool = False,
) -> ReplayPlan:
    """Have a range delivered again to an effect; the workers that run it do so, beside live delivery.

    With an `executor` no worker takes it up: it begins with that one's lease, which has to be kept as any other.
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
        if executor is not None:
            _hand_to(connection, database, number, executor)
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
    """Make a replay of a row of `replays`. Raises `DamagedRowError`."""
    with readable(f"replay {row.operation}"):
        return _replay(row)


def _replay(row: Row[Any]) -> Replay:
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
    """Count what is meant, by type."""
    until = chosen.until or 0
    counted = _counted(connection, database, chosen, until=until)
    meant = [one for one in counted.types if _is_meant(row, selection, one.type)]
    if not meant and not counted.exact:
        # What is rare may have been missed, and whether there is anything at all decides.
        condition = _condition(database, chosen)
        counted = count_each(connection, database, after=chosen.after, until=until, where=condition)
        meant = [one for one in counted.types if _is_meant(row, selection, one.type)]
    open_types = _open_types(connection, database, row.name, chosen, until=until)
    left_out = sum(count for type_, count in open_types.items() if _is_meant(row, selection, type_))
    return ReplayPlan(
        subscriber=row.name,
        after=chosen.after,
        until=until,
        events=max(0, sum(one.count for one in meant) - left_out),
        estimated=not counted.exact,
        by_type={one.type: one.count for one in meant},
        left_out=left_out,
        new_keys=new_keys,
        first_recorded_at=min((one.first_recorded_at for one in meant), default=None),
        last_recorded_at=max((one.last_recorded_at for one in meant), default=None),
        operation=None,
        undo=None,
    )


def _is_meant(row: SubscriberRow, selection: Selection, type_: str) -> bool:
    """Whether the subscriber takes events of a type, and the replay is of them."""
    return any(covers(pattern, type_) for pattern in row.declaration.patterns) and (
        not selection.types or any(covers(pattern, type_) for pattern in selection.types)
    )


def _counted(connection: Connection, database: Database, chosen: Range, *, until: int) -> Counted:
    """Count one by one what is short or has an index; estimate the rest, in the stretch that its times name."""
    after = chosen.after
    if chosen.stream is not None or not is_long(connection, database, after=after, until=until):
        return count_each(connection, database, after=after, until=until, where=_condition(database, chosen))
    if chosen.since is not None:
        begin = first_recorded_since(connection, database, chosen.since)
        after = max(after, until if begin is None else begin - 1)
    if chosen.before is not None:
        end = first_recorded_since(connection, database, chosen.before)
        until = until if end is None else min(until, end - 1)
    counted = count_types(connection, database, after=after, until=until)
    return msgspec.structs.replace(counted, exact=False)


def _condition(database: Database, chosen: Range) -> ColumnElement[bool]:
    """What a range says of its events beside their positions and types."""
    events = database.tables.events
    conditions = [
        None if chosen.stream is None else events.c.stream == chosen.stream,
        None if chosen.since is None else events.c.recorded_at >= chosen.since,
        None if chosen.before is None else events.c.recorded_at < chosen.before,
    ]
    return and_(true(), *(one for one in conditions if one is not None))


def _open_types(connection: Connection, database: Database, name: str, chosen: Range, *, until: int) -> dict[str, int]:
    """Count by type the events of a range whose failure is open."""
    events, failures = database.tables.events, database.tables.failures
    question = (
        select(events.c.type, func.count())
        .join(failures, failures.c.position == events.c.position)
        .where(
            failures.c.subscriber == name,
            failures.c.position > chosen.after,
            failures.c.position <= until,
            failures.c.state.in_(OPEN_STATES),
            _condition(database, chosen),
        )
        .group_by(events.c.type)
    )
    return {row[0]: row[1] for row in connection.execute(question)}


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


def _hand_to(connection: Connection, database: Database, operation: int, executor: Executor) -> None:
    table = database.tables.replays
    expires = seconds_from_now(literal(executor.lease_seconds))
    connection.execute(
        update(table).where(table.c.operation == operation).values(owner=executor.owner, expires_at=expires)
    )

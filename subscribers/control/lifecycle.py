"""Pausing, resuming (C5), removing and renaming a subscriber.

running --pause--> paused --resume--> running        a subscriber's own state; that a partition is halted, or in an
   |                  |                              outage, is a fact of the partition
   +------remove------+--> gone, with its ledger; operations and attempts stay as history
"""

import threading
from collections.abc import Callable

import msgspec
from sqlalchemy import Connection, select, update

from eventlog.clock import Clock, SystemClock
from eventlog.database import Database, translated
from eventlog.errors import RefusedError
from eventlog.subscribers.control.checkpoints import (
    live_owners,
    lock_checkpoints,
    lock_running_replays,
    refuse_while_owned,
    refuse_while_replayed,
)
from eventlog.subscribers.control.rebuilds import kept_rebuild, refuse_while_rebuilt, remove_rows
from eventlog.subscribers.declaration import check_name
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, SubscriberRow, read_subscriber
from eventlog.subscribers.status import failure_counts

RUNNING = "running"
PAUSED = "paused"

STOPPED = "stop"
"""The operation by which a worker pauses a subscriber that is ahead of its log."""
_SEEN_TO = ("rewind", "advance", "seek", "rebuild", "undo", "exchange", "go-back", "resume")
"""Those after which a subscriber stands where somebody wants it."""

ASK_AGAIN_SECONDS = 0.1


class Paused(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber after a pause or a resume. `changed` is whether it was otherwise before; `in_hand_of` names the
    workers that had not let go when the time was over.
    """

    subscriber: str
    changed: bool
    operation: int | None
    in_hand_of: tuple[str, ...] = ()


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber that is gone, or would be: how far it was, and how many of its failures were open."""

    subscriber: str
    checkpoint: int
    open_failures: int
    tables: tuple[str, ...]
    operation: int | None


class Renamed(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber under its new name."""

    subscriber: str
    before: str
    operation: int | None


def pause(
    database: Database,
    name: str,
    *,
    reason: str | None = None,
    wait_seconds: float = 60.0,
    waiting: Callable[[tuple[str, ...]], None] | None = None,
    stop: threading.Event | None = None,
    clock: Clock | None = None,
) -> Paused:
    """Stop deliveries to a subscriber, and return when nothing of it is in hand any more, or the time is over.

    Workers let go of partitions and replays after the events at hand. A worker that died is not waited for: its lease
    may run out meanwhile, and it can write nothing afterwards. `waiting` is told, each time that changes, who is still
    at it. Raises `UnknownSubscriberError`.
    """
    changed, operation = _set_state(database, name, PAUSED, action="pause", undo="resume", reason=reason)
    clock, stop = clock or SystemClock(), stop or threading.Event()
    ends = clock.monotonic() + wait_seconds
    said: tuple[str, ...] = ()
    while in_hand_of := _still_at_it(database, name):
        if waiting is not None and in_hand_of != said:
            waiting(in_hand_of)
            said = in_hand_of
        if clock.monotonic() >= ends or clock.wait(stop, ASK_AGAIN_SECONDS):
            break
    return Paused(subscriber=name, changed=changed, operation=operation, in_hand_of=in_hand_of)


def resume(database: Database, name: str, *, reason: str | None = None, anyway: bool = False) -> Paused:
    """Let deliveries to a paused subscriber go on from its checkpoint.

    Raises `UnknownSubscriberError`, and `RefusedError` for one that a worker has stopped, since it is ahead of its log,
    until it is moved: the log may have grown past its checkpoint since. `anyway` is the word that it may go on there.
    """
    if not anyway:
        _refuse_stopped(database, name)
    changed, operation = _set_state(database, name, RUNNING, action="resume", undo="pause", reason=reason)
    return Paused(subscriber=name, changed=changed, operation=operation)


def stand_still(database: Database, name: str, *, reason: str) -> None:
    """Pause a subscriber that is ahead of its log, without waiting for anybody: `status` then tells why."""
    _set_state(database, name, PAUSED, action=STOPPED, undo=None, reason=reason)


def remove(database: Database, name: str, *, reason: str | None = None, dry_run: bool = False) -> Removed:
    """Forget a subscriber: its checkpoints, its ledger, its receipts. Its operations and attempts stay as history.

    A projection's tables are left alone, also those that a rebuild has kept. Code that declares it and is started again
    registers it anew, from where it declares to start; a projection's is refused until its tables are empty. Raises
    `UnknownSubscriberError`, and `RefusedError` while a worker, a replay or a rebuild runs it.
    """
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        rows = lock_checkpoints(connection, database, name)
        removed = Removed(
            subscriber=name,
            checkpoint=min(one.position for one in rows),
            open_failures=_open_failures(connection, database, name),
            tables=row.declaration.tables,
            operation=None,
        )
        refuse_while_owned(rows, row, "removed")
        refuse_while_replayed(connection, database, name, "removed")
        refuse_while_rebuilt(connection, database, name, "removed")
        if dry_run:
            return removed
        before = {"positions": [one.position for one in rows], "declaration": msgspec.to_builtins(row.declaration)}
        done = Operation(action="remove", subscriber=name, before=before, after=None, reason=reason)
        number = record(connection, database.tables, done)
        kept = kept_rebuild(connection, database, name)
        for one in (name, *([kept.kept] if kept is not None and kept.kept is not None else [])):
            remove_rows(connection, database, one)
    return msgspec.structs.replace(removed, operation=number)


def rename(
    database: Database, name: str, new_name: str, *, reason: str | None = None, dry_run: bool = False
) -> Renamed:
    """Give a subscriber another name, with everything it has. Idempotency keys go on with the first name.

    Code has to declare the new name from then on: code that still declares the old one would register it anew. Raises
    `UnknownSubscriberError`, `DeclarationError` for what is no name, and `RefusedError` for one that is taken, and
    while a worker or a replay runs the subscriber.
    """
    check_name(new_name)
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        rows = lock_checkpoints(connection, database, name)
        _refuse_taken(connection, database, new_name)
        refuse_while_owned(rows, row, "renamed")
        refuse_while_replayed(connection, database, name, "renamed")
        refuse_while_rebuilt(connection, database, name, "renamed")
        if dry_run:
            return Renamed(subscriber=new_name, before=name, operation=None)
        _rename_rows(connection, database, row, new_name)
        done = Operation(
            action="rename",
            subscriber=new_name,
            before={"name": name},
            after={"name": new_name},
            reason=reason,
            undo=f"eventlog rename {new_name} {name}",
        )
        number = record(connection, database.tables, done)
    return Renamed(subscriber=new_name, before=name, operation=number)


def _set_state(
    database: Database, name: str, state: str, *, action: str, undo: str | None, reason: str | None
) -> tuple[bool, int | None]:
    with translated(database), database.transaction() as connection:
        row = read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        if row.state == state:
            return False, None
        table = database.tables.subscribers
        connection.execute(update(table).where(table.c.name == name).values(state=state, state_reason=reason))
        done = Operation(
            action=action,
            subscriber=name,
            before={"state": row.state},
            after={"state": state},
            reason=reason,
            undo=None if undo is None else f"eventlog {undo} {name}",
        )
        return True, record(connection, database.tables, done)


def _refuse_stopped(database: Database, name: str) -> None:
    table = database.tables.operations
    moves = (table.c.subscriber == name) & table.c.action.in_((STOPPED, *_SEEN_TO))
    last = select(table.c.action, table.c.reason).where(moves).order_by(table.c.id.desc()).limit(1)
    with translated(database), database.reader() as connection:
        row = read_subscriber(connection, database, name)
        found = connection.execute(last).first()
    if row.state == PAUSED and found is not None and found.action == STOPPED:
        raise RefusedError(
            f"{name} was stopped by a worker, and has not been moved since: {found.reason}",
            remedy=f"bring it to the first event it has not seen: `eventlog rewind {name} --from POSITION --resend`, a"
            " projection to its start; then resume it. --anyway has it go on where it stands, past what has come below",
        )


def _still_at_it(database: Database, name: str) -> tuple[str, ...]:
    """Name the workers that hold a partition or a replay; where a lease has run out the epoch is raised.

    Its owner's name stays in the row: who takes the partition when it is resumed has to know that it was not released.
    """
    with translated(database), database.transaction() as connection:
        read_subscriber(connection, database, name, lock=RowLock.EXCLUSIVE)
        rows = lock_checkpoints(connection, database, name)
        table = database.tables.checkpoints
        for row in rows:
            if row.owner is not None and row.expires_at is not None and row.expires_at <= row.now:
                mine = (table.c.subscriber == name) & (table.c.partition == row.partition)
                connection.execute(update(table).where(mine).values(epoch=database.next_epoch(connection)))
        replayed = lock_running_replays(connection, database, name)
        replays = database.tables.replays
        for one in replayed:
            if one.owner is not None and one.expires_at is not None and one.expires_at <= one.now:
                overtaken = update(replays).where(replays.c.operation == one.operation)
                connection.execute(overtaken.values(epoch=database.next_epoch(connection)))
        return tuple(live_owners([*rows, *replayed]))


def _open_failures(connection: Connection, database: Database, name: str) -> int:
    counts = failure_counts(connection, database).get(name, {})
    return sum(counts.get(state, 0) for state in ("retrying", "parked", "blocked"))


def _refuse_taken(connection: Connection, database: Database, name: str) -> None:
    table = database.tables.subscribers
    if connection.scalar(select(table.c.name).where(table.c.name == name)) is not None:
        raise RefusedError(
            f"there is a subscriber {name!r} already",
            remedy=f"choose another name; if new code has registered it too early: stop it, `eventlog remove {name}`",
        )


def _rename_rows(connection: Connection, database: Database, row: SubscriberRow, new_name: str) -> None:
    """The foreign keys take the name to whatever belongs to the subscriber. History has none, and never changes: the
    operations and attempts of before stand under the old name.
    """
    table = database.tables.subscribers
    connection.execute(
        update(table).where(table.c.name == row.name).values(name=new_name, first_name=row.first_name or row.name)
    )

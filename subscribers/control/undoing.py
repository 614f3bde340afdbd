"""Taking a move back (C3). It is a command of its own and not a seek: what the move closed comes back with it."""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, desc, select

from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.subscribers.control.checkpoints import (
    Placed,
    lock_checkpoints,
    place,
    refuse_while_in_hand,
    refuse_while_replayed,
    refuse_without_log,
)
from eventlog.subscribers.control.moves import Action
from eventlog.subscribers.ledger import restore_superseded, superseded_by
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, read_subscriber

UNDOABLE = (Action.REWIND, Action.ADVANCE, Action.SEEK)

LEAVES_PLACES_ALONE = ("retry", "skip", "pause", "resume", "replay", "cancel replay", "rename")
"""What may have been done to a subscriber since a move, and the move can still be undone."""


class _Places(msgspec.Struct, frozen=True, kw_only=True):
    """What an operation that moves keeps of checkpoints, by partition."""

    positions: tuple[int, ...]


class Undone(msgspec.Struct, frozen=True, kw_only=True):
    """A move that was taken back, or would be: where the checkpoints go, the least of them, and how many entries of the
    ledger come back.
    """

    subscriber: str
    undoes: int
    from_position: int
    to_position: int
    restored: int
    operation: int | None
    undo: str | None = None
    """The command that goes there again; none where partitions stand apart."""


def last_move(database: Database, name: str) -> int:
    """Return the number of the last operation that moved a subscriber's checkpoints.

    Raises `NotFoundError`, and `RefusedError` where that has emptied tables.
    """
    with translated(database), database.reader() as connection:
        read_subscriber(connection, database, name)
        found = _last(connection, database, name)
        if found is not None and found.action == Action.REBUILD:
            raise _not_by_undo(found, name)
        if found is None or found.action not in UNDOABLE:
            raise NotFoundError(
                f"the last thing done to {name!r} was not a move", remedy="only rewind, advance and seek can be undone"
            )
        return int(found.id)


def undo(database: Database, operation: int, *, reason: str | None = None, dry_run: bool = False) -> Undone:
    """Take a move back: the checkpoints return to where they were, and the entries it closed come back as they were.

    What has been delivered again since a rewind stays delivered. Raises `NotFoundError`, and `RefusedError` for
    anything but the subscriber's last move, for a rebuild, when the checkpoint has come as far by itself, and when
    events have been handled since an advance: they would be handled twice.
    """
    with translated(database), database.transaction() as connection:
        found = _read(connection, database, operation)
        row = read_subscriber(connection, database, found.subscriber, lock=RowLock.EXCLUSIVE)
        refuse_without_log(row, database)
        _check_undoable(connection, database, found)
        rows = lock_checkpoints(connection, database, row.name)
        now = {one.partition: int(one.position) for one in rows}
        places = _places_back(found, now)
        above = {partition: position for partition, position in now.items() if partition in places}
        undone = Undone(
            subscriber=row.name,
            undoes=operation,
            from_position=min(now.values()),
            to_position=min({**now, **places}.values()),
            restored=superseded_by(connection, database.tables, subscriber=row.name, above=above, operation=operation),
            operation=None,
            undo=_there_again(row.name, now, places),
        )
        if dry_run:
            return undone
        refuse_while_replayed(connection, database, row.name, "moved")
        back = [one for one in rows if places.get(one.partition, one.position) < one.position]
        refuse_while_in_hand(back, row, "moved back")
        moved = [Placed(partition=partition, position=position) for partition, position in places.items()]
        place(connection, database, row.name, moved)
        done = Operation(
            action="undo",
            subscriber=row.name,
            before={"positions": list(now.values()), "operation": operation},
            after={"positions": list({**now, **places}.values())},
            reason=reason,
        )
        number = record(connection, database.tables, done)
        restore_superseded(connection, database.tables, subscriber=row.name, above=above, operation=operation)
    return msgspec.structs.replace(undone, operation=number)


def _there_again(name: str, now: Mapping[int, int], places: Mapping[int, int]) -> str | None:
    if len(set(now.values())) > 1:
        return None
    (position,) = set(now.values())
    again = " --resend" if any(place > position for place in places.values()) else ""
    return f"eventlog seek {name} --from {position + 1}{again}"


def _read(connection: Connection, database: Database, operation: int) -> Row[Any]:
    operations = database.tables.operations
    found = connection.execute(select(operations).where(operations.c.id == operation)).one_or_none()
    if found is None:
        raise NotFoundError(f"no operation {operation} is recorded", remedy="every move prints its undo command")
    return found


def _check_undoable(connection: Connection, database: Database, found: Row[Any]) -> None:
    if found.action == Action.REBUILD:
        raise _not_by_undo(found, found.subscriber)
    if found.action not in UNDOABLE:
        raise RefusedError(f"operation {found.id} is a {found.action}", remedy="only a move can be undone")
    last = _last(connection, database, found.subscriber)
    if last is not None and last.id != found.id:
        raise RefusedError(
            f"operation {found.id} is not the last one on {found.subscriber!r}, that is {last.id}, a {last.action}",
            remedy="undo the last one first, or go to where you want to be: `eventlog seek`",
        )


def _not_by_undo(rebuild: Any, name: str) -> RefusedError:
    """Make the error for a rebuild: one beside the live tables has a command of its own, one in place has none."""
    if rebuild.undo is not None:
        return RefusedError(
            f"operation {rebuild.id} on {name!r} began a rebuild beside the live tables",
            remedy=f"`{rebuild.undo} --app module:app` gives it up",
        )
    return RefusedError(
        f"operation {rebuild.id} on {name!r} emptied its tables, and cannot be undone",
        remedy="they are filled again from the log: `eventlog status` shows how far that is",
    )


def _last(connection: Connection, database: Database, name: str) -> Any:
    """The last operation that says where the subscriber is, if there is one: its id, action and undo."""
    operations = database.tables.operations
    return connection.execute(
        select(operations.c.id, operations.c.action, operations.c.undo)
        .where(operations.c.subscriber == name, operations.c.action.not_in(LEAVES_PLACES_ALONE))
        .order_by(desc(operations.c.id))
        .limit(1)
    ).one_or_none()


def _places_back(found: Row[Any], now: Mapping[int, int]) -> dict[int, int]:
    """Where each partition goes that the move had moved."""
    with readable(f"operation {found.id}"):
        before = msgspec.json.decode(found.before, type=_Places).positions
        after = msgspec.json.decode(found.after, type=_Places).positions
        moves = dict(zip(sorted(now), zip(before, after, strict=True), strict=True))
    places: dict[int, int] = {}
    for partition, (was, went) in moves.items():
        if went > was and now[partition] != went:
            raise RefusedError(
                f"{found.subscriber}: {went + 1:,} to {now[partition]:,} have been handled since operation {found.id}",
                remedy="have what was passed over delivered beside that: `eventlog replay"
                f" {found.subscriber} --from {was + 1} --until {went}`",
            )
        if went != was and (went > was or now[partition] < was):
            places[partition] = was
    if not places:
        raise RefusedError(
            f"{found.subscriber}: the checkpoint has come to {min(now.values()):,} by itself, where it was before"
            f" operation {found.id}",
            remedy="there is nothing left to undo",
        )
    return places

"""The checkpoints of one subscriber under an operator's lock: read in order, placed anew, let go."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, and_, case, func, or_, select, update

from eventlog.database import Database
from eventlog.errors import RefusedError
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import Delivery
from eventlog.subscribers.registration import SHADOW_MARK, SubscriberRow


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the checkpoint of one partition goes. Where it does not go back, what is in hand beyond it stays in hand.

    `handled_through` stays what it is where none is given, but where the checkpoint goes back it is not less than what
    replays have handed out since: that comes live now, and is none of their business any more.
    """

    partition: int
    position: int
    handled_through: int | None = None


def lock_checkpoints(connection: Connection, database: Database, name: str) -> Sequence[Row[Any]]:
    """Read and lock the checkpoints of a subscriber, by partition; `now` is the database's clock."""
    table = database.tables.checkpoints
    question = select(table, database_now().label("now")).where(table.c.subscriber == name)
    return connection.execute(question.order_by(table.c.partition).with_for_update()).all()


def lock_running_replays(connection: Connection, database: Database, name: str) -> Sequence[Row[Any]]:
    """Read and lock the replays of a subscriber that run; `now` is the database's clock."""
    table = database.tables.replays
    question = select(table, database_now().label("now")).where(table.c.subscriber == name, table.c.state == "running")
    return connection.execute(question.order_by(table.c.operation).with_for_update()).all()


def replayed_through(connection: Connection, database: Database, name: str) -> int:
    """Read the highest position that replays of a subscriber may have handed out: checkpoints know nothing of it."""
    table = database.tables.replays
    reached = case((table.c.in_hand > table.c.position, table.c.in_hand), else_=table.c.position)
    handed = or_(table.c.handled + table.c.failed > 0, table.c.in_hand > table.c.position)
    through = connection.scalar(select(func.max(reached)).where(table.c.subscriber == name, handed))
    return int(through or 0)


def place(connection: Connection, database: Database, name: str, places: Sequence[Placed]) -> None:
    """Set checkpoints, draw new epochs, and let the leases go: a worker in the middle of something fails its fence.

    A checkpoint that stays where it is keeps the id of its event: a log restored to an earlier point is known by it.
    """
    table = database.tables.checkpoints
    replayed = replayed_through(connection, database, name)
    for one in places:
        comes_again = and_(table.c.position > one.position, table.c.handled_through < replayed)
        stays_in_hand = and_(table.c.position <= one.position, table.c.in_hand > one.position)
        values: dict[str, Any] = {
            "position": one.position,
            "in_hand": case((stays_in_hand, table.c.in_hand), else_=one.position),
            "event_id": case((table.c.position == one.position, table.c.event_id), else_=None),
            "owner": None,
            "expires_at": None,
        }
        if one.handled_through is not None:
            values["handled_through"] = one.handled_through
        else:
            values["handled_through"] = case((comes_again, replayed), else_=table.c.handled_through)
        connection.execute(
            update(table)
            .where(table.c.subscriber == name, table.c.partition == one.partition)
            .values(epoch=database.next_epoch(connection), **values)
        )


def live_owners(rows: Sequence[Row[Any]]) -> list[str]:
    """Name the owners whose lease has not run out, each once."""
    alive = [row.owner for row in rows if row.owner is not None and row.expires_at is not None]
    return sorted({row.owner for row in rows if row.owner in alive and row.expires_at > row.now})


def refuse_while_owned(rows: Sequence[Row[Any]], row: SubscriberRow, deed: str) -> None:
    """Raise `RefusedError` while a worker runs the subscriber."""
    owners = live_owners(rows)
    if owners:
        raise RefusedError(
            f"{row.name} cannot be {deed} while it is run by {', '.join(owners)}",
            remedy="stop the workers that declare it, or wait until their leases have run out",
        )


def refuse_while_in_hand(rows: Sequence[Row[Any]], row: SubscriberRow, deed: str) -> None:
    """Raise `RefusedError` while something is in hand, or in doubt, of a subscriber that is delivered to at most once.

    It may have been handed out, and would be once more. `rows` are the checkpoints that begin anew.
    """
    if row.declaration.delivery != Delivery.AT_MOST_ONCE:
        return
    in_hand = max((one.in_hand for one in rows if one.in_hand > one.position), default=None)
    if in_hand is not None:
        raise RefusedError(
            f"{row.name} cannot be {deed} while event {in_hand:,} is in hand: it may have been handed out, and would be"
            " once more",
            remedy=f"`eventlog pause {row.name}` first, and resume it afterwards; if a worker died over the event, let"
            " another one leave it to you",
        )


def refuse_without_log(row: SubscriberRow, database: Database) -> None:
    """Raise `RefusedError` where a subscriber's rows are here, its log is elsewhere, and nobody has said where."""
    if row.log is not None and database.follows is None:
        raise RefusedError(
            f"{row.name} follows the log {row.log}, which is not known here",
            remedy="say --app module:app: the app knows both databases",
        )


def refuse_while_replayed(connection: Connection, database: Database, name: str, deed: str) -> None:
    """Raise `RefusedError` while a replay of the subscriber runs: it has its own place in the log. So has a shadow."""
    if SHADOW_MARK in name:
        raise RefusedError(
            f"{name} is a projection made anew beside {name.partition(SHADOW_MARK)[0]}, and cannot be {deed}",
            remedy="retry or skip its failures, or cancel it: `eventlog rebuild NAME --cancel`",
        )
    table = database.tables.replays
    running = connection.scalars(
        select(table.c.operation).where(table.c.subscriber == name, table.c.state == "running").limit(1)
    ).first()
    if running is not None:
        raise RefusedError(
            f"{name} cannot be {deed} while replay {running} of it runs",
            remedy=f"wait for it, or cancel it: `eventlog replay --cancel {running}`",
        )

"""The checkpoints of one subscriber under an operator's lock: read in order, placed anew, let go."""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select, update

from eventlog.database import Database
from eventlog.errors import RefusedError
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.registration import SHADOW_MARK, SubscriberRow


class Placed(msgspec.Struct, frozen=True, kw_only=True):
    """Where the checkpoint of one partition goes; `handled_through` stays what it is where none is given."""

    partition: int
    position: int
    handled_through: int | None = None


def lock_checkpoints(connection: Connection, database: Database, name: str) -> Sequence[Row[Any]]:
    """Read and lock the checkpoints of a subscriber, by partition; `now` is the database's clock."""
    table = database.tables.checkpoints
    question = select(table, database_now().label("now")).where(table.c.subscriber == name)
    return connection.execute(question.order_by(table.c.partition).with_for_update()).all()


def place(connection: Connection, database: Database, name: str, places: Sequence[Placed]) -> None:
    """Set checkpoints, draw new epochs, and let the leases go: a worker in the middle of something fails its fence."""
    table = database.tables.checkpoints
    for one in places:
        values: dict[str, Any] = {
            "position": one.position,
            "in_hand": one.position,
            "event_id": None,
            "owner": None,
            "expires_at": None,
        }
        if one.handled_through is not None:
            values["handled_through"] = one.handled_through
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

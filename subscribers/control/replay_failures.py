"""What a replay failed at: attempts that bear its number. They are in no ledger, and nobody tries them again.

They are looked up by subscriber and positions, as the history of an entry is, under the name that the subscriber had
when the replay was started: history keeps that, and nobody is renamed while a replay runs.
"""

from datetime import datetime

import msgspec
from sqlalchemy import select

from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.subscribers.control.replays import read_replay


class ReplayFailure(msgspec.Struct, frozen=True, kw_only=True):
    """One event that a replay failed at, and why."""

    operation: int
    subscriber: str
    position: int
    error_type: str
    message: str
    traceback: str
    worker: str
    duration_seconds: float
    at: datetime


def read_replay_failures(database: Database, operation: int, *, limit: int) -> list[ReplayFailure]:
    """Read what a replay failed at, by position. Raises `NotFoundError`."""
    replay = read_replay(database, operation)
    attempts, operations = database.tables.attempts, database.tables.operations
    name = select(operations.c.subscriber).where(operations.c.id == operation).scalar_subquery()
    fields = ReplayFailure.__struct_fields__
    question = (
        select(*(attempts.c[field] for field in fields))
        .where(
            attempts.c.subscriber == name,
            attempts.c.position > replay.chosen.after,
            attempts.c.position <= replay.until,
            attempts.c.operation == operation,
            attempts.c.outcome == "failed",
        )
        .order_by(attempts.c.position, attempts.c.id)
        .limit(limit)
    )
    with translated(database), database.reader() as connection, readable(f"an attempt of replay {operation}"):
        rows = connection.execute(question)
        return [msgspec.convert({field: row._mapping[field] for field in fields}, ReplayFailure) for row in rows]

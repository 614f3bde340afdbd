"""Which streams the log has got events in lately.

A log has more streams than anybody reads the names of, and no index tells which were written to last. So the last
events are looked through, a stated number of them, and the answer says whether there were more.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import Connection, and_, func, select

from eventlog.database import Database, translated
from eventlog.log import EventLog

LOOKED_THROUGH = 100_000
"""How many events are looked through."""

STREAMS_MAX = 10_000
"""How many streams are named at the most."""


class StreamRow(msgspec.Struct, frozen=True, kw_only=True):
    """A stream: the version it is at, and the positions and times of its first and its last event."""

    stream: str
    version: int
    first: int | None
    last: int
    first_recorded_at: datetime | None
    last_recorded_at: datetime


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """Streams, the one that was written to last first. `more` is whether there are others among the events that were
    looked through; `complete` whether those were all of the log.
    """

    streams: tuple[StreamRow, ...]
    more: bool
    complete: bool
    looked_through: int


def recent_streams(
    log: EventLog, *, prefix: str | None = None, limit: int = 100, look_through: int = LOOKED_THROUGH
) -> Streams:
    """Find the streams of the last events up to the high-water mark, those whose name begins so.

    Costs a scan of as many events as are looked through, and a look-up for each stream that is named.
    """
    database = log.database
    with translated(database), database.reader() as connection:
        mark = database.high_water_mark(connection)
        events = database.tables.events
        last = select(events).where(events.c.position <= mark).order_by(events.c.position.desc())
        beyond = last.with_only_columns(events.c.position).offset(look_through).limit(1)
        some = last.limit(look_through).subquery("some")
        question = (
            select(
                some.c.stream,
                func.max(some.c.version).label("version"),
                func.max(some.c.position).label("last"),
                func.max(some.c.recorded_at).label("last_recorded_at"),
            )
            .group_by(some.c.stream)
            .order_by(func.max(some.c.position).desc())
            .limit(limit + 1)
        )
        if prefix:
            question = question.where(func.substr(some.c.stream, 1, len(prefix)) == prefix)
        found = connection.execute(question).all()
        begun = _begun(connection, database, [row.stream for row in found[:limit]])
        complete = connection.execute(beyond).first() is None
    nothing = (None, None)
    streams = (
        StreamRow(
            stream=row.stream,
            version=row.version,
            first=begun.get(row.stream, nothing)[0],
            last=row.last,
            first_recorded_at=begun.get(row.stream, nothing)[1],
            last_recorded_at=row.last_recorded_at,
        )
        for row in found[:limit]
    )
    return Streams(streams=tuple(streams), more=len(found) > limit, complete=complete, looked_through=look_through)


def _begun(connection: Connection, database: Database, streams: Sequence[str]) -> dict[str, tuple[int, datetime]]:
    """Where and when each stream began: looked up by stream and version."""
    events = database.tables.events
    first = and_(events.c.stream.in_(streams), events.c.version == 1)
    rows = connection.execute(select(events.c.stream, events.c.position, events.c.recorded_at).where(first))
    return {row.stream: (row.position, row.recorded_at) for row in rows}

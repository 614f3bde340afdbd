"""How large the log is, what it is made of, and how fast it grows; each figure says how exact it is.

What an exact count would read the whole log for is estimated (`counting.py`), and said to be.
"""

from datetime import datetime, timedelta
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from eventlog.counting import count_types, first_recorded_since, recorded_between
from eventlog.database import Database, Relation, translated
from eventlog.log import EventLog
from eventlog.schema.timestamps import database_now

DAY = timedelta(days=1)
WEEK_DAYS = 7


class Growth(msgspec.Struct, frozen=True, kw_only=True):
    """What comes in a day: came in the last one; comes on the average of the last week, or of a shorter life."""

    events_last_day: int
    events_per_day: int
    bytes_per_day: int | None
    exact: bool


class LogStats(msgspec.Struct, frozen=True, kw_only=True):
    """The log in figures. `size_bytes` is what its tables and indexes take; where it is not exact it is what the whole
    database or file does (`database_bytes`), which may hold other things as well.
    """

    head: int
    high_water_mark: int
    events: int
    events_exact: bool
    streams: int
    streams_exact: bool
    types: int
    types_exact: bool
    first_recorded_at: datetime | None
    last_recorded_at: datetime | None
    database_bytes: int
    size_bytes: int
    size_exact: bool
    bytes_per_event: int | None
    growth: Growth
    relations: tuple[Relation, ...]


def read_stats(log: EventLog) -> LogStats:
    """Read the figures. Takes a moment, however long the log is."""
    database = log.database
    with translated(database), database.reader() as connection:
        look = database.look(connection)
        mark = look.high_water_mark
        counted = count_types(connection, database, after=0, until=mark)
        events = sum(one.count for one in counted.types)
        first, last = recorded_between(connection, database, after=0, until=mark)
        sizes = database.sizes(connection)
        tables = {database.tables.events.name, database.tables.event_tags.name}
        kept = sum(one.bytes for one in sizes.relations if one.of in tables) or sizes.database_bytes
        per_event = round(kept / events) if events else None
        return LogStats(
            head=look.head,
            high_water_mark=mark,
            events=events,
            events_exact=counted.exact,
            streams=sum(one.begun for one in counted.types),
            streams_exact=counted.exact,
            types=len(counted.types),
            types_exact=counted.exact,
            first_recorded_at=first,
            last_recorded_at=last,
            database_bytes=sizes.database_bytes,
            size_bytes=sum(one.bytes for one in sizes.relations) or sizes.database_bytes,
            size_exact=bool(sizes.relations),
            bytes_per_event=per_event,
            growth=_growth(connection, database, mark, first, per_event),
            relations=sizes.relations,
        )


def _growth(
    connection: Connection, database: Database, mark: int, first: datetime | None, per_event: int | None
) -> Growth:
    now: Any = connection.scalar(select(database_now()))
    day, exact_day = _events_since(connection, database, now - DAY, mark)
    week, exact_week = _events_since(connection, database, now - WEEK_DAYS * DAY, mark)
    lived_days = (now - first) / DAY if first is not None else 0.0
    per_day = round(week / min(float(WEEK_DAYS), max(1.0, lived_days)))
    return Growth(
        events_last_day=day,
        events_per_day=per_day,
        bytes_per_day=None if per_event is None else per_day * per_event,
        exact=exact_day and exact_week,
    )


def _events_since(connection: Connection, database: Database, moment: datetime, mark: int) -> tuple[int, bool]:
    first = first_recorded_since(connection, database, moment)
    if first is None or first > mark:
        return 0, True
    counted = count_types(connection, database, after=first - 1, until=mark)
    return sum(one.count for one in counted.types), counted.exact

"""Which event types and versions the log holds, and whether the classes of today read them.

Counting looks at every event below the high-water mark: nothing is kept of these numbers, and the log has no index by
type. The whole log is one statement; only the numbers travel. Picking a sample is one more such statement.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from sqlalchemy import Connection, func, select

from eventlog.database import Database, translated
from eventlog.errors import UndecodableEventError
from eventlog.event_types import decode
from eventlog.events import StoredEvent
from eventlog.log import EventLog

POSITIONS_KEPT = 100
"""How many of the events of one type and version that cannot be read are named; all of them are counted."""


class StoredType(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one type, as the log holds it: how many events, and where the first and the last one are."""

    type: str
    version: int
    count: int
    first: int
    last: int


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """How reading the events of one type and version went. `positions` are the first of those that failed."""

    type: str
    version: int
    checked: int
    failed: int
    positions: list[int]
    error: str | None


def stored_types(log: EventLog) -> list[StoredType]:
    """Count the events of each type and version up to the high-water mark, by type. Reads the whole log once."""
    with translated(log.database), log.database.reader() as connection:
        mark = log.database.high_water_mark(connection)
        return _counted(connection, log.database, mark)


def sample(log: EventLog, *, size: int) -> Iterator[StoredEvent]:
    """Pick at most `size` events (two at least) of each type and version: the first, the last, some between.

    Those between are the first ones of stretches of equal length, so that each time of the log's life has its share.
    Reads the whole log twice, and each event picked by its position.
    """
    with translated(log.database), log.database.reader() as connection:
        mark = log.database.high_water_mark(connection)
        picked = _picked(connection, log.database, mark, stretches=max(1, size - 1))
        for position in picked:
            found = log.database.event_at(connection, position)
            if found is not None:
                yield found


def read_all(events: Iterable[StoredEvent]) -> list[Reading]:
    """Read events through the classes of today, by type and version. Holds no more than one at a time."""
    checked: dict[tuple[str, int], int] = {}
    failures: dict[tuple[str, int], _Failures] = {}
    for stored in events:
        kind = (stored.type, stored.type_version)
        checked[kind] = checked.get(kind, 0) + 1
        try:
            decode(stored)
        except UndecodableEventError as error:
            failures.setdefault(kind, _Failures(str(error))).add(stored.position)
    nothing = _Failures(None)
    return [
        Reading(
            type=kind[0],
            version=kind[1],
            checked=count,
            failed=failures.get(kind, nothing).count,
            positions=failures.get(kind, nothing).positions,
            error=failures.get(kind, nothing).error,
        )
        for kind, count in sorted(checked.items())
    ]


class _Failures:
    __slots__ = ("count", "error", "positions")

    def __init__(self, error: str | None) -> None:
        self.error = error
        self.count = 0
        self.positions: list[int] = []

    def add(self, position: int) -> None:
        self.count += 1
        if len(self.positions) < POSITIONS_KEPT:
            self.positions.append(position)


def _counted(connection: Connection, database: Database, mark: int) -> list[StoredType]:
    events = database.tables.events.c
    question = (
        select(events.type, events.type_version, func.count(), func.min(events.position), func.max(events.position))
        .where(events.position <= mark)
        .group_by(events.type, events.type_version)
    )
    rows: Iterable[Any] = connection.execute(question)
    found = [
        StoredType(type=kind, version=version, count=count, first=first, last=last)
        for kind, version, count, first, last in rows
    ]
    return sorted(found, key=lambda one: (one.type, one.version))


def _picked(connection: Connection, database: Database, mark: int, *, stretches: int) -> list[int]:
    """The first event of each stretch, and the last event of all, of every type and version; in order."""
    events = database.tables.events
    kinds = (
        select(
            events.c.type,
            events.c.type_version,
            func.min(events.c.position).label("first"),
            func.max(events.c.position).label("last"),
        )
        .where(events.c.position <= mark)
        .group_by(events.c.type, events.c.type_version)
        .cte("kinds")
    )
    same_kind = (events.c.type == kinds.c.type) & (events.c.type_version == kinds.c.type_version)
    length = (kinds.c.last - kinds.c.first) // stretches + 1
    stretch = (events.c.position - kinds.c.first) // length
    question = (
        select(func.min(events.c.position), kinds.c.last)
        .select_from(events.join(kinds, same_kind))
        .where(events.c.position <= mark)
        .group_by(events.c.type, events.c.type_version, kinds.c.last, stretch)
    )
    return sorted({position for row in connection.execute(question) for position in row})

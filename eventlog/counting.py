"""How many events lie in a stretch of the log, and of which types: counted as far as that is cheap, estimated beyond.

Nothing is kept of such numbers, since an append would have to keep them. Up to a limit the events are counted. A longer
stretch is looked at through windows of equal width, one somewhere in each of as many parts, so that it takes the same
time however long the log is; what is found in them stands for what lies between. A type of which there are few events
may be missed then, so nothing that must be right is decided by an estimate. Also here: finding the place of a time,
which has no index either.
"""

from collections.abc import Sequence
from datetime import datetime
from random import Random
from typing import Any

import msgspec
from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    case,
    column,
    func,
    select,
    true,
    values,
)

from eventlog.database import Database

EXACT_MAX = 100_000
WINDOWS = 200
WINDOW_POSITIONS = 100

STRETCH_MAX = 10_000
"""How many positions are looked at one by one for a time, and how far times may be out of order to be found."""


class TypeCount(msgspec.Struct, frozen=True, kw_only=True):
    """The events of one type in a stretch: how many, how many of them up to a position or the first of a stream, and
    when they were recorded.
    """

    type: str
    count: int
    before: int
    begun: int
    first_recorded_at: datetime
    last_recorded_at: datetime


class Counted(msgspec.Struct, frozen=True, kw_only=True):
    """What lies in a stretch of the log, by type; where it is not `exact`, as windows let it appear."""

    types: tuple[TypeCount, ...]
    exact: bool


def count_types(
    connection: Connection,
    database: Database,
    *,
    after: int,
    until: int,
    split: int = 0,
    exact_max: int | None = None,
) -> Counted:
    """Count the events of each type, after < position <= until, and those of them up to `split`.

    Costs at most `exact_max` rows (`EXACT_MAX`), or twenty thousand in two hundred places.
    """
    if not is_long(connection, database, after=after, until=until, exact_max=exact_max):
        return count_each(connection, database, after=after, until=until, split=split)
    events = database.tables.events
    windows = _points(_anywhere(after, until), "windows")
    inside = and_(events.c.position > windows.c.point, events.c.position <= windows.c.point + WINDOW_POSITIONS)
    question = _by_type(windows.join(events, inside), true(), split, events=events)
    factor = (until - after) / (WINDOWS * WINDOW_POSITIONS)
    found = _rows(connection, question)
    return Counted(types=tuple(_scaled(one, factor) for one in found), exact=False)


def is_long(
    connection: Connection, database: Database, *, after: int, until: int, exact_max: int | None = None
) -> bool:
    """Tell whether there are more events in a stretch than are counted one by one."""
    events = database.tables.events
    between = and_(events.c.position > after, events.c.position <= until)
    beyond = select(events.c.position).where(between).order_by(events.c.position).offset(exact_max or EXACT_MAX)
    return connection.execute(beyond.limit(1)).first() is not None


def count_each(
    connection: Connection,
    database: Database,
    *,
    after: int,
    until: int,
    split: int = 0,
    where: ColumnElement[bool] | None = None,
) -> Counted:
    """Count one by one, however many there are, those events that a condition holds for."""
    events = database.tables.events
    between = and_(events.c.position > after, events.c.position <= until, true() if where is None else where)
    return Counted(types=_rows(connection, _by_type(events, between, split)), exact=True)


def recorded_between(
    connection: Connection, database: Database, *, after: int, until: int
) -> tuple[datetime | None, datetime | None]:
    """Tell when the first and the last event of a stretch were recorded; None where there is none."""
    events = database.tables.events
    between = select(events.c.recorded_at).where(events.c.position > after, events.c.position <= until).limit(1)
    first, last = (connection.scalar(between.order_by(one)) for one in (events.c.position, events.c.position.desc()))
    return first, last


def first_recorded_since(connection: Connection, database: Database, moment: datetime) -> int | None:
    """Find the first event that was recorded at or after a moment; None where there is none.

    Times rise with positions, but for clocks that disagree and for events carried here from another log. So the
    log is looked at in as many places as there are windows, and the earliest that is late enough is gone to, until the
    stretch is short enough to be read. A disorder of fewer events than lie between two such places may go unseen.
    """
    low, high = 0, database.head(connection)
    while high - low > STRETCH_MAX:
        seen = _recorded_at(connection, database, _starts(low, high))
        late = next((place for place, (_, recorded_at) in enumerate(seen) if recorded_at >= moment), None)
        if late is None:
            low = seen[-1][0] if seen else high
        else:
            low, high = (seen[late - 1][0] if late else low), seen[late][0]
        if late == 0 or not seen:
            break
    events = database.tables.events
    near = events.c.position.between(low - STRETCH_MAX, high + STRETCH_MAX)
    first = connection.scalar(select(func.min(events.c.position)).where(near, events.c.recorded_at >= moment))
    return None if first is None else int(first)


def _recorded_at(connection: Connection, database: Database, starts: Sequence[int]) -> list[tuple[int, datetime]]:
    """The first event after each of the places, and when it was recorded."""
    events, points = database.tables.events, _points(starts, "places")
    beyond = events.alias("beyond")
    first = select(func.min(beyond.c.position)).where(beyond.c.position > points.c.point).scalar_subquery()
    found = select(first.label("position")).select_from(points).subquery("found")
    question = select(events.c.position, events.c.recorded_at).join(found, events.c.position == found.c.position)
    return [(row.position, row.recorded_at) for row in connection.execute(question.order_by(events.c.position))]


def _by_type(source: Any, condition: Any, split: int, *, events: Any = None) -> Select[Any]:
    events = source if events is None else events
    up_to = func.sum(case((events.c.position <= split, 1), else_=0)).label("before")
    times = func.min(events.c.recorded_at).label("first"), func.max(events.c.recorded_at).label("last")
    begun = func.sum(case((events.c.version == 1, 1), else_=0)).label("begun")
    columns = events.c.type, func.count().label("count"), up_to, begun, *times
    question = select(*columns).select_from(source).where(condition)
    return question.group_by(events.c.type).order_by(events.c.type)


def _rows(connection: Connection, question: Select[Any]) -> tuple[TypeCount, ...]:
    return tuple(
        TypeCount(type=kind, count=count, before=before, begun=begun, first_recorded_at=first, last_recorded_at=last)
        for kind, count, before, begun, first, last in connection.execute(question)
    )


def _scaled(one: TypeCount, factor: float) -> TypeCount:
    counts = {name: round(getattr(one, name) * factor) for name in ("count", "before", "begun")}
    return msgspec.structs.replace(one, **counts)


def _starts(after: int, until: int) -> list[int]:
    return [after + (until - after) * place // WINDOWS for place in range(WINDOWS)]


def _anywhere(after: int, until: int) -> list[int]:
    """A window in each part, not always at the same place of it: what recurs would be met each time, or never."""
    draw = Random(until - after)
    room = max(1, (until - after) // WINDOWS - WINDOW_POSITIONS)
    return [start + draw.randrange(room) for start in _starts(after, until)]


def _points(starts: Sequence[int], name: str) -> CTE:
    return values(column("point", BigInteger), name=name).data([(one,) for one in starts]).cte(name)

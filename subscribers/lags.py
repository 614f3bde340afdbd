"""How far behind the high-water mark checkpoints are: in events, and in seconds.

Asked for all subscribers at once, and bounded: of the events below the mark a fixed number is counted, once, however
many subscribers there are and however long the log is. Beyond it the distance in positions stands for the number of
events. The time is that of one event, the first after a checkpoint, which the index of positions finds.
"""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice, pairwise

import msgspec
from sqlalchemy import BigInteger, ColumnElement, Connection, Subquery, func, literal, select, union_all

from eventlog.database import Database
from eventlog.schema.timestamps import database_now

LAG_EXACT_MAX = 10_000
SPANS_MAX = 100
"""How many spans one query is asked about; SQLite takes at most 500 selects in a union."""

Span = tuple[int, int]
"""After one position, up to another."""


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """What follows a checkpoint: how many events, exactly if `exact`, and for how many seconds the first has waited."""

    events: int
    exact: bool
    seconds: float


NO_LAG = Lag(events=0, exact=True, seconds=0.0)


def read_lags(connection: Connection, database: Database, checkpoints: Collection[int], *, mark: int) -> dict[int, Lag]:
    """Read the lag of each checkpoint. Three queries for a hundred of them, none while nothing is behind the mark."""
    behind = sorted({one for one in checkpoints if one < mark})
    lags = dict.fromkeys(checkpoints, NO_LAG)
    if behind:
        counts = _counts(connection, database, behind, mark=mark)
        for one, seconds in first_after(connection, database, behind, until=mark).items():
            events = counts.get(one, mark - one)
            lags[one] = Lag(events=events, exact=one in counts, seconds=seconds)
    return lags


def count_events(connection: Connection, database: Database, spans: Collection[Span]) -> dict[Span, int]:
    """Count the events of each span. Every one of them is looked at in the index of positions: keep the spans short."""
    events = database.tables.events
    found: dict[Span, int] = {}
    for asked in _asked(spans):
        within = (events.c.position > asked.c.after) & (events.c.position <= asked.c.until)
        count = select(func.count()).select_from(events).where(within).scalar_subquery()
        for after, until, number in connection.execute(select(asked.c.after, asked.c.until, count)):
            found[after, until] = number
    return found


def first_after(
    connection: Connection, database: Database, positions: Collection[int], *, until: int
) -> dict[int, float]:
    """Read for how many seconds the first event after each position has been there; left out where there is none."""
    events = database.tables.events
    found: dict[int, float] = {}
    for asked in _asked([(one, until) for one in positions]):
        first = (
            select(events.c.recorded_at)
            .where(events.c.position > asked.c.after, events.c.position <= asked.c.until)
            .order_by(events.c.position)
            .limit(1)
            .scalar_subquery()
        )
        for after, recorded_at, now in connection.execute(select(asked.c.after, first, database_now())):
            if recorded_at is not None:
                found[after] = max(0.0, (now - recorded_at).total_seconds())
    return found


def _counts(connection: Connection, database: Database, behind: Sequence[int], *, mark: int) -> dict[int, int]:
    """Count what follows those checkpoints that are near enough. Each event is counted once: from one to the next."""
    events = database.tables.events
    beyond = connection.scalar(
        select(events.c.position)
        .where(events.c.position > behind[0], events.c.position <= mark)
        .order_by(events.c.position.desc())
        .offset(LAG_EXACT_MAX)
        .limit(1)
    )
    near = [one for one in behind if beyond is None or one >= beyond]
    between = count_events(connection, database, list(pairwise([*near, mark])))
    counts: dict[int, int] = {}
    total = 0
    for after, until in reversed(list(pairwise([*near, mark]))):
        total += between[after, until]
        counts[after] = total
    return counts


def _asked(spans: Collection[Span]) -> Iterator[Subquery]:
    """The spans as tables of two columns, so many of them at a time."""
    left = iter(sorted(set(spans)))
    while some := list(islice(left, SPANS_MAX)):
        rows = (select(_number(after).label("after"), _number(until).label("until")) for after, until in some)
        yield union_all(*rows).subquery()


def _number(value: int) -> ColumnElement[int]:
    return literal(value, BigInteger)

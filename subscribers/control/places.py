"""Where a move goes: what an operator says (a position, a time, the start, so many events back) as a position.

Each of these returns a function that is asked inside the move's transaction, under the lock of the subscriber's row.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import cache

from sqlalchemy import Connection, func, select

from eventlog.counting import first_recorded_since
from eventlog.database import Database, events_of
from eventlog.errors import RefusedError
from eventlog.patterns import covers, is_exact
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.registration import SubscriberRow

Resolve = Callable[[Connection, SubscriberRow], int]
"""Reads, inside the transaction, the position checkpoints are to be moved to."""

LOOKED_BACK_MAX = 1_000_000
"""How many events of the log are looked at for so many of a subscriber's types."""

_PAGE = 10_000


def to_start(_connection: Connection, row: SubscriberRow) -> int:
    """Resolve to where the subscriber began."""
    return row.start_position


def after_position(position: int) -> Resolve:
    """Resolve to a position, whose followers are delivered next."""
    return lambda _connection, _row: position


def high_water_mark(database: Database) -> Resolve:
    """Resolve to now: the high-water mark, and not the head, which passes what is still on its way."""
    return lambda connection, _row: mark_of(connection, database)


def mark_of(connection: Connection, database: Database) -> int:
    """Read the high-water mark of the log that a database's subscribers follow."""
    with events_of(database, connection) as (log, events):
        return log.high_water_mark(events)


def since(database: Database, moment: datetime) -> Resolve:
    """Resolve to just before the first event recorded at or after a moment, on the database's clock.

    However long the log is, it is found in a moment; see `first_recorded_since` for what that takes for granted.
    """

    def resolve(connection: Connection, _row: SubscriberRow) -> int:
        with events_of(database, connection) as (log, there):
            first = first_recorded_since(there, log, moment)
        if first is None:
            raise RefusedError(
                f"nothing has been recorded since {moment.isoformat()}",
                remedy="give an earlier time; `eventlog read` shows when events were recorded",
            )
        return first - 1

    return resolve


def back_by(database: Database, count: int) -> Resolve:
    """Resolve to just before the last so many events of the subscriber's types, back from its farthest checkpoint.

    Never before where it began. Raises `RefusedError` when they lie farther back than is looked.
    """

    def resolve(connection: Connection, row: SubscriberRow) -> int:
        checkpoints = database.tables.checkpoints
        farthest = select(func.max(checkpoints.c.position)).where(checkpoints.c.subscriber == row.name)
        reached = int(connection.scalar(farthest) or 0)
        with events_of(database, connection) as (log, there):
            found = _nth_back(there, log, row.declaration.patterns, reached, count)
        return min(reached, max(found - 1, row.start_position))

    return resolve


def to_failure(database: Database) -> Resolve:
    """Resolve to just before the first event whose failure is open."""

    def resolve(connection: Connection, row: SubscriberRow) -> int:
        failures = database.tables.failures
        first = connection.scalar(
            select(func.min(failures.c.position)).where(
                failures.c.subscriber == row.name, failures.c.state.in_(OPEN_STATES)
            )
        )
        if first is None:
            raise RefusedError(f"{row.name} has no open failure", remedy="name the position, or --to-start")
        return int(first) - 1

    return resolve


def _nth_back(connection: Connection, log: Database, patterns: tuple[str, ...], reached: int, count: int) -> int:
    """The position of the last but so many event of some types, counted from a position; 1 where there are fewer."""
    seen = 0
    is_wanted = cache(lambda event_type: any(covers(pattern, event_type) for pattern in patterns))
    for looked, (position, event_type) in enumerate(_backwards(connection, log, patterns, reached), start=1):
        seen += is_wanted(event_type)
        if seen == count:
            return position
        if looked == LOOKED_BACK_MAX:
            raise RefusedError(
                f"only {seen:,} events of its types are among the last {looked:,} before {reached:,}",
                remedy="name the position to go to: --from POSITION, or a time: --since TIME",
            )
    return 1


def _backwards(
    connection: Connection, log: Database, patterns: tuple[str, ...], reached: int
) -> Iterator[tuple[int, str]]:
    events = log.tables.events
    question = select(events.c.position, events.c.type).order_by(events.c.position.desc()).limit(_PAGE)
    if all(map(is_exact, patterns)):
        question = question.where(events.c.type.in_(patterns))
    until = reached
    while rows := connection.execute(question.where(events.c.position <= until)).all():
        yield from ((position, event_type) for position, event_type in rows)
        until = rows[-1].position - 1

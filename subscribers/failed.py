"""Reading the failure ledger: entries that are looked for, errors with their counts, one entry in full."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, and_, case, func, or_, select

from eventlog.damage import readable
from eventlog.database import Database, events_of, translated
from eventlog.errors import NotFoundError
from eventlog.events import StoredEvent
from eventlog.patterns import check_pattern, covers
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.ledger import Entry, EntryState, entry_from
from eventlog.subscribers.problems import BLOCKED
from eventlog.subscribers.registration import read_subscriber

POSITIONS_MAX = 10_000
"""How many entries are looked through for the types of their events, where those are in another database."""

ATTEMPTS_SHOWN = 100

S = TypeVar("S", bound=msgspec.Struct)


class Sought(msgspec.Struct, frozen=True, kw_only=True):
    """Entries that are looked for: all that is given must hold.

    `states` are the states to choose from, none stands for all. `error` is a fingerprint, or a part of the error's type
    or message; `event_type` a pattern.
    """

    subscriber: str | None = None
    states: tuple[str, ...] = ()
    error: str | None = None
    event_type: str | None = None


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The failures of one subscriber with one fingerprint: how many, when, and the first of them as an example."""

    subscriber: str
    fingerprint: str
    count: int
    first_failed_at: datetime
    last_failed_at: datetime
    position: int
    error_type: str
    message: str


class AttemptRow(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a handler, as it stands in the history of an entry. `operation` is the replay it belongs to."""

    round: int
    attempt: int
    outcome: str
    error_type: str | None
    message: str | None
    traceback: str | None
    worker: str
    epoch: int
    duration_seconds: float
    at: datetime
    operation: int | None


class FailureInFull(msgspec.Struct, frozen=True, kw_only=True):
    """An entry with its event, None where that is in a database nobody has named, and its attempts, the last first.

    `waits_for` is the position of the failure that a blocked one waits for.
    """

    entry: Entry
    event: StoredEvent | None
    attempts: tuple[AttemptRow, ...]
    waits_for: int | None = None


def read_entries(database: Database, sought: Sought, *, limit: int) -> list[Entry]:
    """Read entries by subscriber and position. Raises `UnknownSubscriberError`."""
    failures = database.tables.failures
    with translated(database), database.reader() as connection:
        question = select(failures).where(*conditions(connection, database, sought))
        question = question.order_by(failures.c.subscriber, failures.c.position).limit(limit)
        return [entry_from(row._mapping) for row in connection.execute(question)]


def count_entries(database: Database, sought: Sought) -> int:
    """Count the entries that `read_entries` would read without a limit. Raises `UnknownSubscriberError`."""
    question = select(func.count()).select_from(database.tables.failures)
    with translated(database), database.reader() as connection:
        return connection.scalar(question.where(*conditions(connection, database, sought))) or 0


def read_waited_for(database: Database, entries: Sequence[Entry]) -> dict[tuple[str, str], int]:
    """Read which event blocked entries wait for, by subscriber and key: the first open one of the key.

    Nothing is asked where none of the entries is blocked.
    """
    blocked = {(entry.subscriber, entry.key) for entry in entries if entry.state is EntryState.BLOCKED}
    if not blocked:
        return {}
    failures = database.tables.failures
    question = (
        select(failures.c.subscriber, failures.c.key, func.min(failures.c.position))
        .where(failures.c.subscriber.in_({name for name, _ in blocked}), failures.c.state.in_(OPEN_STATES))
        .group_by(failures.c.subscriber, failures.c.key)
    )
    with translated(database), database.reader() as connection:
        return {(name, key): first for name, key, first in connection.execute(question) if (name, key) in blocked}


def read_errors(database: Database, sought: Sought, *, limit: int) -> list[ErrorGroup]:
    """Count entries by subscriber and fingerprint, the most frequent first, and what only waits behind others last.

    Raises `UnknownSubscriberError`.
    """
    failures = database.tables.failures
    with translated(database), database.reader() as connection:
        groups = (
            select(
                failures.c.subscriber,
                failures.c.fingerprint,
                func.count().label("count"),
                func.min(failures.c.first_failed_at).label("first_failed_at"),
                func.max(failures.c.last_failed_at).label("last_failed_at"),
                func.min(failures.c.position).label("position"),
            )
            .where(*conditions(connection, database, sought))
            .group_by(failures.c.subscriber, failures.c.fingerprint)
            .subquery("groups")
        )
        waits_last = case((groups.c.fingerprint == BLOCKED.fingerprint, 1), else_=0)
        example = and_(failures.c.subscriber == groups.c.subscriber, failures.c.position == groups.c.position)
        question = (
            select(groups, failures.c.error_type, failures.c.message)
            .join(failures, example)
            .order_by(waits_last, groups.c["count"].desc(), groups.c.subscriber, groups.c.fingerprint)
            .limit(limit)
        )
        return [_read_as(row, ErrorGroup) for row in connection.execute(question)]


def read_failure(database: Database, name: str, position: int) -> FailureInFull:
    """Read one entry with its event and its attempts. Raises `UnknownSubscriberError`, `NotFoundError`."""
    failures = database.tables.failures
    with translated(database), database.reader() as connection:
        row = read_subscriber(connection, database, name)
        here = and_(failures.c.subscriber == name, failures.c.position == position)
        found = connection.execute(select(failures).where(here)).one_or_none()
        if found is None:
            raise NotFoundError(
                f"{name} has no failure at {position:,}", remedy=f"`eventlog failures {name} --all` lists them"
            )
        attempts = _attempts(connection, database, name, position)
        event = None
        if row.log is None or database.follows is not None:
            with events_of(database, connection) as (log, there):
                event = log.event_at(there, position)
    entry = entry_from(found._mapping)
    waits_for = read_waited_for(database, [entry]).get((entry.subscriber, entry.key))
    return FailureInFull(entry=entry, event=event, attempts=attempts, waits_for=waits_for)


def conditions(connection: Connection, database: Database, sought: Sought) -> list[ColumnElement[bool]]:
    """Write what is looked for in SQL. Raises `UnknownSubscriberError`."""
    failures = database.tables.failures
    wanted: list[ColumnElement[bool]] = []
    if sought.subscriber is not None:
        read_subscriber(connection, database, sought.subscriber)
        wanted.append(failures.c.subscriber == sought.subscriber)
    elif database.follows is not None:
        # The database of a projection elsewhere may hold a log of its own, whose subscribers are nothing of ours.
        subscribers = database.tables.subscribers
        wanted.append(failures.c.subscriber.in_(select(subscribers.c.name).where(subscribers.c.log.is_not(None))))
    if sought.states:
        wanted.append(failures.c.state.in_(sought.states))
    if sought.error is not None:
        wanted.append(
            or_(
                failures.c.fingerprint == sought.error,
                failures.c.error_type.icontains(sought.error, autoescape=True),
                failures.c.message.icontains(sought.error, autoescape=True),
            )
        )
    if sought.event_type is not None:
        wanted.append(_of_type(connection, database, check_pattern(sought.event_type), sought.states))
    return wanted


def _of_type(connection: Connection, database: Database, pattern: str, states: Collection[str]) -> ColumnElement[bool]:
    """Entries of events of a type. Where the events are elsewhere, of the first so many of them."""
    failures = database.tables.failures
    standing = failures.c.state.in_(states) if states else failures.c.state.is_not(None)
    if database.follows is None:
        events = database.tables.events
        failed = select(events.c.type).join(failures, failures.c.position == events.c.position).distinct()
        covered = [one for one in connection.scalars(failed.where(standing)) if covers(pattern, one)]
        here = select(events.c.position).where(events.c.position == failures.c.position, events.c.type.in_(covered))
        return here.exists()
    positions = select(failures.c.position).where(standing).distinct().order_by(failures.c.position)
    looked_at = connection.scalars(positions.limit(POSITIONS_MAX)).all()
    with events_of(database, connection) as (log, there):
        events = log.tables.events
        rows = there.execute(select(events.c.position, events.c.type).where(events.c.position.in_(looked_at)))
        return failures.c.position.in_([row.position for row in rows if covers(pattern, row.type)])


def _attempts(connection: Connection, database: Database, name: str, position: int) -> tuple[AttemptRow, ...]:
    attempts = database.tables.attempts
    question: Any = select(attempts).where(attempts.c.subscriber == name, attempts.c.position == position)
    rows = connection.execute(question.order_by(attempts.c.id.desc()).limit(ATTEMPTS_SHOWN))
    return tuple(_read_as(row, AttemptRow) for row in rows)


def _read_as(row: Row[Any], kind: type[S]) -> S:
    with readable("a row of the ledger"):
        return msgspec.convert({field: row._mapping[field] for field in kind.__struct_fields__}, kind)

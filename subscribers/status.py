"""How the log and its subscribers stand: what an operator looks at first."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, ScalarSelect, Select, case, func, literal_column, select

from eventlog.ahead import ahead_of_log
from eventlog.database import Database, Holder, events_of, translated
from eventlog.schema.tables import OPEN_STATES
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import OnFailure, decode_declaration
from eventlog.subscribers.failed import Sought, read_entries
from eventlog.subscribers.lags import Lag, first_after, read_lags
from eventlog.subscribers.ledger import Entry, EntryState, entry_from


class LastError(msgspec.Struct, frozen=True, kw_only=True):
    """The failure that came last, of those that are still open."""

    position: int
    state: str
    error_type: str
    message: str
    at: datetime


class SubscriberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One subscriber: `state` is running, paused, halted (at a failure), outage (a handler fails at everything, and is
    tried now and then) or ahead (of a log that was restored to an earlier point, also when its worker has paused it
    meanwhile; `ahead` says the same); `lag` counts events, exactly if `lag_exact`; `lag_seconds` is for how long the
    oldest event that it is not done with has been there. Both are None where they cannot be known: `log` names the log
    it follows, and it was asked in another database. `owner` is one of the workers that run it.

    `rate` is how many events a second it got done with, between two looks; one look cannot know it, and leaves it None.
    """

    name: str
    kind: str
    state: str
    checkpoint: int
    lag: int | None
    lag_exact: bool
    lag_seconds: float | None
    rate: float | None = None
    failures: dict[str, int]
    last_error: LastError | None
    owner: str | None
    partitions: int
    outage_handler: str | None
    outage_since: datetime | None
    log: str | None = None
    state_reason: str | None = None
    ahead: bool = False


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The log, and all its subscribers. `held_back_by` are the transactions that have appended and are open, the one
    that holds the high-water mark back first; `held_back_seconds`, for how long the oldest event has been there that
    nobody may read because of it. `rate` is how many events a second were appended, between two looks; `workers`, how
    many of them are alive.
    """

    head: int
    high_water_mark: int
    held_back_by: tuple[Holder, ...]
    held_back_seconds: float
    rate: float | None = None
    workers: int
    subscribers: tuple[SubscriberStatus, ...]


def read_status(database: Database) -> Status:
    """Read how everything stands: about a dozen queries, however many subscribers there are and however long the log.

    What it costs grows with the failure ledger alone, whose entries are counted.
    """
    with translated(database), database.reader() as connection:
        counts = failure_counts(connection, database)
        errors = _last_errors(connection, database)
        rows = connection.execute(_subscribers(database)).all()
        workers = connection.scalar(select(_living_workers(database))) or 0
        with events_of(database, connection) as (log, there):
            head = log.head(there)
            mark = log.high_water_mark(there)
            holders = tuple(log.held_back_by(there)) if mark < head else ()
            withheld = first_after(there, log, [mark], until=head) if holders else {}
            ahead = {one.subscriber for one in ahead_of_log(connection, database)}
            lags = read_lags(there, log, {row.checkpoint for row in rows if _follows(row, database)}, mark=mark)
    return Status(
        head=head,
        high_water_mark=mark,
        held_back_by=holders,
        held_back_seconds=withheld.get(mark, 0.0),
        workers=workers,
        subscribers=tuple(
            _subscriber(
                row,
                lags[row.checkpoint] if _follows(row, database) else None,
                counts.get(row.name, {}),
                errors.get(row.name),
                ahead=row.name in ahead,
            )
            for row in rows
        ),
    )


def read_status_of(databases: Sequence[Database]) -> Status:
    """Read how everything stands in the log's database, the first one, and in others that subscribers' rows are in."""
    found = read_status(databases[0])
    elsewhere = [one for home in databases[1:] for one in read_status(home).subscribers if one.log is not None]
    return msgspec.structs.replace(found, subscribers=(*found.subscribers, *elsewhere))


def read_failures(
    database: Database, *, subscriber: str | None = None, states: tuple[str, ...] = (), limit: int = 1_000
) -> list[Entry]:
    """Read entries of the ledger, by subscriber and position. Raises `UnknownSubscriberError`."""
    return read_entries(database, Sought(subscriber=subscriber, states=states), limit=limit)


def read_failures_at(database: Database, position: int) -> list[Entry]:
    """Read the entries all subscribers have for one event, by subscriber."""
    failures, subscribers = database.tables.failures, database.tables.subscribers
    # Named with their subscribers, the entries are looked up; by position alone the whole ledger would be read.
    question = select(failures).where(
        failures.c.subscriber.in_(select(subscribers.c.name)), failures.c.position == position
    )
    with translated(database), database.reader() as connection:
        return [entry_from(row._mapping) for row in connection.execute(question.order_by(failures.c.subscriber))]


def _subscribers(database: Database) -> Select[Any]:
    subscribers, checkpoints, failures = (
        database.tables.subscribers,
        database.tables.checkpoints,
        database.tables.failures,
    )
    parked_ahead = (
        select(func.count())
        .select_from(failures)
        .where(
            failures.c.subscriber == checkpoints.c.subscriber,
            failures.c.partition == checkpoints.c.partition,
            failures.c.position > checkpoints.c.position,
            failures.c.state == EntryState.PARKED,
        )
        .scalar_subquery()
    )
    owned = checkpoints.c.expires_at > database_now()
    return (
        select(
            subscribers.c.name,
            subscribers.c.kind,
            subscribers.c.state,
            subscribers.c.declaration,
            subscribers.c.log,
            subscribers.c.state_reason,
            func.min(checkpoints.c.position).label("checkpoint"),
            func.max(case((owned, checkpoints.c.owner))).label("owner"),
            func.sum(parked_ahead).label("parked_ahead"),
            func.count().label("partitions"),
            func.min(checkpoints.c.outage_handler).label("outage_handler"),
            func.min(checkpoints.c.outage_since).label("outage_since"),
        )
        .join(checkpoints, checkpoints.c.subscriber == subscribers.c.name)
        .group_by(
            subscribers.c.name,
            subscribers.c.kind,
            subscribers.c.state,
            subscribers.c.declaration,
            subscribers.c.log,
            subscribers.c.state_reason,
        )
        .order_by(subscribers.c.name)
    )


def failure_counts(connection: Connection, database: Database) -> dict[str, dict[str, int]]:
    """Count ledger entries by subscriber and state."""
    failures = database.tables.failures
    counts: dict[str, dict[str, int]] = {}
    question = select(failures.c.subscriber, failures.c.state, func.count()).group_by(
        failures.c.subscriber, failures.c.state
    )
    for subscriber, state, count in connection.execute(question.order_by(failures.c.subscriber, failures.c.state)):
        counts.setdefault(subscriber, {})[state] = count
    return counts


def _last_errors(connection: Connection, database: Database) -> dict[str, LastError]:
    """Read the last failure of each subscriber among its open entries, which have an index of their own.

    The states stand in the statement as text: SQLite uses the index only if it sees them.
    """
    failures = database.tables.failures
    still_open = failures.c.state.in_([literal_column(f"'{state}'") for state in OPEN_STATES])
    place = func.row_number().over(
        partition_by=failures.c.subscriber, order_by=(failures.c.last_failed_at.desc(), failures.c.position.desc())
    )
    columns = (failures.c.position, failures.c.state, failures.c.error_type, failures.c.message)
    ranked = (
        select(failures.c.subscriber, *columns, failures.c.last_failed_at, place.label("place"))
        .where(still_open, failures.c.state != EntryState.BLOCKED)
        .subquery()
    )
    rows = connection.execute(select(ranked).where(ranked.c.place == 1))
    return {
        row.subscriber: LastError(
            position=row.position,
            state=row.state,
            error_type=row.error_type,
            message=row.message,
            at=row.last_failed_at,
        )
        for row in rows
    }


def _living_workers(database: Database) -> ScalarSelect[int]:
    table = database.tables.workers
    return select(func.count()).select_from(table).where(table.c.expires_at > database_now()).scalar_subquery()


def _follows(row: Row[Any], database: Database) -> bool:
    """Whether the log that a subscriber follows is the one at hand."""
    return row.log is None or database.follows is not None


def _subscriber(
    row: Row[Any], lag: Lag | None, failures: dict[str, int], last_error: LastError | None, *, ahead: bool
) -> SubscriberStatus:
    halts = decode_declaration(row.declaration).on_failure is OnFailure.HALT
    state = row.state
    if ahead:
        state = "ahead"
    elif state == "running" and halts and row.parked_ahead > 0:
        state = "halted"
    elif state == "running" and row.outage_handler is not None:
        state = "outage"
    return SubscriberStatus(
        name=row.name,
        kind=row.kind,
        state=state,
        checkpoint=row.checkpoint,
        lag=None if lag is None else lag.events,
        lag_exact=lag is not None and lag.exact,
        lag_seconds=None if lag is None else lag.seconds,
        failures=failures,
        last_error=last_error,
        owner=row.owner,
        partitions=row.partitions,
        outage_handler=row.outage_handler,
        outage_since=row.outage_since,
        log=row.log,
        state_reason=row.state_reason,
        ahead=ahead,
    )

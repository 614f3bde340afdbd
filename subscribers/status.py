"""How the log and its subscribers stand: what an operator looks at first."""

from datetime import datetime

import msgspec
from sqlalchemy import Connection, Row, and_, case, func, literal_column, select

from eventlog.database import Database, Holder, events_of, translated
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.declaration import OnFailure, decode_declaration
from eventlog.subscribers.failed import Sought, read_entries
from eventlog.subscribers.ledger import Entry, EntryState, entry_from

LAG_EXACT_MAX = 10_000


class SubscriberStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One subscriber: `state` is running, paused, halted (at a failure) or outage (a handler fails at everything, and
    is tried now and then); `lag` counts events, exactly if `lag_exact`. `owner` is one of the workers that run it.
    `log` names the log it follows where that is in another database; asked there, its lag is not known, and None.
    """

    name: str
    kind: str
    state: str
    checkpoint: int
    lag: int | None
    lag_exact: bool
    failures: dict[str, int]
    owner: str | None
    partitions: int
    outage_handler: str | None
    outage_since: datetime | None
    log: str | None = None
    state_reason: str | None = None


class Status(msgspec.Struct, frozen=True, kw_only=True):
    """The log, and all its subscribers."""

    head: int
    high_water_mark: int
    held_back_by: tuple[Holder, ...]
    subscribers: tuple[SubscriberStatus, ...]


def read_status(database: Database) -> Status:
    """Read how everything stands. Four queries, and one per subscriber that lags."""
    with translated(database), database.reader() as connection:
        with events_of(database, connection) as (log, there):
            head = log.head(there)
            mark = log.high_water_mark(there)
            holders = tuple(log.held_back_by(there)) if mark < head else ()
            counts = failure_counts(connection, database)
            rows = connection.execute(_subscribers(database)).all()
            lags = {row.name: _lag_of(there, log, row, mark, database=database) for row in rows}
        subscribers = tuple(_subscriber(row, lags[row.name], counts.get(row.name, {})) for row in rows)
    return Status(head=head, high_water_mark=mark, held_back_by=holders, subscribers=subscribers)


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


def _subscribers(database: Database):  # type: ignore[no-untyped-def]  # a Select of many columns; rows are read by name
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


def _subscriber(
    row: "Row[tuple[object, ...]]", lag_and_exact: tuple[int | None, bool], failures: dict[str, int]
) -> SubscriberStatus:
    lag, exact = lag_and_exact
    halts = decode_declaration(row.declaration).on_failure is OnFailure.HALT
    state = row.state
    if state == "running" and halts and row.parked_ahead > 0:
        state = "halted"
    elif state == "running" and row.outage_handler is not None:
        state = "outage"
    return SubscriberStatus(
        name=row.name,
        kind=row.kind,
        state=state,
        checkpoint=row.checkpoint,
        lag=lag,
        lag_exact=exact,
        failures=failures,
        owner=row.owner,
        partitions=row.partitions,
        outage_handler=row.outage_handler,
        outage_since=row.outage_since,
        log=row.log,
        state_reason=row.state_reason,
    )


def _lag_of(
    there: Connection, log: Database, row: "Row[tuple[object, ...]]", mark: int, *, database: Database
) -> tuple[int | None, bool]:
    if row.log is not None and database.follows is None:
        return None, False
    return _lag(there, log, row.checkpoint, mark)


def _lag(connection: Connection, database: Database, checkpoint: int, mark: int) -> tuple[int, bool]:
    """Count the events between checkpoint and mark, up to a limit; past it, the distance is close enough."""
    if mark <= checkpoint:
        return 0, True
    events = database.tables.events
    between = and_(events.c.position > checkpoint, events.c.position <= mark)
    some = select(literal_column("1")).select_from(events).where(between).limit(LAG_EXACT_MAX + 1).subquery()
    count = connection.scalar(select(func.count()).select_from(some)) or 0
    return (count, True) if count <= LAG_EXACT_MAX else (mark - checkpoint, False)

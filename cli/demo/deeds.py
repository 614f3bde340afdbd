"""What the demo does, deed by deed, and what came of each; nothing here prints.

Everything is done by the application's own `app.py`, and by the functions behind the commands of the same names:
whoever runs the demo can do each step again by hand.
"""

from collections.abc import Callable, Iterable

import msgspec
from sqlalchemy import func, inspect, select

from eventlog.cli.demo.flights import Flight, read_flights
from eventlog.cli.demo.workspace import FlightsApp
from eventlog.errors import EventLogError, RefusedError
from eventlog.log import EventLog
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.schema.migrate import SchemaState, schema_state
from eventlog.schema.tables import OPEN_STATES
from eventlog.shown_urls import shown_url
from eventlog.subscribers import control
from eventlog.subscribers.control import Move
from eventlog.subscribers.ledger import Entry
from eventlog.subscribers.status import read_failures
from eventlog.subscribers.worker import Drained

BOARD, COUNTS, MAIL = "delays", "carrier-days", "delay-mail"
TABLES = {"flights", "airport_delays", "carrier_days"}
VERY_LATE_MINUTES = 120


class Airport(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the board: arrivals at an airport, those that were 15 minutes late or more, and minutes of delay."""

    airport: str
    arrivals: int
    late: int
    minutes: int
    average: float
    worst: int


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """An open entry of the ledger, and the stream and type of the event it points at."""

    entry: Entry
    stream: str
    type: str


class Rewound(msgspec.Struct, frozen=True, kw_only=True):
    """A projection that was made anew: what was moved, and what was delivered again."""

    move: Move
    drained: Drained


def refuse_used(log: EventLog) -> None:
    """Raise `RefusedError` when the database holds a log with events, or a table the application would make."""
    with log.database.reader() as connection:
        taken = sorted(TABLES & set(inspect(connection).get_table_names()))
        state = schema_state(connection, schema=log.database.schema)
    if taken:
        raise _used(log, f"has a table {taken[0]!r} already")
    if state is not SchemaState.MISSING and log.head():
        raise _used(log, "holds a log with events in it")


def append_all(flights: FlightsApp, *, progress: Callable[[Iterable[Flight]], Iterable[Flight]]) -> int:
    """Make the tables and record every flight, each in a transaction of its own; return how many flights there were."""
    flights.create_tables()
    count = 0
    for flight in progress(read_flights()):
        flights.record(flight)
        count += 1
    return count


def events_by_type(flights: FlightsApp) -> dict[str, int]:
    """Count what is in the log, the most frequent type first."""
    events = flights.app.log.database.tables.events
    question = select(events.c.type, func.count()).group_by(events.c.type).order_by(func.count().desc(), events.c.type)
    with flights.app.log.database.reader() as connection:
        return {row[0]: row[1] for row in connection.execute(question)}


def open_failures(flights: FlightsApp) -> list[Failure]:
    """Read the open entries of all ledgers, with their events."""
    log = flights.app.log
    entries = read_failures(log.database, states=OPEN_STATES)
    events = {entry.position: log.get(entry.position) for entry in entries}
    return [
        Failure(entry=entry, stream=events[entry.position].stream, type=events[entry.position].type)
        for entry in entries
    ]


def retry_board(flights: FlightsApp) -> Drained:
    """Make the failures of the board due, and deliver them."""
    control.retry(flights.app.log.database, BOARD, reason="the demo fixed the handler")
    return flights.app.drain(only=[BOARD])


def rewind_counts(flights: FlightsApp) -> Rewound:
    """Make the counts per carrier and day anew from the log. Raises `EventLogError` when they come out differently."""
    before = _counts(flights)
    move = rebuild_in_place(flights.app.log.database, COUNTS, reason="the demo shows it")
    drained = flights.app.drain(only=[COUNTS])
    if _counts(flights) != before:
        raise EventLogError(
            f"{COUNTS} came out differently after its rewind", remedy="this is a bug of ours; please report it"
        )
    return Rewound(move=move, drained=drained)


def board(flights: FlightsApp) -> list[Airport]:
    """Read the board, the airport with the most minutes of delay first."""
    table = flights.airport_delays
    question = select(table).order_by(table.c.minutes.desc(), table.c.airport)
    with flights.app.log.database.reader() as connection:
        return [
            Airport(**row._mapping, average=round(row.minutes / row.arrivals, 1))
            for row in connection.execute(question)
        ]


def mails_sent(flights: FlightsApp) -> int:
    """Count the arrivals that were to be mailed about and are not in the ledger, where no mailbox of ours counts."""
    failed = {entry.position for entry in read_failures(flights.app.log.database, subscriber=MAIL, states=OPEN_STATES)}
    arrivals = flights.app.log.read(types=["flight.arrived"])
    return sum((one.data.delay or 0) > VERY_LATE_MINUTES for one in arrivals if one.position not in failed)


def _counts(flights: FlightsApp) -> list[tuple[object, ...]]:
    table = flights.carrier_days
    with flights.app.log.database.reader() as connection:
        return [tuple(row) for row in connection.execute(select(table).order_by(table.c.carrier, table.c.day))]


def _used(log: EventLog, why: str) -> RefusedError:
    place = shown_url(log.engine.url)
    return RefusedError(
        f"{place} {why}", remedy="give the demo an empty database, or leave --url out: it makes its own"
    )

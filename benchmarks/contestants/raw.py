"""The limit: what the driver and the database do for the same rows, without guard, ledger, lease or checkpoint.

The table is ours with its columns, defaults and indexes, and without a trigger. Versions are not assigned but known.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from typing import Any
from uuid import uuid4

import msgspec
import psycopg
import sqlalchemy
from sqlalchemy.orm import Session

from benchmarks.contestants.contestant import APPENDS, CATCHES_UP, FANS_OUT, FLOWS, Append, Contestant, Handle
from benchmarks.contestants.rows import ONE_MORE, ORDERS, engine_of, metadata
from benchmarks.flights import DECODERS, Arrived, FlightEvent, type_of
from eventlog.log import EventLog

COLUMNS = "id, stream, version, type, type_version, data, metadata, tags"
INSERT = f"insert into raw.events ({COLUMNS}) values (%s, %s, %s, %s, 1, %s, '{{}}', null)"
COPY = f"copy raw.events ({COLUMNS}) from stdin"
PAGE = """
select position, id, stream, version, type, type_version, data::text, metadata::text, recorded_at, tags
from raw.events where position > %s order by position limit 1000
"""
UPSERT = """
insert into board (carrier, arrived, last)
select * from unnest(%s::text[], %s::bigint[], %s::bigint[])
on conflict (carrier) do update set arrived = excluded.arrived, last = excluded.last
"""


Connection = psycopg.Connection[tuple[Any, ...]]


class Raw(Contestant):
    """psycopg, prepared statements, COPY in text format, keyset pages of a thousand."""

    name = "raw"
    workloads = APPENDS | CATCHES_UP | FLOWS | FANS_OUT | {"W1t", "W5p"}
    packages = ("psycopg",)
    events_table = "raw.events"

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        log.engine.dispose()
        with self.connected() as connection:
            connection.execute("create schema raw")
            connection.execute("create table raw.events (like eventlog.events including all)")
        engine = engine_of(self.url)
        metadata.create_all(engine)
        engine.dispose()

    @contextmanager
    def appender(self) -> Iterator[Append]:
        with self.connected() as connection, connection.cursor() as cursor:

            def append(events: Sequence[FlightEvent]) -> None:
                if len(events) == 1:
                    cursor.execute(INSERT, row_of(events[0]))
                    return
                with cursor.copy(COPY) as copy:
                    for event in events:
                        ident, stream, version, name, data = row_of(event)
                        copy.write_row((ident, stream, version, name, 1, data, "{}", None))

            yield append

    @contextmanager
    def appender_with_row(self) -> Iterator[Append]:
        """Two plain rows in one Session."""
        engine = engine_of(self.url)
        table = sqlalchemy.Table("events", sqlalchemy.MetaData(), schema="raw", autoload_with=engine)

        def append(events: Sequence[FlightEvent]) -> None:
            ident, stream, version, name, _ = row_of(events[0])
            with Session(engine) as session, session.begin():
                session.execute(ORDERS.insert(), {"note": stream})
                values = {"id": ident, "stream": stream, "version": version, "type": name}
                session.execute(table.insert(), {**values, "data": msgspec.to_builtins(events[0])})

        yield append
        engine.dispose()

    def follow_with(self, handles: Sequence[Handle], *, ready: Callable[[], None], stop: Flag) -> None:
        """One loop reads and decodes for all."""

        def handle(event: FlightEvent) -> None:
            for one in handles:
                one(event)

        self.follow(handle, ready=ready, stop=stop)

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        with self.reading() as connection:
            at = self.head(connection)
            ready()
            while not stop.is_set():
                rows = connection.execute(PAGE, [at]).fetchall()
                for row in rows:
                    handle(decoded(row))
                at = rows[-1][0] if rows else at
                if not rows:
                    time.sleep(0.001)

    def catch_up(self, events: int, handle: Handle) -> None:
        with self.reading() as connection:
            for page in pages(connection, events):
                for row in page:
                    handle(decoded(row))

    def project(self, events: int) -> None:
        counts: dict[str, tuple[int, int]] = {}
        with psycopg.connect(self.url) as connection, self.reading() as reader:
            for page in pages(reader, events):
                touched = set()
                for row in page:
                    event = decoded(row)
                    if isinstance(event, Arrived):
                        touched.add(event.carrier)
                        counts[event.carrier] = (counts.get(event.carrier, (0, 0))[0] + 1, event.minutes)
                columns = [list(touched), [counts[one][0] for one in touched], [counts[one][1] for one in touched]]
                connection.execute(UPSERT, columns)
                connection.commit()

    def project_by_event(self, events: int) -> None:
        engine = engine_of(self.url)
        with engine.connect() as connection, self.reading() as reader:
            for page in pages(reader, events):
                for row in page:
                    event = decoded(row)
                    if isinstance(event, Arrived):
                        connection.execute(ONE_MORE, {"carrier": event.carrier, "arrived": 1, "last": event.minutes})
                connection.commit()
        engine.dispose()

    def head(self, connection: Connection) -> int:
        """The last position that is recorded."""
        row = connection.execute("select coalesce(max(position), 0) from raw.events").fetchone()
        return int(row[0]) if row else 0

    def reading(self) -> Connection:
        """A connection that reads by the index also when the table was empty at the first look: the plan is kept."""
        connection = self.connected()
        connection.execute("set enable_seqscan = off")
        connection.execute("set enable_bitmapscan = off")
        return connection

    def connected(self) -> Connection:
        """A connection that prepares every statement at its first use, and commits each."""
        connection = psycopg.connect(self.url, autocommit=True)
        connection.prepare_threshold = 0
        return connection


def pages(connection: Connection, events: int) -> Iterator[list[Any]]:
    """Read so many events from the first on."""
    at = done = 0
    while done < events:
        rows = connection.execute(PAGE, [at]).fetchall()
        yield rows
        at, done = rows[-1][0], done + len(rows)


def row_of(event: FlightEvent) -> tuple[Any, ...]:
    """Id, stream, version, type and data. The version is random, which saves looking it up."""
    ident = uuid4()
    return ident, event.flight, ident.int >> 66, type_of(event), msgspec.json.encode(event).decode()


def decoded(row: Sequence[Any]) -> FlightEvent:
    """Decode the data of a row by its type."""
    event: FlightEvent = DECODERS[row[4]](row[6])
    return event


CONTESTANT = Raw

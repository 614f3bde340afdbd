"""The limit: what the driver and the database do for the same rows, without guard, ledger, lease or checkpoint.

The table is ours with its columns, defaults and indexes, and without a trigger. Versions are not assigned but known.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from uuid import uuid4

import msgspec
import psycopg

from benchmarks.contestants.contestant import Append, Board, Contestant, Handle
from benchmarks.flights import Arrived, FlightEvent, type_of
from eventlog.event_types import declared_as
from eventlog.log import EventLog

COLUMNS = "id, stream, version, type, type_version, data, metadata, tags"
INSERT = f"insert into raw.events ({COLUMNS}) values (%s, %s, %s, %s, 1, %s, '{{}}', null)"
COPY = f"copy raw.events ({COLUMNS}) from stdin"
PAGE = """
select position, id, stream, version, type, type_version, data::text, metadata::text, recorded_at, tags
from raw.events where position > %s order by position limit 1000
"""
UPSERT = """
insert into raw.board (carrier, arrived, last)
select * from unnest(%s::text[], %s::bigint[], %s::bigint[])
on conflict (carrier) do update set arrived = excluded.arrived, last = excluded.last
"""


class Raw(Contestant):
    """psycopg, prepared statements, COPY in text format, keyset pages of a thousand."""

    packages = ("psycopg",)

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        log.engine.dispose()
        with self._connected() as connection:
            connection.execute("create schema raw")
            connection.execute("create table raw.events (like eventlog.events including all)")
            connection.execute("create table raw.board (carrier text primary key, arrived bigint, last bigint)")

    @contextmanager
    def appender(self) -> Iterator[Append]:
        with self._connected() as connection, connection.cursor() as cursor:

            def append(events: Sequence[FlightEvent]) -> None:
                if len(events) == 1:
                    cursor.execute(INSERT, _row(events[0])[:5])
                    return
                with cursor.copy(COPY) as copy:
                    for event in events:
                        ident, stream, version, name, data = _row(event)
                        copy.write_row((ident, stream, version, name, 1, data, "{}", None))

            yield append

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        with self._connected() as connection:
            (at,) = connection.execute("select coalesce(max(position), 0) from raw.events").fetchone() or (0,)
            ready()
            while not stop.is_set():
                rows = connection.execute(PAGE, [at]).fetchall()
                for row in rows:
                    handle(_decoded(row))
                at = rows[-1][0] if rows else at
                if not rows:
                    time.sleep(0.001)

    def catch_up(self, events: int, handle: Handle) -> None:
        with self._connected() as connection:
            at = done = 0
            while done < events:
                rows = connection.execute(PAGE, [at]).fetchall()
                for row in rows:
                    handle(_decoded(row))
                at, done = rows[-1][0], done + len(rows)

    def project(self, events: int) -> None:
        counts: dict[str, tuple[int, int]] = {}
        with psycopg.connect(self.url) as connection:
            at = done = 0
            while done < events:
                rows = connection.execute(PAGE, [at]).fetchall()
                touched = set()
                for row in rows:
                    event = _decoded(row)
                    if isinstance(event, Arrived):
                        touched.add(event.carrier)
                        counts[event.carrier] = (counts.get(event.carrier, (0, 0))[0] + 1, event.minutes)
                columns = [list(touched), [counts[one][0] for one in touched], [counts[one][1] for one in touched]]
                connection.execute(UPSERT, columns)
                connection.commit()
                at, done = rows[-1][0], done + len(rows)

    def board(self) -> Board:
        with self._connected() as connection:
            rows = connection.execute("select carrier, arrived, last from raw.board").fetchall()
        return {carrier: (arrived, last) for carrier, arrived, last in rows}

    def _connected(self) -> psycopg.Connection[tuple[object, ...]]:
        connection = psycopg.connect(self.url, autocommit=True)
        connection.prepare_threshold = 0
        return connection


def _row(event: FlightEvent) -> tuple[object, ...]:
    """Versions are not looked up: a random one stands in, wide enough to be unique."""
    ident = uuid4()
    return ident, event.flight, ident.int >> 66, type_of(event), msgspec.json.encode(event).decode()


def _decoded(row: Sequence[object]) -> FlightEvent:
    declared = declared_as(str(row[4]))
    assert declared is not None
    return declared.decode(row[6])


CONTESTANT = Raw

"""The limit on SQLite: what the standard library's driver does for the same rows, without triggers or checkpoint.

The table is ours with its columns, defaults, checks and indexes. The journal is a write-ahead log and `synchronous` is
`normal`, as in our own files: a commit is safe from a crash of the process; that of the machine may take the last ones.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy

from benchmarks.contestants.contestant import CATCHES_UP, Append, Board, Contestant, Handle
from benchmarks.contestants.raw import decoded, row_of
from benchmarks.flights import Arrived, FlightEvent
from eventlog.log import EventLog

INSERT = "insert into raw_events (id, stream, version, type, data) values (?, ?, ?, ?, ?)"
PAGE = """
select position, id, stream, version, type, type_version, data, metadata, recorded_at, tags
from raw_events where position > ? order by position limit 1000
"""
UPSERT = """
insert into board (carrier, arrived, last) values (?, ?, ?)
on conflict (carrier) do update set arrived = excluded.arrived, last = excluded.last
"""


class RawSqlite(Contestant):
    """One connection; the driver keeps its statements prepared by itself."""

    name = "raw-sqlite"
    workloads = CATCHES_UP | {"W1", "W3"}
    database = "sqlite"

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        log.engine.dispose()
        with closing(connected(self.url)) as connection:
            (made,) = connection.execute("select sql from sqlite_master where type = 'table' and name = 'events'")
            connection.execute(made[0].replace("TABLE events", "TABLE raw_events", 1))
            connection.execute("create table board (carrier text primary key, arrived integer, last integer)")

    @contextmanager
    def appender(self) -> Iterator[Append]:
        with closing(connected(self.url)) as connection:

            def append(events: Sequence[FlightEvent]) -> None:
                if len(events) == 1:
                    connection.execute(INSERT, _values(events[0]))
                    return
                connection.execute("begin immediate")
                connection.executemany(INSERT, map(_values, events))
                connection.execute("commit")

            yield append

    def catch_up(self, events: int, handle: Handle) -> None:
        with closing(connected(self.url)) as connection:
            for page in _pages(connection, events):
                for row in page:
                    handle(decoded(row))

    def project(self, events: int) -> None:
        counts: dict[str, tuple[int, int]] = {}
        with closing(connected(self.url)) as connection:
            for page in _pages(connection, events):
                touched = set()
                for row in page:
                    event = decoded(row)
                    if isinstance(event, Arrived):
                        touched.add(event.carrier)
                        counts[event.carrier] = (counts.get(event.carrier, (0, 0))[0] + 1, event.minutes)
                connection.execute("begin immediate")
                connection.executemany(UPSERT, [(one, *counts[one]) for one in touched])
                connection.execute("commit")

    def board(self) -> Board:
        return read_board(self.url)

    def settle(self) -> None:
        checkpoint(self.url)


def connected(url: str) -> sqlite3.Connection:
    """Open the file as the project does, each statement a transaction unless one is begun."""
    connection = sqlite3.connect(path_of(url), isolation_level=None)
    connection.execute("pragma synchronous = normal")
    return connection


def path_of(url: str) -> Path:
    """Name the file of a URL."""
    return Path(str(sqlalchemy.make_url(url).database))


def read_board(url: str) -> Board:
    """Read the read model."""
    with closing(connected(url)) as connection:
        rows = connection.execute("select carrier, arrived, last from board").fetchall()
    return {carrier: (arrived, last) for carrier, arrived, last in rows}


def checkpoint(url: str) -> None:
    """Empty the write-ahead log, and let the planner look at the tables."""
    with closing(connected(url)) as connection:
        connection.execute("pragma wal_checkpoint(truncate)")
        connection.execute("analyze")


def _pages(connection: sqlite3.Connection, events: int) -> Iterator[list[Any]]:
    at = done = 0
    while done < events:
        rows = connection.execute(PAGE, [at]).fetchall()
        yield rows
        at, done = rows[-1][0], done + len(rows)


def _values(event: FlightEvent) -> tuple[Any, ...]:
    ident, *others = row_of(event)
    return (str(ident), *others)


CONTESTANT = RawSqlite

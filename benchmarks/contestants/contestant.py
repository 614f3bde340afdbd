"""What a contestant has to be able to do; the workloads do the rest, and time it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Event as Flag
from typing import ClassVar

import psycopg

from benchmarks.flights import FlightEvent

Append = Callable[[Sequence[FlightEvent]], None]
"""Records events, in one call and one transaction; they are on the disk when it returns."""
Handle = Callable[[FlightEvent], None]
Board = dict[str, tuple[int, int]]
"""The read model: by carrier, how many of its flights arrived, and how late the last one was."""

APPENDS = frozenset({"W1", "W2-8", "W2-32", "W3"})
CATCHES_UP = frozenset({"W4", "W5"})
FLOWS = frozenset({"W7-1", "W7-100"})
FANS_OUT = frozenset({"W8-1", "W8-10", "W8-50"})
SHARES = frozenset({"W9-1", "W9-2", "W9-4"})


class Contestant(ABC):
    """One way to do the job, on one empty database that is thrown away afterwards.

    Whoever takes part in a workload overrides what it needs; `workloads` tells which those are.
    """

    name: ClassVar[str]
    workloads: ClassVar[frozenset[str]]
    """Those it takes part in."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The distributions whose versions are reported."""
    database: ClassVar[str] = "postgresql"
    """Or `sqlite`: then the URL names a file that is not there yet."""
    events_table: ClassVar[str] = ""

    bulk_events: ClassVar[int] = 100_000
    catch_up_events: ClassVar[int] = 200_000
    flow_events: ClassVar[int] = 1_000_000
    """How many events it gets. Slow ones get fewer, so that the contest ends: a rate is a rate. The report tells."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def create(self) -> None:
        """Make the tables."""

    @abstractmethod
    def appender(self) -> AbstractContextManager[Append]:
        """Lend a way to append, with a connection of its own."""

    def appender_with_row(self) -> AbstractContextManager[Append]:
        """Lend a way to append in a transaction that also writes a row of the caller's, by SQLAlchemy."""
        raise self._takes_no_part()

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        """Hand every event to a handler as it comes, keeping what was done durably, until `stop` is set."""
        raise self._takes_no_part()

    def follow_with(self, handles: Sequence[Handle], *, ready: Callable[[], None], stop: Flag) -> None:
        """As `follow`, to each of several handlers that know nothing of each other, in one process."""
        raise self._takes_no_part()

    def share(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        """Hand to a handler this process's share of the events as they come; others do the same at the same time."""
        raise self._takes_no_part()

    def sharing(self) -> int:
        """Return how many processes have a share."""
        raise self._takes_no_part()

    def fill_at_once(self, events: Sequence[FlightEvent]) -> None:
        """Record many events so that they can all be seen at the same moment, when it returns."""
        raise self._takes_no_part()

    def catch_up(self, events: int, handle: Handle) -> None:
        """Hand what is recorded, so many events, typed to a handler, keeping durably what was done."""
        raise self._takes_no_part()

    def project(self, events: int) -> None:
        """Make the read model of what is recorded, so many events; exactly once where that can be had."""
        raise self._takes_no_part()

    def project_by_event(self, events: int) -> None:
        """Make the read model with a statement for each event."""
        raise self._takes_no_part()

    def board(self) -> Board:
        """Read the read model."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("select carrier, arrived, last from board").fetchall()
        return {carrier: (arrived, last) for carrier, arrived, last in rows}

    def fill(self, events: Sequence[FlightEvent]) -> None:
        """Record events before the measurement begins, by whatever way is fast."""
        with self.appender() as append:
            for start in range(0, len(events), 1_000):
                append(events[start : start + 1_000])

    def reads(self) -> int:
        """Return how many rows of the events' table were read since it was made. Exact when all who read are gone."""
        with psycopg.connect(self.url) as connection:
            row = connection.execute(
                """
                select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_user_tables
                where relid = %s::regclass
                """,
                [self.events_table],
            ).fetchone()
        assert row is not None, f"{self.events_table} is not there"
        return int(row[0])

    def settle(self) -> None:
        """Let the database do now what it would do by itself during the measurement."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute("vacuum analyze")
            connection.execute("checkpoint")

    def _takes_no_part(self) -> NotImplementedError:
        return NotImplementedError(f"{self.name} takes no part in this workload")

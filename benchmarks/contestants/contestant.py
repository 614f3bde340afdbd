"""What a contestant has to be able to do; the workloads do the rest, and time it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from threading import Event as Flag
from typing import ClassVar

from benchmarks.flights import FlightEvent

Append = Callable[[Sequence[FlightEvent]], None]
"""Records events, in one call and one transaction; they are on the disk when it returns."""
Handle = Callable[[FlightEvent], None]
Board = dict[str, tuple[int, int]]
"""The read model: by carrier, how many of its flights arrived, and how late the last one was."""


class Contestant(ABC):
    """One way to do the job, on one empty database that is thrown away afterwards."""

    name: ClassVar[str]
    workloads: ClassVar[frozenset[str]]
    """Those it takes part in."""
    packages: ClassVar[tuple[str, ...]] = ()
    """The distributions whose versions are reported."""

    def __init__(self, url: str) -> None:
        self.url = url

    @abstractmethod
    def create(self) -> None:
        """Make the tables."""

    @abstractmethod
    def appender(self) -> AbstractContextManager[Append]:
        """Lend a way to append, with a connection of its own."""

    @abstractmethod
    def appender_with_row(self) -> AbstractContextManager[Append]:
        """Lend a way to append in a transaction that also writes a row of the caller's, by SQLAlchemy."""

    @abstractmethod
    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        """Hand every event to a handler as it comes, keeping what was done durably, until `stop` is set."""

    @abstractmethod
    def catch_up(self, events: int, handle: Handle) -> None:
        """Hand what is recorded, so many events, typed to a handler, keeping durably what was done."""

    @abstractmethod
    def project(self, events: int) -> None:
        """Make the read model of what is recorded, so many events; exactly once where that can be had."""

    @abstractmethod
    def project_by_event(self, events: int) -> None:
        """Make the read model with a statement for each event."""

    @abstractmethod
    def board(self) -> Board:
        """Read the read model."""

    def fill(self, events: Sequence[FlightEvent]) -> None:
        """Record events before the measurement begins, by whatever way is fast."""
        with self.appender() as append:
            for start in range(0, len(events), 1_000):
                append(events[start : start + 1_000])

"""What an adapter has to be able to do; the race does the rest, and the audit judges it.

A log with a table that anybody may write to derives from `SqlAdapter` (`sql_adapter.py`); one whose appends always are
transactions of their own from `CallAdapter` (`call_adapter.py`).
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, ClassVar
from uuid import UUID

from sqlalchemy import Engine, create_engine, make_url

from benchmarks.lost_events.audit import Delivery, Order
from benchmarks.lost_events.shapes import Shape
from benchmarks.lost_events.writing import Writer

See = Callable[[Delivery], None]


class Promise(StrEnum):
    """What a run expects of an adapter."""

    NOTHING_IS_LOST = "nothing is lost"
    LOSES = "control: loses events"


class Adapter(ABC):
    """One log and one way to read it, on one empty database that is thrown away afterwards."""

    name: ClassVar[str]
    about: ClassVar[str]
    """How it reads, in a few words."""
    promise: ClassVar[Promise] = Promise.NOTHING_IS_LOST
    order: ClassVar[Order] = Order.LOG
    packages: ClassVar[tuple[str, ...]] = ()
    """The distributions whose versions are reported."""
    reader_may_be_killed: ClassVar[bool] = False
    """Whether its reader has to outlive the loss of its connections."""

    def __init__(self, url: str, *, connect_args: Mapping[str, Any] | None = None) -> None:
        """`connect_args` are for all connections that are not the log's own."""
        self.url = url
        self.connect_args = dict(connect_args or {})

    @property
    def is_postgres(self) -> bool:
        return make_url(self.url).get_backend_name() == "postgresql"

    @property
    @abstractmethod
    def shapes(self) -> frozenset[Shape]:
        """All the ways in which its log can be written to, on this database."""

    @abstractmethod
    def create(self) -> None:
        """Make the tables."""

    @abstractmethod
    def writers(
        self, count: int, *, seed: int, shapes: frozenset[Shape], was_read: Callable[[UUID], bool]
    ) -> list[Writer]:
        """Make writers for some of the shapes; `was_read` tells whether the reader has got an event."""

    @abstractmethod
    def follow(self, see: See, stop: threading.Event) -> None:
        """Hand every event to `see` as it comes, until `stop` is set."""

    @abstractmethod
    def recorded(self) -> dict[UUID, int]:
        """Read what is in the table: the position of each id."""

    def delivered(self, seen: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return what counts as delivered: what `see` was given, unless the reader keeps what it got itself."""
        return seen

    def finish(self) -> None:
        """End what writers left open. Called when they are gone; not every log can have something open then."""
        return

    @contextmanager
    def observer(self) -> Iterator[Engine]:
        """Lend an engine whose every statement is a transaction of its own, for looking on and for ending others."""
        engine = create_engine(self.url, isolation_level="AUTOCOMMIT", connect_args=self.connect_args)
        try:
            yield engine
        finally:
            engine.dispose()


def named(url: str, name: str) -> str:
    """The same database, and a connection that calls itself so."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        return url
    return parsed.update_query_dict({"application_name": name}).render_as_string(hide_password=False)

"""What the tests of subscribers share: three event types, an application that cleans up, and looks into its tables.

A projection made by `Bench.applied` writes one row for each call of its handler, into a table without any unique
constraint: an event that was skipped is missing there, and one that was applied twice stands there twice.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, insert, select, update

from eventlog.event_types import event
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.ledger import Entry
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.status import SubscriberStatus, read_failures, read_status
from eventlog.subscribers.worker import Drained, drain
from eventlog.testing import make_retries_due

DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.01


@event("crate.sent", stream="crate-{number}")
class Sent(msgspec.Struct, frozen=True):
    number: int
    weight: int = 1


@event("crate.lost", stream="crate-{number}")
class Lost(msgspec.Struct, frozen=True):
    number: int


@event("crate.found", stream="crate-{number}")
class Found(msgspec.Struct, frozen=True):
    number: int


class BugError(Exception):
    """What a handler with a bug raises in these tests."""


class Bench:
    """The applications of one test on one database, with their engines closed at the end."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._apps: list[App] = []
        self._own = App(url)

    @property
    def log(self) -> Any:
        return self._own.log

    @property
    def postgres(self) -> bool:
        return self._own.engine.dialect.name == "postgresql"

    def app(self, *, lease_seconds: float = 15.0) -> App:
        """Make an application, as another process that runs the same service would have it."""
        app = App(self.url, lease_seconds=lease_seconds)
        self._apps.append(app)
        return app

    def close(self) -> None:
        for app in (*self._apps, self._own):
            app.engine.dispose()

    def send(self, count: int, *, first: int = 1) -> list[int]:
        """Append crates, each in a stream of its own, and return their positions."""
        return [one.position for one in self.log.append(*(Sent(number) for number in range(first, first + count)))]

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        with self.log.database.transaction() as connection:
            yield connection

    def rows(self, question: Any) -> Sequence[Any]:
        with self._own.log.database.reader() as connection:
            return connection.execute(question).all()

    def checkpoint(self, name: str) -> Any:
        """Read the row of a subscriber's only partition."""
        table = self._own.log.database.tables.checkpoints
        return self.rows(select(table).where(table.c.subscriber == name))[0]

    def position(self, name: str) -> int:
        return int(self.checkpoint(name).position)

    def entries(self, name: str) -> list[Entry]:
        return read_failures(self._own.log.database, subscriber=name)

    def states(self, name: str) -> dict[int, str]:
        """Read the ledger of a subscriber: the state of each entry by its position."""
        return {entry.position: str(entry.state) for entry in self.entries(name)}

    def attempts(self, name: str) -> Sequence[Any]:
        """Read the attempts of a subscriber, the oldest first."""
        table = self._own.log.database.tables.attempts
        return self.rows(select(table).where(table.c.subscriber == name).order_by(table.c.id))

    def operations(self, name: str) -> Sequence[Any]:
        table = self._own.log.database.tables.operations
        return self.rows(select(table).where(table.c.subscriber == name).order_by(table.c.id))

    def status(self, name: str) -> SubscriberStatus:
        return next(one for one in read_status(self._own.log.database).subscribers if one.name == name)

    def expire_lease(self, name: str) -> None:
        """Make a lease run out, as if its owner had been silent for long."""
        table = self._own.log.database.tables.checkpoints
        long_ago = datetime.fromisoformat("2001-01-01T00:00:00+00:00")
        with self.transaction() as connection:
            connection.execute(update(table).where(table.c.subscriber == name).values(expires_at=long_ago))

    def make_due(self, name: str) -> None:
        """Let the time of every waiting retry come."""
        make_retries_due(self._own, name)

    def applied(self, table: Table) -> list[int]:
        """Read which positions a projection has applied, in order, one for each time."""
        return [row.position for row in self.rows(select(table.c.position).order_by(table.c.position))]


def applied_table(name: str = "applied") -> Table:
    """Make the table of a projection that notes every call of its handler."""
    return Table(
        name,
        MetaData(),
        Column("id", Integer().with_variant(BigInteger(), "postgresql"), primary_key=True),
        Column("position", BigInteger(), nullable=False),
        Column("note", Text()),
    )


def note(ctx: Context, table: Table, text: str | None = None) -> None:
    """Write that a handler was called for its event."""
    ctx.connection.execute(insert(table).values(position=ctx.event.position, note=text))


def runtime_of(app: App, **options: Any) -> Runtime:
    """Make a runtime whose clock, draw or stop is given."""
    return Runtime(log=app.log, feed=Feed(app.log), lease_seconds=app.lease_seconds, **options)


def eventually(probe: Callable[[], object], *, what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Poll until a probe is true; fail when the deadline has passed."""
    ends = time.monotonic() + seconds
    while not probe():
        assert time.monotonic() < ends, f"waited {seconds} s in vain: {what}"
        threading.Event().wait(POLL_SECONDS)


def drain_with(app: App, *only: str, **options: Any) -> Drained:
    """Drain with a runtime whose clock, draw or stop is given."""
    app.register(*only)
    runtime = runtime_of(app, **options)
    return drain(runtime, app.partitions(runtime, only))


class Background:
    """A call in a thread of its own. `join` waits for it, and raises what it raised."""

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._error: BaseException | None = None
        self.result: object = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def join(self, *, seconds: float = DEADLINE_SECONDS) -> object:
        self._thread.join(seconds)
        assert not self._thread.is_alive(), f"the call has not returned after {seconds} s"
        if self._error is not None:
            raise self._error
        return self.result

    def _run(self) -> None:
        try:
            self.result = self._call()
        except BaseException as error:  # raised again by whoever joins
            self._error = error


class Gate:
    """Holds a handler at one point: `arrived` tells that it is there, `open` lets it go on."""

    def __init__(self) -> None:
        self._arrived = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Stand at the gate until it is opened."""
        self._arrived.set()
        assert self._open.wait(DEADLINE_SECONDS), "nobody opened the gate"

    def wait_until_reached(self) -> None:
        assert self._arrived.wait(DEADLINE_SECONDS), "nobody came to the gate"

    def open(self) -> None:
        self._open.set()

"""This project, by its public interface, read in each of the ways it offers.

A reader's connections are ended like those of the writers. One that follows the log by itself does then what
docs/log.md tells it to: it goes on after the last event it is done with.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, insert, select

from benchmarks.lost_events.adapters.adapter import See, named
from benchmarks.lost_events.adapters.sql_adapter import SqlAdapter
from benchmarks.lost_events.audit import Delivery, Order
from benchmarks.lost_events.writing import EVENT_TYPE, READER_NAME, Append, NewEvent
from eventlog.errors import DatabaseError, DatabaseUnreachableError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context

LEASE_SECONDS = 2.0
WORKERS = 2
PARTITIONS = 4
POLL_SECONDS = 0.002
STOP_SECONDS = 0.05
DELIVERED = Table(
    "delivered",
    MetaData(),
    Column("number", BigInteger().with_variant(Integer(), "sqlite"), primary_key=True),
    Column("position", BigInteger, nullable=False),
    Column("id", Text, nullable=False),
    Column("stream", Text, nullable=False),
)
"""A row for each event the projection's handler was given, and no constraint that would hide a second one."""


class Rewindlog(SqlAdapter):
    """The log, without a reader."""

    packages = ("rewindlog", "sqlalchemy", "psycopg")
    reader_may_be_killed = True

    def create(self) -> None:
        with self.log() as log:
            log.init()

    @contextmanager
    def log(self, url: str | None = None) -> Iterator[EventLog]:
        log = EventLog(url or named(self.url, READER_NAME))
        try:
            yield log
        finally:
            log.engine.dispose()

    @contextmanager
    def appender(self, url: str) -> Iterator[Append]:
        with self.log(url) as log:

            def append(events: Sequence[NewEvent], connection: Connection | None) -> None:
                log.append(*[Event({}, type=EVENT_TYPE, stream=one.stream, id=one.id) for one in events], tx=connection)

            yield append


class Reader(Rewindlog):
    """Follows the log by itself, and goes on after the last event when the connection was lost."""

    def follow(self, see: See, stop: threading.Event) -> None:
        last = 0

        def note(recorded: Recorded[Any]) -> None:
            nonlocal last
            last = recorded.position
            see(Delivery(id=recorded.id, position=recorded.position, stream=recorded.stream))

        with self.log() as log:
            while not stop.is_set():
                try:
                    self.read_on(log, last, note, stop)
                except DatabaseError:
                    continue

    def read_on(self, log: EventLog, after: int, note: Callable[[Recorded[Any]], None], stop: threading.Event) -> None:
        raise NotImplementedError


class Pages(Reader):
    """A loop around `log.read`."""

    name = "rewindlog"
    about = "`log.read(after=...)` in a loop"

    def read_on(self, log: EventLog, after: int, note: Callable[[Recorded[Any]], None], stop: threading.Event) -> None:
        for recorded in log.read(after=after):
            note(recorded)
        stop.wait(POLL_SECONDS)


class Following(Reader):
    """`log.follow`, which is woken by appends."""

    name = "rewindlog-follow"
    about = "`log.follow`"

    def read_on(self, log: EventLog, after: int, note: Callable[[Recorded[Any]], None], stop: threading.Event) -> None:
        for recorded in log.follow(after=after, stop=stop):
            note(recorded)


class FollowingAsync(Reader):
    """`log.follow_async`, which polls."""

    name = "rewindlog-follow-async"
    about = "`log.follow_async`"

    def read_on(self, log: EventLog, after: int, note: Callable[[Recorded[Any]], None], stop: threading.Event) -> None:
        async def follow() -> None:
            async for recorded in log.follow_async(after=after):
                note(recorded)

        async def until_stopped() -> None:
            following = asyncio.create_task(follow())
            while not stop.is_set() and not following.done():
                await asyncio.wait({following}, timeout=STOP_SECONDS)
            if not following.cancel():
                following.result()

        asyncio.run(until_stopped())


class Effect(Rewindlog):
    """An effect, at least once, in four partitions that two workers share."""

    name = "rewindlog-effect"
    about = "an effect in 4 partitions, 2 workers"
    order = Order.STREAM

    def follow(self, see: See, stop: threading.Event) -> None:
        def declare(app: App) -> None:
            @app.subscriber("effect", partitions=PARTITIONS).on(EVENT_TYPE)
            def handle(recorded: Recorded[Any], ctx: Context) -> None:
                see(
                    Delivery(
                        id=recorded.id,
                        position=recorded.position,
                        stream=recorded.stream,
                        redelivery=ctx.redelivery,
                    )
                )

        self.work(declare, stop)

    def work(self, declare: Callable[[App], None], stop: threading.Event) -> None:
        """Run workers, each of an application of its own, as so many processes would."""
        with ExitStack() as stack:
            for _ in range(WORKERS):
                app = App(named(self.url, READER_NAME), lease_seconds=LEASE_SECONDS)
                stack.callback(app.engine.dispose)
                declare(app)
                self.begin(app, stack, stop)
            stop.wait()

    def begin(self, app: App, stack: ExitStack, stop: threading.Event) -> None:
        """Begin a worker, again where its connection was ended as it began: as a supervisor of services does."""
        while not stop.is_set():
            with suppress(DatabaseUnreachableError):
                stack.enter_context(app.worker())
                return


class Projection(Effect):
    """A projection, exactly once, of which one worker is the owner and another waits for the lease."""

    name = "rewindlog-projection"
    about = "a projection, 2 workers"
    order = Order.LOG

    def follow(self, see: See, stop: threading.Event) -> None:
        def declare(app: App) -> None:
            @app.projection("projection", tables=[DELIVERED]).on(EVENT_TYPE)
            def handle(batch: list[Recorded[Any]], ctx: Context) -> None:
                rows = [{"position": one.position, "id": str(one.id), "stream": one.stream} for one in batch]
                ctx.connection.execute(insert(DELIVERED), rows)
                for one in batch:
                    see(Delivery(id=one.id, position=one.position, stream=one.stream))

        self.work(declare, stop)

    def delivered(self, seen: Sequence[Delivery]) -> Sequence[Delivery]:
        """What was committed: a batch that was rolled back has called the handler, too."""
        with self.log() as log, log.engine.connect() as connection:
            rows = connection.execute(select(DELIVERED).order_by(DELIVERED.c.number)).all()
        return [Delivery(id=UUID(row.id), position=row.position, stream=row.stream) for row in rows]


READERS = (Pages, Following, FollowingAsync, Projection, Effect)

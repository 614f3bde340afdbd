"""This project, by its public interface: `log.append`, an effect and a view, drained or in a worker."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag

import msgspec
import psycopg
from sqlalchemy.orm import Session

from benchmarks.contestants.contestant import (
    APPENDS,
    CATCHES_UP,
    FANS_OUT,
    FLOWS,
    SHARES,
    Append,
    Contestant,
    Handle,
)
from benchmarks.contestants.rows import BOARD, ONE_MORE, ORDERS, metadata
from benchmarks.flights import Arrived, FlightEvent
from eventlog import App, Context
from eventlog.log import EventLog
from eventlog.projections import View

PARTITIONS = 32
"""A worker process runs eight at a time, and there are four processes at most."""
EVEN_SHARES = f"""
select case when min(share) = max(share) and sum(share) = {PARTITIONS} then count(*) end
from (select count(*) share from eventlog.checkpoints where expires_at > clock_timestamp() group by owner) shares
"""


class Place(msgspec.Struct, frozen=True):
    """One row of the read model."""

    carrier: str
    arrived: int
    last: int


class Rewindlog(Contestant):
    """An effect delivered at least once, with durable checkpoints; a view, exactly once."""

    name = "rewindlog"
    workloads = APPENDS | CATCHES_UP | FLOWS | FANS_OUT | SHARES | {"W1t", "W5p", "W6", "W11"}
    packages = ("rewindlog", "sqlalchemy", "psycopg", "msgspec")
    events_table = "eventlog.events"

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        metadata.create_all(log.engine, tables=[ORDERS])
        log.engine.dispose()

    @contextmanager
    def appender(self) -> Iterator[Append]:
        log = EventLog(self.url)
        yield lambda events: _drop(log.append(*events))
        log.engine.dispose()

    @contextmanager
    def appender_with_row(self) -> Iterator[Append]:
        log = EventLog(self.url)

        def append(events: Sequence[FlightEvent]) -> None:
            with Session(log.engine) as session, session.begin():
                session.execute(ORDERS.insert(), {"note": events[0].flight})
                log.append(events[0], tx=session)

        yield append
        log.engine.dispose()

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        app = self._app(handle, start="now")
        with app.worker():
            ready()
            stop.wait()
        app.engine.dispose()

    def follow_with(self, handles: Sequence[Handle], *, ready: Callable[[], None], stop: Flag) -> None:
        app = App(self.url)
        for number, handle in enumerate(handles):
            _subscribe(app, f"benchmark-{number}", handle, start="now")
        with app.worker():
            ready()
            stop.wait()
        app.engine.dispose()

    def share(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        app = App(self.url)
        _subscribe(app, "shared", handle, start="now", partitions=PARTITIONS)
        with app.worker():
            ready()
            stop.wait()
        app.engine.dispose()

    def sharing(self) -> int:
        with psycopg.connect(self.url) as connection:
            row = connection.execute(EVEN_SHARES).fetchone()
        return int(row[0] or 0) if row else 0

    def fill_at_once(self, events: Sequence[FlightEvent]) -> None:
        log = EventLog(self.url)
        with log.engine.begin() as connection:
            for start in range(0, len(events), 1_000):
                log.append(*events[start : start + 1_000], tx=connection)
        log.engine.dispose()

    def catch_up(self, events: int, handle: Handle) -> None:
        app = self._app(handle, start="beginning")
        app.register()
        drained = app.drain()
        assert drained.handled == events, drained
        app.engine.dispose()

    def project(self, events: int) -> None:
        app = App(self.url)
        board = View("board", row=Place, key="carrier")

        @board.on()
        def arrive(row: Place | None, arrived: Arrived) -> Place:
            return Place(arrived.carrier, (row.arrived if row else 0) + 1, arrived.minutes)

        app.add(board)
        app.register()
        app.drain()
        app.engine.dispose()

    def project_by_event(self, events: int) -> None:
        app = App(self.url)

        @app.projection("board", tables=[BOARD])
        def arrive(arrived: Arrived, ctx: Context) -> None:
            ctx.connection.execute(ONE_MORE, {"carrier": arrived.carrier, "arrived": 1, "last": arrived.minutes})

        app.register()
        app.drain()
        app.engine.dispose()

    def _app(self, handle: Handle, *, start: str) -> App:
        app = App(self.url)
        _subscribe(app, "benchmark", handle, start=start)
        return app


def _subscribe(app: App, name: str, handle: Handle, *, start: str, partitions: int = 1) -> None:
    @app.subscriber(name, start=start, partitions=partitions)
    def take(event: FlightEvent) -> None:
        handle(event)


def _drop(_recorded: object) -> None:
    return None


CONTESTANT = Rewindlog

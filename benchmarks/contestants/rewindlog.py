"""This project, by its public interface: `log.append`, an effect and a view, drained or in a worker."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag

import msgspec
from sqlalchemy import text
from sqlalchemy.orm import Session

from benchmarks.contestants.contestant import Append, Board, Contestant, Handle
from benchmarks.contestants.rows import BOARD, ONE_MORE, ORDERS, metadata
from benchmarks.flights import Arrived, FlightEvent
from eventlog import App, Context
from eventlog.log import EventLog
from eventlog.projections import View


class Place(msgspec.Struct, frozen=True):
    """One row of the read model."""

    carrier: str
    arrived: int
    last: int


class Rewindlog(Contestant):
    """An effect delivered at least once, with durable checkpoints; a view, exactly once."""

    name = "rewindlog"
    workloads = frozenset({"W1", "W1t", "W2-8", "W2-32", "W3", "W4", "W5", "W5p", "W6", "W7-1", "W7-100"})
    packages = ("rewindlog", "sqlalchemy", "psycopg", "msgspec")

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

    def board(self) -> Board:
        app = App(self.url)
        with app.engine.connect() as connection:
            rows = connection.execute(text("select carrier, arrived, last from board")).all()
        app.engine.dispose()
        return {row.carrier: (row.arrived, row.last) for row in rows}

    def _app(self, handle: Handle, *, start: str) -> App:
        app = App(self.url)

        @app.subscriber("benchmark", start=start)
        def take(event: FlightEvent) -> None:
            handle(event)

        return app


def _drop(_recorded: object) -> None:
    return None


CONTESTANT = Rewindlog

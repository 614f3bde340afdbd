"""This project, by its public interface: `log.append`, an effect and a view, drained or in a worker."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Event as Flag

import msgspec
from sqlalchemy import text

from benchmarks.contestants.contestant import Append, Board, Contestant, Handle
from benchmarks.flights import Arrived, FlightEvent
from eventlog import App
from eventlog.log import EventLog
from eventlog.projections import View


class Place(msgspec.Struct, frozen=True):
    """One row of the read model."""

    carrier: str
    arrived: int
    last: int


class Rewindlog(Contestant):
    """An effect delivered at least once, with durable checkpoints; a view, exactly once."""

    packages = ("rewindlog", "sqlalchemy", "psycopg", "msgspec")

    def create(self) -> None:
        log = EventLog(self.url)
        log.init()
        log.engine.dispose()

    @contextmanager
    def appender(self) -> Iterator[Append]:
        log = EventLog(self.url)
        yield lambda events: _drop(log.append(*events))
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

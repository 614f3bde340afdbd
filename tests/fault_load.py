"""A service under load while the world fails: it appends and delivers, and its totals must be exact in the end.

One writer appends crates, one transaction each, and when the database does not answer makes the same append again, with
the ids it had: an append whose answer was lost may have been carried out. A worker in threads has a projection, an
effect that is delivered at least once, and one that is delivered at most once.
"""

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from uuid import UUID

from sqlalchemy import Engine, select
from sqlalchemy.exc import DBAPIError

from eventlog.errors import DatabaseError
from eventlog.events import Event
from eventlog.ids import new_id
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.runtime import Runtime
from tests.log_support import opened
from tests.subscribers_support import Background, Bench, Sent, applied_table, eventually, note

APPLIED = applied_table()
ROUNDS = 25 if "EVENTLOG_SOAK" in os.environ else 1
"""How often a test has its fault come: once, or for a soak."""

AGAIN_SECONDS = 0.02
PAUSE_SECONDS = 0.01
RECOVERY_SECONDS_MAX = 15.0
"""How long a worker may take to go on after a fault is over; on a busy machine. It is a second or two."""

KINDS = ("board", "mail", "once")


class Lines(logging.Handler):
    """Keeps what the log's loggers say."""

    def __init__(self) -> None:
        super().__init__(level=logging.INFO)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.levelname} {record.name}: {record.getMessage()}")


class Load:
    """A writer, a worker, and what they have done. `url` is what they use, `direct` leads past what fails."""

    def __init__(self, url: str | Engine, *, direct: str, lease_seconds: float = 15.0) -> None:
        self.direct = direct
        self.lines = Lines()
        self.acknowledged: dict[UUID, int] = {}
        self.calls: list[tuple[str, int, bool]] = []
        """Of the effects: who was called, for which position, and as a redelivery or not."""
        self.app = App(url, lease_seconds=lease_seconds)
        _declare(self.app, self.calls)
        self._stop = threading.Event()
        self.refused = 0
        """How often an append was not acknowledged."""
        self._written = 0
        self._other: Runtime | None = None

    @contextmanager
    def running(self) -> Iterator["Load"]:
        """Append and deliver during the block."""
        with opened(self.direct) as log:
            log.init()
        self.app.register()
        logger = logging.getLogger("eventlog")
        level = logger.level
        logger.addHandler(self.lines)
        logger.setLevel(logging.INFO)
        worker = self.app.make_worker()
        worker.start()
        writer = Background(self._write)
        try:
            yield self
            self._stop.set()
            writer.join()
            self._is_through()
        finally:
            self._stop.set()
            with suppress(AssertionError):
                writer.join()
            worker.stop()
            logger.setLevel(level)
            logger.removeHandler(self.lines)
            self.app.engine.dispose()

    @contextmanager
    def another_worker(self) -> Iterator[None]:
        """Have a second worker of the service, which does not pass by what fails."""
        app = App(self.direct, lease_seconds=self.app.lease_seconds)
        _declare(app, self.calls)
        self._other = app.runtime()
        worker = app.make_worker(runtime=self._other)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
            app.engine.dispose()

    def other_has_all(self) -> bool:
        """Whether the second worker holds every lease."""
        assert self._other is not None
        with self._other.log.database.reader() as connection:
            owners = connection.scalars(select(self._other.log.database.tables.checkpoints.c.owner))
            return set(owners) == {self._other.owner}

    def append_directly(self, count: int) -> None:
        """Append past what fails."""
        with opened(self.direct) as log:
            for one in log.append(*[Event(Sent(0), id=new_id()) for _ in range(count)]):
                self.acknowledged[one.id] = one.position

    def goes_on(self, *, events: int = 20, seconds: float = RECOVERY_SECONDS_MAX) -> float:
        """Wait until so many more events have been appended and handled; return how long that took."""
        began, before = time.monotonic(), len(self.acknowledged)
        eventually(lambda: len(self.acknowledged) >= before + events, what="the writer goes on", seconds=seconds)
        last = max(self.acknowledged.values())
        for kind in ("mail", "once"):
            eventually(partial(self._called, kind, last), what=f"{kind} goes on", seconds=seconds)
        return time.monotonic() - began

    def said(self, words: str) -> list[str]:
        """The lines with these words."""
        return [line for line in self.lines.said if words in line]

    def said_at_most(self, lines: int) -> None:
        """Hold the noise of a fault to account: what workers have said at INFO and above."""
        assert len(self.lines.said) <= lines, f"{len(self.lines.said)} lines:\n" + "\n".join(self.lines.said)

    def totals_are_exact(self, *, unknown_max: int = 0) -> None:
        """Every event stands in the log once, and has been handled as often as its delivery promises.

        At most once, up to `unknown_max` events may have been left to an operator.
        """
        bench = Bench(self.direct)
        try:
            self._log_is_exact(bench.log)
            positions = [one.position for one in bench.log.read()]
            assert bench.applied(APPLIED) == positions
            self._calls_are_honest(bench, positions, unknown_max)
        finally:
            bench.close()

    def _log_is_exact(self, log: EventLog) -> None:
        found = {one.id: one.position for one in log.read()}
        assert found == self.acknowledged

    def _calls_are_honest(self, bench: Bench, positions: list[int], unknown_max: int) -> None:
        for kind in ("mail", "once"):
            times = Counter(position for name, position, _ in self.calls if name == kind)
            unknown = {at for at, state in bench.states(kind).items() if state == "parked"}
            assert set(positions) - set(times) <= unknown, f"{kind}: skipped"
            assert len(unknown) <= (unknown_max if kind == "once" else 0), f"{kind}: {unknown}"
            first: set[int] = set()
            for name, position, redelivery in self.calls:
                if name == kind:
                    assert redelivery or position not in first, f"{kind}: {position} was handed out before"
                    first.add(position)
            if kind == "once":
                assert set(times.values()) == {1}, f"handed out twice: {times.most_common(3)}"

    def _called(self, kind: str, position: int) -> bool:
        return any(name == kind and at >= position for name, at, _ in reversed(self.calls))

    def _is_through(self) -> None:
        bench = Bench(self.direct)
        last = max(self.acknowledged.values())
        try:
            for kind in KINDS:
                eventually(partial(_has_come_to, bench, kind, last), what=f"{kind} comes to the end")
        finally:
            bench.close()

    def _write(self) -> None:
        while not self._stop.is_set():
            self._written += 1
            event = Event(Sent(self._written), id=new_id())
            self._append(event)
            self._stop.wait(PAUSE_SECONDS)

    def _append(self, event: Event[Sent]) -> None:
        """Append until it is acknowledged; also when the test is over, for else nobody knows whether it is there."""
        ends = time.monotonic() + 60
        while True:
            try:
                (recorded,) = self.app.log.append(event)
            except (DatabaseError, DBAPIError):
                assert time.monotonic() < ends, "the database has not come back"
                self.refused += 1
                time.sleep(AGAIN_SECONDS)
            else:
                self.acknowledged[recorded.id] = recorded.position
                return


def _has_come_to(bench: Bench, kind: str, position: int) -> bool:
    return bench.position(kind) >= position


def _declare(app: App, calls: list[tuple[str, int, bool]]) -> None:
    board = app.projection("board", tables=[APPLIED], retry=Retry(attempts=3, first_seconds=0))

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    for name, delivery in (("mail", "at-least-once"), ("once", "at-most-once")):
        _effect(app, name, delivery, calls)


def _effect(app: App, name: str, delivery: str, calls: list[tuple[str, int, bool]]) -> None:
    @app.subscriber(name, delivery=delivery)
    def call(_crate: Sent, ctx: Context) -> None:
        calls.append((name, ctx.event.position, ctx.redelivery))

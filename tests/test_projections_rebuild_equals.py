"""Rebuild equals incremental: random histories with crashes, rewinds, failures and rebuilds, and one right answer.

A run is a list of steps on one log: events come, workers with the view take turns and die between or inside their
transactions, operators rewind to the start, begin rebuilds beside, cancel them, go back. Whatever came before, a view
that is brought to the end holds what plain Python makes of all events. `EVENTLOG_SOAK=N` in the environment runs a
tenth of so many.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import select

from eventlog.errors import EventLogError
from eventlog.event_types import event
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.projections.view import View
from eventlog.subscribers.app import App
from eventlog.subscribers.control.exchange import exchange, go_back
from eventlog.subscribers.control.rebuilds import (
    RebuildState,
    begin_rebuild,
    cancel_rebuild,
    read_rebuild,
    read_rebuilds,
)
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.rebuilding import partitions_of
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, runtime_of


@event("count.added", stream="count-{key}")
class Added(msgspec.Struct, frozen=True):
    key: str
    number: int


@event("count.cleared", stream="count-{key}")
class Cleared(msgspec.Struct, frozen=True):
    key: str


class Count(msgspec.Struct, frozen=True):
    key: str
    total: int = 0
    trail: tuple[int, ...] = ()


HISTORIES = int(os.environ.get("EVENTLOG_SOAK", "250")) // 10
NUMBERS = count(1)
"""Each history has a view of its own, which begins where the log is then."""


class Counts:
    """The view, and how many calls of its function are left until the process dies."""

    def __init__(self) -> None:
        self.dies_after: int | None = None

    def view(self, name: str) -> View[Count]:
        view = View(
            name, row=Count, key="key", indexes=["total"], start="now", retry=Retry(attempts=1_000, first_seconds=0)
        )

        @view
        def add(row: Count | None, added: Added) -> Count:
            self._live()
            row = row or Count(added.key)
            return replace(row, total=row.total + added.number, trail=(*row.trail, added.number)[-4:])

        @view
        def clear(row: Count | None, cleared: Cleared) -> None:
            self._live()

        return view

    def _live(self) -> None:
        if self.dies_after is not None:
            self.dies_after -= 1
            if self.dies_after < 0:
                raise KeyboardInterrupt

    @staticmethod
    def of(events: list[Any]) -> list[Count]:
        rows: dict[str, Count] = {}
        for one in events:
            if isinstance(one, Cleared):
                rows.pop(one.key, None)
                continue
            row = rows.get(one.key, Count(one.key))
            rows[one.key] = replace(row, total=row.total + one.number, trail=(*row.trail, one.number)[-4:])
        return [rows[key] for key in sorted(rows)]


KEYS = st.sampled_from("abcd")
EVENTS = st.lists(st.builds(Added, KEYS, st.integers(-9, 9)) | st.builds(Cleared, KEYS), min_size=1, max_size=6)
STEPS = st.one_of(
    EVENTS.map(lambda events: ("append", events)),
    st.tuples(st.just("live"), st.none() | st.integers(0, 8)),
    st.tuples(st.just("shadow"), st.none() | st.integers(0, 8)),
    st.sampled_from(
        [("rebuild", False), ("rebuild", True), ("cancel", 0), ("finish", 0), ("back", 0), ("in place", 0)]
    ),
)


class Run:
    """One history on one database."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.database = bench.log.database
        self.counts = Counts()
        self.events: list[Any] = []
        self.app: App = bench.app()
        self.name = f"counts_{next(NUMBERS)}"
        self.view = self.app.add(self.counts.view(self.name))
        self.app.register()
        self.steps: dict[str, Callable[[Any], object]] = {
            "append": self.append,
            "live": self.live,
            "shadow": self.shadow,
            "rebuild": lambda keep: begin_rebuild(self.database, self.view.subscriber, keep=keep),
            "cancel": lambda _: cancel_rebuild(self.database, self.name),
            "finish": self.finish,
            "back": lambda _: go_back(self.database, self.name),
            "in place": lambda _: rebuild_in_place(self.database, self.name),
        }

    def do(self, step: str, given: Any = None) -> None:
        """Do a step, if it is possible now: there may be nothing to cancel, to finish, or to go back to."""
        with suppress(EventLogError):
            self.steps[step](given)

    def append(self, events: list[Any]) -> None:
        self.bench.log.append(*events)
        self.events += events

    def live(self, dies_after: int | None) -> None:
        runtime = runtime_of(self.app)
        self._turn(runtime, self.app.partitions(runtime)[0], dies_after)

    def shadow(self, dies_after: int | None) -> None:
        for rebuild in self.running():
            runtime = runtime_of(self.app)
            self._turn(runtime, partitions_of(runtime, self.view.subscriber, rebuild)[0], dies_after)

    def finish(self, _given: Any) -> None:
        for rebuild in self.running():
            exchange(self.database, self.view.subscriber, rebuild)

    def running(self) -> list[Any]:
        return [one for one in read_rebuilds(self.database, subscriber=self.name) if one.state is RebuildState.RUNNING]

    def _turn(self, runtime: Any, partition: Partition, dies_after: int | None) -> None:
        """A worker that dies leaves its lease; it runs out before the next one comes."""
        runtime.feed.refresh()
        self.counts.dies_after = dies_after
        try:
            partition.turn()
            if dies_after is None:
                partition.release()
        except KeyboardInterrupt:
            pass
        finally:
            self.counts.dies_after = None
        self.bench.expire_lease(partition.subscriber.name)

    def rows(self) -> list[Count]:
        table = self.view.table
        rows = self.bench.rows(select(table).order_by(table.c.key))
        return [Count(row.key, row.total, tuple(row.trail)) for row in rows]

    def close(self) -> None:
        self.app.engine.dispose()


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=4, max_size=20))
def test_however_it_came_about_a_view_holds_what_its_events_make(bench: Bench, steps: list[tuple[str, Any]]) -> None:
    run = Run(bench)
    try:
        for step, what in steps:
            run.do(step, what)
        run.app.drain()
        assert run.rows() == Counts.of(run.events)
        again = begin_rebuild(run.database, run.view.subscriber)
        run.app.drain()
        assert run.rows() == Counts.of(run.events)
        assert read_rebuild(run.database, again.operation).state is RebuildState.DONE
    finally:
        run.close()

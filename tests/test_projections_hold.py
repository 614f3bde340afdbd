"""The live projection while another is made beside it: held for moments, and not for one that comes no nearer."""

import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, insert, select, update

from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.exchange import hold_live
from eventlog.subscribers.control.rebuilds import (
    Rebuild,
    RebuildState,
    begin_rebuild,
    cancel_rebuild,
    read_rebuilds,
)
from eventlog.subscribers.rebuilding import ALONE_SECONDS, STILL_SECONDS, Finishing, partitions_of, run_rebuild
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.runtime import Runtime
from eventlog.testing import StillClock
from tests.subscribers_support import Bench, BugError, Gate, Sent, eventually, runtime_of

BOARD = Table("board", MetaData(), Column("number", BigInteger, primary_key=True, autoincrement=False))


def app_of(bench: Bench, version: int = 1, *, broken: int | None = None, attempts: int = 1, **options: Any) -> App:
    app = bench.app()
    retry = Retry(attempts=attempts, first_seconds=60)
    board = app.projection("board", tables=[BOARD], version=version, retry=retry, **options)

    @board
    def add(crate: Sent, ctx: Context) -> None:
        if crate.number == broken:
            raise BugError
        ctx.connection.execute(insert(BOARD).values(number=crate.number))

    return app


class Beside:
    """A rebuild that is near: three events behind, or at one of them that fails."""

    def __init__(self, bench: Bench, **options: Any) -> None:
        self.bench = bench
        bench.send(3)
        app_of(bench).drain()
        self.app = app_of(bench, 2, **options)
        self.rebuild: Rebuild = begin_rebuild(bench.log.database, self.app.subscribers["board"])
        self.clock = StillClock()
        self.runtime: Runtime = runtime_of(self.app, clock=self.clock)
        self.finishing = Finishing(self.runtime, self.app.subscribers["board"], self.rebuild)

    def come_nearer(self) -> None:
        self.runtime.feed.refresh()
        for partition in partitions_of(self.runtime, self.app.subscribers["board"], self.rebuild):
            while partition.turn().moved:
                pass
            partition.release()

    def is_held(self) -> bool:
        return bool(self.bench.checkpoint("board").owner == self.rebuild.shadow)


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_shadow_that_waits_at_a_failure_does_not_hold_the_live_one(bench: Bench, attempts: int) -> None:
    beside = Beside(bench, broken=2, attempts=attempts)
    beside.come_nearer()
    assert bench.states(beside.rebuild.shadow) == {2: "parked" if attempts == 1 else "retrying"}

    assert not beside.finishing.turn().moved

    assert not beside.is_held()


def test_a_hold_is_given_up_when_the_shadow_comes_to_a_failure(bench: Bench) -> None:
    beside = Beside(bench, broken=2)
    beside.finishing.turn()
    assert beside.is_held()
    beside.come_nearer()

    beside.finishing.turn()

    assert not beside.is_held()


def test_an_outage_of_the_shadow_does_not_hold_the_live_one(bench: Bench) -> None:
    beside = Beside(bench)
    table = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        mine = update(table).where(table.c.subscriber == beside.rebuild.shadow)
        connection.execute(mine.values(outage_handler="add", outage_since=datetime.now(UTC)))

    beside.finishing.turn()

    assert not beside.is_held()


def test_a_failure_that_is_parked_and_passed_does_not_keep_a_shadow_from_being_taken_into_use(bench: Bench) -> None:
    beside = Beside(bench, broken=2, on_failure="park")
    beside.finishing.turn()
    assert beside.is_held()
    beside.come_nearer()

    assert beside.finishing.turn().moved
    assert bench.states("board") == {2: "parked"}


def test_a_hold_that_brings_the_shadow_no_nearer_is_given_up_and_the_live_one_left_alone(bench: Bench) -> None:
    """Nobody runs the shadow: its owner died, say, and its lease has not run out."""
    beside = Beside(bench)
    beside.finishing.turn()
    assert beside.is_held()
    beside.clock.advance(STILL_SECONDS)

    beside.finishing.turn()

    assert not beside.is_held()
    assert beside.finishing.try_at == beside.clock.now + ALONE_SECONDS
    beside.clock.advance(ALONE_SECONDS)
    beside.finishing.turn()
    assert beside.is_held()
    beside.come_nearer()
    assert beside.finishing.turn().moved


def test_a_rebuild_that_is_left_or_cancelled_lets_go_of_the_live_one(bench: Bench) -> None:
    beside = Beside(bench, broken=3)
    hold_live(bench.log.database, beside.rebuild, seconds=60)
    cancel_rebuild(bench.log.database, "board")
    assert bench.checkpoint("board").owner is None

    rebuild = begin_rebuild(bench.log.database, beside.app.subscribers["board"])
    done = run_rebuild(runtime_of(beside.app), beside.app.subscribers["board"], rebuild)
    assert (done.state, bench.checkpoint("board").owner) == (RebuildState.RUNNING, None)


def test_who_is_stopped_while_it_holds_the_live_one_lets_go_of_it(bench: Bench) -> None:
    """A worker, and the command. The shadow's partition is another's, which does not come nearer."""
    beside = Beside(bench)
    shadow = partitions_of(runtime_of(beside.app), beside.app.subscribers["board"], beside.rebuild)[0]
    assert shadow.lease.take(shadow.subscriber) is not None
    stop = threading.Event()
    runtime = runtime_of(beside.app, stop=stop)

    run_rebuild(runtime, beside.app.subscribers["board"], beside.rebuild, told=lambda _standing: stop.set())

    assert not beside.is_held()


@pytest.mark.parametrize("attempts", [1, 5])
def test_the_live_one_keeps_up_while_its_successor_fails_near_the_end(bench: Bench, attempts: int) -> None:
    bench.send(6)
    old = app_of(bench)
    old.drain()
    with old.worker(), app_of(bench, 2, broken=3, attempts=attempts).worker():
        eventually(lambda: bench.entries(shadow_of(bench)), what="the shadow to fail")
        lags = []
        for number in range(7, 17):
            position = bench.send(1, first=number)[0]
            began = time.monotonic()
            old.wait_for("board", position, timeout_seconds=10)
            lags.append(time.monotonic() - began)

    assert max(lags) < 2.0, lags
    assert [row.number for row in bench.rows(select(BOARD.c.number).order_by(BOARD.c.number))] == list(range(1, 17))


def shadow_of(bench: Bench) -> str:
    found = read_rebuilds(bench.log.database)
    return found[0].shadow if found else ""


def test_a_worker_that_is_stopped_lets_go_of_the_live_one_that_it_holds(postgres_database_url: str) -> None:
    """Its handler stands at an event meanwhile; the hold would last as long as a lease."""
    bench = Bench(postgres_database_url)
    beside = Beside(bench)
    gate = Gate()
    app = bench.app()

    @app.projection("board", tables=[BOARD], version=2)
    def add(crate: Sent) -> None:
        if crate.number == 1:
            gate.wait()

    runtime = runtime_of(app)
    worker = app.make_worker(runtime=runtime)
    worker.start()
    gate.wait_until_reached()
    eventually(beside.is_held, what="the live one to be held")
    runtime.stop.set()
    gate.open()
    worker.stop()

    held = beside.is_held()
    bench.close()
    assert not held

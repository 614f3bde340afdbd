"""Clocks that are wrong, and clocks that jump. Leases and the times of retries are compared on the database's alone."""

import signal
import sqlite3
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import Engine, event, select

from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_child import APPLIED
from tests.subscribers_support import Bench, BugError, Sent, applied_table, eventually, note
from tests.test_subscribers_crash import Crashes

TEN_YEARS = 10 * 365 * 86_400
LEASE_SECONDS = 2.0
HOUR = 3_600.0


@pytest.fixture
def crew(postgres_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashes]:
    """Processes that share a projection of two partitions."""
    monkeypatch.setenv("PARTITIONS", "2")
    bench = Crashes(postgres_database_url)
    yield bench
    bench.close()


def epochs(bench: Bench) -> list[tuple[str, int]]:
    table = bench.log.database.tables.checkpoints
    rows = bench.rows(select(table.c.owner, table.c.epoch).order_by(table.c.partition))
    return [(row.owner, row.epoch) for row in rows]


def test_workers_whose_clocks_are_years_apart_leave_each_other_their_leases(
    crew: Crashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is ten years ahead, the other ten years behind; between them each lease is renewed several times."""
    workers = []
    for off_by in (TEN_YEARS, -TEN_YEARS):
        monkeypatch.setenv("CLOCK_IS_OFF", str(off_by))
        workers.append(crew.start("board", "run"))
    eventually(lambda: len({owner for owner, _ in epochs(crew)} - {None}) == 2, what="one partition for each")
    shared = epochs(crew)
    sent = crew.send(10)
    threading.Event().wait(1.5 * LEASE_SECONDS)
    sent += crew.send(10, first=11)
    eventually(lambda: crew.applied(APPLIED) == sent, what="everything is applied")
    assert epochs(crew) == shared
    for worker in workers:
        worker.send(signal.SIGTERM)
        assert worker.end() == 0


class FileClock:
    """The clock by which SQLite tells the time; it is the machine's, and jumps with it."""

    def __init__(self) -> None:
        self.off_by = 0.0

    def strftime(self, _form: str, _now: str, *moved: str) -> str:
        seconds = sum(float(one.removesuffix(" seconds")) for one in moved)
        moment = datetime.now(UTC) + timedelta(seconds=self.off_by + seconds)
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@pytest.fixture
def clock() -> Iterator[FileClock]:
    """A clock of all connections that are made from now on, which jumps when it is told to."""
    clock = FileClock()

    def use(driver: sqlite3.Connection, _record: Any) -> None:
        driver.create_function("strftime", -1, clock.strftime)

    event.listen(Engine, "connect", use)
    yield clock
    event.remove(Engine, "connect", use)


def is_through(bench: Bench, position: int) -> bool:
    return bench.position("board") == position


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_machine_whose_clock_jumps_under_two_workers_applies_every_event_once(
    sqlite_url: str, clock: FileClock, jump: float
) -> None:
    """An hour ahead all leases have run out at once; an hour back none does for an hour."""
    applied = applied_table()
    bench = Bench(sqlite_url)
    calls: list[int] = []
    apps = [bench.app(lease_seconds=LEASE_SECONDS) for _ in range(2)]
    for app in apps:
        board = app.projection("board", tables=[applied], retry=Retry(attempts=1_000, first_seconds=0.05))

        @board
        def apply(crate: Sent, ctx: Context) -> None:
            note(ctx, applied)
            calls.append(crate.number)
            if crate.number % 7 == 0 and calls.count(crate.number) == 1:
                raise BugError

    sent: list[int] = []
    with apps[0].worker(), apps[1].worker():
        for _ in range(4):
            sent += bench.send(10, first=len(sent) + 1)
            eventually(lambda: bench.position("board") >= 1, what="a worker is at work")
            clock.off_by += jump
            sent += bench.send(10, first=len(sent) + 1)
            bench.make_due("board")
            eventually(partial(is_through, bench, sent[-1]), what="everything is applied")
    found = bench.applied(applied)
    bench.close()
    assert found == sent


def test_a_lease_that_outlasts_its_dead_owner_because_the_clock_went_back_can_be_ended_by_hand(
    sqlite_url: str, clock: FileClock
) -> None:
    """The statement of the documentation; whoever should still hold the lease fails at his fence."""
    bench = Bench(sqlite_url)
    sent = bench.send(2)
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if len(calls) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        app.drain()
    table = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(table.update().values(owner="a dead one"))
    clock.off_by = -HOUR
    with app.worker():
        threading.Event().wait(0.5)
        assert bench.position("mail") == 0
        with bench.transaction() as connection:
            connection.exec_driver_sql(
                "update checkpoints set expires_at = '1970-01-01T00:00:00.000Z' where subscriber = 'mail'"
            )
        eventually(lambda: bench.position("mail") == sent[-1], what="another worker goes on")
    bench.close()

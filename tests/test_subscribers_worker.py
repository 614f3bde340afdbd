"""The worker: several subscribers side by side, woken by what is appended, stopped when asked."""

import threading

import pytest
from sqlalchemy import create_engine

from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Gate,
    Sent,
    applied_table,
    eventually,
    note,
    runtime_of,
)

APPLIED = applied_table()
AT_ONCE = Retry(attempts=3, first_seconds=0)


def board_of(app: App) -> App:
    board = app.projection("board", tables=[APPLIED])

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    return app


def test_a_worker_delivers_what_is_appended_while_it_runs(bench: Bench) -> None:
    sent = bench.send(2)
    app = board_of(bench.app())
    with app.worker():
        eventually(lambda: bench.position("board") == sent[-1], what="what was there")
        sent += bench.send(2, first=3)
        eventually(lambda: bench.position("board") == sent[-1], what="what came later")
    assert bench.applied(APPLIED) == sent


def test_a_worker_counts_what_it_did(bench: Bench) -> None:
    bench.send(5)
    app = bench.app()

    @app.subscriber("mail", retry=Retry(attempts=1))
    def send(crate: Sent) -> None:
        if crate.number == 2:
            raise BugError

    with app.worker() as worker:
        eventually(lambda: bench.position("mail") == 5, what="everything is delivered")
    assert (worker.counts["mail"].handled, worker.counts["mail"].failed) == (4, 1)


def test_a_worker_makes_retries_when_they_are_due(bench: Bench) -> None:
    sent = bench.send(1)
    app = bench.app()

    @app.subscriber("mail", retry=Retry(attempts=3, first_seconds=0.2))
    def send(_crate: Sent, ctx: Context) -> None:
        if ctx.attempt < 3:
            raise BugError

    with app.worker():
        eventually(lambda: bench.states("mail") == {sent[0]: "resolved"}, what="the third attempt")
    assert [row.attempt for row in bench.attempts("mail")] == [1, 2, 3]


def test_a_slow_effect_holds_no_projection_up(bench: Bench) -> None:
    sent = bench.send(3)
    app, gate = board_of(bench.app()), Gate()

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        if crate.number == 1:
            gate.wait()

    with app.worker():
        gate.wait_until_reached()
        eventually(lambda: bench.position("board") == sent[-1], what="the projection goes on")
        gate.open()
    assert bench.applied(APPLIED) == sent


def test_a_worker_runs_only_the_subscribers_it_was_told(bench: Bench) -> None:
    sent = bench.send(1)
    app = board_of(bench.app())
    calls: list[int] = []

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        calls.append(crate.number)

    with app.worker(only=["board"]):
        eventually(lambda: bench.position("board") == sent[-1], what="the projection")
    app.drain(only=["board"])
    assert calls == []


def test_a_worker_that_is_stopped_before_it_has_begun_delivers_nothing(bench: Bench) -> None:
    bench.send(1)
    app = board_of(bench.app())
    runtime = runtime_of(app)
    runtime.stop.set()
    app.make_worker(runtime=runtime).run()
    assert bench.applied(APPLIED) == []


def test_a_fault_of_ours_ends_the_worker_loudly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what handlers raise goes to the ledger."""
    bench.send(1)
    app = board_of(bench.app())

    def broken(*_arguments: object, **_options: object) -> None:
        raise ZeroDivisionError("a fault of ours")

    monkeypatch.setattr("eventlog.subscribers.leases.Lease.fence", broken)
    with pytest.raises(ZeroDivisionError):
        Background(app.make_worker().run).join()
    assert bench.states("board") == {}


def test_a_handler_of_an_effect_may_use_the_database_itself(bench: Bench) -> None:
    sent = bench.send(3)
    app, other = bench.app(), create_engine(bench.url)

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        with other.begin() as connection:
            connection.exec_driver_sql("create table if not exists mailed (number integer)")
            connection.exec_driver_sql("insert into mailed values (1)")

    app.drain()
    other.dispose()
    assert (bench.states("mail"), bench.position("mail")) == ({}, sent[-1])


def test_what_a_subscriber_appends_for_itself_is_delivered_in_its_turn(bench: Bench) -> None:
    """A drain ends at the high-water mark of its call, a worker never ends: each event makes the next one."""
    bench.send(1)
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("chain", delivery="transactional")
    def prolong(crate: Sent, ctx: Context) -> None:
        calls.append(crate.number)
        if crate.number < 10:
            ctx.append(Sent(crate.number + 1))

    app.drain()
    assert calls == [1]
    with app.worker():
        eventually(lambda: bench.log.head() == bench.position("chain") and len(calls) >= 10, what="the chain ends")
    assert calls == list(range(1, 11))


def test_two_workers_of_one_service_share_its_subscribers_without_doubling(bench: Bench) -> None:
    sent = bench.send(50)
    apps = [board_of(bench.app()) for _ in range(3)]
    apps[0].register()
    start = threading.Barrier(3)

    def drain(app: App) -> int:
        start.wait(10)
        return app.drain().handled

    calls = [Background(lambda app=app: drain(app)) for app in apps]  # type: ignore[misc]  # bound in the loop
    assert sum(int(str(call.join())) for call in calls) == len(sent)
    assert bench.applied(APPLIED) == sent


def test_a_subscriber_paused_by_hand_is_not_delivered_to(bench: Bench) -> None:
    bench.send(1)
    app = board_of(bench.app())
    app.register()
    with bench.transaction() as connection:
        connection.execute(bench.log.database.tables.subscribers.update().values(state="paused"))
    assert Background(app.drain).join(seconds=10) is not None
    assert (bench.applied(APPLIED), bench.status("board").state) == ([], "paused")


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_a_handler_slower_than_the_lease_is_through_or_in_the_ledger(bench: Bench, delivery: str) -> None:
    """PostgreSQL ends a transaction that is left idle for longer than the lease; it must not be run for ever."""
    sent = bench.send(2)
    app = bench.app(lease_seconds=0.5)
    slow = threading.Event()

    @app.subscriber("mail", delivery=delivery, retry=Retry(attempts=1))
    def send(crate: Sent) -> None:
        if crate.number == 1:
            slow.wait(1.2)

    Background(app.drain).join()
    ended_by_the_server = bench.postgres and delivery == "transactional"
    assert bench.states("mail") == ({sent[0]: "parked"} if ended_by_the_server else {})
    assert bench.position("mail") == sent[-1]


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_sys_exit_in_a_handler_ends_in_the_ledger(bench: Bench, delivery: str) -> None:
    sent = bench.send(2)
    app = bench.app()

    @app.subscriber("mail", delivery=delivery, retry=AT_ONCE)
    def send(crate: Sent) -> None:
        if crate.number == 1:
            raise SystemExit("a library thought it was a program")

    with app.worker():
        eventually(lambda: bench.states("mail") == {sent[0]: "parked"}, what="it is parked", seconds=10)
    assert bench.position("mail") == sent[-1]


def test_a_rewind_is_noticed_by_a_worker_that_is_busy_elsewhere(bench: Bench) -> None:
    sent = bench.send(2)
    app, gate = board_of(bench.app()), Gate()

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        if crate.number == 2:
            gate.wait()

    with app.worker():
        gate.wait_until_reached()
        eventually(lambda: bench.position("board") == sent[-1], what="the projection is through")
        control.rewind(app.log.database, "board", control.after_position(sent[0]), resend=True)
        eventually(lambda: len(bench.applied(APPLIED)) == 3, what="the projection has gone on from there")
        gate.open()
    assert bench.applied(APPLIED) == [sent[0], sent[1], sent[1]]

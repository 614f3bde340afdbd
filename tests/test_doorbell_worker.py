"""A worker that sleeps: what wakes it, and that nothing else does. Its slow poll is ten minutes away."""

import logging
from collections.abc import Iterator

import pytest

from eventlog.subscribers import agenda, control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import OnFailure
from eventlog.subscribers.retry import Retry
from tests.doorbell_support import WatchedDoorbell, eavesdropping
from tests.log_support import wait_until
from tests.postgres_deaf_proxy import deaf_proxy
from tests.subscribers_support import Bench, BugError, Gate, Sent, eventually

SOON = Retry(attempts=2, first_seconds=0.3, factor=1)
NEVER = Retry(attempts=1)


@pytest.fixture
def bench(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(agenda, "SETTLED_SECONDS", 600.0)
    bench = Bench(database_url)
    yield bench
    bench.close()


def sleepy(bench: Bench, **options: float) -> tuple[App, WatchedDoorbell]:
    """An app whose workers sleep for ten minutes, unless they are woken."""
    app = bench.app(**options)
    doorbell = WatchedDoorbell(app.log)
    app.log.doorbell = doorbell
    return app, doorbell


def asleep(doorbell: WatchedDoorbell) -> None:
    """Wait until a worker has looked at everything, with the bell out, once more."""
    heads = doorbell.heads
    wait_until(lambda: doorbell.heads > heads and doorbell.is_out, what="the worker sleeps")


def mailer(app: App, *, retry: Retry = NEVER, fails: int = 0, on_failure: str = OnFailure.PARK) -> list[int]:
    """Declare `mail`, whose handler fails as often; return the list of its calls."""
    calls: list[int] = []

    @app.subscriber("mail", retry=retry, on_failure=on_failure)
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if len(calls) <= fails:
            raise BugError

    return calls


def test_an_append_wakes_a_worker(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    calls = mailer(app)
    with app.worker():
        asleep(doorbell)
        sent = bench.send(1)
        eventually(lambda: bench.position("mail") == sent[-1], what="it is delivered")
        asleep(doorbell)
        sent = bench.send(1, first=2)
        eventually(lambda: bench.position("mail") == sent[-1], what="the next one, too")
    assert calls == [1, 2]


def test_a_worker_wakes_for_the_next_retry_that_is_due(bench: Bench) -> None:
    app, _doorbell = sleepy(bench)
    calls = mailer(app, retry=SOON, fails=1)
    sent = bench.send(1)
    with app.worker():
        eventually(lambda: bench.states("mail") == {sent[0]: "resolved"}, what="the second attempt")
    assert calls == [1, 1]


def test_an_operators_retry_wakes_a_worker(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    calls = mailer(app, fails=1)
    sent = bench.send(1)
    with app.worker():
        eventually(lambda: bench.states("mail") == {sent[0]: "parked"}, what="it is parked")
        asleep(doorbell)
        control.retry(bench.log.database, "mail", sent)
        eventually(lambda: bench.states("mail") == {sent[0]: "resolved"}, what="the operator's retry")
    assert calls == [1, 1]


def test_an_operators_skip_wakes_a_worker_that_has_halted_at_the_event(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    calls = mailer(app, fails=1, on_failure=OnFailure.HALT)
    sent = bench.send(2)
    with app.worker():
        eventually(lambda: bench.states("mail") == {sent[0]: "parked"}, what="it has halted")
        asleep(doorbell)
        control.skip(bench.log.database, "mail", sent[:1], reason="a test")
        eventually(lambda: bench.position("mail") == sent[-1], what="it goes on")
    assert calls == [1, 2]


def test_an_operators_rewind_wakes_a_worker(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    calls = mailer(app)
    sent = bench.send(2)
    with app.worker():
        eventually(lambda: bench.position("mail") == sent[-1], what="it is through")
        asleep(doorbell)
        control.rewind(bench.log.database, "mail", control.after_position(sent[0]), resend=True)
        eventually(lambda: calls == [1, 2, 2], what="it has gone on from there")


def test_a_worker_that_ends_wakes_the_one_that_waits_for_its_lease(bench: Bench) -> None:
    app, _ = sleepy(bench)
    mailer(app)
    other, doorbell = sleepy(bench)
    calls = mailer(other)
    worker = app.make_worker()
    worker.start()
    eventually(lambda: bench.checkpoint("mail").owner is not None, what="the first one has the lease")
    with other.worker():
        asleep(doorbell)
        owner = bench.checkpoint("mail").owner
        worker.stop()
        eventually(lambda: bench.checkpoint("mail").owner not in (None, owner), what="the other one has it")
        sent = bench.send(1)
        eventually(lambda: bench.position("mail") == sent[-1], what="the other one delivers")
    assert calls == [1]


def test_a_worker_wakes_when_the_lease_of_another_one_runs_out(bench: Bench) -> None:
    """The other one is gone without a word: it has taken its lease, and renews it no more."""
    gone, _ = sleepy(bench, lease_seconds=1.0)
    mailer(gone)
    gone.register()
    (partition,) = gone.partitions(gone.runtime())
    partition.turn()
    owner = bench.checkpoint("mail").owner
    app, _doorbell = sleepy(bench)
    mailer(app)
    with app.worker():
        eventually(lambda: bench.checkpoint("mail").owner not in (None, owner), what="the lease is taken over")


def test_a_worker_with_one_slow_subscriber_is_woken_for_the_others(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    gate, calls = Gate(), []

    @app.subscriber("slow")
    def wait(_crate: Sent) -> None:
        gate.wait()

    @app.subscriber("quick")
    def note(crate: Sent) -> None:
        calls.append(crate.number)

    bench.send(1)
    with app.worker():
        gate.wait_until_reached()
        asleep(doorbell)
        sent = bench.send(1, first=2)
        eventually(lambda: bench.position("quick") == sent[-1], what="the quick one")
        gate.open()
    assert calls == [1, 2]


def test_a_worker_all_of_whose_subscribers_are_at_work_asks_nobody_to_ring(bench: Bench) -> None:
    bench.send(1)
    app, doorbell = sleepy(bench)
    gate = Gate()

    @app.subscriber("slow")
    def wait(_crate: Sent) -> None:
        gate.wait()

    with app.worker():
        gate.wait_until_reached()
        sent = bench.send(1, first=2)
        assert (doorbell.looks, doorbell.is_out) == (0, False)
        gate.open()
        eventually(lambda: bench.position("slow") == sent[-1], what="it goes on by itself")


def test_a_sleeping_worker_is_stopped_at_once(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    mailer(app)
    with app.worker():
        asleep(doorbell)
    assert bench.checkpoint("mail").owner is None


def test_a_paused_subscriber_keeps_no_worker_awake_and_is_taken_up_when_it_resumes(bench: Bench) -> None:
    app, doorbell = sleepy(bench)
    calls = mailer(app)
    app.register()
    subscribers = bench.log.database.tables.subscribers
    with bench.transaction() as connection:
        connection.execute(subscribers.update().values(state="paused"))
    sent = bench.send(1)
    with app.worker():
        asleep(doorbell)
        assert calls == []
        with bench.transaction() as connection:
            connection.execute(subscribers.update().values(state="running"))
        bench.send(1, first=2)
        eventually(lambda: bench.position("mail") > sent[-1], what="it is taken up")
    assert calls == [1, 2]


def test_every_operation_rings_though_nobody_sleeps(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    app = bench.app()
    mailer(app, fails=2)
    sent = bench.send(2)
    with eavesdropping(postgres_database_url) as listener:
        app.register()
        assert listener.heard() == 1
        app.drain()
        listener.heard()
        control.retry(bench.log.database, "mail", sent[:1])
        control.skip(bench.log.database, "mail", sent[1:], reason="a test")
        move = control.rewind(bench.log.database, "mail", control.to_start, resend=True)
        assert move.operation is not None
        control.undo(bench.log.database, move.operation)
        assert listener.heard() == 4
        control.rewind(bench.log.database, "mail", control.to_start, resend=True, dry_run=True)
        assert listener.heard() == 0
    bench.close()


def test_a_worker_behind_a_pooler_that_swallows_notifications_delivers_by_polling(
    postgres_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="eventlog.doorbell")
    with deaf_proxy(postgres_database_url) as url:
        bench = Bench(url)
        app = bench.app()

        @app.subscriber("mail")
        def send(_crate: Sent, _ctx: Context) -> None:
            return

        with app.worker():
            wait_until(lambda: caplog.records, what="it says that it polls")
            sent = bench.send(1)
            eventually(lambda: bench.position("mail") == sent[-1], what="it is delivered")
        bench.close()
    assert len(caplog.records) == 1

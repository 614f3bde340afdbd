"""Leases and the fence: one owner at a time, and only the owner commits."""

import pytest
from sqlalchemy import update

from eventlog.errors import LeaseLostError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.heartbeat import Heartbeat
from eventlog.subscribers.retry import Retry
from eventlog.testing import StillClock
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


class Post:
    """A subscriber whose handler stands at a gate once, and then goes on."""

    def __init__(self, app: App, *, delivery: str = "at-least-once", gate: Gate | None = None) -> None:
        self.app = app
        self.gate = gate
        self.calls: list[tuple[int, bool]] = []
        app.subscriber("post", delivery=delivery, retry=AT_ONCE)(self.send)

    def send(self, crate: Sent, ctx: Context) -> None:
        self.calls.append((crate.number, ctx.redelivery))
        gate, self.gate = self.gate, None
        if gate is not None:
            gate.wait()


def change_checkpoint(bench: Bench, **values: object) -> None:
    table = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(update(table).where(table.c.subscriber == "post").values(**values))


def test_a_second_worker_waits_while_the_first_one_holds_the_lease(bench: Bench) -> None:
    sent = bench.send(2)
    gate = Gate()
    first, second = Post(bench.app(), gate=gate), Post(bench.app())
    with first.app.worker():
        gate.wait_until_reached()
        waited_for: list[str] = []
        drain = Background(lambda: second.app.drain(waiting=waited_for.append))
        eventually(lambda: len(waited_for) > 2, what="the second one waits")
        gate.open()
        drain.join()
    assert second.calls == []
    assert bench.position("post") == sent[-1]


def test_a_worker_holds_its_lease_until_it_stops_and_then_frees_it_at_once(bench: Bench) -> None:
    post = Post(bench.app())
    with post.app.worker():
        eventually(lambda: bench.checkpoint("post").owner, what="the lease is taken")
        assert bench.status("post").owner == bench.checkpoint("post").owner
    assert (bench.checkpoint("post").owner, bench.status("post").owner) == (None, None)


def test_a_drain_frees_its_leases(bench: Bench) -> None:
    bench.send(1)
    Post(bench.app()).app.drain()
    second = Post(bench.app())
    bench.send(1, first=2)
    second.app.drain()
    assert second.calls == [(2, False)]


def test_a_drain_that_fails_frees_its_leases(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()

    def interrupt(_crate: Sent) -> None:
        raise KeyboardInterrupt

    app.subscriber("post")(interrupt)
    with pytest.raises(KeyboardInterrupt):
        app.drain()
    assert bench.checkpoint("post").owner is None


def test_every_change_of_hands_raises_the_epoch(bench: Bench) -> None:
    epochs: list[int] = []
    for _ in range(3):
        Post(bench.app()).app.drain()
        epochs.append(bench.checkpoint("post").epoch)
    assert epochs == sorted(set(epochs))


def test_the_context_knows_the_epoch_it_runs_under(bench: Bench) -> None:
    app = bench.app()
    bench.send(1)
    seen: list[tuple[int, int]] = []

    @app.subscriber("post")
    def send(_crate: Sent, ctx: Context) -> None:
        seen.append((ctx.epoch, bench.checkpoint("post").epoch))

    app.drain()
    assert seen[0][0] == seen[0][1]


def test_an_expired_lease_is_taken_over_and_what_was_in_hand_is_a_redelivery(bench: Bench) -> None:
    """The first worker stands in event 1 of a batch of three when its lease runs out."""
    bench.send(3)
    gate = Gate()
    first, second = Post(bench.app(), gate=gate), Post(bench.app())
    drain = Background(first.app.drain)
    gate.wait_until_reached()
    bench.expire_lease("post")
    second.app.drain()
    gate.open()
    drain.join()
    assert second.calls == [(1, True), (2, True), (3, True)]


def test_an_overtaken_worker_moves_no_checkpoint_and_writes_no_ledger(bench: Bench) -> None:
    """The first worker's handler fails only after the second one has done everything."""
    sent = bench.send(3)
    app, gate = bench.app(), Gate()

    @app.subscriber("post")
    def send(crate: Sent) -> None:
        if crate.number == 2:
            gate.wait()
        if crate.number >= 2:
            raise BugError

    drain = Background(app.drain)
    gate.wait_until_reached()
    bench.expire_lease("post")
    second = Post(bench.app())
    second.app.drain()
    gate.open()
    drain.join()
    assert bench.position("post") == sent[-1]
    assert (bench.states("post"), list(bench.attempts("post"))) == ({}, [])


def test_what_an_overtaken_projection_wrote_is_rolled_back(postgres_database_url: str) -> None:
    """The first worker has written for events 1 and 2 when the second one does all three and commits."""
    bench = Bench(postgres_database_url)
    sent = bench.send(3)
    gate = Gate()

    def board(app: App, gate: Gate | None) -> App:
        projection = app.projection("post", tables=[APPLIED])

        @projection
        def apply(crate: Sent, ctx: Context) -> None:
            note(ctx, APPLIED)
            if crate.number == 2 and gate is not None:
                gate.wait()

        return app

    drain = Background(board(bench.app(), gate).drain)
    gate.wait_until_reached()
    bench.expire_lease("post")
    board(bench.app(), None).drain()
    gate.open()
    drain.join()
    applied, states = bench.applied(APPLIED), bench.states("post")
    bench.close()
    assert (applied, states) == (sent, {})


@pytest.mark.parametrize("moved", [{"owner": "somebody else"}, {"epoch": 1_000_000}, {"position": 1}], ids=str)
def test_the_fence_compares_owner_epoch_and_position(bench: Bench, moved: dict[str, object]) -> None:
    """One of the three is changed under the worker, and nothing else; the events come again then."""
    sent = bench.send(3)
    gate = Gate()
    post = Post(bench.app(), gate=gate)
    drain = Background(post.app.drain)
    gate.wait_until_reached()
    assert sent[0] == 1
    change_checkpoint(bench, **moved)
    gate.open()
    eventually(lambda: not drain.running or len(post.calls) >= 3, what="the first batch is over")
    if "owner" in moved:
        assert bench.position("post") == 0
        change_checkpoint(bench, owner=None, expires_at=None)
    drain.join()
    again = [2, 3] if "position" in moved else [1, 2, 3]
    assert [number for number, _ in post.calls] == [1, 2, 3, *again]
    assert bench.position("post") == sent[-1]


def overtake_a_retry(bench: Bench, *, delivery: str) -> tuple[dict[int, str], list[tuple[str, str | None]]]:
    """Have a retry stand at a gate while a second worker takes over and resolves the entry."""
    bench.send(1)
    app, gate = bench.app(), Gate()

    @app.subscriber("post", delivery=delivery, retry=Retry(attempts=5, first_seconds=0))
    def send(_crate: Sent, ctx: Context) -> None:
        if ctx.attempt == 2:
            gate.wait()
        raise BugError

    drain = Background(app.drain)
    gate.wait_until_reached()
    bench.expire_lease("post")
    Post(bench.app(), delivery=delivery).app.drain()
    gate.open()
    drain.join()
    return bench.states("post"), [(row.outcome, row.error_type) for row in bench.attempts("post")]


def test_a_retry_of_an_overtaken_worker_has_died_and_its_late_outcome_is_not_written(bench: Bench) -> None:
    states, attempts = overtake_a_retry(bench, delivery="at-least-once")
    assert list(states.values()) == ["resolved"]
    assert [outcome for outcome, _ in attempts] == ["failed", "failed", "resolved"]
    assert attempts[1] == ("failed", "WorkerDied")


def test_a_transactional_retry_of_an_overtaken_worker_is_not_written(postgres_database_url: str) -> None:
    """On SQLite the handler's transaction has the file to itself, and nobody can overtake it."""
    bench = Bench(postgres_database_url)
    states, attempts = overtake_a_retry(bench, delivery="transactional")
    bench.close()
    assert list(states.values()) == ["resolved"]
    assert attempts[1:] == [("failed", "WorkerDied"), ("resolved", None)]


def test_the_heartbeat_renews_a_lease_before_it_runs_out(bench: Bench) -> None:
    """A handler takes three times as long as the lease lasts."""
    bench.send(1)
    app, gate = bench.app(lease_seconds=0.6), Gate()
    expiries: set[object] = set()
    post = Post(app, gate=gate)
    drain = Background(app.drain)
    gate.wait_until_reached()

    def renewed_often() -> bool:
        expiries.add(bench.checkpoint("post").expires_at)
        return len(expiries) >= 9

    eventually(renewed_often, what="the lease has been renewed for three times its length")
    gate.open()
    drain.join()
    assert post.calls == [(1, False)]
    assert bench.checkpoint("post").epoch == 2


def test_a_lease_that_ran_out_on_the_workers_own_clock_is_relied_on_no_more(bench: Bench) -> None:
    """Nobody has renewed it, as on a machine that slept."""
    post, clock = Post(bench.app()), StillClock()
    post.app.register()
    lease = post.app.partitions(runtime_of(post.app, clock=clock))[0].lease
    lease.take(post.app.subscribers["post"])
    clock.now += post.app.lease_seconds - 1
    lease.check()
    clock.now += 1
    with pytest.raises(LeaseLostError):
        lease.check()
    assert not lease.held


def test_an_idle_worker_notices_a_rewind(bench: Bench) -> None:
    sent = bench.send(2)
    post = Post(bench.app())
    with post.app.worker():
        eventually(lambda: bench.position("post") == sent[-1], what="the worker is through")
        control.rewind(post.app.log.database, "post", control.to_start, resend=True)
        eventually(lambda: len(post.calls) == 4, what="the worker delivers again")
    assert post.calls == [(1, False), (2, False), (1, True), (2, True)]


def test_a_heartbeat_that_finds_its_row_moved_forgets_the_lease(bench: Bench) -> None:
    post = Post(bench.app(lease_seconds=0.3))
    post.app.register()
    runtime = runtime_of(post.app)
    partition = post.app.partitions(runtime)[0]
    partition.turn()
    assert partition.lease.held
    change_checkpoint(bench, epoch=1_000_000)
    with Heartbeat(runtime, lambda: [partition]):
        eventually(lambda: not partition.lease.held, what="the heartbeat notices")


def test_a_worker_waits_for_an_expired_lease_without_being_asked(bench: Bench) -> None:
    sent = bench.send(1)
    change_owner = Post(bench.app())
    change_owner.app.register()
    change_checkpoint(bench, owner="somebody who died", in_hand=0)
    bench.expire_lease("post")
    with change_owner.app.worker():
        eventually(lambda: bench.position("post") == sent[-1], what="the worker takes over")
    assert change_owner.calls == [(1, False)]

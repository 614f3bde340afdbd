"""At-most-once delivery: nothing is handed out a second time without an operator's word."""

import pytest

from eventlog.errors import LeaseLostError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.outcomes import RetryAfter
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent

AT_ONCE = Retry(attempts=5, first_seconds=0)


def app_of(bench: Bench, calls: list[int], *, errors: dict[int, BaseException] | None = None, **options: object) -> App:
    app = bench.app()
    mail = app.subscriber("mail", delivery="at-most-once", retry=AT_ONCE, **options)  # type: ignore[arg-type]

    @mail
    def send(crate: Sent, _ctx: Context) -> None:
        calls.append(crate.number)
        if errors and crate.number in errors:
            raise errors[crate.number]

    return app


def test_each_event_is_handed_out_once(bench: Bench) -> None:
    sent = bench.send(5)
    calls: list[int] = []

    done = app_of(bench, calls).drain()

    assert (calls, done.handled, bench.position("mail")) == ([1, 2, 3, 4, 5], 5, sent[-1])


def test_each_call_is_announced_and_nothing_after_it(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    rows: list[tuple[int, int]] = []

    @app.subscriber("mail", delivery="at-most-once")
    def send(_crate: Sent) -> None:
        row = bench.checkpoint("mail")
        rows.append((row.position, row.in_hand))

    app.drain()
    assert rows == [(0, sent[0]), (sent[0], sent[1]), (sent[1], sent[2])]


def test_a_failure_is_parked_whatever_attempts_are_left(bench: Bench) -> None:
    sent = bench.send(3)
    calls: list[int] = []

    app_of(bench, calls, errors={2: BugError()}).drain()

    assert bench.states("mail") == {sent[1]: "parked"}
    assert calls == [1, 2, 3]


def test_only_the_handlers_own_word_has_it_tried_again(bench: Bench) -> None:
    bench.send(1)
    calls: list[int] = []

    app_of(bench, calls, errors={1: RetryAfter(0)}).drain()

    assert calls == [1] * 5


def test_an_operators_retry_is_his_word(bench: Bench) -> None:
    (position,) = bench.send(1)
    calls: list[int] = []
    errors: dict[int, BaseException] = {1: BugError()}
    app = app_of(bench, calls, errors=errors)
    app.drain()
    errors.clear()
    control.retry(bench.log.database, "mail", [position])

    app.drain()

    assert calls == [1, 1]
    assert bench.states("mail") == {position: "resolved"}


@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_what_was_in_hand_when_a_worker_died_is_left_to_an_operator(bench: Bench, on_failure: str) -> None:
    first, second, third = bench.send(3)
    calls: list[int] = []
    app = app_of(bench, calls, errors={2: SystemExit()}, on_failure=on_failure)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventlog.subscribers.handing_out.NOT_A_FAILURE", (SystemExit,))
        with pytest.raises(SystemExit):
            app.drain()
    # What a drain that ends in order does not leave behind:
    checkpoints = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(checkpoints.update().values(position=first, in_hand=second, owner="a dead one"))
    bench.expire_lease("mail")

    app_of(bench, calls, on_failure=on_failure).drain()

    assert calls == ([1, 2, 3] if on_failure == "park" else [1, 2])
    assert bench.states("mail") == {second: "parked"}
    assert bench.entries("mail")[0].error_type == "OutcomeUnknown"
    assert bench.position("mail") == (third if on_failure == "park" else second - 1)


def test_a_settlement_that_was_refused_does_not_have_it_handed_out_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same worker takes its lease anew: what it had in hand is in doubt for it, too."""
    first, second = bench.send(2)
    calls: list[int] = []
    app = app_of(bench, calls)
    fence = Lease.fence
    broken = [True]

    def refuse_once(self: Lease, connection: object, progress: object) -> None:
        if calls and broken:
            broken.clear()
            raise LeaseLostError("moved meanwhile", remedy="none")
        fence(self, connection, progress)  # type: ignore[arg-type]  # handed through

    monkeypatch.setattr(Lease, "fence", refuse_once)
    app.drain()

    assert calls == [1, 2]
    assert bench.states("mail") == {first: "parked"}
    assert bench.position("mail") == second


def test_several_at_a_time_are_announced_together(bench: Bench) -> None:
    sent = bench.send(7)
    app = bench.app()
    rows: set[tuple[int, int]] = set()
    mail = app.subscriber("mail", delivery="at-most-once", concurrency=3)

    @mail
    def send(_crate: Sent) -> None:
        row = bench.checkpoint("mail")
        rows.add((row.position, row.in_hand))

    assert app.drain().handled == 7
    assert rows == {(0, sent[2]), (sent[2], sent[5]), (sent[5], sent[6])}

"""At-least-once delivery: announced, handed out, settled; and what redelivery, idempotency key and append promise."""

import pytest

from eventlog.errors import UsageError
from eventlog.events import Recorded
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.retry import Retry
from eventlog.testing import StillClock
from tests.subscribers_support import Bench, BugError, Lost, Sent, drain_with, runtime_of

ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_seconds=0)


def mail_of(app: App, *, on_failure: str = "park", retry: Retry = ONCE) -> Subscriber:
    return app.subscriber("mail", on_failure=on_failure, retry=retry)


def test_a_batch_is_announced_before_its_first_handler_runs(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    mail = mail_of(app)
    rows: list[tuple[int, int, int]] = []

    @mail
    def send(_crate: Sent) -> None:
        row = bench.checkpoint("mail")
        rows.append((row.position, row.in_hand, row.handled_through))

    app.drain()
    assert rows == [(0, sent[-1], sent[-1])] * 3


def test_what_is_settled_is_no_longer_in_hand(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    mail = mail_of(app)

    @mail
    def send(crate: Sent) -> None:
        if crate.number == 2:
            raise BugError

    app.drain()
    row = bench.checkpoint("mail")
    assert (row.position, row.in_hand, row.handled_through) == (sent[-1], sent[-1], sent[-1])


@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_a_failure_does_not_repeat_its_neighbours(bench: Bench, on_failure: str) -> None:
    app = bench.app()
    sent = bench.send(5)
    mail = mail_of(app, on_failure=on_failure)
    calls: list[int] = []

    @mail
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number == 3:
            raise BugError

    drained = app.drain()
    assert calls == ([1, 2, 3, 4, 5] if on_failure == "park" else [1, 2, 3])
    assert (drained.handled, drained.failed) == (len(calls) - 1, 1)
    assert bench.states("mail") == {sent[2]: "parked"}


def test_a_handler_outside_a_transaction_is_refused_ctx_connection(bench: Bench) -> None:
    app = bench.app()
    bench.send(1)
    mail = mail_of(app)
    refused: list[UsageError] = []

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        with pytest.raises(UsageError) as error:
            ctx.connection.exec_driver_sql("select 1")
        refused.append(error.value)

    app.drain()
    assert "transactional" in refused[0].remedy


def test_an_event_delivered_for_the_first_time_is_no_redelivery(bench: Bench) -> None:
    app = bench.app()
    bench.send(2)
    mail = mail_of(app)
    flags: list[bool] = []

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        flags.append(ctx.redelivery)

    app.drain()
    bench.send(2, first=3)
    app.drain()
    assert flags == [False] * 4


def test_what_comes_again_after_a_rewind_is_a_redelivery_and_what_is_new_is_not(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    mail = mail_of(app)
    flags: dict[int, list[bool]] = {}

    @mail
    def send(crate: Sent, ctx: Context) -> None:
        flags.setdefault(crate.number, []).append(ctx.redelivery)

    app.drain()
    control.rewind(app.log.database, "mail", control.after_position(sent[0]), resend=True)
    bench.send(1, first=4)
    app.drain()
    assert flags == {1: [False], 2: [False, True], 3: [False, True], 4: [False]}


def test_a_retry_is_a_redelivery_and_counts_attempts(bench: Bench) -> None:
    app = bench.app()
    bench.send(1)
    mail = mail_of(app, retry=AT_ONCE)
    calls: list[tuple[int, bool]] = []

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        calls.append((ctx.attempt, ctx.redelivery))
        raise BugError

    app.drain()
    assert calls == [(1, False), (2, True), (3, True)]


def test_the_idempotency_key_is_the_same_at_every_delivery(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(1)
    mail = mail_of(app, retry=AT_ONCE)
    keys: list[str] = []

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        keys.append(ctx.idempotency_key)
        if ctx.attempt == 1:
            raise BugError

    app.drain()
    control.rewind(app.log.database, "mail", control.to_start, resend=True)
    app.drain()
    assert keys == [f"mail:{bench.log.get(sent[0]).id}"] * 4


def test_two_subscribers_have_different_keys_for_one_event(bench: Bench) -> None:
    app = bench.app()
    bench.send(1)
    keys: set[str] = set()
    for name in ("mail", "letter"):
        subscriber = app.subscriber(name)

        @subscriber
        def send(_crate: Sent, ctx: Context) -> None:
            keys.add(ctx.idempotency_key)

    app.drain()
    assert len(keys) == 2


def test_what_a_handler_appends_stands_even_when_it_fails_afterwards(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(1)
    mail = mail_of(app)

    @mail
    def send(crate: Sent, ctx: Context) -> None:
        ctx.append(Lost(crate.number))
        raise BugError

    app.drain()
    appended = next(bench.log.read(after=sent[0]))
    assert appended.metadata["causation_id"] == str(bench.log.get(sent[0]).id)


def test_a_long_batch_is_settled_in_between(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    mail = mail_of(app)
    clock = StillClock()
    checkpoints: list[int] = []

    @mail
    def send(_crate: Sent) -> None:
        checkpoints.append(bench.position("mail"))
        clock.now += 2

    drain_with(app, clock=clock)
    assert checkpoints == [0, *sent[:2]]


def test_what_was_announced_and_not_handed_out_is_delivered_later(bench: Bench) -> None:
    app = bench.app()
    bench.send(3)
    mail = mail_of(app)
    calls: list[int] = []
    runtime = runtime_of(app)

    @mail
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        runtime.stop.set()

    app.make_worker(runtime=runtime).run()
    app.drain()
    assert calls == [1, 2, 3]


def test_a_worker_that_is_stopped_finishes_the_event_at_hand_and_settles_it(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    mail = mail_of(app)
    calls: list[int] = []
    runtime = runtime_of(app)

    @mail
    def send(crate: Sent, ctx: Context) -> None:
        calls.append(crate.number)
        assert not ctx.stopping
        runtime.stop.set()
        assert ctx.stopping

    app.make_worker(runtime=runtime).run()
    row = bench.checkpoint("mail")
    assert calls == [1]
    assert (row.position, row.in_hand, row.owner) == (sent[0], sent[0], None)


def test_a_handler_that_takes_the_recorded_event_sees_all_of_it(bench: Bench) -> None:
    app = bench.app()
    stored = bench.log.append(Sent(7), metadata={"by": "Ann"})[0]
    mail = mail_of(app)
    seen: list[Recorded[Sent]] = []

    @mail
    def send(recorded: Recorded[Sent]) -> None:
        seen.append(recorded)

    app.drain()
    assert seen == [stored]

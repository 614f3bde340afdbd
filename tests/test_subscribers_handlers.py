"""Kinds of handlers: coroutines, lists, several at a time, with a time limit; and what runs around them."""

import asyncio
import logging
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest

from eventlog.errors import DeclarationError, UsageError
from eventlog.events import Recorded
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Found,
    Gate,
    Lost,
    Sent,
    applied_table,
    eventually,
    note,
    runtime_of,
)

ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=2, first_seconds=0)
APPLIED = applied_table()


def test_a_coroutine_is_awaited_to_its_end(bench: Bench) -> None:
    bench.send(3)
    app = bench.app()
    ended: list[int] = []

    @app.subscriber("mail")
    async def send(crate: Sent) -> None:
        await asyncio.sleep(0)
        ended.append(crate.number)

    assert app.drain().handled == 3
    assert ended == [1, 2, 3]


def test_all_coroutines_of_an_application_run_in_one_loop_that_goes_on(bench: Bench) -> None:
    """What is bound to a loop, a client with its connections, may be kept between calls and between drains."""
    app = bench.app()
    loops: set[asyncio.AbstractEventLoop] = set()

    @app.subscriber("mail")
    async def send(_crate: Sent) -> None:
        loops.add(asyncio.get_running_loop())

    @app.subscriber("copy")
    async def copy(_crate: Sent) -> None:
        loops.add(asyncio.get_running_loop())

    for _ in range(2):
        bench.send(1)
        app.drain()
    assert len(loops) == 1
    assert loops.pop().is_running()


def test_what_a_coroutine_raises_goes_to_the_ledger(bench: Bench) -> None:
    (position,) = bench.send(1)
    app = bench.app()

    @app.subscriber("mail", retry=ONCE)
    async def send(_crate: Sent) -> None:
        raise BugError("in a coroutine")

    app.drain()
    assert bench.states("mail") == {position: "parked"}
    assert "in a coroutine" in bench.attempts("mail")[0].traceback


def test_a_coroutine_that_was_cancelled_has_failed(bench: Bench) -> None:
    (position,) = bench.send(1)
    app = bench.app()

    @app.subscriber("mail", retry=ONCE)
    async def send(_crate: Sent) -> None:
        raise asyncio.CancelledError

    app.drain()
    assert bench.states("mail") == {position: "parked"}


def test_a_coroutine_of_a_projection_writes_with_its_checkpoint(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()

    @app.projection("board", tables=[APPLIED])
    async def apply(crate: Sent, ctx: Context) -> None:
        await asyncio.sleep(0)
        note(ctx, APPLIED)
        if crate.number == 3:
            raise BugError

    app.drain()
    assert bench.applied(APPLIED) == sent[:2]


def test_a_coroutine_over_its_time_limit_is_cancelled_and_has_failed(bench: Bench) -> None:
    (position,) = bench.send(1)
    app = bench.app()
    cancelled = threading.Event()

    @app.subscriber("mail", retry=ONCE, timeout_seconds=0.05)
    async def send(_crate: Sent) -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    app.drain()
    assert cancelled.is_set()
    assert bench.states("mail") == {position: "parked"}
    assert "time limit of 0.05 s" in bench.entries("mail")[0].message


def test_a_time_out_of_the_handlers_own_is_told_as_it_is(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()

    @app.subscriber("mail", retry=ONCE, timeout_seconds=60)
    async def send(_crate: Sent) -> None:
        raise TimeoutError("the provider did not answer")

    app.drain()
    assert bench.entries("mail")[0].message == "the provider did not answer"


def test_a_function_over_its_time_limit_is_reported_once_keeps_its_lease_and_counts(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    (position,) = bench.send(1)
    app = bench.app(lease_seconds=0.6)
    gate = Gate()

    @app.subscriber("mail", timeout_seconds=0.1)
    def send(_crate: Sent) -> None:
        gate.wait()

    app.register()
    epoch = bench.checkpoint("mail").epoch
    with caplog.at_level(logging.WARNING, "eventlog.worker"), app.worker():
        gate.wait_until_reached()
        eventually(lambda: "time limit is 0.1 s" in caplog.text, what="the report")
        first = bench.checkpoint("mail").expires_at
        eventually(lambda: bench.checkpoint("mail").expires_at > first, what="the heartbeat")
        gate.open()
        eventually(lambda: bench.position("mail") == position, what="the event to be handled")

    assert caplog.text.count("time limit is") == 1
    assert bench.states("mail") == {}
    assert bench.checkpoint("mail").epoch == epoch + 1


def test_a_handler_of_lists_gets_what_follows_each_other_in_one_call(bench: Bench) -> None:
    bench.log.append(Sent(1), Sent(2), Lost(1), Sent(3), Found(1), Sent(4), Sent(5))
    app = bench.app()
    calls: list[list[int]] = []
    mail = app.subscriber("mail")

    @mail(batch=True)
    def send(crates: list[Sent]) -> None:
        calls.append([crate.number for crate in crates])

    @mail
    def lost(crate: Lost) -> None:
        calls.append([-crate.number])

    assert app.drain().handled == 6
    assert calls == [[1, 2], [-1], [3, 4, 5]]


def test_a_list_of_recorded_events_is_given_by_its_annotation(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    calls: list[list[int]] = []
    mail = app.subscriber("mail")

    @mail.on("crate.*")
    def seen(recorded: list[Recorded[Any]]) -> None:
        calls.append([one.position for one in recorded])

    app.drain()
    assert calls == [sent]


@pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])
def test_a_list_that_fails_is_run_again_one_by_one_and_only_that_counts(bench: Bench, delivery: str) -> None:
    sent = bench.send(5)
    app = bench.app()
    mail = app.subscriber("mail", delivery=delivery, retry=ONCE)
    calls: list[list[int]] = []

    @mail(batch=True)
    def send(crates: list[Sent]) -> None:
        calls.append([crate.number for crate in crates])
        if any(crate.number == 3 for crate in crates):
            raise BugError

    done = app.drain()
    assert calls == [[1, 2, 3, 4, 5], [1], [2], [3], [4], [5]]
    assert bench.states("mail") == {sent[2]: "parked"}
    assert (done.handled, done.failed) == (4, 1)
    assert len(bench.attempts("mail")) == 1


def test_events_that_fail_only_together_are_handled_one_by_one(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED])

    @board
    def apply(crates: list[Sent], ctx: Context) -> None:
        if len(crates) > 1:
            raise BugError
        note(ctx, APPLIED)

    app.drain()
    assert bench.applied(APPLIED) == sent
    assert bench.states("board") == {}


def test_the_context_of_a_list_holds_all_its_events_and_no_single_key(bench: Bench) -> None:
    sent = bench.send(2)
    app = bench.app()
    seen: list[Any] = []
    mail = app.subscriber("mail")

    @mail
    def send(_crates: list[Sent], ctx: Context) -> None:
        keys = [ctx.idempotency_key_of(event) for event in ctx.events]
        seen.extend([[event.position for event in ctx.events], ctx.event.position, keys])
        with pytest.raises(UsageError, match="2 events"):
            _ = ctx.idempotency_key
        with pytest.raises(UsageError, match="2 events"):
            ctx.append(Lost(1))
        ctx.append(Lost(1), cause=ctx.events[0])

    app.drain()
    ids = [bench.log.get(position).id for position in sent]
    assert seen == [sent, sent[-1], [f"mail:{one}" for one in ids]]
    assert bench.log.get(sent[-1] + 1).metadata["causation_id"] == str(ids[0])


def test_several_events_are_handled_at_a_time_and_each_key_in_order(bench: Bench) -> None:
    bench.log.append(*[kind(number) for kind in (Sent, Lost, Found) for number in range(1, 5)])
    app = bench.app()
    together = threading.Barrier(4, timeout=20)
    story: list[tuple[str, int]] = []
    mail = app.subscriber("mail", concurrency=4)

    @mail
    def handle(event: Sent | Lost | Found) -> None:
        together.wait()
        story.append((type(event).__name__, event.number))

    assert app.drain().handled == 12
    for number in range(1, 5):
        assert [name for name, of in story if of == number] == ["Sent", "Lost", "Found"]


def test_coroutines_are_handled_at_a_time_too(bench: Bench) -> None:
    bench.send(100)
    app = bench.app()
    together = asyncio.Barrier(100)
    mail = app.subscriber("mail", concurrency=100, timeout_seconds=20)

    @mail
    async def send(_crate: Sent) -> None:
        await together.wait()

    assert app.drain().handled == 100


def test_with_concurrency_what_follows_a_failure_of_its_key_is_blocked(bench: Bench) -> None:
    events = [kind(number) for kind in (Sent, Lost) for number in range(1, 5)]
    positions = [one.position for one in bench.log.append(*events)]
    app = bench.app()
    mail = app.subscriber("mail", concurrency=3, retry=ONCE)

    @mail
    def handle(event: Sent | Lost) -> None:
        if isinstance(event, Sent) and event.number == 2:
            raise BugError

    done = app.drain()
    assert bench.states("mail") == {positions[1]: "parked", positions[5]: "blocked"}
    assert (done.handled, done.failed, bench.position("mail")) == (6, 1, positions[-1])


def test_with_concurrency_a_checkpoint_passes_only_what_has_ended(bench: Bench) -> None:
    """The first event stands at the gate: however much of the rest is done, the checkpoint stays before it."""
    sent = bench.send(6)
    app = bench.app()
    gate = Gate()
    done: list[int] = []
    mail = app.subscriber("mail", concurrency=3)

    @mail
    def send(crate: Sent) -> None:
        if crate.number == 1:
            gate.wait()
        done.append(crate.number)

    draining = Background(app.drain)
    gate.wait_until_reached()
    eventually(lambda: done == [2, 3, 4, 5, 6], what="the others")
    assert bench.position("mail") == 0
    gate.open()
    draining.join()
    assert bench.position("mail") == sent[-1]


def test_what_is_declared_around_runs_around_every_handler(bench: Bench) -> None:
    bench.log.append(Sent(1), Lost(2))
    app = bench.app()
    story: list[str] = []

    @app.around
    def outer(ctx: Context) -> Iterator[None]:
        story.append(f"begin {ctx.subscriber} {ctx.event.type}")
        yield
        story.append("end")

    @app.around
    def inner(_ctx: Context) -> Iterator[None]:
        story.append("inside")
        yield

    mail = app.subscriber("mail")

    @mail
    def send(_crate: Sent) -> None:
        story.append("handler")

    @mail
    async def lost(_crate: Lost) -> None:
        story.append("coroutine")

    app.drain()
    assert story == [
        *("begin mail crate.sent", "inside", "handler", "end"),
        *("begin mail crate.lost", "inside", "coroutine", "end"),
    ]


def test_a_handler_meets_what_was_set_around_it(bench: Bench) -> None:
    bench.log.append(Sent(1), Lost(2))
    app = bench.app()
    tenant: ContextVar[str] = ContextVar("tenant", default="none")
    seen: list[str] = []

    @app.around
    def choose(ctx: Context) -> Iterator[None]:
        token = tenant.set(ctx.event.stream)
        yield
        tenant.reset(token)

    mail = app.subscriber("mail")

    @mail
    def send(_crate: Sent) -> None:
        seen.append(tenant.get())

    @mail
    async def lost(_crate: Lost) -> None:
        seen.append(tenant.get())

    app.drain()
    assert seen == ["crate-1", "crate-2"]


def test_no_failure_is_silent_though_what_is_around_swallows_it(bench: Bench) -> None:
    first, second = (one.position for one in bench.log.append(Sent(1), Lost(2)))
    app = bench.app()
    heard: list[str] = []

    @app.around
    def swallow(_ctx: Context) -> Iterator[None]:
        try:
            yield
        except BugError as error:
            heard.append(str(error))

    mail = app.subscriber("mail", retry=ONCE)

    @mail
    def send(_crate: Sent) -> None:
        raise BugError("plain")

    @mail
    async def lost(_crate: Lost) -> None:
        raise BugError("awaited")

    app.drain()
    assert heard == ["plain", "awaited"]
    assert bench.states("mail") == {first: "parked", second: "parked"}


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_raised_around_a_handler_is_the_events_failure(bench: Bench, when: str) -> None:
    (position,) = bench.send(1)
    app = bench.app()
    called: list[int] = []

    @app.around
    def broken(_ctx: Context) -> Iterator[None]:
        if when == "before":
            raise BugError
        yield
        raise BugError

    @app.subscriber("mail", retry=ONCE)
    def send(crate: Sent) -> None:
        called.append(crate.number)

    app.drain()
    assert bench.states("mail") == {position: "parked"}
    assert called == ([] if when == "before" else [1])


def test_only_a_generator_function_can_run_around(bench: Bench) -> None:
    app = bench.app()

    def plain(_ctx: Context) -> Any:
        return None

    with pytest.raises(DeclarationError, match="generator"):
        app.around(plain)


def test_a_handler_learns_that_the_worker_is_to_stop(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    gate = Gate()
    seen: list[bool] = []

    @app.subscriber("mail")
    def send(_crate: Sent, ctx: Context) -> None:
        seen.append(ctx.stopping)
        gate.wait()
        eventually(lambda: ctx.stopping, what="the signal")
        seen.append(ctx.stopping)

    runtime = runtime_of(app)
    worker = app.make_worker(runtime=runtime)
    worker.start()
    gate.wait_until_reached()
    stopping = Background(worker.stop)
    gate.open()
    stopping.join()

    assert seen == [False, True]

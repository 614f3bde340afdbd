"""Waiting for a subscriber to come to an event: done, given up, too late, or asked where it can never come true."""

import asyncio

import pytest

from eventlog.errors import NotHandledError, UnknownSubscriberError, UsageError, WaitTimeoutError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.testing import make_retries_due
from tests.subscribers_support import Background, Bench, BugError, Lost, Sent, applied_table, note

APPLIED = applied_table()


def board_of(app: App, *, broken: tuple[int, ...] = (), partitions: int = 1) -> App:
    board = app.projection("board", tables=[APPLIED], retry=Retry(attempts=1), partitions=partitions)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number in broken:
            raise BugError("no such crate")
        note(ctx, APPLIED)

    return app


def test_it_returns_when_a_worker_has_applied_the_event(bench: Bench) -> None:
    app = board_of(bench.app())
    with app.worker():
        for number in range(20):
            position = bench.send(1, first=number)[0]
            app.wait_for("board", position)
            assert bench.applied(APPLIED)[-1] == position


def test_an_event_that_the_subscriber_does_not_want_is_waited_for_no_longer_than_what_is_before_it(
    bench: Bench,
) -> None:
    """No row is written for events that nobody wants; whoever waits need not wait for one."""
    app = board_of(bench.app(), partitions=3)
    bench.send(5)
    app.drain()
    unwanted = bench.log.append(*(Lost(number) for number in range(50)))[-1].position

    app.wait_for("board", unwanted, timeout_seconds=5)
    wanted = bench.send(1, first=9)[0]
    with pytest.raises(WaitTimeoutError, match="has not come to event"):
        app.wait_for("board", wanted, timeout_seconds=0.05)


def test_an_event_that_nobody_handles_runs_out_of_time_and_says_where_the_checkpoint_is(bench: Bench) -> None:
    app = board_of(bench.app())
    app.register()
    position = bench.send(3)[-1]

    with pytest.raises(WaitTimeoutError, match=f"event {position} in 0.05 s: its checkpoint is at 0"):
        app.wait_for("board", position, timeout_seconds=0.05)


def test_a_halted_subscriber_is_reported_at_the_event_it_halted_at(bench: Bench) -> None:
    app = board_of(bench.app(), broken=(2,))
    positions = bench.send(3)
    app.drain()

    app.wait_for("board", positions[0])
    for position in positions[1:]:
        with pytest.raises(NotHandledError, match=r"event 2 is parked for board: .*BugError: no such crate"):
            app.wait_for("board", position)


def test_a_parked_blocked_or_skipped_event_is_no_success_though_the_checkpoint_is_past_it(bench: Bench) -> None:
    app = bench.app()

    @app.subscriber("mail", retry=Retry(attempts=1))
    def send(crate: Sent) -> None:
        if crate.number == 1:
            raise BugError

    first, second, other = (bench.log.append(Sent(number))[0].position for number in (1, 1, 2))
    app.drain()
    app.wait_for("mail", other)
    for position, state in ((first, "parked"), (second, "blocked")):
        with pytest.raises(NotHandledError, match=state):
            app.wait_for("mail", position)
    control.skip(bench.log.database, "mail", [first], reason="never mind")
    with pytest.raises(NotHandledError, match="skipped"):
        app.wait_for("mail", first)


def test_an_event_that_is_tried_again_is_waited_for_though_the_checkpoint_is_past_it(bench: Bench) -> None:
    app = bench.app()
    broken = [True]
    mail = app.subscriber("mail", retry=Retry(attempts=2, first_seconds=600))

    @mail
    def send(crate: Sent) -> None:
        if broken:
            raise BugError

    position = bench.send(1)[0]
    app.drain()
    with pytest.raises(WaitTimeoutError):
        app.wait_for("mail", position, timeout_seconds=0.02)
    broken.clear()
    make_retries_due(app, mail)
    app.drain()
    app.wait_for("mail", position, timeout_seconds=5)


def test_waiting_in_the_transaction_that_has_appended_the_event_is_refused_at_once(bench: Bench) -> None:
    app = board_of(bench.app())
    app.register()
    with app.engine.begin() as connection:
        position = app.log.append(Sent(1), tx=connection)[0].position
        with pytest.raises(UsageError, match="still open"):
            app.wait_for("board", position)
    with app.worker():
        app.wait_for("board", position)


def test_a_coroutine_waits_beside_others_and_can_be_cancelled(bench: Bench) -> None:
    app = board_of(bench.app())
    app.register()
    position = bench.send(1)[0]

    async def cancelled() -> None:
        waiting = asyncio.create_task(app.wait_for_async("board", position, timeout_seconds=60))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting

    asyncio.run(cancelled())
    with app.worker():
        asyncio.run(app.wait_for_async("board", position))


def test_a_subscriber_that_is_not_there_is_not_waited_for(bench: Bench) -> None:
    app = board_of(bench.app())
    with pytest.raises(UnknownSubscriberError):
        app.wait_for("board", 1)
    with pytest.raises(UnknownSubscriberError):
        app.wait_for("bord", 1)


def test_who_waits_before_the_commit_of_somebody_else_gets_to_see_the_event(bench: Bench) -> None:
    """The event is committed while it is waited for: until then it lies above the high-water mark."""
    app, other = board_of(bench.app()), bench.app()
    app.register()
    with app.worker():
        with other.engine.begin() as connection:
            position = other.log.append(Sent(1), tx=connection)[0].position
            waiting = Background(lambda: app.wait_for("board", position))
            assert waiting.running
        waiting.join()
    assert bench.applied(APPLIED) == [position]

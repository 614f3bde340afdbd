"""What a worker says while the database is away, and what it does meanwhile: as little as is needed."""

import logging
from collections.abc import Iterator
from functools import partial

import pytest

from eventlog.errors import DatabaseUnreachableError
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.trouble import QUIET_SECONDS, Trouble
from eventlog.subscribers.worker import Worker
from eventlog.testing import StillClock
from tests.subscribers_support import Bench, Sent, eventually, runtime_of

AN_HOUR = 3_600


@pytest.fixture
def bench(sqlite_url: str) -> Iterator[Bench]:
    bench = Bench(sqlite_url)
    yield bench
    bench.close()


def test_an_hour_of_trouble_is_a_dozen_lines(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    clock = StillClock()
    trouble = Trouble(runtime_of(bench.app(), clock=clock), logging.getLogger("eventlog.worker"))
    for _ in range(AN_HOUR):
        trouble.say("it failed: %s", DatabaseUnreachableError("away"))
        clock.advance(1)
    assert caplog.messages[0] == "it failed: away"
    assert 10 <= len(caplog.messages) <= 14


def test_it_is_over_when_nothing_has_failed_for_a_while(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="eventlog.worker")
    clock = StillClock()
    trouble = Trouble(runtime_of(bench.app(), clock=clock), logging.getLogger("eventlog.worker"))
    for _ in range(3):
        trouble.say("it failed: %s", DatabaseUnreachableError("away"))
        clock.advance(0.2)
        trouble.say_if_over()
    assert caplog.messages == ["it failed: away"], "what fails between successes is one trouble"
    clock.advance(max(QUIET_SECONDS, bench.app().lease_seconds))
    trouble.say_if_over()
    trouble.say_if_over()
    assert caplog.messages[1:] == ["the database is well again, after 3 failures in 0.4 s"]
    trouble.say("it failed: %s", DatabaseUnreachableError("away again"))
    assert caplog.messages[2:] == ["it failed: away again"]


def test_a_subscriber_whose_turns_fail_disturbs_no_other(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease of the one cannot be had for a while; the other keeps its own, and what it has in hand."""
    app = bench.app()
    epochs: set[int] = set()

    @app.subscriber("ill")
    def ill(_crate: Sent) -> None:
        return

    @app.subscriber("well")
    def well(_crate: Sent, ctx: Context) -> None:
        epochs.add(ctx.epoch)

    app.register()
    runtime = runtime_of(app)
    partitions = app.partitions(runtime)
    worker = Worker(runtime, partitions)
    tries = 0

    def take(_subscriber: Subscriber) -> None:
        nonlocal tries
        tries += 1
        raise DatabaseUnreachableError("away, for this one")

    sent: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(partitions[0].lease, "take", take)
        worker.start()
        for number in range(1, 6):
            sent += bench.send(1, first=number)
            eventually(partial(has_come_to, bench, "well", sent[-1]), what="the other is delivered to")
        eventually(lambda: tries >= 3, what="it is tried again")
    eventually(partial(has_come_to, bench, "ill", sent[-1]), what="it goes on when it can")
    worker.stop()
    assert len(epochs) == 1
    assert len([line for line in caplog.messages if "a turn has failed" in line]) <= 3


def has_come_to(bench: Bench, name: str, position: int) -> bool:
    return bench.position(name) == position

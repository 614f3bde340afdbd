"""An outage is not ten thousand failures: the partition waits at its place, tries again, and says so."""

import logging

import pytest

from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.outcomes import Park
from eventlog.subscribers.retry import Retry
from eventlog.testing import StillClock
from tests.subscribers_support import Bench, BugError, Lost, Sent, drain_with, runtime_of

SLOWLY = Retry(attempts=3, first_seconds=3600)
AFTER = 4
MODES = pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])


class Server:
    """What the handler talks to."""

    def __init__(self) -> None:
        self.down = True
        self.calls: list[int] = []

    def send(self, number: int) -> None:
        self.calls.append(number)
        if self.down:
            raise BugError("connection refused")


def app_of(bench: Bench, server: Server, *, delivery: str = "at-least-once", retry: Retry = SLOWLY) -> App:
    app = bench.app()
    mail = app.subscriber("mail", delivery=delivery, retry=retry, outage_after=AFTER)

    @mail
    def send(crate: Sent) -> None:
        server.send(crate.number)

    @mail
    def seen(_crate: Lost) -> None:
        """Has nothing to do with the server."""

    return app


@MODES
def test_after_so_many_failures_in_a_row_the_ledger_is_not_filled_any_more(bench: Bench, delivery: str) -> None:
    sent = bench.send(30)
    server = Server()
    app = app_of(bench, server, delivery=delivery)

    app.drain()
    app.drain()

    assert list(bench.states("mail")) == sent[:AFTER]
    assert bench.position("mail") == sent[AFTER - 1] - 1, "it waits at the last one that failed"
    assert server.calls == [1, 2, 3, 4] or delivery == "transactional"


@MODES
def test_one_success_ends_it_and_heals_what_failed(bench: Bench, delivery: str) -> None:
    sent = bench.send(30)
    server = Server()
    app = app_of(bench, server, delivery=delivery)
    app.drain()
    server.down = False
    bench.make_due("mail")

    done = app.drain()

    assert (done.handled, done.failed) == (30, 0)
    assert set(bench.states("mail").values()) == {"resolved"}
    assert bench.position("mail") == sent[-1]
    assert bench.checkpoint("mail").outage_handler is None


@MODES
def test_while_it_lasts_only_the_event_waited_at_is_tried(bench: Bench, delivery: str) -> None:
    bench.send(30)
    server = Server()
    app = app_of(bench, server, delivery=delivery)
    app.drain()
    server.calls.clear()
    bench.make_due("mail")

    app.drain()

    assert server.calls == [AFTER]


def test_who_takes_over_goes_on_with_the_outage(bench: Bench) -> None:
    bench.send(30)
    server = Server()
    app_of(bench, server).drain()
    server.calls.clear()
    bench.make_due("mail")

    app_of(bench, server).drain()

    assert server.calls == [AFTER]
    assert bench.checkpoint("mail").outage_handler.endswith("send")


def test_the_event_waited_at_is_parked_when_its_attempts_are_spent_and_the_next_takes_its_place(bench: Bench) -> None:
    """Without attempts of its own a poisoned event would stop the partition for ever."""
    sent = bench.send(AFTER + 2)
    server = Server()
    app = app_of(bench, server, retry=Retry(attempts=2, first_seconds=0))

    for _ in range(4):
        drain_with(app, "mail", draw=lambda: 0.0)

    assert bench.states("mail")[sent[AFTER - 1]] == "parked"
    assert server.calls[AFTER:] == [4, 5, 5, 6, 6, 1, 2, 3], "when none is left to wait at, the others have their turn"


def test_what_was_parked_in_the_outage_is_tried_again_after_it(bench: Bench) -> None:
    bench.send(AFTER + 6)
    server = Server()
    app = app_of(bench, server, retry=Retry(attempts=1, first_seconds=0))
    for _ in range(3):
        drain_with(app, "mail", draw=lambda: 0.0)
    assert set(bench.states("mail").values()) == {"parked"}
    server.down = False
    bench.send(1, first=100)

    app.drain()

    assert set(bench.states("mail").values()) == {"resolved"}


def test_the_next_probe_waits_for_the_back_off(bench: Bench) -> None:
    """With one attempt each, events could run through a dead server as fast as it refuses them."""
    bench.send(30)
    server = Server()
    app = app_of(bench, server, retry=Retry(attempts=1, first_seconds=60))

    drain_with(app, "mail", clock=StillClock(), draw=lambda: 1.0)

    assert server.calls == [1, 2, 3, 4]


def test_failures_with_a_success_between_are_no_outage(bench: Bench) -> None:
    sent = bench.send(30)
    app = bench.app()
    mail = app.subscriber("mail", retry=SLOWLY, outage_after=AFTER)

    @mail
    def send(crate: Sent) -> None:
        if crate.number % AFTER:
            raise BugError

    app.drain()
    assert bench.position("mail") == sent[-1]


def test_another_handlers_success_does_not_end_the_run(bench: Bench) -> None:
    events = [event for number in range(1, 10) for event in (Sent(number), Lost(100 + number))]
    bench.log.append(*events)
    server = Server()

    app_of(bench, server).drain()

    assert server.calls == [1, 2, 3, 4]


def test_what_a_handler_decides_about_one_event_is_no_outage(bench: Bench) -> None:
    sent = bench.send(30)
    app = bench.app()
    mail = app.subscriber("mail", outage_after=AFTER)

    @mail
    def send(_crate: Sent) -> None:
        raise Park("all of them")

    app.drain()
    assert bench.position("mail") == sent[-1]
    assert len(bench.states("mail")) == 30


def test_poisoned_events_that_are_tried_again_are_no_outage(bench: Bench) -> None:
    """They would be one each time while nothing else comes, and its end would have them tried again, for ever."""
    app = bench.app()
    mail = app.subscriber("mail", retry=Retry(attempts=3, first_seconds=0), outage_after=AFTER)
    calls: list[int] = []

    @mail
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number % 2:
            raise BugError

    bench.send(4 * AFTER)
    for _ in range(3):
        drain_with(app, "mail", draw=lambda: 0.0)
    assert bench.checkpoint("mail").outage_handler is None
    calls.clear()
    bench.send(1, first=1_000)
    app.drain()
    assert calls == [1_000]


def test_it_is_said_once_when_it_begins_and_when_it_ends(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.send(10)
    server = Server()
    app = app_of(bench, server)
    with caplog.at_level(logging.WARNING, "eventlog.worker"):
        app.drain()
        app.drain()
        server.down = False
        bench.make_due("mail")
        app.drain()

    said = [record.getMessage() for record in caplog.records if "outage" in record.getMessage()]
    assert len(said) == 2
    assert "4 times in a row" in said[0]
    assert "over" in said[1]


def test_the_status_tells_of_it(bench: Bench) -> None:
    bench.send(10)
    server = Server()
    app = app_of(bench, server)
    app.drain()
    status = bench.status("mail")
    assert (status.state, status.outage_since is not None) == ("outage", True)
    assert str(status.outage_handler).endswith("send")

    server.down = False
    control.retry(bench.log.database, "mail")
    app.drain()
    assert bench.status("mail").state == "running"


def test_an_operators_retry_probes_at_once(bench: Bench) -> None:
    bench.send(10)
    server = Server()
    app = app_of(bench, server)
    app.drain()
    server.down = False
    control.retry(bench.log.database, "mail")

    assert app.drain().handled == 10


def test_a_drain_does_not_wait_for_another_workers_outage_to_end(bench: Bench) -> None:
    bench.send(10)
    server = Server()
    holder = app_of(bench, server)
    holder.register()
    runtime = runtime_of(holder)
    runtime.feed.refresh()
    partition = holder.partitions(runtime)[0]
    while partition.turn().moved:
        pass
    assert partition.lease.held

    assert app_of(bench, server).drain().handled == 0

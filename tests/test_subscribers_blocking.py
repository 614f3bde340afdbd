"""Park with order kept: what follows a failure of its key waits behind it, everything else flows."""

from collections.abc import Callable

import pytest
from sqlalchemy import event as sqlalchemy_event

from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Found, Lost, Sent

ONCE = Retry(attempts=1)
LATER = Retry(attempts=3, first_seconds=3600)
MODES = pytest.mark.parametrize("delivery", ["at-least-once", "transactional", "at-most-once"])

Story = list[tuple[str, int]]


def app_of(bench: Bench, story: Story, broken: set[int], *, delivery: str, retry: Retry = ONCE) -> App:
    """A subscriber that notes each event it has handled, and fails at the sending of some crates."""
    app = bench.app()
    mail = app.subscriber("mail", delivery=delivery, retry=retry)

    @mail
    def handle(event: Sent | Lost | Found) -> None:
        if isinstance(event, Sent) and event.number in broken:
            raise BugError
        story.append((type(event).__name__, event.number))

    return app


def append_story(bench: Bench) -> list[int]:
    """Crate 1 is sent, lost and found, crate 2 in between."""
    events = (Sent(1), Sent(2), Lost(1), Lost(2), Found(1))
    return [one.position for one in bench.log.append(*events)]


@MODES
def test_events_behind_a_failure_of_their_key_are_blocked_and_others_flow(bench: Bench, delivery: str) -> None:
    sent1, _sent2, lost1, lost2, found1 = append_story(bench)
    story: Story = []

    done = app_of(bench, story, {1}, delivery=delivery).drain()

    assert bench.states("mail") == {sent1: "parked", lost1: "blocked", found1: "blocked"}
    assert story == [("Sent", 2), ("Lost", 2)]
    assert (done.handled, done.failed) == (2, 1)
    assert bench.position("mail") == found1 > lost2


@MODES
def test_what_comes_later_is_blocked_too(bench: Bench, delivery: str) -> None:
    first = bench.log.append(Sent(1))[0].position
    story: Story = []
    app = app_of(bench, story, {1}, delivery=delivery)
    app.drain()
    later = bench.log.append(Lost(1))[0].position

    app.drain()

    assert bench.states("mail") == {first: "parked", later: "blocked"}
    assert story == []


@MODES
def test_a_worker_that_takes_over_knows_what_is_blocked(bench: Bench, delivery: str) -> None:
    bench.log.append(Sent(1))
    app_of(bench, [], {1}, delivery=delivery).drain()
    later = bench.log.append(Lost(1))[0].position
    story: Story = []

    app_of(bench, story, {1}, delivery=delivery).drain()

    assert bench.states("mail")[later] == "blocked"
    assert story == []


@MODES
def test_when_the_failure_is_healed_what_waited_follows_in_order(bench: Bench, delivery: str) -> None:
    append_story(bench)
    story: Story = []
    broken = {1}
    app = app_of(bench, story, broken, delivery=delivery)
    app.drain()
    broken.clear()
    control.retry(bench.log.database, "mail")

    done = app.drain()

    assert story[2:] == [("Sent", 1), ("Lost", 1), ("Found", 1)]
    assert set(bench.states("mail").values()) == {"resolved"}
    assert done.handled == 3


@MODES
def test_when_the_failure_is_skipped_what_waited_follows(bench: Bench, delivery: str) -> None:
    sent1, *_ = append_story(bench)
    story: Story = []
    app = app_of(bench, story, {1}, delivery=delivery)
    app.drain()
    control.skip(bench.log.database, "mail", [sent1], reason="sent by hand")

    app.drain()

    assert story[2:] == [("Lost", 1), ("Found", 1)]
    assert bench.states("mail")[sent1] == "skipped"


@MODES
def test_a_key_that_is_free_again_flows_as_if_nothing_had_been(bench: Bench, delivery: str) -> None:
    sent1, *_ = append_story(bench)
    story: Story = []
    app = app_of(bench, story, {1}, delivery=delivery)
    app.drain()
    control.skip(bench.log.database, "mail", [sent1], reason="sent by hand")
    app.drain()
    later = bench.log.append(Lost(1))[0].position

    app.drain()

    assert later not in bench.states("mail")
    assert story[-1] == ("Lost", 1)


@MODES
def test_what_waits_behind_a_retry_waits_until_its_time(bench: Bench, delivery: str) -> None:
    if delivery == "at-most-once":
        return  # nothing is tried again by itself there; see test_subscribers_at_most_once.py
    append_story(bench)
    story: Story = []
    broken = {1}
    app = app_of(bench, story, broken, delivery=delivery, retry=LATER)
    app.drain()
    broken.clear()

    assert app.drain().handled == 0
    bench.make_due("mail")
    assert app.drain().handled == 3
    assert story[2:] == [("Sent", 1), ("Lost", 1), ("Found", 1)]


def test_one_that_fails_in_the_middle_holds_the_rest_back(bench: Bench) -> None:
    _sent1, _sent2, lost1, _lost2, found1 = append_story(bench)
    app = bench.app()
    mail = app.subscriber("mail", retry=ONCE)
    broken: set[Callable[..., object]] = {Sent, Lost}

    @mail
    def handle(event: Sent | Lost | Found) -> None:
        if type(event) in broken and event.number == 1:
            raise BugError

    app.drain()
    broken.discard(Sent)
    control.retry(bench.log.database, "mail")
    app.drain()

    states = bench.states("mail")
    assert (states[lost1], states[found1]) == ("parked", "blocked")


def test_a_long_row_of_blocked_events_is_written_in_few_statements(bench: Bench) -> None:
    bench.log.append(*[Sent(1)] * 300)
    app = app_of(bench, [], {1}, delivery="at-least-once")
    app.register()
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    sqlalchemy_event.listen(app.engine, "before_cursor_execute", count)
    app.drain()

    assert len(bench.states("mail")) == 300
    assert len(statements) < 40


def test_a_long_row_of_blocked_events_is_healed_by_one_drain(bench: Bench) -> None:
    bench.log.append(*[Sent(1)] * 250)
    story: Story = []
    broken = {1}
    app = app_of(bench, story, broken, delivery="at-least-once")
    app.drain()
    broken.clear()
    control.retry(bench.log.database, "mail")

    assert app.drain().handled == 250
    assert set(bench.states("mail").values()) == {"resolved"}


def test_events_are_held_back_by_the_declared_key(bench: Bench) -> None:
    first, second, third = (one.position for one in bench.log.append(Sent(1, weight=7), Sent(2, weight=7), Sent(3)))
    app = bench.app()
    mail = app.subscriber("mail", retry=ONCE, key="weight")

    @mail
    def handle(crate: Sent) -> None:
        if crate.number == 1:
            raise BugError

    app.drain()
    assert bench.states("mail") == {first: "parked", second: "blocked"}
    assert bench.entries("mail")[0].key == "7"
    assert third == bench.position("mail")


def test_with_too_many_open_failures_delivery_waits(bench: Bench) -> None:
    sent = bench.send(8)
    app = bench.app()
    mail = app.subscriber("mail", retry=ONCE, failures_max=3, outage_after=1_000)
    broken = True

    @mail
    def handle(_crate: Sent) -> None:
        if broken:
            raise BugError

    for _ in range(3):
        app.drain()
    parked = bench.states("mail")
    assert len(parked) >= 3
    reached = bench.position("mail")

    bench.send(5, first=9)
    app.drain()
    assert bench.position("mail") == reached
    broken = False
    control.retry(bench.log.database, "mail")
    app.drain()
    assert bench.position("mail") > reached
    assert set(bench.states("mail").values()) == {"resolved"}
    assert sent

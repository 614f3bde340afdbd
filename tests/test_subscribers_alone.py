"""Plain functions of one event are called by a shorter way than handlers with a context: nobody may notice."""

from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventlog.events import Event
from eventlog.subscribers.context import Context
from eventlog.subscribers.outcomes import Park, Skip
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Lost, Sent, runtime_of

_names = count()

OUTCOMES = {"fails": BugError, "parks": Park, "skips": Skip, "leaves": SystemExit}
HISTORIES = st.lists(
    st.tuples(st.integers(1, 9), st.sampled_from(["is done", "is done", "fails", *OUTCOMES])), min_size=1, max_size=7
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    histories=st.lists(HISTORIES, min_size=1, max_size=2),
    delivery=st.sampled_from(["at-least-once", "at-most-once"]),
    on_failure=st.sampled_from(["park", "halt"]),
    outage_after=st.sampled_from([1, 2, 100]),
    attempts=st.sampled_from([1, 2]),
)
def test_with_a_context_or_without_one_the_same_comes_of_it(
    bench: Bench,
    histories: list[list[tuple[int, str]]],
    delivery: str,
    on_failure: str,
    outage_after: int,
    attempts: int,
) -> None:
    """Each history is a drain of its own, and has several pages: failures in a row are counted across them."""
    app = bench.app()
    number = next(_names)
    events = [one for history in histories for one in history]
    calls: dict[str, list[int]] = {"plain": [], "told": []}
    declared = {
        way: app.subscriber(
            f"{way}-{number}",
            start="now",
            delivery=delivery,
            on_failure=on_failure,
            outage_after=outage_after,
            retry=Retry(attempts=attempts, first_seconds=3600),
        )
        for way in calls
    }

    def handle(way: str, crate: Sent) -> None:
        calls[way].append(crate.number)
        outcome = OUTCOMES.get(events[crate.number][1])
        if outcome is not None:
            raise outcome("as the history says")

    @declared["plain"]
    def plain(crate: Sent) -> None:
        handle("plain", crate)

    @declared["told"]
    def told(crate: Sent, _ctx: Context) -> None:
        handle("told", crate)

    app.register()
    plain_name, told_name = (declared[way].name for way in ("plain", "told"))
    given_out = 0
    for history in histories:
        sent = [Event(Sent(given_out + place), stream=f"crate-{key}") for place, (key, _) in enumerate(history)]
        given_out += len(sent)
        bench.log.append(*sent)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("eventlog.subscribers.feed.PAGE_EVENTS", 2)
            drained = app.drain().subscribers
        assert calls["plain"] == calls["told"]
        assert drained[plain_name] == drained[told_name]
    assert bench.states(plain_name) == bench.states(told_name)
    assert bench.position(plain_name) == bench.position(told_name)
    outages = [bench.checkpoint(name).outage_handler is not None for name in (plain_name, told_name)]
    assert outages[0] == outages[1]
    app.engine.dispose()


def test_it_ends_at_an_event_that_needs_more_and_goes_on_behind_it(bench: Bench) -> None:
    app = bench.app()
    calls: list[tuple[str, int]] = []
    mail = app.subscriber("mail")

    @mail
    def sent(crate: Sent) -> None:
        calls.append(("sent", crate.number))

    @mail
    def lost(crate: Lost, _ctx: Context) -> None:
        calls.append(("lost", crate.number))

    bench.log.append(Sent(1), Lost(2), Sent(3), Lost(4))

    assert app.drain().handled == 4
    assert calls == [("sent", 1), ("lost", 2), ("sent", 3), ("lost", 4)]


def test_it_stops_after_the_event_at_hand_when_asked_to(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short calls ask about the stop each millisecond; here, each time."""
    monkeypatch.setattr("eventlog.subscribers.handing_out.LOOK_SECONDS", 0.0)
    sent = bench.send(3)
    app = bench.app()
    runtime = runtime_of(app)
    calls: list[int] = []

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number == 2:
            runtime.stop.set()

    app.register()
    app.drain(runtime=runtime)

    assert calls == [1, 2]
    assert bench.position("mail") == sent[1]


def test_a_checkpoint_follows_after_a_second_at_the_latest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.subscribers.handing_out.SETTLE_SECONDS", 0.0)
    monkeypatch.setattr("eventlog.subscribers.handing_out.LOOK_SECONDS", 0.0)
    sent = bench.send(3)
    app = bench.app()
    positions: list[int] = []

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        positions.append(bench.position("mail"))

    app.drain()

    assert positions == [0, *sent[:2]]

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

LATER = Retry(attempts=2, first_seconds=3600)
_names = count()

OUTCOMES = {"fails": BugError, "parks": Park, "skips": Skip, "leaves": SystemExit}
HISTORIES = st.lists(
    st.tuples(st.integers(1, 3), st.sampled_from(["is done", "is done", "is done", *OUTCOMES])), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    history=HISTORIES,
    delivery=st.sampled_from(["at-least-once", "at-most-once"]),
    on_failure=st.sampled_from(["park", "halt"]),
    outage_after=st.sampled_from([2, 100]),
)
def test_with_a_context_or_without_one_the_same_comes_of_it(
    bench: Bench, history: list[tuple[int, str]], delivery: str, on_failure: str, outage_after: int
) -> None:
    app = bench.app()
    number = next(_names)
    calls: dict[str, list[int]] = {"plain": [], "told": []}
    declared = {
        way: app.subscriber(
            f"{way}-{number}",
            start="now",
            delivery=delivery,
            on_failure=on_failure,
            outage_after=outage_after,
            retry=LATER,
        )
        for way in calls
    }

    def handle(way: str, crate: Sent) -> None:
        calls[way].append(crate.number)
        outcome = OUTCOMES.get(history[crate.number][1])
        if outcome is not None:
            raise outcome("as the history says")

    @declared["plain"]
    def plain(crate: Sent) -> None:
        handle("plain", crate)

    @declared["told"]
    def told(crate: Sent, _ctx: Context) -> None:
        handle("told", crate)

    app.register()
    bench.log.append(*(Event(Sent(place), stream=f"crate-{key}") for place, (key, _) in enumerate(history)))
    app.drain()

    plain_name, told_name = (declared[way].name for way in ("plain", "told"))
    assert calls["plain"] == calls["told"]
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


def test_it_stops_after_the_event_at_hand_when_asked_to(bench: Bench) -> None:
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
    sent = bench.send(3)
    app = bench.app()
    positions: list[int] = []

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        positions.append(bench.position("mail"))

    app.drain()

    assert positions == [0, *sent[:2]]

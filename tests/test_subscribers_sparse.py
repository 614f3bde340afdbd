"""Subscribers of rare types: far behind they are given pages of those alone, and miss nothing by that.

The random histories make pages so short that full and sparse ones alternate: types come in runs, positions are given
out that nothing comes to, transactions are in flight while it is read, partitions take turns, and workers come and go.
What each subscriber was handed must be what a plain scan of the log finds for it, in order.

`EVENTLOG_SOAK=N` in the environment runs a quarter of so many histories.
"""

import os
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from eventlog.event_types import event as declare
from eventlog.events import Event, Recorded
from eventlog.subscribers import feed
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.feed import Feed, SparsePages
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.runtime import Runtime
from tests.subscribers_support import Bench, Lost, Sent, runtime_of

HISTORIES = int(os.environ.get("EVENTLOG_SOAK", "100")) // 4
PAGE_EVENTS = 4
TURNS_MAX = 500
STREAMS = 5


@declare("sparse.weighed", stream="scale-{number}", aliases=["sparse.measured"])
class Weighed(msgspec.Struct, frozen=True):
    number: int


STORED = ("sparse.weighed", "sparse.measured", "sparse.b", "sparse.c", "sparse.d", "other.e")
"""The types in the log. The second is an old name of the first."""
WANTED = {
    "weighed": ("sparse.weighed", "sparse.measured"),
    "b": ("sparse.b",),
    "never": (),
    "pattern": ("sparse.weighed", "sparse.measured", "sparse.b", "sparse.c", "sparse.d"),
}
"""What a handler of each kind is to be handed."""

RUNS = st.lists(st.tuples(st.sampled_from(STORED), st.sampled_from([1, 2, 12, 30])), min_size=1, max_size=6)
STEPS = st.one_of(
    st.tuples(st.just("append"), RUNS),
    st.tuples(st.just("append"), RUNS),
    st.tuples(st.just("give out"), st.integers(1, 12)),
    st.tuples(st.just("open"), RUNS),
    st.tuples(st.just("close"), st.booleans()),
    st.tuples(st.just("turns"), st.integers(1, 6)),
    st.tuples(st.just("another worker"), st.none()),
)
KINDS = st.one_of(st.sets(st.sampled_from(["weighed", "b", "never"]), min_size=1), st.just({"b", "pattern"}))
DECLARED = st.tuples(KINDS, st.sampled_from([1, 1, 3]))
ALTERNATING = [("sparse.c", 30), ("sparse.b", 20), ("sparse.d", 60), ("sparse.measured", 1), ("other.e", 30)]
"""Of these some pages are sparse for certain, and some are full."""
_numbers = count()


@pytest.fixture
def short_pages(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Make pages short; what is returned counts the full and the sparse ones that are read."""
    monkeypatch.setattr(feed, "PAGE_EVENTS", PAGE_EVENTS)
    monkeypatch.setattr(feed, "SPARSE_BEHIND_PAGES", 1)
    monkeypatch.setattr(feed, "SPARSE_SHARE", 2)
    return counted(monkeypatch)


def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the pages that are read from now on."""
    found: Counter[str] = Counter()

    def counting(kind: str, read: Callable[..., Any]) -> Callable[..., Any]:
        def counted_read(*given: Any, **named: Any) -> Any:
            found[kind] += 1
            return read(*given, **named)

        return counted_read

    monkeypatch.setattr(SparsePages, "_read", counting("sparse", SparsePages._read))
    monkeypatch.setattr(Feed, "_read", counting("full", Feed._read))
    return found


class History:
    """A log that others append to, and the subscribers that one worker after the other runs."""

    def __init__(self, bench: Bench, declared: list[tuple[set[str], int]]) -> None:
        self.bench = bench
        self.app: App = bench.app()
        self.start = bench.log.head()
        self.handed: dict[str, list[int]] = {}
        self.wanted: dict[str, set[str]] = {}
        self.subscribers = [self._subscriber(kinds, partitions) for kinds, partitions in declared]
        self.app.register()
        self._open: Connection | None = None
        self._stack = ExitStack()
        self._begin()

    def close(self) -> None:
        self._stack.close()
        self.app.engine.dispose()

    def _subscriber(self, kinds: set[str], partitions: int) -> Subscriber:
        name = f"sparse-{next(_numbers)}"
        subscriber = self.app.subscriber(name, start="now", partitions=partitions)
        handed = self.handed[name] = []
        self.wanted[name] = {one for kind in kinds for one in WANTED[kind]}

        def take(one: Recorded[Any]) -> None:
            handed.append(one.position)

        def weigh(_one: Weighed, ctx: Context) -> None:
            handed.append(ctx.event.position)

        for kind in kinds:
            if kind == "weighed":
                subscriber(weigh)
            else:
                subscriber.on({"b": "sparse.b", "never": "sparse.never", "pattern": "sparse.*"}[kind])(take)
        return subscriber

    def _begin(self) -> None:
        self.runtime: Runtime = runtime_of(self.app)
        self.partitions = [
            Partition(self.runtime, subscriber, number)
            for subscriber in self.subscribers
            for number in range(subscriber.partitions)
        ]
        self._next = 0
        self._epochs: dict[Partition, int] = {}

    def another_worker(self) -> None:
        for partition in self.partitions:
            partition.release()
        self._begin()

    def append(self, runs: list[tuple[str, int]], *, tx: Connection | None = None) -> None:
        """Within a transaction that stays open each event has a stream of its own: others would wait for it."""
        streams = (f"stream-{next(_numbers) % STREAMS}" if tx is None else f"open-{next(_numbers)}" for _ in count())
        events = [Event({"number": 1}, type=kind, stream=next(streams)) for kind, length in runs for _ in range(length)]
        self.bench.log.append(*events, tx=tx)

    def give_out(self, number: int) -> None:
        with self.bench.transaction() as connection:
            self.append([("sparse.b", number)], tx=connection)
            connection.rollback()

    def open(self, runs: list[tuple[str, int]]) -> None:
        """Append, and leave the transaction open: the mark stays behind it. A SQLite file has one writer."""
        if self.bench.postgres and self._open is None:
            self._open = self._stack.enter_context(self.bench.log.engine.connect())
            self.append(runs, tx=self._open)

    def shut(self, *, commits: bool) -> None:
        if self._open is not None:
            self._open.commit() if commits else self._open.rollback()
            self._stack.close()
            self._open = None

    def turns(self, number: int) -> bool:
        """Give some partitions their turns, one after the other; tell whether one of them has moved."""
        moved = False
        for _ in range(number):
            self.runtime.feed.refresh()
            partition = self.partitions[self._next % len(self.partitions)]
            moved = partition.turn().moved or moved
            # Nothing is lost here, so no witness is missed, and no lease with it.
            assert partition.lease.epoch == self._epochs.setdefault(partition, partition.lease.epoch)
            self._next += 1
        return moved

    def end(self) -> None:
        """Let everything come to its end, and compare."""
        self.shut(commits=True)
        for _ in range(TURNS_MAX):
            if not self.turns(len(self.partitions)):
                break
        assert {one.reached for one in self.partitions} == {self.runtime.feed.mark}
        log = list(self.bench.log.read_stored(after=self.start))
        for subscriber in self.subscribers:
            of_type = [one for one in log if one.type in self.wanted[subscriber.name]]
            handed = self.handed[subscriber.name]
            streams = {one.position: one.stream for one in log}
            for number in range(subscriber.partitions):
                due = [one for one in of_type if partition_of(one.stream, partitions=subscriber.partitions) == number]
                mine = [one for one in handed if partition_of(streams[one], partitions=subscriber.partitions) == number]
                assert mine == [one.position for one in due], subscriber.name


def play(history: History, steps: list[tuple[str, Any]]) -> None:
    for deed, what in steps:
        match deed:
            case "append":
                history.append(what)
            case "give out":
                history.give_out(what)
            case "open":
                history.open(what)
            case "close":
                history.shut(commits=what)
            case "turns":
                history.turns(what)
            case _:
                history.another_worker()


def test_every_subscriber_is_handed_what_a_plain_scan_of_the_log_finds(bench: Bench, short_pages: Counter[str]) -> None:
    @settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
    @example(declared=[({"b"}, 1), ({"weighed", "b"}, 3)], steps=[("append", ALTERNATING), ("turns", 6)])
    @given(declared=st.lists(DECLARED, min_size=1, max_size=3), steps=st.lists(STEPS, min_size=2, max_size=14))
    def holds(declared: list[tuple[set[str], int]], steps: list[tuple[str, Any]]) -> None:
        history = History(bench, declared)
        try:
            play(history, steps)
            history.end()
        finally:
            history.close()

    holds()
    assert min(short_pages["sparse"], short_pages["full"]) >= 3, short_pages


def mail(app: App, calls: list[int], *, fails: Callable[[], None] = lambda: None, **options: Any) -> Subscriber:
    """A subscriber of crates that are sent. It notes its calls, and then does what is told."""
    subscriber = app.subscriber("mail", **options)

    @subscriber
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        fails()

    app.register()
    return subscriber


def turns(partition: Partition, runtime: Runtime, *, count: int = 5) -> None:
    for _ in range(count):
        runtime.feed.refresh()
        partition.turn()


def test_a_catch_up_reads_none_of_what_lies_between_the_events_that_are_wanted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty of twenty thousand, 0.1 %: one full page of two thousand is read, and then what is wanted."""
    fill(bench, 20_000, every=1_000)
    app, calls, rows = bench.app(), list[int](), Counter[str]()
    mail(app, calls, partitions=3)
    pages = counted(monkeypatch)
    read = app.log.database.page

    def counting(*given: Any) -> Any:
        found = read(*given)
        rows["read"] += len(found)
        return found

    monkeypatch.setattr(app.log.database, "page", counting)
    app.drain()

    assert sorted(calls) == list(range(1, 21))
    assert rows["read"] <= 2_000 + 20 + 2
    assert pages["sparse"] == 1


def fill(bench: Bench, number: int, *, every: int) -> None:
    """Append so many events, of which one in so many is a crate that is sent, the last one of all with it."""
    for begin in range(0, number, 5_000):
        numbers = range(begin + 1, begin + 5_001)
        bench.log.append(*(Sent(one // every) if one % every == 0 else Lost(one) for one in numbers))


def test_a_type_that_becomes_frequent_is_read_by_full_pages_again(bench: Bench, short_pages: Counter[str]) -> None:
    bench.log.append(*map(Lost, range(1, 40)))
    bench.log.append(*map(Sent, range(40, 80)))
    bench.log.append(*map(Lost, range(80, 100)))
    calls: list[int] = []
    app = bench.app()
    mail(app, calls)

    app.drain()

    assert calls == list(range(40, 80))
    assert short_pages["sparse"] <= 3
    assert short_pages["full"] >= 40 // PAGE_EVENTS


def test_near_the_head_and_for_patterns_pages_are_full(bench: Bench, short_pages: Counter[str]) -> None:
    app, calls = bench.app(), list[int]()
    everything = app.subscriber("everything")

    @everything.on("*.sent")
    def send(recorded: Recorded[Any]) -> None:
        calls.append(recorded.data.number)

    bench.log.append(*map(Lost, range(1, 40)), Sent(40))
    app.drain()
    mail(app, calls, start="now")
    bench.log.append(Lost(41), Sent(42))
    app.drain()

    assert calls == [40, 42, 42]
    assert short_pages["sparse"] == 0


def test_what_stops_in_the_middle_of_a_sparse_page_keeps_its_lease(bench: Bench, short_pages: Counter[str]) -> None:
    """A halt leaves the checkpoint before the event: what stands there is not wanted, and was not read."""
    bench.log.append(*map(Lost, range(1, 20)), Sent(20), *map(Lost, range(21, 40)), Sent(40), *map(Lost, range(41, 60)))
    app, calls = bench.app(), list[int]()

    def fails() -> None:
        if calls == [20, 40]:
            raise ValueError

    declared = mail(app, calls, fails=fails, on_failure="halt", retry=Retry(attempts=5))
    runtime = runtime_of(app)
    partition = Partition(runtime, declared)
    turns(partition, runtime)

    assert (calls, bench.position("mail"), bench.states("mail")) == ([20, 40], 39, {40: "retrying"})
    epoch = bench.checkpoint("mail").epoch
    bench.make_due("mail")
    turns(partition, runtime)
    partition.release()
    assert (calls, bench.position("mail"), bench.checkpoint("mail").epoch) == ([20, 40, 40], 59, epoch)
    assert short_pages["sparse"] > 0


@pytest.mark.parametrize("pattern", ["crate.sent", "*.sent"])
@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_what_has_killed_its_worker_is_found_many_pages_after_the_checkpoint(
    bench: Bench, short_pages: Counter[str], delivery: str, pattern: str
) -> None:
    """Nothing is wanted before it, so no row was written: the checkpoint is where the subscriber began."""
    bench.log.append(*map(Lost, range(1, 40)), Sent(40), *map(Lost, range(41, 60)))
    calls: list[int] = []
    workers = []
    for _ in range(2):
        app = bench.app()
        declared = app.subscriber("mail", delivery=delivery, retry=Retry(first_seconds=3600))

        @declared.on(pattern)
        def send(recorded: Recorded[Any]) -> None:
            calls.append(recorded.data.number)
            raise KeyboardInterrupt

        app.register()
        runtime = runtime_of(app, draw=lambda: 1.0)
        workers.append((Partition(runtime, declared), runtime))
    with pytest.raises(KeyboardInterrupt):
        turns(*workers[0], count=40)
    assert bench.checkpoint("mail").position < bench.checkpoint("mail").in_hand - PAGE_EVENTS
    bench.expire_lease("mail")

    turns(*workers[1], count=40)

    assert calls == [40]
    assert bench.states("mail") == {40: "retrying" if delivery == "at-least-once" else "parked"}

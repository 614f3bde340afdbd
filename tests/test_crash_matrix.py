"""Every deed, killed at every point between two statements, on both databases.

In `make test` a sample: on SQLite what is around each commit and some points more, on PostgreSQL some points. In `make
soak` all of them. What must hold after each: no event is skipped, no failure is silent, only the owner commits; what
operators do is done or not; and what a redelivery is called is true.
"""

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import func, select

from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from eventlog.subscribers.control.replays import ReplayState, read_replays
from tests.conftest import DATABASES
from tests.crash_deeds import OPERATIONS, ORDERS
from tests.crash_matrix import Counted, Databases, Files, Forks, Killed, Matrix
from tests.crash_service import APPLIED, CRATES, KINDS, CallMade, applied, calls_in, state_of
from tests.log_support import engine_of, opened
from tests.subscribers_support import Background, Bench, Sent


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.fixture(params=DATABASES)
def matrix(request: pytest.FixtureRequest, forks: Forks, tmp_path: Path) -> Iterator[Matrix]:
    if request.param == "sqlite":
        yield Matrix(forks=forks, databases=Files(request.getfixturevalue("sqlite_template")), folder=tmp_path)
        return
    template = request.getfixturevalue("postgres_template")
    databases = Databases(request.getfixturevalue("postgres_url"), template)
    yield Matrix(forks=forks, databases=databases, folder=tmp_path)
    databases.close()


def points_of(matrix: Matrix, counted: Counted, *, some: int = 4) -> list[int]:
    return matrix.sample(counted, some=some, commits=counted.site.url.startswith("sqlite"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_delivery_loses_nothing_and_repeats_what_it_may(matrix: Matrix, kind: str) -> None:
    counted = matrix.count(f"deliver {kind}")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            at_kill = Stand.of(killed, kind)
            at_kill.skips_nothing()
            killed.recover()
            recovered = Stand.of(killed, kind)
            recovered.skips_nothing()
            recovered.repeats_only_what_was_in_hand(at_kill)
            matrix.heal(killed, kind)
            Stand.of(killed, kind).is_done()


@pytest.mark.parametrize("kind", ["books", "mail", "once"])
def test_a_retry_is_counted_and_made_or_made_again(matrix: Matrix, kind: str) -> None:
    counted = matrix.count(f"retry {kind}")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            at_kill = Stand.of(killed, kind)
            killed.recover()
            recovered = Stand.of(killed, kind)
            recovered.skips_nothing()
            recovered.repeats_only_what_was_in_hand(at_kill)
            matrix.heal(killed, kind)
            Stand.of(killed, kind).is_done()


@pytest.mark.parametrize("kind", ["books", "mail", "once"])
def test_a_replay_goes_on_where_it_was_and_touches_nothing_else(matrix: Matrix, kind: str) -> None:
    counted = matrix.count(f"replay {kind}")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            killed.recover()
            bench = Bench(killed.site.url)
            (replay,) = read_replays(bench.log.database)
            again = Counter(call.number for call in calls_in(killed.site.folder) if call.replay)
            stand = Stand.of(killed, kind)
            bench.close()
            assert (replay.state, replay.handled + replay.failed) == (ReplayState.DONE, CRATES)
            assert (stand.position, stand.states) == (CRATES, {})
            if kind == "books":
                assert stand.handled == Counter(dict.fromkeys(range(1, CRATES + 1), 2))
            elif kind == "once":
                assert max(again.values()) == 1
                assert len(again) >= replay.handled
            else:
                assert set(again) == set(range(1, CRATES + 1))


@pytest.mark.parametrize("which", ["kept", "dropped"])
def test_a_rebuild_goes_on_where_it_was_and_its_readers_see_no_error(matrix: Matrix, which: str) -> None:
    counted = matrix.count(f"rebuild {which}")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed, reading(killed.site.url) as seen:
            killed.recover()
            bench = Bench(killed.site.url)
            rebuilds = read_rebuilds(bench.log.database)
            begun = [row.action for row in bench.operations("board")].count("rebuild")
            bench.close()
            assert ([one.state for one in rebuilds], begun) == ([RebuildState.DONE], 1)
            assert applied(killed.site.url, APPLIED["board"]) == [(one, "v2") for one in range(1, CRATES + 1)]
            stands = state_of(killed.site.url)
            beside = [line for line in stands if line.startswith("table ") and "__" in line]
            assert len(beside) == (1 if which == "kept" else 0), beside
        assert seen, "nobody has read"
        assert seen <= {(CRATES, "v1", "v1"), (CRATES, "v2", "v2")}, seen


def test_a_projection_away_from_its_log_applies_each_event_once(matrix: Matrix) -> None:
    counted = matrix.count("away")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            killed.recover()
            found = applied(killed.site.home_url, APPLIED["away"])
            assert [position for position, _ in found] == list(range(1, CRATES + 1))


def test_a_worker_with_all_its_threads_loses_nothing(matrix: Matrix) -> None:
    counted = matrix.count("worker")
    for point in matrix.sample(counted, some=3, commits=False):
        with matrix.killed(counted, point, may_end=True) as killed:
            killed.recover()
            for kind in ("books", "mail", "once"):
                Stand.of(killed, kind).skips_nothing()
            matrix.heal(killed, "books", "mail", "once")
            for kind in ("books", "mail", "once"):
                Stand.of(killed, kind).is_done()


def test_an_append_is_there_with_what_it_belongs_to_or_not_at_all(matrix: Matrix) -> None:
    """One event; two; two and an order, in one transaction; one under a condition. Made again, each is there once."""
    counted = matrix.count("append")
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            bench = Bench(killed.site.url)
            there = [one.data.number for one in bench.log.read()]
            orders = len(bench.rows(select(ORDERS)))
            assert there in ([], [1], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
            assert orders == (1 if 5 in there else 0)
            killed.recover()
            finally_there = list(bench.log.read())
            assert [one.data.number for one in finally_there] == [1, 2, 3, 4, 5, 6]
            for stream in ("order-0", "order-1"):
                assert [one.version for one in finally_there if one.stream == stream] == [1, 2, 3]
            assert len(bench.rows(select(ORDERS))) == 1
            bench.close()


@pytest.mark.parametrize("which", ["empty", "older"])
def test_a_migration_is_done_or_not_and_the_next_one_does_it_all(matrix: Matrix, which: str) -> None:
    counted = matrix.count(f"migrate {which}", with_schema=False)
    assert len(counted.states) == 2, "an upgrade is one transaction"
    for point in points_of(matrix, counted):
        with matrix.killed(counted, point) as killed:
            assert state_of(killed.site.url) == counted.states[counted.commits_before(point)]
            killed.recover()
            assert state_of(killed.site.url) == counted.states[-1]
            with opened(killed.site.url) as log:
                log.append(Sent(1))
                assert log.high_water_mark() == 1


@pytest.mark.parametrize("which", OPERATIONS)
def test_what_an_operator_does_is_done_or_not(matrix: Matrix, which: str) -> None:
    counted = matrix.count(f"operator {which}")
    assert len(counted.states) == 1 + COMMITS.get(which, 1)
    for point in points_of(matrix, counted, some=1):
        with matrix.killed(counted, point) as killed:
            assert state_of(killed.site.url) == counted.states[counted.commits_before(point)]


COMMITS = {"pause": 2}
"""Operations with more than one: a pause looks at the owners afterwards."""


@contextmanager
def reading(url: str) -> Iterator[set[tuple[int, str, str]]]:
    """Read a projection's table again and again; what was seen is in the set. An error of a reader fails the test."""
    seen: set[tuple[int, str, str]] = set()
    stop = threading.Event()
    table = APPLIED["board"]
    question = select(func.count(), func.min(table.c.note), func.max(table.c.note))

    def read() -> None:
        with engine_of(url) as engine:
            while not stop.wait(0.002):
                with engine.connect() as connection:
                    seen.add(tuple(connection.execute(question).one()))

    reader = Background(read)
    try:
        yield seen
    finally:
        stop.set()
        reader.join()


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """How a subscriber stands at one moment: its rows, and what its handlers have done until then.

    Events were appended one by one to an empty log, so an event's number is its position.
    """

    kind: str
    position: int
    states: Mapping[int, str]
    errors: Counter[str]
    applied: Sequence[int]
    calls: Sequence[CallMade]

    @classmethod
    def of(cls, killed: Killed, kind: str) -> "Stand":
        bench = Bench(killed.site.url)
        try:
            return cls(
                kind=kind,
                position=bench.position(kind),
                states=bench.states(kind),
                errors=Counter(row.error_type for row in bench.attempts(kind)),
                applied=bench.applied(APPLIED[kind]) if kind in APPLIED else (),
                calls=calls_in(killed.site.folder),
            )
        finally:
            bench.close()

    @property
    def handled(self) -> Counter[int]:
        """How often each event was handled with success."""
        if self.kind in APPLIED:
            return Counter(self.applied)
        return Counter(call.number for call in self.calls if call.outcome == "ok")

    def skips_nothing(self) -> None:
        """Promise 1, and 2: what the checkpoint has passed is handled or in the ledger."""
        passed = set(range(1, self.position + 1))
        lost = passed - set(self.handled) - set(self.states)
        assert not lost, f"events {lost} are neither handled nor in the ledger: {self}"

    def repeats_only_what_was_in_hand(self, at_kill: "Stand") -> None:
        """A repeat comes from what was announced and not settled, and says that it may be one."""
        again = {number for number, times in self.handled.items() if times > 1}
        if self.kind != "mail":
            assert not again, f"handled twice: {again}: {self}"
        assert all(number > at_kill.position or number in self.states for number in again), f"{again}: {self}"
        if self.kind not in APPLIED:
            seen: set[int] = set()
            for call in self.calls:
                assert call.redelivery or call.number not in seen, f"{call} is no first delivery: {self}"
                seen.add(call.number)
        assert self.errors["WorkerDied"] + self.errors["OutcomeUnknown"] <= 1, f"one worker died: {self}"

    def is_done(self) -> None:
        """Every event is handled, and nothing is open; exactly once where that is promised."""
        assert self.position == CRATES, f"{self}"
        assert not {"retrying", "parked", "blocked"} & set(self.states.values()), f"{self}"
        assert set(self.handled) == set(range(1, CRATES + 1)), f"{self}"
        words = self.errors["OutcomeUnknown"]
        allowed = CRATES if self.kind == "mail" else words
        assert self.handled.total() <= CRATES + allowed, f"{self}"

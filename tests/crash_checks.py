"""What must hold after a deed of the crash matrix was killed, at once and when the service has been started again."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import func, select

from eventlog.carried import read_line
from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from eventlog.subscribers.control.replays import ReplayState, read_replays
from tests.carried_support import exported
from tests.crash_deeds import LINES, OPERATIONS, ORDERS
from tests.crash_matrix import SOAK, Killed, Matrix
from tests.crash_service import APPLIED, CRATES, CallMade, Site, applied, calls_in, state_of
from tests.log_support import engine_of, opened
from tests.subscribers_support import Background, Bench, Sent

HEALED = 0.3
"""The part of the kills after which, in a short run, an operator heals what is open."""

ALL = set(range(1, CRATES + 1))


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
        table = bench.log.database.tables.checkpoints
        try:
            return cls(
                kind=kind,
                position=min(row.position for row in bench.rows(select(table).where(table.c.subscriber == kind))),
                states=bench.states(kind),
                errors=Counter(row.error_type for row in bench.attempts(kind)),
                applied=bench.applied(APPLIED[kind]) if kind in APPLIED else (),
                calls=[call for call in calls_in(killed.site.folder) if call.kind == kind],
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
        lost = set(range(1, self.position + 1)) - set(self.handled) - set(self.states)
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
        assert set(self.handled) == ALL, f"{self}"
        allowed = CRATES if self.kind == "mail" else self.errors["OutcomeUnknown"]
        assert self.handled.total() <= CRATES + allowed, f"{self}"


def delivered(matrix: Matrix, killed: Killed, kind: str) -> None:
    """A delivery or a retry loses nothing, and repeats what it may."""
    at_kill = Stand.of(killed, kind)
    at_kill.skips_nothing()
    killed.recover()
    recovered = Stand.of(killed, kind)
    recovered.skips_nothing()
    recovered.repeats_only_what_was_in_hand(at_kill)
    if SOAK or matrix.dice.random() < HEALED:
        matrix.heal(killed, kind)
        Stand.of(killed, kind).is_done()


def replayed(_matrix: Matrix, killed: Killed, kind: str) -> None:
    """A replay goes on where it was, and touches nothing else."""
    killed.recover()
    bench = Bench(killed.site.url)
    (replay,) = read_replays(bench.log.database)
    bench.close()
    stand = Stand.of(killed, kind)
    again = Counter(call.number for call in stand.calls if call.replay)
    assert (replay.state, replay.handled + replay.failed) == (ReplayState.DONE, CRATES)
    assert (stand.position, stand.states) == (CRATES, {})
    if kind == "books":
        assert stand.handled == Counter(dict.fromkeys(ALL, 2))
    elif kind == "once":
        assert max(again.values()) == 1
        assert len(again) >= replay.handled
    else:
        assert set(again) == ALL


def rebuilt(_matrix: Matrix, killed: Killed, which: str) -> None:
    """A rebuild goes on where it was: it is begun once, and each event is applied once."""
    killed.recover()
    bench = Bench(killed.site.url)
    rebuilds = read_rebuilds(bench.log.database)
    begun = [row.action for row in bench.operations("board")].count("rebuild")
    bench.close()
    assert ([one.state for one in rebuilds], begun) == ([RebuildState.DONE], 1)
    assert applied(killed.site.url, APPLIED["board"]) == [(one, "v2") for one in sorted(ALL)]
    beside = [line for line in state_of(killed.site.url) if line.startswith("table ") and "__" in line]
    assert len(beside) == (1 if which == "kept" else 0), beside


@contextmanager
def read_meanwhile(site: Site) -> Iterator[None]:
    """Read a projection's table all the while: no error, and the whole of the one version or of the other."""
    seen: set[tuple[object, ...]] = set()
    stop = threading.Event()
    table = APPLIED["board"]
    question = select(func.count(), func.min(table.c.note), func.max(table.c.note))

    def read() -> None:
        with engine_of(site.url) as engine:
            while not stop.wait(0.005):
                with engine.connect() as connection:
                    seen.add(tuple(connection.execute(question).one()))

    reader = Background(read)
    try:
        yield
    finally:
        stop.set()
        reader.join()
    assert seen, "nobody has read"
    assert seen <= {(CRATES, "v1", "v1"), (CRATES, "v2", "v2")}, seen


def delivered_away(_matrix: Matrix, killed: Killed, _which: str) -> None:
    """A projection in another database than the log applies each event once."""
    killed.recover()
    assert [position for position, _ in applied(killed.site.home_url, APPLIED["away"])] == sorted(ALL)


def worked(matrix: Matrix, killed: Killed, _which: str) -> None:
    """A worker with all its threads loses nothing."""
    kinds = ("books", "mail", "once")
    killed.recover()
    for kind in kinds:
        Stand.of(killed, kind).skips_nothing()
    matrix.heal(killed, *kinds)
    for kind in kinds:
        Stand.of(killed, kind).is_done()


def appended(_matrix: Matrix, killed: Killed, _which: str) -> None:
    """One event; two; two and an order, in one transaction; one under a condition. Made again, each is there once."""
    bench = Bench(killed.site.url)
    there = [one.data.number for one in bench.log.read()]
    assert there in ([], [1], [1, 2, 3], [1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6])
    assert len(bench.rows(select(ORDERS))) == (1 if 5 in there else 0)
    killed.recover()
    finally_there = list(bench.log.read())
    assert [one.data.number for one in finally_there] == [1, 2, 3, 4, 5, 6]
    for stream in ("order-0", "order-1"):
        assert [one.version for one in finally_there if one.stream == stream] == [1, 2, 3]
    assert len(bench.rows(select(ORDERS))) == 1
    bench.close()


def imported(_matrix: Matrix, killed: Killed, which: str) -> None:
    """What there is is the beginning of the import, by whole batches; run again, each event is there once."""
    with opened(killed.site.url) as log:
        there = exported(log)
        assert len(there) in (0, 2, 4, 6)
        killed.recover()
        finally_there = exported(log)
        assert finally_there[: len(there)] == there
        if which == "at their positions":
            assert finally_there == list(LINES)
        else:
            assert [one.id for one in log.read()] == [read_line(one, 1).id for one in LINES]


def migrated(matrix: Matrix, killed: Killed, which: str) -> None:
    """A migration is done or not, and the next one does it all."""
    done_or_not(matrix, killed, which)
    killed.recover()
    assert state_of(killed.site.url) == killed.counted.states[-1]
    with opened(killed.site.url) as log:
        log.append(Sent(1))
        assert log.high_water_mark() == 1


def done_or_not(_matrix: Matrix, killed: Killed, _which: str) -> None:
    """What there is now is what the last commit has left, to the last column."""
    states = killed.counted.states
    now = state_of(killed.site.url)
    if killed.at.point is None:
        assert now in states
    else:
        assert now == states[killed.counted.commits_before(killed.at.point)]


Check = Callable[[Matrix, Killed, str], None]

CHECKS: Mapping[str, Check] = {
    "deliver": delivered,
    "retry": delivered,
    "replay": replayed,
    "rebuild": rebuilt,
    "away": delivered_away,
    "worker": worked,
    "append": appended,
    "import": imported,
    "migrate": migrated,
    "operator": done_or_not,
}

DEEDS = (
    *("deliver board", "deliver books", "deliver mail", "deliver once"),
    *("retry books", "retry mail", "retry once"),
    *("replay books", "replay mail", "replay once"),
    *("rebuild kept", "rebuild dropped", "away", "worker", "append"),
    *("import at their positions", "import at new positions", "migrate empty", "migrate older"),
    *(f"operator {which}" for which in OPERATIONS),
)
"""All of them, by the names of `crash_deeds.deed`."""

COMMITS = {"operator pause": 2}
"""What operators do is one commit; a pause looks at the owners afterwards."""


def check(matrix: Matrix, deed: str, *, some: int, commits: bool) -> int:
    """Do a deed, kill it at chosen moments, and check each time; return how many these were."""
    family, _, which = deed.partition(" ")
    with_states = family in ("operator", "migrate")
    counted = matrix.count(deed, with_schema=family != "migrate", with_states=with_states)
    if with_states:
        assert len(counted.states) == 1 + COMMITS.get(deed, 1), f"{deed} is not one transaction"
    moments = matrix.moments(counted, some=some, commits=commits)
    for at in moments:
        with matrix.killed(counted, at, beside=read_meanwhile if family == "rebuild" else None) as killed:
            CHECKS[family](matrix, killed, which)
    return len(moments)

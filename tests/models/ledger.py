"""P5 T4 and P6: failed events are tried again, what follows of their key waits, and operators skip and retry meanwhile.

Two workers want one partition of a few events. The time of a retry has always come. A retry has two attempts in all;
then its event is parked. Entries carry a revision, which every change raises.

    take          leases.py, and what retrying.py `unfinished` finds: an attempt that was counted and has no outcome
    hand out      partition.py `_deliver`: keys are asked for once more, then events are called or held back (decision
                  24)
    settle        settling.py: fence, checkpoint and entries in one transaction
    read, count   due.py: the lowest open entry of its key; retrying.py `_counted`: fence, and the entry as it was read
                  (decision 5: the attempt is counted before its handler is called)
    call, close   retrying.py: fence, and the entry as it was counted; under `halt` the checkpoint moves past it with
                  that
    skip, retry   control/ledger.py: the entry as it was read, no epoch
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, TypeVar

from tests.models.explorer import Breach, Model, Removal

T = TypeVar("T")

NOBODY, GONE = -1, -2
ATTEMPTS = 2
OPEN = ("retrying", "counted", "parked", "blocked")
PARK, HALT = "park", "halt"
AT_LEAST_ONCE, TRANSACTIONAL = "at least once", "transactional"


class Scene(NamedTuple):
    """What does not change. `does` is what a handler does, call by call, the last of them for ever."""

    mode: str = AT_LEAST_ONCE
    on_failure: str = PARK
    does: tuple[str, ...] = ("fail", "ok", "ok")
    keys: str = "aab"


class Entry(NamedTuple):
    """An entry of the ledger; `marked` is its own mark of a redelivery."""

    state: str = ""
    revision: int = 0
    attempts: int = 0
    marked: bool = False


class Row(NamedTuple):
    position: int = 0
    handled_through: int = 0
    owner: int = NOBODY
    expired: bool = False


class Worker(NamedTuple):
    """What a process knows. `minds` has a bit for each entry it remembers as open, as live delivery waits at it."""

    at: str = "idle"
    ours: bool = False
    minds: int = 0
    number: int = 0
    read: Entry = Entry()
    batch: tuple[int, ...] = ()
    failed: int = 0
    blocked: int = 0
    before: int = 0
    ended: str = ""


class World(NamedTuple):
    """Sets of events are numbers with a bit for each; `skipped` are those that an operator has skipped."""

    scene: int
    workers: tuple[Worker, ...] = (Worker(), Worker())
    row: Row = Row()
    entries: tuple[Entry, ...] = (Entry(),) * 3
    calls: tuple[int, ...] = (0,) * 3
    done: tuple[int, ...] = (0,) * 3
    skipped: int = 0
    kills: int = 0
    deaths: int = 0
    expiries: int = 0
    operator: tuple[str, ...] = ()
    wrong: str = ""


FAILS_ONCE, FAILS, KILLS = ("fail", "ok", "ok"), ("fails", "ok", "ok"), ("fail, kill", "ok", "ok")
SCENES: Mapping[str, tuple[Scene, World]] = {
    **{
        f"{mode}, {on_failure}, {name}": (Scene(mode, on_failure, does, "aba" if "skipped" in name else "aab"), world)
        for mode in (AT_LEAST_ONCE, TRANSACTIONAL)
        for on_failure in (PARK, HALT)
        for name, does, world in (
            ("a failure", FAILS_ONCE, World(0, deaths=1)),
            ("a failure and an expired lease", FAILS_ONCE, World(0, expiries=1)),
            ("a failure that is skipped", FAILS, World(0, operator=("skip 1",), expiries=1)),
            ("a failure that is skipped while it is tried", FAILS_ONCE, World(0, operator=("skip 1",), expiries=1)),
            ("a failure that is parked, and tried again", FAILS, World(0, operator=("retry 1", "skip 1"))),
            ("a blocked event that is skipped", FAILS, World(0, operator=("skip 2", "skip 1"))),
            ("a retry that kills its worker", KILLS, World(0, operator=("skip 1",))),
            ("two failures of a key", ("fail", "fails", "ok"), World(0, deaths=1, operator=("skip 2",))),
        )
    },
    **{
        f"{mode}, {on_failure}, everything": (
            Scene(mode, on_failure, ("fail", "fail", "ok"), "aaa"),
            World(0, deaths=1, expiries=2, operator=("skip 1", "skip 2")),
        )
        for mode in (AT_LEAST_ONCE, TRANSACTIONAL)
        for on_failure in (PARK, HALT)
    },
}
ALL = [scene for scene, _ in SCENES.values()]


class Ledger(Model[World]):
    """Two workers beside the failures of one partition, and an operator."""

    name = "ledger"
    says = "retries, blocked keys, and operators who skip and retry"
    removals: ClassVar[Mapping[str, Removal]] = {
        "nothing-releases": Removal(
            says="the lowest open entry of a key is due, and nothing releases it",
            scope="at least once, park, a failure that is skipped",
            breaks=Breach.STRANDED,
        ),
        "first-of-its-key": Removal(
            says="an entry is due only behind no other open one of its key",
            scope="at least once, park, a failure",
            breaks=Breach.ORDER,
        ),
        "as-it-was-read": Removal(
            says="the outcome is written to the entry as it was read",
            scope="at least once, park, a failure that is skipped while it is tried",
            breaks=Breach.OPERATOR,
        ),
        "counted-first": Removal(
            says="an attempt is counted before its handler is called",
            scope="at least once, park, a retry that kills its worker",
            breaks=Breach.CRASHES,
        ),
        "fails-the-unfinished": Removal(
            says="who takes over from the dead writes their attempt down as failed",
            scope="at least once, park, a retry that kills its worker",
            breaks=Breach.CRASHES,
        ),
        "finishes-its-own": Removal(
            says="an attempt that was counted and interrupted is made",
            scope="at least once, park, a failure and an expired lease",
            breaks=Breach.STRANDED,
        ),
        "marks-when-counted": Removal(
            says="counting an attempt marks its entry as a redelivery",
            scope="at least once, park, two failures of a key",
            breaks=Breach.FLAG,
        ),
        "fence-to-count": Removal(
            says="counting an attempt passes the fence",
            scope="at least once, park, a failure and an expired lease",
            breaks=Breach.NOT_OWNER,
        ),
        "fence-to-close": Removal(
            says="an attempt's outcome passes the fence",
            scope="at least once, park, a failure and an expired lease",
            breaks=Breach.NOT_OWNER,
        ),
        "closes-with-the-writes": Removal(
            says="a retry's writes and its resolution are one commit",
            scope="transactional, park, a failure",
            breaks=Breach.TWICE,
        ),
        "moves-past-it": Removal(
            says="under halt the checkpoint moves past an event in the transaction that resolves it",
            scope="transactional, halt, a failure",
            breaks=Breach.TWICE,
        ),
        "waits-at-it": Removal(
            says="under halt the checkpoint stays before an event that has failed",
            scope="transactional, halt, a failure",
            breaks=Breach.ORDER,
        ),
        "asks-again": Removal(
            says="before it waits at an entry, delivery reads it once more",
            scope="at least once, halt, a failure that is parked, and tried again",
            breaks=Breach.STRANDED,
        ),
        "passes-by-skipped": Removal(
            says="live delivery passes by what an operator has skipped",
            scope="at least once, halt, a failure that is skipped",
            breaks=Breach.OPERATOR,
        ),
    }
    hides = frozenset({"at", "batch", "number", "deaths", "expiries", "operator", "ended"})
    sets = frozenset({"minds", "failed", "blocked", "skipped"})
    large = frozenset(name for name in SCENES if "everything" in name)

    def scopes(self) -> Mapping[str, World]:
        return {name: world._replace(scene=place) for place, (name, (_, world)) in enumerate(SCENES.items())}

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        for place, entry in enumerate(world.entries):
            if world.skipped >> place + 1 & 1 and entry.state != "skipped":
                return Breach.OPERATOR
            if place < world.row.position and not world.done[place] and not entry.state:
                return Breach.SKIPPED
            if world.done[place] > 1 and ALL[world.scene].mode == TRANSACTIONAL:
                return Breach.TWICE
        return None

    def left_over(self, world: World) -> Breach | None:
        scene = ALL[world.scene]
        for place, entry in enumerate(world.entries):
            if entry.state in ("retrying", "counted") or (
                entry.state == "blocked" and _is_first(world, scene, place + 1)
            ):
                return Breach.STRANDED
        halted = scene.on_failure == HALT and any(one.state == "parked" for one in world.entries)
        return Breach.STRANDED if world.row.position < 3 and not halted else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        scene = ALL[world.scene]
        for me, worker in enumerate(world.workers):
            name = "AB"[me]
            for said, after in self._work(world, scene, me, worker):
                yield f"{name}: {said}", after
            if worker.at != "idle" and world.deaths:
                yield f"{name}: dies", _dies(world._replace(deaths=world.deaths - 1), me)
        row = world.row
        if row.owner >= 0 and not row.expired and world.expiries:
            yield "the lease runs out", world._replace(row=row._replace(expired=True), expiries=world.expiries - 1)
        if world.operator:
            done = self._operate(world, scene, world.operator[0])
            if done is not None:
                yield f"operator: {world.operator[0]}", done._replace(operator=world.operator[1:])

    def _work(self, world: World, scene: Scene, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        match now.at:
            case "idle":
                free = world.row.owner in (NOBODY, me) or world.row.expired
                if free and (world.row.position < 3 or any(one.state in OPEN for one in world.entries)):
                    yield "take the lease", self._take(world, me)
            case "turn":
                yield from self._turn(world, scene, me, now)
            case "hand out":
                number = now.batch[0]
                yield f"the handler is called with event {number}", self._call_live(world, scene, me, now, number)
            case "settle":
                yield "settle", self._settle(world, scene, me, now)
            case "count":
                yield f"count an attempt at event {now.number}", self._count(world, me, now)
            case "try":
                yield f"the handler is called again with event {now.number}", self._call_again(world, scene, me, now)
            case "close":
                yield f"write what became of event {now.number}: {now.ended}", self._close(world, scene, me, now)
            case "close late":
                yield "write the resolution", self._write(world, scene, me, now._replace(ended="resolved"), moves=True)

    def _take(self, world: World, me: int) -> World:
        died = world.row.owner not in (NOBODY, me)
        workers = tuple(one._replace(ours=False) for one in world.workers)
        taken = world._replace(workers=workers, row=world.row._replace(owner=me, expired=False))
        minds = sum(2 << place for place, one in enumerate(world.entries) if one.state in OPEN)
        unfinished = [place + 1 for place, one in enumerate(world.entries) if one.state == "counted"]
        now = Worker(at="turn", ours=True, minds=minds)
        if unfinished and self.has("finishes-its-own"):
            fails = died and self.has("fails-the-unfinished")
            entry = world.entries[unfinished[0] - 1]
            now = now._replace(at="close" if fails else "try", number=unfinished[0], read=entry)
            now = now._replace(ended=_after_failure(entry) if fails else "")
        return _set(taken, me, now)

    def _turn(self, world: World, scene: Scene, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        """What is due is tried first; then what follows the checkpoint is delivered."""
        due = self._due(world, scene)
        if due:
            read = now._replace(number=due, read=world.entries[due - 1])
            yield f"read that event {due} is due", _set(world, me, read._replace(at="count"))
            return
        position = world.row.position
        if position == 3:
            return
        if not now.ours:
            yield "the fence fails", _set(world, me, Worker())
            return
        batch = self._batch(world, scene, now, position)
        if batch is None:
            return
        if not batch:
            passed = _set(world, me, now)._replace(row=world.row._replace(position=position + 1))
            yield f"pass by event {position + 1}", passed
            return
        announced = world.row._replace(handled_through=max(world.row.handled_through, batch[-1]))
        blocked = sum(1 << one for one in batch if scene.on_failure == PARK and not _is_first(world, scene, one))
        free = tuple(one for one in batch if not blocked >> one & 1)
        begun = now._replace(batch=free, failed=0, blocked=blocked, before=world.row.handled_through, number=batch[-1])
        begun = begun._replace(at="hand out" if free else "settle")
        yield f"announce {batch}", _set(world._replace(row=announced), me, begun)

    def _due(self, world: World, scene: Scene) -> int:
        """The lowest entry that is due, and that delivery has come up to; 0 for none."""
        for place, entry in enumerate(world.entries):
            states = ("retrying", "blocked") if self.has("nothing-releases") else ("retrying",)
            first = _is_first(world, scene, place + 1) or not self.has("first-of-its-key")
            if entry.state in states and first and place <= world.row.position:
                return place + 1
        return 0

    def _batch(self, world: World, scene: Scene, now: Worker, position: int) -> tuple[int, ...] | None:
        """The next two events, without those in the ledger; None while the first is waited at."""
        entry = world.entries[position]
        if scene.on_failure == HALT and self.has("waits-at-it"):
            known = entry.state in OPEN if self.has("asks-again") else bool(now.minds >> position + 1 & 1)
            if known or entry.state == "parked":
                return None
        minded = (*OPEN, "skipped") if self.has("passes-by-skipped") else OPEN
        if entry.state in minded:
            return ()
        following = range(position + 1, min(position + 2, 3) + 1)
        return tuple(one for one in following if world.entries[one - 1].state not in minded)

    def _call_live(self, world: World, scene: Scene, me: int, now: Worker, number: int) -> World:
        called = self._called(world, scene, me, now, number, redelivery=number <= now.before)
        if world.skipped >> number & 1 and now.ours:
            called = called._replace(wrong=Breach.OPERATOR)
        failed = now.failed
        if _does(scene, world, number) != "ok":
            failed |= 1 << number
        keys = {scene.keys[one - 1] for one in range(1, 4) if failed >> one & 1}
        rest = now.batch[1:]
        held = [one for one in rest if scene.keys[one - 1] in keys or (scene.on_failure == HALT and failed)]
        blocked = now.blocked | (sum(1 << one for one in held) if scene.on_failure == PARK else 0)
        left = tuple(one for one in rest if one not in held)
        then = now._replace(batch=left, failed=failed, blocked=blocked, at="hand out" if left else "settle")
        return _set(called, me, then)

    def _called(self, world: World, scene: Scene, me: int, now: Worker, number: int, *, redelivery: bool) -> World:
        """A call is made; one of a worker that has lost its lease is promised nothing about."""
        wrong = world.wrong
        if now.ours and world.calls[number - 1] and not redelivery:
            wrong = Breach.FLAG
        if now.ours and not _is_first(world, scene, number):
            wrong = Breach.ORDER
        ok = _does(scene, world, number) == "ok" and scene.mode == AT_LEAST_ONCE
        done = _put(world.done, number - 1, min(2, world.done[number - 1] + ok))
        return world._replace(
            calls=_put(world.calls, number - 1, min(9, world.calls[number - 1] + 1)), done=done, wrong=wrong
        )

    def _settle(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        if not now.ours:
            return _set(world, me, Worker())
        entries, done, to = world.entries, world.done, now.number
        for number in range(world.row.position + 1, now.number + 1):
            if now.failed >> number & 1:
                entries = _write(entries, number, state="retrying", attempts=1, marked=True)
            elif now.blocked >> number & 1:
                entries = _write(entries, number, state="blocked", attempts=0, marked=number <= now.before)
            elif scene.mode == TRANSACTIONAL and entries[number - 1].state not in (*OPEN, "skipped"):
                done = _put(done, number - 1, min(2, done[number - 1] + 1))
            if scene.on_failure == HALT and now.failed >> number & 1:
                to = number - 1 if self.has("waits-at-it") else number
                break
        minds = sum(2 << place for place, one in enumerate(entries) if one.state in OPEN)
        settled = world._replace(entries=entries, done=done, row=world.row._replace(position=to))
        return _set(settled, me, Worker(at="turn", ours=True, minds=minds | now.minds))

    def _count(self, world: World, me: int, now: Worker) -> World:
        if not now.ours and self.has("fence-to-count"):
            return _set(world, me, Worker())
        if not self.has("counted-first"):
            return _set(world, me, now._replace(at="try", read=now.read._replace(attempts=now.read.attempts + 1)))
        entry = world.entries[now.number - 1]
        if entry.revision != now.read.revision:
            return _set(world, me, now._replace(at="turn", number=0, read=Entry()))
        marked = entry.marked or self.has("marks-when-counted")
        entries = _write(world.entries, now.number, state="counted", attempts=entry.attempts + 1, marked=marked)
        wrong = world.wrong if now.ours else Breach.NOT_OWNER
        counted = entries[now.number - 1]._replace(marked=now.read.marked)
        return _set(world._replace(entries=entries, wrong=wrong), me, now._replace(at="try", read=counted))

    def _call_again(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        called = self._called(world, scene, me, now, now.number, redelivery=now.read.marked)
        match _does(scene, world, now.number):
            case "kill":
                killed = called._replace(kills=world.kills + 1)
                return _dies(killed._replace(wrong=Breach.CRASHES) if killed.kills >= 3 else killed, me)
            case "ok":
                ended = "resolved"
            case _:
                ended = _after_failure(now.read)
        return _set(called, me, now._replace(at="close", ended=ended))

    def _close(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        """In transactional delivery the handler's writes commit with this, and only then."""
        if scene.mode == TRANSACTIONAL and now.ended == "resolved" and not self.has("closes-with-the-writes"):
            done = _put(world.done, now.number - 1, min(2, world.done[now.number - 1] + 1))
            return _set(world._replace(done=done), me, now._replace(at="close late"))
        applies = scene.mode == TRANSACTIONAL and now.ended == "resolved"
        return self._write(world, scene, me, now, moves=self.has("moves-past-it"), applies=applies)

    def _write(self, world: World, scene: Scene, me: int, now: Worker, *, moves: bool, applies: bool = False) -> World:
        if not now.ours and self.has("fence-to-close"):
            return _set(world, me, Worker())
        entry = world.entries[now.number - 1]
        if entry.revision != now.read.revision and self.has("as-it-was-read"):
            return _set(world, me, Worker(at="turn", ours=now.ours, minds=now.minds))
        attempts = max(entry.attempts, now.read.attempts)
        entries = _write(world.entries, now.number, state=now.ended, attempts=attempts, marked=entry.marked)
        if now.ended == "resolved" and not self.has("nothing-releases"):
            entries = _released(entries, scene, now.number)
        row = world.row
        if now.ended == "resolved" and now.number > row.position and moves:
            row = row._replace(position=now.number, handled_through=max(row.handled_through, now.number))
        done = _put(world.done, now.number - 1, min(2, world.done[now.number - 1] + applies))
        wrong = world.wrong if now.ours else Breach.NOT_OWNER
        minds = now.minds if now.ended != "resolved" else now.minds & ~(1 << now.number)
        written = world._replace(entries=entries, row=row, done=done, wrong=wrong)
        return _set(written, me, Worker(at="turn", ours=now.ours, minds=minds))

    def _operate(self, world: World, scene: Scene, deed: str) -> World | None:
        number = int(deed[-1])
        entry = world.entries[number - 1]
        if deed.startswith("retry"):
            if entry.state != "parked":
                return None
            again = _write(world.entries, number, state="retrying", attempts=entry.attempts, marked=entry.marked)
            return world._replace(entries=again)
        if entry.state not in OPEN:
            return None
        entries = _write(world.entries, number, state="skipped", attempts=entry.attempts, marked=entry.marked)
        if not self.has("nothing-releases"):
            entries = _released(entries, scene, number)
        return world._replace(entries=entries, skipped=world.skipped | 1 << number)


def _does(scene: Scene, world: World, number: int) -> str:
    """What the handler does at the next call for an event."""
    calls = scene.does[number - 1].split(", ")
    if calls == ["fail"]:
        calls = ["fail", "ok"]
    return calls[min(world.calls[number - 1], len(calls) - 1)]


def _after_failure(entry: Entry) -> str:
    return "parked" if entry.attempts >= ATTEMPTS else "retrying"


def _is_first(world: World, scene: Scene, number: int) -> bool:
    """Whether no open entry of the key stands before an event."""
    key = scene.keys[number - 1]
    return not any(world.entries[one].state in OPEN and scene.keys[one] == key for one in range(number - 1))


def _released(entries: tuple[Entry, ...], scene: Scene, number: int) -> tuple[Entry, ...]:
    """The next blocked entry of a key is made due: what nothing does."""
    for place in range(number, 3):
        if scene.keys[place] == scene.keys[number - 1] and entries[place].state == "blocked":
            return _write(entries, place + 1, state="retrying", attempts=0, marked=entries[place].marked)
    return entries


def _write(entries: tuple[Entry, ...], number: int, *, state: str, attempts: int, marked: bool) -> tuple[Entry, ...]:
    revision = entries[number - 1].revision + 1
    return _put(entries, number - 1, Entry(state=state, revision=revision, attempts=attempts, marked=marked))


def _dies(world: World, me: int) -> World:
    row = world.row
    if row.owner == me:
        row = row._replace(owner=GONE, expired=True)
    return _set(world._replace(row=row), me, Worker())


def _put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=_put(world.workers, me, worker))

"""P9: code that handles more types is deployed while code that handles fewer still runs.

Old code handles the type a, new code a and b; the events are b, a, b. Processes start at any time, and more than once.
What is of type b is owed from the checkpoint on at which it was registered, until somebody consents to drop it.

    register     registration.py `_register`, `_bring_up`: more types are taken over, with new epochs; fewer are refused
    read, take   leases.py `Lease.take`, registration.py `check_contract`: the subscriber's row FOR SHARE, the same
                 contract;
                 then the lease: two steps here, one transaction
    pass, run    partition.py `_pass_by`, delivery.py: what the code has no handler for is passed by
    commit       leases.py `fence`
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

TYPES = "bab"
EVENTS = len(TYPES)
NOBODY = -1


class Worker(NamedTuple):
    """`handles` are the types of its code."""

    handles: str
    at: str = "off"
    ours: bool = False
    position: int = 0
    starts: int = 1


class World(NamedTuple):
    """Sets of events are numbers with a bit for each."""

    workers: tuple[Worker, ...]
    registered: str = "a"
    position: int = 0
    owner: int = NOBODY
    owed: int = 0b100
    done: int = 0
    consents: int = 0
    wrong: str = ""


class Declaration(Model[World]):
    """Processes of old and of new code."""

    name = "declaration"
    says = "a rolling deployment of code that handles more types"
    removals: ClassVar[Mapping[str, Removal]] = {
        "asks-the-contract": Removal(
            says="a lease is given to code whose contract is the registered one",
            scope="old code and new",
            breaks=Breach.SKIPPED,
        ),
        "epochs": Removal(says="registering more draws new epochs", scope="old code and new", breaks=Breach.SKIPPED),
        "locks-the-row": Removal(
            says="who takes a lease holds the subscriber's row while it compares",
            scope="old code and new",
            breaks=Breach.SKIPPED,
        ),
        "refuses-less": Removal(
            says="code that declares less needs consent",
            scope="old code that starts again, and new",
            breaks=Breach.SKIPPED,
        ),
    }
    hides = frozenset({"at", "starts", "consents"})
    sets = frozenset({"owed", "done"})
    large = frozenset({"two of each, and consent"})

    def scopes(self) -> Mapping[str, World]:
        old, new = Worker("a"), Worker("ab")
        again = old._replace(starts=2)
        return {
            "old code and new": World((old, new)),
            "old code that starts again, and new": World((again, new)),
            "two of old code, and new": World((old, old, new)),
            "old code, new code, and consent to drop a type": World((again, new._replace(starts=2)), consents=1),
            "two of each, and consent": World((again, old, new, new), consents=1),
        }

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        return Breach.SKIPPED if world.owed & ~world.done & ((2 << world.position) - 1) else None

    def left_over(self, world: World) -> Breach | None:
        able = any(one.handles == world.registered and one.at != "off" for one in world.workers)
        return Breach.STRANDED if able and world.position < EVENTS else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, worker in enumerate(world.workers):
            for said, after in self._work(world, me, worker):
                yield f"{'ABCD'[me]} ({worker.handles}): {said}", after
        if world.consents and world.registered == "ab" and not self._is_held(world):
            dropped = sum(1 << number for number in range(world.position + 1, EVENTS + 1) if TYPES[number - 1] == "b")
            less = world._replace(consents=0, registered="a", owed=world.owed & ~dropped, owner=NOBODY)
            yield "operator: drop the type b", _overtaken(less)

    def _is_held(self, world: World) -> bool:
        return self.has("locks-the-row") and any(one.at == "taking" for one in world.workers)

    def _work(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        match now.at:
            case "off" if now.starts and not self._is_held(world):
                yield "start, and register", self._register(world, me, now)
            case "idle":
                same = now.handles == world.registered or not self.has("asks-the-contract")
                if same and world.owner in (NOBODY, me) and world.position < EVENTS:
                    yield "read that the contract is its own", _set(world, me, now._replace(at="taking"))
                elif now.starts:
                    yield "stop", _set(world, me, now._replace(at="off"))
            case "taking":
                yield "take the lease", self._take(world, me, now)
            case "turn" if not now.ours:
                yield "the fence fails", _set(world, me, now._replace(at="idle"))
            case "turn" if now.position < EVENTS:
                wanted = TYPES[now.position] in now.handles
                said = f"run event {now.position + 1}" if wanted else f"pass by event {now.position + 1}"
                yield said, _set(world, me, now._replace(at="run" if wanted else "pass"))
            case "turn":
                yield "release", _set(world._replace(owner=NOBODY), me, now._replace(at="idle", ours=False))
            case "run" | "pass":
                yield "fence and commit", self._commit(world, me, now)

    def _register(self, world: World, me: int, now: Worker) -> World:
        started = _set(world, me, now._replace(at="idle", starts=now.starts - 1))
        extends = set(now.handles) > set(world.registered)
        if not extends and (now.handles == world.registered or self.has("refuses-less")):
            return started
        more = sum(1 << number for number in range(world.position + 1, EVENTS + 1) if TYPES[number - 1] == "b")
        changed = started._replace(registered=now.handles, owed=world.owed | more if extends else world.owed)
        return _overtaken(changed._replace(owner=NOBODY)) if self.has("epochs") else changed

    def _take(self, world: World, me: int, now: Worker) -> World:
        if world.owner not in (NOBODY, me):
            return _set(world, me, now._replace(at="idle"))
        taken = _overtaken(world)._replace(owner=me)
        return _set(taken, me, now._replace(at="turn", ours=True, position=world.position))

    def _commit(self, world: World, me: int, now: Worker) -> World:
        if not now.ours or now.position != world.position:
            return _set(world, me, now._replace(at="idle"))
        done = world.done | (1 << now.position + 1 if now.at == "run" else 0)
        moved = world._replace(position=now.position + 1, done=done)
        return _set(moved, me, now._replace(at="turn", position=now.position + 1))


def _overtaken(world: World) -> World:
    return world._replace(workers=tuple(one._replace(ours=False) for one in world.workers))


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=(*world.workers[:me], worker, *world.workers[me + 1 :]))

"""P7, C1 to C5: rewind, advance, undo, skip and pause beside a worker that is in the middle of something.

One transactional subscriber of one partition. `owed` has a bit for each event that is to be delivered before the
checkpoint passes it: all of them at first; a rewind owes again what it goes below, an advance releases what it passes,
an undo puts that back as it was. An event of `fails` fails at its next call, and is parked.

    read, take    leases.py `Lease.take`: the subscriber's row FOR SHARE, is it running; then the lease: two steps here,
                  one transaction
    run, commit   delivery.py `transactional`: passes by what is open or skipped in the ledger
    leave         agenda.py: a worker between two batches sees that it is paused
    rewind        control/moves.py, ledger.py `supersede_above`: checkpoint, epoch, every entry above it, the operation
    advance, undo control/moves.py, control/undoing.py, ledger.py `restore_superseded`
    pause, look   control/lifecycle.py: the state; then who is still at it, until nobody is
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, TypeVar

from tests.models.explorer import Breach, Model, Removal

T = TypeVar("T")

EVENTS = 3
NOBODY = -1


class Entry(NamedTuple):
    """An entry of the ledger: `closed_by` is the move that superseded it, `before` what it was then."""

    state: str = ""
    closed_by: int = 0
    before: str = ""


class Move(NamedTuple):
    """A move that could be undone, with what was owed and had failed before it."""

    kind: str
    number: int
    was: int
    went: int
    owed: int
    failing: int


class Worker(NamedTuple):
    at: str = "idle"
    ours: bool = False
    position: int = 0
    batch: tuple[int, ...] = ()


class World(NamedTuple):
    """Sets of events are numbers with a bit for each. `failing` are those that have failed and were not done since."""

    workers: tuple[Worker, ...]
    menu: tuple[str, ...] = ()
    position: int = 0
    owner: int = NOBODY
    expired: bool = False
    paused: bool = False
    is_quiet: bool = False
    entries: tuple[Entry, ...] = (Entry(),) * EVENTS
    owed: int = 0b1110
    failing: int = 0
    fails: int = 0
    moves: tuple[Move, ...] = ()
    operations: int = 0
    left: int = 0
    expiries: int = 0
    wrong: str = ""


MOVES = ("rewind to 0", "rewind to 1", "advance to 2", "undo")
NEEDS = {"look": "pause"}


class Control(Model[World]):
    """Workers beside one partition, and an operator who may do anything on the menu."""

    name = "control"
    says = "rewind, advance, undo, skip and pause beside a running batch"
    removals: ClassVar[Mapping[str, Removal]] = {
        "supersedes": Removal(
            says="a rewind supersedes the entries above it", scope="a failure, a rewind", breaks=Breach.SKIPPED
        ),
        "supersedes-closed": Removal(
            says="a rewind supersedes closed entries as well",
            scope="a skipped failure, a rewind",
            breaks=Breach.SKIPPED,
        ),
        "restores": Removal(
            says="undo brings the superseded entries back", scope="a failure, moves and undo", breaks=Breach.SILENT
        ),
        "restores-above": Removal(
            says="undo brings back those above the checkpoint only",
            scope="a failure, moves and undo",
            breaks=Breach.TWICE,
        ),
        "last-only": Removal(
            says="only the last operation is undone", scope="a failure, moves and undo", breaks=Breach.SILENT
        ),
        "refuses-passed": Removal(
            says="undo of a rewind is refused once it was passed", scope="moves and undo", breaks=Breach.TWICE
        ),
        "refuses-progress": Removal(
            says="undo of an advance is refused after progress", scope="moves and undo", breaks=Breach.TWICE
        ),
        "never-forward": Removal(
            says="a rewind goes to the least of place and target", scope="moves and undo", breaks=Breach.SKIPPED
        ),
        "never-back": Removal(
            says="an advance goes to the greatest of place and target", scope="moves and undo", breaks=Breach.TWICE
        ),
        "fence": Removal(
            says="what a move has overtaken fails at its fence", scope="moves and undo", breaks=Breach.TWICE
        ),
        "locks-the-subscriber": Removal(
            says="who takes a lease holds the subscriber's row while it looks whether it is running",
            scope="a pause",
            breaks=Breach.NOT_OWNER,
        ),
        "asks-whether-it-runs": Removal(
            says="a lease is taken of a running subscriber only", scope="a pause", breaks=Breach.NOT_OWNER
        ),
        "waits-for-owners": Removal(
            says="a pause waits for whoever holds a lease", scope="a pause", breaks=Breach.NOT_OWNER
        ),
        "overtakes-the-expired": Removal(
            says="a pause draws an epoch over an owner whose lease has run out",
            scope="a pause",
            breaks=Breach.NOT_OWNER,
        ),
    }
    hides = frozenset({"at", "batch", "menu", "left", "expiries", "moves"})
    sets = frozenset({"owed", "failing", "fails"})
    large = frozenset({"two workers, a failure, moves and undo", "two workers, a skipped failure, everything"})

    def scopes(self) -> Mapping[str, World]:
        one, two = (Worker(),), (Worker(), Worker())
        return {
            "a failure, a rewind": World(one, ("rewind to 0",), fails=0b10, left=1),
            "a skipped failure, a rewind": World(one, ("rewind to 0", "skip 1"), fails=0b10, left=2),
            "moves and undo": World(one, MOVES, left=3),
            "a failure, moves and undo": World(one, MOVES, fails=0b10, left=3),
            "two failures, moves, undo and skip": World(one, (*MOVES, "skip 1"), fails=0b1010, left=3),
            "two workers, moves and undo": World(two, MOVES, left=2, expiries=1),
            "a pause": World(two, ("pause", "look", "resume"), left=3, expiries=1),
            "a pause and a rewind": World(one, ("pause", "look", "rewind to 0", "resume"), left=4, expiries=1),
            "two workers, a failure, moves and undo": World(two, MOVES, fails=0b10, left=3, expiries=1),
            "two workers, a skipped failure, everything": World(
                two, (*MOVES, "skip 1", "pause", "look", "resume"), fails=0b10, left=4, expiries=1
            ),
        }

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        for place, entry in enumerate(world.entries):
            bit = 2 << place
            if place < world.position and world.owed & bit:
                return Breach.SKIPPED
            if place < world.position and world.failing & bit and entry.state == "superseded":
                return Breach.SILENT
            if entry.state == "parked" and not world.failing & bit:
                return Breach.TWICE
        return None

    def left_over(self, world: World) -> Breach | None:
        return Breach.STRANDED if world.position < EVENTS and not world.paused else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, worker in enumerate(world.workers):
            for said, after in self._work(world, me, worker):
                yield f"{'AB'[me]}: {said}", after
        if world.owner != NOBODY and not world.expired and world.expiries:
            yield "the lease runs out", world._replace(expired=True, expiries=world.expiries - 1)
        if world.left:
            for deed in world.menu:
                done = self._operate(world, deed)
                if done is not None and done != world:
                    yield f"operator: {deed}", done._replace(left=world.left - 1)

    def _work(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        if now.at == "turn" and now.ours and world.paused:
            yield "leave", _set(world._replace(owner=NOBODY, expired=False), me, Worker())
        match now.at:
            case "idle":
                runs = not world.paused or not self.has("asks-whether-it-runs")
                free = world.owner in (NOBODY, me) or world.expired
                if runs and free and world.position < EVENTS:
                    yield "read that the subscriber is running", _set(world, me, Worker(at="taking"))
            case "taking":
                yield "take the lease", self._take(world, me)
            case "turn" if not now.ours:
                yield "the fence fails, or the heartbeat", _set(world, me, Worker())
            case "turn" if now.position < EVENTS:
                following = range(now.position + 1, min(now.position + 2, EVENTS) + 1)
                passed = ("parked", "skipped")
                batch = tuple(one for one in following if world.entries[one - 1].state not in passed)
                fails = next((one for one in batch if world.fails >> one & 1), 0)
                through = following[-1]
                if fails and batch[0] != fails:
                    batch, through = tuple(one for one in batch if one < fails), fails - 1
                elif fails:
                    batch, through = (fails,), fails
                run = now._replace(at="run", batch=(through, *batch))
                yield f"handlers run for {batch}", _set(world, me, run)
            case "run":
                yield "fence and commit", self._commit(world, me, now)

    def _take(self, world: World, me: int) -> World:
        """It still has to be free: `FOR UPDATE` of the checkpoint's row."""
        if not (world.owner in (NOBODY, me) or world.expired):
            return _set(world, me, Worker())
        taken = _overtaken(world)._replace(owner=me, expired=False)
        return _set(taken, me, Worker(at="turn", ours=True, position=world.position))

    def _commit(self, world: World, me: int, now: Worker) -> World:
        if not (now.ours and world.position == now.position) and self.has("fence"):
            return _set(world, me, Worker())
        through, *batch = now.batch
        entries, owed, failing, fails, wrong = world.entries, world.owed, world.failing, world.fails, world.wrong
        if world.is_quiet:
            wrong = Breach.NOT_OWNER
        for number in batch:
            bit = 1 << number
            if not owed & bit:
                wrong = Breach.TWICE
            owed &= ~bit
            if fails & bit:
                fails, failing = fails & ~bit, failing | bit
                entries = _put(entries, number - 1, Entry("parked"))
            else:
                failing &= ~bit
        done = world._replace(
            position=through, entries=entries, owed=owed, failing=failing, fails=fails, wrong=wrong, expired=False
        )
        return _set(done, me, Worker(at="turn", ours=now.ours, position=through))

    def _operate(self, world: World, deed: str) -> World | None:
        verb, *rest = deed.split()
        number = int(rest[-1]) if rest else 0
        match verb:
            case "rewind":
                return self._rewind(world, number)
            case "advance":
                return self._advance(world, number)
            case "undo":
                return self._undo(world)
            case "skip":
                return self._skip(world, number)
        return self._pause(world, verb)

    def _rewind(self, world: World, to: int) -> World | None:
        if to == world.position or (to > world.position and self.has("never-forward")):
            return None
        operation = world.operations + 1
        entries = world.entries
        for place in range(to, EVENTS):
            state = entries[place].state
            closes = state not in ("", "superseded") if self.has("supersedes-closed") else state == "parked"
            if closes and self.has("supersedes"):
                entries = _put(entries, place, Entry("superseded", operation, state))
        owed = world.owed | sum(2 << place for place in range(to, world.position))
        moved = Move("rewind", operation, world.position, to, world.owed, world.failing)
        return _moved(world, to, moved)._replace(entries=entries, owed=owed)

    def _advance(self, world: World, to: int) -> World | None:
        if to == world.position or (to < world.position and self.has("never-back")):
            return None
        passed = sum(2 << place for place in range(world.position, to))
        moved = Move("advance", world.operations + 1, world.position, to, world.owed, world.failing)
        return _moved(world, to, moved)._replace(owed=world.owed & ~passed, failing=world.failing & ~passed)

    def _undo(self, world: World) -> World | None:
        undoable = [one for one in world.moves[-1:] if one.kind != "undo"]
        if not self.has("last-only"):
            undoable = [one for one in world.moves if one.kind != "undo"][:1]
        if not undoable:
            return None
        (move,), now = undoable, world.position
        if move.kind == "advance" and now != move.went and self.has("refuses-progress"):
            return None
        if move.kind == "rewind" and now >= move.was and self.has("refuses-passed"):
            return None
        entries = world.entries
        first = now if self.has("restores-above") else 0
        for place in range(first, EVENTS):
            if entries[place].closed_by == move.number and self.has("restores"):
                entries = _put(entries, place, Entry(entries[place].before))
        # What lies between is owed, and has failed, as it was before the move.
        places = range(now, move.was) if move.kind == "rewind" else range(move.was, move.went)
        between = sum(2 << place for place in places)
        undone = _moved(world, move.was, Move("undo", world.operations + 1, now, move.was, 0, 0))
        return undone._replace(
            entries=entries,
            owed=(world.owed & ~between) | (move.owed & between),
            failing=(world.failing & ~between) | (move.failing & between),
        )

    def _skip(self, world: World, number: int) -> World | None:
        if world.entries[number - 1].state != "parked":
            return None
        skipped = _put(world.entries, number - 1, Entry("skipped"))
        return world._replace(entries=skipped, failing=world.failing & ~(1 << number))

    def _pause(self, world: World, verb: str) -> World | None:
        if verb == "resume":
            return world._replace(paused=False, is_quiet=False)
        if verb == "pause":
            held = any(one.at == "taking" for one in world.workers) and self.has("locks-the-subscriber")
            return None if held else world._replace(paused=True)
        if not world.paused or (world.owner != NOBODY and not world.expired and self.has("waits-for-owners")):
            return None
        quiet = world._replace(is_quiet=True)
        return _overtaken(quiet) if world.expired and self.has("overtakes-the-expired") else quiet


def _moved(world: World, to: int, move: Move) -> World:
    """A move draws an epoch, and lets the lease go."""
    moved = world._replace(position=to, owner=NOBODY, expired=False, operations=move.number, moves=(*world.moves, move))
    return _overtaken(moved)


def _overtaken(world: World) -> World:
    return world._replace(workers=tuple(one._replace(ours=False) for one in world.workers))


def _put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=_put(world.workers, me, worker))

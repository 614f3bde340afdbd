"""P8, and P6 again: a range is replayed beside live delivery, by workers that die, are stopped, or notice nothing.

An effect with three events: its checkpoint is behind the second, and the third comes live. The first may stand in the
ledger, to be tried again. The replay is started at once and reaches to the checkpoint.

    take, page    replaying.py `_hold`, `_take`, `_page`: open failures are left out
    announce      replaying.py `_announce`, behind its own fence: operation, epoch, owner, position, still running
    call, settle  replaying.py `_outside`, `_settle`; a transactional event's writes commit with the place (`_within`)
    let go        replaying.py `release`; what was in hand of somebody else is in doubt, at most once
                  (`_leave_in_doubt`)
    live          delivery at least once of what follows the checkpoint, and a retry
    operator      control/replays.py `cancel_replay`; control/lifecycle.py `pause`; control/moves.py `rewind`, refused
                  while
                  the replay runs, and afterwards with handled_through where the replay has come to
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

EVENTS = 3
NOBODY, GONE = -1, -2
TRANSACTIONAL, AT_LEAST_ONCE, AT_MOST_ONCE = "transactional", "at least once", "at most once"


class Row(NamedTuple):
    """The replay's own row. `state` is running, done or cancelled."""

    state: str = "running"
    position: int = 0
    in_hand: int = 0
    until: int = 2
    owner: int = NOBODY
    expired: bool = False


class Worker(NamedTuple):
    at: str = "idle"
    ours: bool = False
    position: int = 0
    page: tuple[int, ...] = ()


class World(NamedTuple):
    """Sets of events are numbers with a bit for each. `done` is done with live, `replayed` handed out by the replay."""

    mode: str
    workers: tuple[Worker, ...] = (Worker(), Worker())
    replay: Row = Row()
    checkpoint: int = 2
    handled_through: int = 2
    entry: int = 0
    done: int = 0b110
    replayed: int = 0
    handed: int = 0
    left_out: int = 0
    paused: bool = False
    is_quiet: bool = False
    operator: tuple[str, ...] = ()
    deaths: int = 0
    expiries: int = 0
    stops: int = 0
    wrong: str = ""


class Replay(Model[World]):
    """Two workers that may execute one replay, live delivery, and an operator."""

    name = "replay"
    says = "a replay beside live delivery"
    removals: ClassVar[Mapping[str, Removal]] = {
        "to-the-checkpoint": Removal(
            says="a replay reaches to the checkpoint at most", scope="at least once, a death", breaks=Breach.FLAG
        ),
        "leaves-out-open": Removal(
            says="events whose failure is open are left out", scope="transactional, beside a retry", breaks=Breach.TWICE
        ),
        "refuses-rewinds": Removal(
            says="a rewind is refused while a replay runs", scope="at least once, and a rewind", breaks=Breach.ORDER
        ),
        "counts-as-handed-out": Removal(
            says="what was replayed counts as handed out when the checkpoint goes back",
            scope="at least once, of what was passed over, and a rewind",
            breaks=Breach.FLAG,
        ),
        "announce": Removal(
            says="a call is announced before it is made, at most once",
            scope="at most once, a death",
            breaks=Breach.AGAIN,
        ),
        "in-doubt": Removal(
            says="at most once, what was in hand is not handed out again",
            scope="at most once, a death",
            breaks=Breach.AGAIN,
        ),
        "let-go-keeps-doubt": Removal(
            says="a lease that is let go leaves in hand what is not settled",
            scope="at most once, a stop",
            breaks=Breach.AGAIN,
        ),
        "fence": Removal(
            says="each of its transactions passes its fence",
            scope="transactional, an expired lease",
            breaks=Breach.TWICE,
        ),
        "one-commit": Removal(
            says="a transactional event's writes commit with the place",
            scope="transactional, a death",
            breaks=Breach.TWICE,
        ),
        "ends-its-owner": Removal(
            says="a cancelled replay has no owner, and fails at its fence",
            scope="transactional, cancelled",
            breaks=Breach.NOT_OWNER,
            also=("still-running",),
        ),
        "still-running": Removal(
            says="the fence asks whether the replay still runs",
            scope="transactional, cancelled",
            breaks=Breach.NOT_OWNER,
            also=("ends-its-owner",),
        ),
        "pause-waits": Removal(
            says="a pause waits for whoever executes a replay", scope="transactional, a pause", breaks=Breach.NOT_OWNER
        ),
        "pause-draws-epoch": Removal(
            says="a pause draws an epoch over one whose lease has run out",
            scope="transactional, a pause",
            breaks=Breach.NOT_OWNER,
        ),
        "ends-at-the-end": Removal(
            says="a replay is done when its place is at its end", scope="at least once, a death", breaks=Breach.SKIPPED
        ),
    }
    hides = frozenset({"at", "page", "operator", "deaths", "expiries", "stops", "mode"})
    sets = frozenset({"done", "replayed", "handed", "left_out"})
    large = frozenset({f"{mode}, everything" for mode in (TRANSACTIONAL, AT_LEAST_ONCE, AT_MOST_ONCE)})

    def scopes(self) -> Mapping[str, World]:
        modes = (TRANSACTIONAL, AT_LEAST_ONCE, AT_MOST_ONCE)
        until = Row() if self.has("to-the-checkpoint") else Row(until=EVENTS)
        scenes = {
            "a death": World("", deaths=1),
            "an expired lease": World("", expiries=1),
            "a stop": World("", stops=1, deaths=1),
            "beside a retry": World("", entry=1, done=0b100, deaths=1),
            "cancelled": World("", operator=("cancel",), expiries=1),
            "a pause": World("", operator=("pause", "look"), expiries=1),
            "and a rewind": World("", operator=("rewind",), deaths=1),
            "of what was passed over, and a rewind": World("", handled_through=0, done=0, operator=("rewind",)),
            "everything": World(
                "", entry=1, done=0b100, deaths=1, expiries=2, stops=1, operator=("pause", "look", "resume", "rewind")
            ),
        }
        return {
            f"{mode}, {name}": world._replace(mode=mode, replay=until)
            for name, world in scenes.items()
            for mode in modes
        }

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        missing = 0b110 & ~(world.replayed | world.handed | world.left_out)
        return Breach.SKIPPED if world.replay.state == "done" and missing else None

    def left_over(self, world: World) -> Breach | None:
        waits = world.replay.state == "running" and not world.paused
        return Breach.STRANDED if waits or (world.checkpoint < EVENTS and not world.paused) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, worker in enumerate(world.workers):
            for said, after in self._work(world, me, worker):
                yield f"{'AB'[me]}: {said}", after
            if worker.at != "idle" and world.deaths:
                yield f"{'AB'[me]}: dies", _dies(world._replace(deaths=world.deaths - 1), me)
            if worker.at != "idle" and world.stops:
                yield f"{'AB'[me]}: is stopped, and lets its lease go", self._let_go(world, me, worker)
        row = world.replay
        if row.owner >= 0 and not row.expired and world.expiries:
            yield (
                "the replay's lease runs out",
                world._replace(replay=row._replace(expired=True), expiries=world.expiries - 1),
            )
        yield from self._live(world)
        if world.operator:
            done = self._operate(world, world.operator[0])
            if done is not None:
                yield f"operator: {world.operator[0]}", done._replace(operator=world.operator[1:])

    def _work(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        row = world.replay
        match now.at:
            case "idle":
                free = row.owner in (NOBODY, me) or row.expired
                if row.state == "running" and free and not world.paused:
                    yield "take the replay", self._take(world, me)
            case "turn":
                yield self._turn(world, me, now)
            case "call":
                yield f"event {now.page[0]} is handed out", self._call(world, me, now)
            case "settle":
                yield f"settle event {now.page[0]}", self._settle(world, me, now, handed=world.mode == AT_MOST_ONCE)
            case "commit":
                yield f"commit event {now.page[0]}", self._commit(world, me, now)
            case "end":
                yield "the end of the range", self._end(world, me, now)

    def _take(self, world: World, me: int) -> World:
        row = world.replay
        workers = tuple(one._replace(ours=False) for one in world.workers)
        taken = world._replace(workers=workers, replay=row._replace(owner=me, expired=False))
        return _set(taken, me, Worker(at="turn", ours=True, position=row.position))

    def _turn(self, world: World, me: int, now: Worker) -> tuple[str, World]:
        row = world.replay
        if world.paused and now.ours:
            return "let it go, since the subscriber is paused", _set(
                world._replace(replay=row._replace(owner=NOBODY)), me, Worker()
            )
        doubtful = world.mode == AT_MOST_ONCE and row.in_hand > now.position and self.has("in-doubt")
        if doubtful and now.ours:
            moved = row._replace(position=row.in_hand)
            left = world._replace(replay=moved, handed=world.handed | 1 << row.in_hand)
            return f"event {row.in_hand} counts as failed", _set(left, me, now._replace(position=row.in_hand))
        still_open = world.entry if self.has("leaves-out-open") else 0
        page = tuple(one for one in range(now.position + 1, row.until + 1) if one != still_open)
        world = world._replace(left_out=world.left_out | (1 << still_open if still_open else 0))
        if not self.has("ends-at-the-end"):
            page = page[:1] if now.position == 0 else ()
        if not page:
            return "nothing is left", _set(world, me, now._replace(at="end"))
        read = now._replace(page=page, at="commit" if world.mode == TRANSACTIONAL else "call")
        if world.mode == TRANSACTIONAL:
            return f"read {page}, and run the handler for event {page[0]}", _set(world, me, read)
        if not self._may_write(world, now):
            return "the fence fails", _set(world, me, Worker())
        through = page[0] if world.mode == AT_MOST_ONCE else page[-1]
        row = row._replace(in_hand=through) if self.has("announce") else row
        return f"read {page}, and announce", _set(world._replace(replay=row), me, read)

    def _may_write(self, world: World, now: Worker) -> bool:
        running = world.replay.state == "running" or not self.has("still-running")
        return (now.ours and running and world.replay.position == now.position) or not self.has("fence")

    def _call(self, world: World, me: int, now: Worker) -> World:
        handed = self._handed(world, now, now.page[0])
        return _set(handed, me, now._replace(at="settle"))

    def _handed(self, world: World, now: Worker, number: int) -> World:
        """The replay hands an event out; one late call of somebody who has lost the lease is promised nothing about."""
        bit, wrong = 1 << number, world.wrong
        if now.ours and number > world.checkpoint:
            wrong = Breach.ORDER if self.has("to-the-checkpoint") else wrong
        if world.mode != AT_LEAST_ONCE and world.handed & bit and (now.ours or world.mode == TRANSACTIONAL):
            wrong = Breach.TWICE if world.mode == TRANSACTIONAL else Breach.AGAIN
        return world._replace(handed=world.handed | bit, wrong=wrong)

    def _settle(self, world: World, me: int, now: Worker, *, handed: bool) -> World:
        if not self._may_write(world, now):
            return _set(world, me, Worker())
        number, rest = now.page[0], now.page[1:]
        row = world.replay._replace(position=number, in_hand=number, expired=False)
        done = world._replace(replay=row, replayed=world.replayed | 1 << number)
        if rest and not handed:
            # At least once a page is announced once; every call in it may be settled.
            done = done._replace(replay=row._replace(in_hand=max(number, rest[-1])))
            return _set(done, me, now._replace(at="call", position=number, page=rest))
        return _set(done, me, now._replace(at="turn", position=number, page=()))

    def _commit(self, world: World, me: int, now: Worker) -> World:
        """The handler's writes, the fence and the place are one transaction."""
        number = now.page[0]
        if not self._may_write(world, now):
            return _set(world, me, Worker())
        wrong = Breach.NOT_OWNER if world.is_quiet or world.replay.state == "cancelled" else world.wrong
        handed = self._handed(world._replace(wrong=wrong), now, number)
        if not self.has("one-commit"):
            return _set(handed, me, now._replace(at="settle"))
        return self._settle(handed, me, now._replace(ours=True), handed=True)

    def _end(self, world: World, me: int, now: Worker) -> World:
        if not self._may_write(world, now):
            return _set(world, me, Worker())
        row = world.replay._replace(state="done", position=world.replay.until, owner=NOBODY)
        return _set(world._replace(replay=row), me, Worker())

    def _let_go(self, world: World, me: int, now: Worker) -> World:
        row = world.replay
        if now.ours:
            in_hand = row.in_hand if self.has("let-go-keeps-doubt") else row.position
            row = row._replace(owner=NOBODY, expired=False, in_hand=in_hand)
        return _set(world._replace(replay=row, stops=world.stops - 1), me, Worker())

    def _live(self, world: World) -> Iterable[tuple[str, World]]:
        """What comes live, and the retry of what has failed, each in one step."""
        if world.paused:
            return
        if world.entry:
            bit = 1 << world.entry
            again = world.handed & bit and world.mode == TRANSACTIONAL
            tried = world._replace(entry=0, done=world.done | bit)
            yield f"live: retry event {world.entry}", tried._replace(wrong=Breach.TWICE) if again else tried
        if world.checkpoint < EVENTS:
            number = world.checkpoint + 1
            seen = world.handed >> number & 1 and number > world.handled_through
            through = max(world.handled_through, number)
            done = world._replace(checkpoint=number, handled_through=through, done=world.done | 1 << number)
            yield f"live: event {number}", done._replace(wrong=Breach.FLAG) if seen else done

    def _operate(self, world: World, deed: str) -> World | None:
        row = world.replay
        match deed:
            case "cancel":
                if row.state != "running":
                    return None
                ended = row._replace(state="cancelled")
                if not self.has("ends-its-owner"):
                    return world._replace(replay=ended)
                return _overtaken(world._replace(replay=ended._replace(owner=NOBODY)))
            case "pause":
                return world._replace(paused=True)
            case "resume":
                return world._replace(paused=False, is_quiet=False)
            case "look":
                return self._look(world, row)
        if row.state == "running" and self.has("refuses-rewinds"):
            return None
        reached = max(row.in_hand, row.position) if world.handed and self.has("counts-as-handed-out") else 0
        return world._replace(checkpoint=0, handled_through=max(world.handled_through, reached), entry=0)

    def _look(self, world: World, row: Row) -> World | None:
        if row.owner >= 0 and not row.expired and self.has("pause-waits"):
            return None
        quiet = world._replace(is_quiet=True)
        overtaken = row.expired and self.has("pause-draws-epoch")
        return _overtaken(quiet) if overtaken else quiet


def _overtaken(world: World) -> World:
    return world._replace(workers=tuple(one._replace(ours=False) for one in world.workers))


def _dies(world: World, me: int) -> World:
    row = world.replay
    if row.owner == me:
        row = row._replace(owner=GONE, expired=True)
    return _set(world._replace(replay=row), me, Worker())


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=(*world.workers[:me], worker, *world.workers[me + 1 :]))

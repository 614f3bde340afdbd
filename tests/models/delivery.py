"""P5, T1 to T3, T3', T5 and T6, and P6: live delivery in its three modes, with deaths at every step.

Two workers want one partition of a few events. What a handler does with an event is fixed: it handles it, fails (and
the event is parked at once), or kills its worker. Workers die anywhere, are interrupted by the database before or
after a commit, are stopped in order or by ^C, or do not notice that their lease has run out.

    take           leases.py; partition.py `_hold`: did the owner before let go? Then nothing is in doubt
    clear up       partition.py `_clear_up`, `_all_in_hand`: one event in doubt is a failed attempt, several are run
                   one by one;
                   at most once, all are left to an operator
    announce       settling.py `announce`: in_hand and handled_through, behind the fence
    check, call    handing_out.py: the lease by our own clock, then the handler
    settle         settling.py `settle`: checkpoint and entries in one transaction; at most once it announces the next
                   call
    run, commit    delivery.py `transactional`: handlers, fence, entries and checkpoint in one
    let go         leases.py `release`
    touch          an operator moves other partitions; an advance (control/moves.py, control/checkpoints.py `place`)

One late call of a worker that has lost its lease between its look at the clock and the call cannot be prevented, and is
promised nothing about.
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar

from tests.models.delivery_scenes import (
    ALL,
    AT_LEAST_ONCE,
    AT_MOST_ONCE,
    GONE,
    NOBODY,
    SCENES,
    TRANSACTIONAL,
    Row,
    Scene,
    Worker,
    World,
)
from tests.models.explorer import Breach, Model, Removal


class Delivery(Model[World]):
    """Two workers beside one partition."""

    name = "delivery"
    says = "live delivery in its three modes, with deaths at every step"
    removals: ClassVar[Mapping[str, Removal]] = {
        "announce": Removal(
            says="a batch is announced before it is handed out", scope="at least once, a death", breaks=Breach.FLAG
        ),
        "announce-once": Removal(
            says="a call is announced before it is made, at most once",
            scope="at most once, a death",
            breaks=Breach.AGAIN,
        ),
        "announces-next": Removal(
            says="each settlement announces the next call, at most once",
            scope="at most once, a death",
            breaks=Breach.AGAIN,
        ),
        "in-doubt": Removal(
            says="what a dead owner had in hand is in doubt", scope="at least once, a killer", breaks=Breach.CRASHES
        ),
        "in-doubt-once": Removal(
            says="what was in hand is left to an operator, at most once",
            scope="at most once, a death",
            breaks=Breach.AGAIN,
        ),
        "in-doubt-to-oneself": Removal(
            says="what one had in hand oneself when interrupted is in doubt, at most once",
            scope="at most once, an interruption",
            breaks=Breach.AGAIN,
        ),
        "one-is-an-attempt": Removal(
            says="one event in doubt is a failed attempt", scope="at least once, a killer", breaks=Breach.CRASHES
        ),
        "one-by-one": Removal(
            says="several events in doubt are run one by one", scope="at least once, a killer", breaks=Breach.CRASHES
        ),
        "announce-alone": Removal(
            says="after a death the first transactional batch is run one by one, and announced",
            scope="transactional, a killer",
            breaks=Breach.CRASHES,
        ),
        "writes-what-it-passes": Removal(
            says="who writes a failure down for the dead writes what waits before it, too",
            scope="at least once, a killer behind a blocked event",
            breaks=Breach.SKIPPED,
        ),
        "doubt-beyond-a-page": Removal(
            says="the doubt reaches as far as was announced, whatever page was read",
            scope="at most once, pages that end elsewhere",
            breaks=Breach.AGAIN,
        ),
        "let-go-keeps-doubt": Removal(
            says="a lease that is let go leaves in hand what is not settled",
            scope="at most once, a stop and a death",
            breaks=Breach.AGAIN,
        ),
        "move-keeps-doubt": Removal(
            says="a move of other partitions leaves in hand what is in hand of this one",
            scope="at most once, a move of other partitions",
            breaks=Breach.AGAIN,
        ),
        "advance-keeps-doubt": Removal(
            says="an advance leaves in hand what is in hand beyond it",
            scope="at most once, an advance",
            breaks=Breach.AGAIN,
        ),
        "fence-to-announce": Removal(
            says="announcing passes the fence", scope="at most once, an expired lease", breaks=Breach.NOT_OWNER
        ),
        "fence-to-settle": Removal(
            says="settling passes the fence", scope="at least once, an expired lease", breaks=Breach.NOT_OWNER
        ),
        "fence-to-commit": Removal(
            says="a transactional batch passes the fence",
            scope="transactional, an expired lease",
            breaks=Breach.NOT_OWNER,
        ),
        "one-commit": Removal(
            says="handlers' writes and the checkpoint are one commit",
            scope="transactional, a death",
            breaks=Breach.TWICE,
        ),
        "entries-with-checkpoint": Removal(
            says="failures are written in the commit that moves the checkpoint",
            scope="at least once, a failure",
            breaks=Breach.SKIPPED,
        ),
        "clock": Removal(
            says="a worker looks at its own clock before each call",
            scope="at least once, an expired lease",
            breaks=Breach.NOT_OWNER,
        ),
        "blocks-the-key": Removal(
            says="what follows a failure of its key waits", scope="at least once, a failure", breaks=Breach.ORDER
        ),
        "flag-before": Removal(
            says="a redelivery is told by handled_through as it was before the announcement",
            scope="at least once, a death",
            breaks=Breach.FLAG,
        ),
    }
    hides = frozenset({"at", "place", "batch", "deaths", "expiries", "losses", "stops", "operator"})
    sets = frozenset({"ledger", "done", "called", "passed", "entries", "parked"})
    large = frozenset(
        name for name in SCENES if "two expired" in name or name == "at least once, three events and one of each"
    )

    def scopes(self) -> Mapping[str, World]:
        return {name: world._replace(scene=place) for place, (name, (_, world)) in enumerate(SCENES.items())}

    def broken(self, world: World) -> Breach | None:
        scene = ALL[world.scene]
        for number, does in enumerate(scene.does, start=1):
            bit = 1 << number
            if (
                world.row.position >= number
                and does != "unwanted"
                and not (world.done | world.ledger | world.passed) & bit
            ):
                return Breach.SKIPPED
            if scene.mode != AT_LEAST_ONCE and world.times[number - 1] > 1:
                return Breach.TWICE if scene.mode == TRANSACTIONAL else Breach.AGAIN
        return Breach(world.wrong) if world.wrong else None

    def left_over(self, world: World) -> Breach | None:
        return Breach.STRANDED if world.row.position < len(ALL[world.scene].does) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        scene = ALL[world.scene]
        for me, worker in enumerate(world.workers):
            name = "AB"[me]
            for said, after in self._work(world, scene, me, worker):
                deed = said.removeprefix("* ")
                yield f"{name}: {deed}", after
                if world.losses and deed != said:
                    lost = after._replace(losses=world.losses - 1)
                    yield f"{name}: {deed}, and the answer is lost", _set(lost, me, _forgotten(worker))
            if worker.at == "idle":
                continue
            if world.losses:
                lost = world._replace(losses=world.losses - 1)
                yield f"{name}: the connection is lost", _set(lost, me, _forgotten(worker))
            if world.deaths:
                yield f"{name}: dies", _dies(world._replace(deaths=world.deaths - 1), me)
            if world.stops:
                yield f"{name}: is stopped, and lets its lease go", self._let_go(world, me, worker)
        row = world.row
        if row.owner >= 0 and not row.expired and world.expiries:
            late = _set(world, row.owner, world.workers[row.owner]._replace(clock=False))
            yield "the lease runs out", late._replace(row=row._replace(expired=True), expiries=world.expiries - 1)
        if world.operator:
            yield f"operator: {world.operator[0]}", self._operate(world)

    def _work(self, world: World, scene: Scene, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        """What is marked with a star is committed, and its answer can be lost."""
        match now.at:
            case "idle":
                if world.row.position < len(scene.does) and (world.row.owner in (NOBODY, me) or world.row.expired):
                    yield "* take the lease", self._take(world, scene, me, now)
            case "turn":
                yield from self._turn(world, scene, me, now)
            case "check":
                if now.clock or not self.has("clock"):
                    yield "look at the clock", _set(world, me, now._replace(at="call"))
                else:
                    yield "the clock says that the lease is lost", _set(world, me, _forgotten(now))
            case "call":
                number = now.batch[now.place]
                yield f"the handler is called with event {number}", self._call(world, scene, me, now, number)
            case "settle":
                yield "* settle", self._settle(world, scene, me, now)
            case "commit":
                yield "* commit", self._commit(world, scene, me, now)
            case "move":
                yield "* move the checkpoint", self._move_late(world, me, now)

    def _take(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        row = world.row
        died = row.owner not in (NOBODY, me)
        once = scene.mode == AT_MOST_ONCE
        doubt = now.doubt or died or (once and self.has("in-doubt-to-oneself"))
        if not self.has("in-doubt-once" if once else "in-doubt"):
            doubt = False
        alone = row.in_hand if doubt and self.has("one-by-one") else 0
        workers = tuple(one._replace(ours=False) for one in world.workers)
        taken = world._replace(workers=workers, row=row._replace(owner=me, expired=False))
        return _set(taken, me, Worker(at="turn", ours=True, doubt=doubt, alone=alone, in_hand=row.in_hand))

    def _turn(self, world: World, scene: Scene, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        """What now? The position is that of the row as it was read: a fence that finds another changes nothing."""
        if not now.ours and self.has("fence-to-announce"):
            yield "the fence fails", _set(world, me, _forgotten(now))
            return
        position, count = world.row.position, len(scene.does)
        end = scene.cut if me == 1 and position < scene.cut else count
        if position == count:
            return
        if now.doubt:
            cleared = self._clear_up(world, scene, me, now, end)
            if cleared is not None:
                yield cleared
                return
            if scene.mode == TRANSACTIONAL and self.has("announce-alone") and world.row.in_hand <= position:
                now = now._replace(alone=end)
            now = now._replace(doubt=False)
        due = _due(world, scene, position, end)
        if not due:
            yield f"* pass by to {end}", _moved(_set(world, me, now), me, end)
            return
        yield self._hand_out(world, scene, me, now, due)

    def _clear_up(self, world: World, scene: Scene, me: int, now: Worker, end: int) -> tuple[str, World] | None:
        position, in_hand = world.row.position, now.in_hand
        if scene.mode == AT_MOST_ONCE:
            through = in_hand if self.has("doubt-beyond-a-page") else min(end, in_hand)
            doubtful = _due(world, scene, position, through)
            if not doubtful:
                return None
            entries = sum(1 << number for number in doubtful)
            said = f"* leave {doubtful} to an operator"
            return said, _moved(_set(world, me, now._replace(doubt=False)), me, doubtful[-1], entries=entries)
        announced = _due(world, scene, position, min(end, in_hand))
        doubtful = tuple(number for number in announced if not _is_blocked(world, scene, number))
        if len(doubtful) != 1 or not self.has("one-is-an-attempt"):
            return None
        passed = [number for number in announced if number < doubtful[0]] if self.has("writes-what-it-passes") else []
        entries = sum(1 << number for number in (*passed, doubtful[0]))
        said = f"* event {doubtful[0]} has killed its worker: that was an attempt"
        return said, _moved(_set(world, me, now._replace(doubt=False, alone=0)), me, doubtful[0], entries=entries)

    def _hand_out(self, world: World, scene: Scene, me: int, now: Worker, due: tuple[int, ...]) -> tuple[str, World]:
        lone = due[0] <= now.alone or due[0] == now.suspect
        batch = due[:1] if lone else due[: due.index(now.suspect)] if now.suspect in due else due
        if scene.mode == TRANSACTIONAL:
            return self._run(world, scene, me, now, batch, announces=due[0] <= now.alone)
        if scene.mode == AT_MOST_ONCE:
            batch = due[: scene.width]
        row, announces = world.row, self.has("announce-once" if scene.mode == AT_MOST_ONCE else "announce")
        before = row.handled_through if self.has("flag-before") else batch[-1] - 1
        begun = now._replace(batch=batch, place=0, before=before, entries=0, in_hand=batch[-1])
        if announces:
            row = row._replace(in_hand=batch[-1], handled_through=max(row.handled_through, batch[-1]))
            world = world._replace(wrong=world.wrong if now.ours else Breach.NOT_OWNER)
        return f"* announce {batch}", self._next_call(_set(world._replace(row=row), me, begun), scene, me, begun)

    def _next_call(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        """Go on to the next event that is handed out; those of a key that is blocked become entries."""
        while now.place < len(now.batch):
            number = now.batch[now.place]
            keys = {scene.keys[one - 1] for one in range(1, 4) if now.entries >> one & 1}
            blocked = _is_blocked(world, scene, number) or scene.keys[number - 1] in keys
            if not blocked or not self.has("blocks-the-key"):
                return _set(world, me, now._replace(at="check"))
            now = now._replace(place=now.place + 1, entries=now.entries | 1 << number)
        return _set(world, me, now._replace(at="settle"))

    def _call(self, world: World, scene: Scene, me: int, now: Worker, number: int) -> World:
        bit, late = 1 << number, not now.ours
        wrong = world.wrong
        if late:
            now = now._replace(late=now.late + 1)
            wrong = Breach.NOT_OWNER if now.late > 1 else wrong
        elif world.called & bit and number > now.before:
            wrong = Breach.FLAG
        elif _is_blocked(world, scene, number):
            wrong = Breach.ORDER
        times = _put(world.times, number - 1, min(world.times[number - 1] + 1, 2))
        world = world._replace(called=world.called | bit, times=times, wrong=wrong)
        match scene.does[number - 1]:
            case "kills":
                return _killed(world, me)
            case "fails":
                now = now._replace(entries=now.entries | bit)
            case _:
                world = world._replace(done=world.done | bit)
        return self._next_call(world, scene, me, now._replace(place=now.place + 1))

    def _settle(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        if not now.ours and self.has("fence-to-settle"):
            return _set(world, me, _forgotten(now))
        wrong = world.wrong if now.ours else Breach.NOT_OWNER
        position, entries = now.batch[-1], now.entries
        coming = _due(world, scene, position, len(scene.does))[: scene.width]
        once = scene.mode == AT_MOST_ONCE
        if not self.has("entries-with-checkpoint") and entries:
            entries = 0
        settled = _moved(world._replace(wrong=wrong), me, position, entries=entries)
        if not once or not coming:
            return _set(settled, me, now._replace(at="turn", batch=(), entries=0, in_hand=position))
        row = settled.row
        if self.has("announces-next"):
            row = row._replace(in_hand=coming[-1], handled_through=max(row.handled_through, coming[-1]))
        then = now._replace(batch=coming, place=0, before=settled.row.handled_through, entries=0, in_hand=coming[-1])
        return self._next_call(_set(settled._replace(row=row), me, then), scene, me, then)

    def _run(
        self, world: World, scene: Scene, me: int, now: Worker, batch: tuple[int, ...], *, announces: bool
    ) -> tuple[str, World]:
        """The handlers of a transactional batch: nothing of it is seen before it commits."""
        if announces and world.row.in_hand < batch[0]:
            row = world.row._replace(in_hand=batch[0], handled_through=max(world.row.handled_through, batch[0]))
            return f"* announce {batch}", _set(world._replace(row=row), me, now._replace(in_hand=batch[0]))
        killers = [number for number in batch if scene.does[number - 1] == "kills"]
        if killers:
            return f"the handler is called with event {killers[0]}", _killed(world, me)
        culprits = [number for number in batch if scene.does[number - 1] == "fails"]
        free = tuple(number for number in batch if not _is_blocked(world, scene, number))
        if culprits and len(batch) > 1:
            return f"event {culprits[0]} fails the batch", _set(world, me, now._replace(suspect=culprits[0]))
        entries = sum(1 << number for number in batch if number in culprits or number not in free)
        ran = now._replace(at="commit", batch=batch, entries=entries, before=world.row.handled_through)
        return f"handlers run for {batch}", _set(world, me, ran)

    def _commit(self, world: World, scene: Scene, me: int, now: Worker) -> World:
        if not now.ours and self.has("fence-to-commit"):
            return _set(world, me, _forgotten(now))
        applied = [number for number in now.batch if not now.entries >> number & 1]
        times = world.times
        for number in applied:
            times = _put(times, number - 1, min(times[number - 1] + 1, 2))
        bits = sum(1 << number for number in applied)
        wrong = world.wrong if now.ours else Breach.NOT_OWNER
        done = world._replace(times=times, done=world.done | bits, called=world.called | bits, wrong=wrong)
        if not self.has("one-commit"):
            return _set(done, me, now._replace(at="move"))
        row = done.row._replace(handled_through=max(done.row.handled_through, now.batch[-1]))
        then = now._replace(at="turn", batch=(), entries=0, in_hand=now.batch[-1])
        return _set(_moved(done._replace(row=row), me, now.batch[-1], entries=now.entries), me, then)

    def _move_late(self, world: World, me: int, now: Worker) -> World:
        if not now.ours:
            return _set(world, me, _forgotten(now))
        moved = _moved(world, me, now.batch[-1], entries=now.entries)
        return _set(moved, me, now._replace(at="turn", batch=(), entries=0))

    def _let_go(self, world: World, me: int, now: Worker) -> World:
        row = world.row
        if now.ours:
            in_hand = max(row.position, row.in_hand) if self.has("let-go-keeps-doubt") else row.position
            row = row._replace(owner=NOBODY, expired=False, in_hand=in_hand)
        return _set(world._replace(row=row, stops=world.stops - 1), me, Worker())

    def _operate(self, world: World) -> World:
        row, deed = world.row, world.operator[0]
        position = max(row.position, 1) if deed == "advance to 1" else row.position
        keeps = self.has("advance-keeps-doubt" if deed == "advance to 1" else "move-keeps-doubt")
        passed = sum(1 << number for number in range(row.position + 1, position + 1))
        moved = Row(position, max(position, row.in_hand) if keeps else position, row.handled_through)
        workers = tuple(one._replace(ours=False) for one in world.workers)
        return world._replace(row=moved, workers=workers, operator=world.operator[1:], passed=world.passed | passed)


def _due(world: World, scene: Scene, after: int, through: int) -> tuple[int, ...]:
    """The events that are wanted and not in the ledger."""
    return tuple(
        number
        for number in range(after + 1, through + 1)
        if scene.does[number - 1] != "unwanted" and not world.ledger >> number & 1
    )


def _is_blocked(world: World, scene: Scene, number: int) -> bool:
    """Whether an earlier event of the key is open in the ledger."""
    key = scene.keys[number - 1]
    return any(world.ledger >> one & 1 and scene.keys[one - 1] == key for one in range(1, number))


def _moved(world: World, me: int, position: int, *, entries: int = 0) -> World:
    """The checkpoint has moved, and nothing is in hand."""
    row = world.row._replace(position=position, in_hand=position)
    return world._replace(row=row, ledger=world.ledger | entries)


def _forgotten(now: Worker) -> Worker:
    """A worker that has forgotten its lease; what it had not come to clear up is still in doubt."""
    return Worker(doubt=now.doubt)


def _dies(world: World, me: int) -> World:
    """A worker has died; another process takes its place, and the lease runs out."""
    row = world.row
    if row.owner == me:
        row = row._replace(owner=GONE, expired=True)
    return _set(world._replace(row=row), me, Worker())


def _killed(world: World, me: int) -> World:
    killed = world._replace(kills=world.kills + 1)
    return _dies(killed._replace(wrong=Breach.CRASHES) if killed.kills >= ALL[world.scene].kills else killed, me)


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=(*world.workers[:me], worker, *world.workers[me + 1 :]))

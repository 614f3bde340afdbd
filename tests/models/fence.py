"""P4: the lease, its epoch, and the fence that each of a worker's transactions passes; a COMMIT whose answer is lost.

A transactional subscriber of one partition, events one at a time. What is applied is counted for each event, and has
to be as often as it was to be delivered: once, and once more for each rewind below it.

    worker    take        leases.py `Lease.take`: FOR UPDATE, so it waits for a fence that is not committed yet; free,
              ours or
                          expired; a new epoch
              handlers    delivery.py `transactional`: their writes, within a transaction
              fence       leases.py `Lease.fence`: UPDATE checkpoints WHERE epoch, owner, position; it holds the row
              heartbeat   heartbeat.py: an idle owner notices that its row was moved
              commit      or its answer is lost: the worker forgets what it knew, the server commits or does not, later
    server    a lease runs out; a transaction that a frozen worker has left is ended (database `guard_owner`)
    operator  rewind (control/moves.py), pause (control/lifecycle.py), or a restore of the database from before
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

EVENTS = 2
NOBODY = -1
LOST = 9
"""Holds the row: a transaction whose client is gone, and that may still commit."""


class Row(NamedTuple):
    """The checkpoint, and who holds its row lock. `counter` is the last epoch that was drawn."""

    position: int = 0
    epoch: int = 0
    owner: int = NOBODY
    expired: bool = False
    lock: int = NOBODY
    counter: int = 0
    paused: bool = False


class Worker(NamedTuple):
    """What a process knows. It is `idle` without a lease, `gone` when it has died, `frozen` for ever."""

    at: str = "idle"
    epoch: int = 0
    position: int = 0


class World(NamedTuple):
    """`due` is how often each event is to be applied by now; the other numbers are what may still happen."""

    workers: tuple[Worker, ...]
    row: Row = Row()
    applied: tuple[int, ...] = (0,) * EVENTS
    due: tuple[int, ...] = (1,) * EVENTS
    operator: tuple[str, ...] = ()
    committing: int = 0
    expiries: int = 0
    deaths: int = 0
    freezes: int = 0
    lost_answers: int = 0
    nobody_is_at_it: bool = False
    wrong: str = ""


class Fence(Model[World]):
    """Two workers that want the same partition, and an operator."""

    name = "fence"
    says = "leases, epochs and the fence; a COMMIT whose answer is lost"
    removals: ClassVar[Mapping[str, Removal]] = {
        "epoch": Removal(says="the epoch stands in the fence", scope="a pause", breaks=Breach.NOT_OWNER),
        "owner": Removal(
            says="the owner stands in the fence", scope="a restore of the database", breaks=Breach.NOT_OWNER
        ),
        "position": Removal(
            says="the position read from stands in the fence",
            scope="a lost answer",
            breaks=Breach.TWICE,
            also=("forgets",),
        ),
        "forgets": Removal(
            says="after an error everything is forgotten, and read again",
            scope="a lost answer",
            breaks=Breach.TWICE,
            also=("position",),
        ),
        "counts-rows": Removal(
            says="a fence that changes no row rolls back", scope="an expired lease", breaks=Breach.NOT_OWNER
        ),
        "new-epoch": Removal(
            says="taking a lease draws an epoch", scope="an expired lease", breaks=Breach.NOT_OWNER, also=("owner",)
        ),
        "waits-for-the-row": Removal(
            says="taking a lease waits for the row", scope="a lost answer", breaks=Breach.TWICE, also=("position",)
        ),
        "heartbeat": Removal(
            says="an idle owner's heartbeat notices that its row was moved",
            scope="a rewind of a lone worker",
            breaks=Breach.STRANDED,
        ),
        "ends-the-frozen": Removal(
            says="the server ends what a frozen owner has left", scope="a frozen worker", breaks=Breach.STRANDED
        ),
        "rewind-draws-epoch": Removal(
            says="a rewind draws an epoch, and lets the lease go",
            scope="a rewind",
            breaks=Breach.SKIPPED,
            also=("position",),
            alone=Breach.STRANDED,
        ),
        "pause-draws-epoch": Removal(
            says="a pause draws an epoch over an owner whose lease has run out",
            scope="a pause",
            breaks=Breach.NOT_OWNER,
        ),
        "pause-waits": Removal(
            says="a pause waits for whoever holds the lease", scope="a pause", breaks=Breach.NOT_OWNER
        ),
    }
    hides = frozenset({"at", "expiries", "deaths", "freezes", "lost_answers", "operator"})
    large = frozenset({"all of it at once"})

    def scopes(self) -> Mapping[str, World]:
        two = (Worker(), Worker())
        return {
            "an expired lease": World(workers=two, expiries=2),
            "a death": World(workers=two, expiries=1, deaths=1),
            "a frozen worker": World(workers=two, freezes=1),
            "a lost answer": World(workers=two, expiries=1, lost_answers=1),
            "two lost answers": World(workers=two, lost_answers=2),
            "a rewind of a lone worker": World(workers=(Worker(),), operator=("rewind",)),
            "a rewind": World(workers=two, expiries=1, operator=("rewind",)),
            "two rewinds and a death": World(workers=two, deaths=1, operator=("rewind", "rewind")),
            "a pause": World(workers=two, expiries=1, operator=("pause", "look who is at it")),
            "a restore of the database": World(workers=two, operator=("restore",)),
            "all of it at once": World(
                workers=two,
                expiries=2,
                deaths=1,
                freezes=1,
                lost_answers=1,
                operator=("rewind", "rewind", "pause", "look who is at it"),
            ),
        }

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        for number in range(EVENTS):
            if world.applied[number] > world.due[number]:
                return Breach.TWICE
            if number < world.row.position and world.applied[number] < world.due[number]:
                return Breach.SKIPPED
        return None

    def left_over(self, world: World) -> Breach | None:
        works = any(worker.at not in ("gone", "frozen") for worker in world.workers) and not world.row.paused
        return Breach.STRANDED if works and world.row.position < EVENTS else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, worker in enumerate(world.workers):
            for said, after in self._work(world, me, worker):
                yield f"{'AB'[me]}: {said}", after
        yield from self._serve(world, world.row)
        if world.operator and world.row.lock == NOBODY:
            done = self._operate(world, world.row)
            if done is not None:
                yield f"operator: {world.operator[0]}", done._replace(operator=world.operator[1:])

    def _work(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        if now.at in ("gone", "frozen"):
            return
        match now.at:
            case "idle" if self._may_take(world.row, me):
                position = world.row.position
                if self.has("waits-for-the-row"):
                    yield "take the lease", self._take(world, me, position=position)
                else:
                    yield "read the row", _set(world, me, Worker(at="taking", position=position))
            case "taking" if world.row.lock == NOBODY:
                yield "take the lease", self._take(world, me, position=now.position)
            case "held" if now.position == EVENTS:
                if (world.row.epoch, world.row.owner) != (now.epoch, me) and self.has("heartbeat"):
                    yield "the heartbeat finds its row moved", _set(world, me, Worker())
            case "held":
                yield f"handlers write for event {now.position + 1}", _set(world, me, now._replace(at="written"))
            case "written" if world.row.lock in (NOBODY, me):
                yield "fence", self._fence(world, me, now)
            case "fenced":
                yield from self._commit(world, me, now)
        if world.deaths:
            held = world.row._replace(lock=NOBODY) if world.row.lock == me else world.row
            yield "dies", _set(world._replace(deaths=world.deaths - 1, row=held), me, Worker(at="gone"))
        if world.freezes and now.at in ("held", "written", "fenced"):
            yield "freezes", _set(world._replace(freezes=world.freezes - 1), me, now._replace(at="frozen"))

    def _may_take(self, row: Row, me: int) -> bool:
        waits = row.lock != NOBODY and self.has("waits-for-the-row")
        return not waits and not row.paused and row.position < EVENTS and (row.owner in (NOBODY, me) or row.expired)

    def _take(self, world: World, me: int, *, position: int) -> World:
        row = world.row
        drawn = row.counter + 1 if self.has("new-epoch") else row.epoch
        taken = row._replace(epoch=drawn, counter=drawn, owner=me, expired=False)
        return _set(world._replace(row=taken), me, Worker(at="held", epoch=drawn, position=position))

    def _fence(self, world: World, me: int, now: Worker) -> World:
        row = world.row
        matches = (
            (row.epoch == now.epoch or not self.has("epoch"))
            and (row.owner == me or not self.has("owner"))
            and (row.position == now.position or not self.has("position"))
        )
        if matches or not self.has("counts-rows"):
            return _set(world._replace(row=row._replace(lock=me)), me, now._replace(at="fenced"))
        return _set(world, me, Worker())

    def _commit(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        done = _committed(world, now.position, overtaken=(world.row.epoch, world.row.owner) != (now.epoch, me))
        yield "commit", _set(done, me, now._replace(at="held", position=now.position + 1))
        if world.lost_answers:
            again = Worker() if self.has("forgets") else now._replace(at="held")
            left = world._replace(
                row=world.row._replace(lock=LOST), committing=now.position + 1, lost_answers=world.lost_answers - 1
            )
            yield "commit, and the connection is lost", _set(left, me, again)

    def _serve(self, world: World, row: Row) -> Iterable[tuple[str, World]]:
        if row.lock == LOST:
            yield "the server commits what was sent", _committed(world, world.committing - 1)._replace(committing=0)
            yield "the server rolls it back", world._replace(row=row._replace(lock=NOBODY), committing=0)
        away = row.owner != NOBODY and world.workers[row.owner].at in ("gone", "frozen")
        if row.owner != NOBODY and not row.expired and (away or world.expiries):
            left = world.expiries if away else world.expiries - 1
            yield "the lease runs out", world._replace(row=row._replace(expired=True), expiries=left)
        if row.lock not in (NOBODY, LOST) and world.workers[row.lock].at == "frozen" and self.has("ends-the-frozen"):
            yield "the server ends the frozen worker's transaction", world._replace(row=row._replace(lock=NOBODY))

    def _operate(self, world: World, row: Row) -> World | None:
        drawn = row.counter + 1
        match world.operator[0]:
            case "rewind":
                if row.position == 0:
                    return None
                due = tuple(one + (number < row.position) for number, one in enumerate(world.due))
                back = row._replace(position=0, epoch=drawn, counter=drawn, owner=NOBODY, expired=False)
                return world._replace(due=due, row=back if self.has("rewind-draws-epoch") else row._replace(position=0))
            case "pause":
                return world._replace(row=row._replace(paused=True))
            case "look who is at it":
                if row.owner != NOBODY and not row.expired and self.has("pause-waits"):
                    return self._leave(world)
                if row.expired and self.has("pause-draws-epoch"):
                    row = row._replace(epoch=drawn, counter=drawn)
                return world._replace(row=row, nobody_is_at_it=True)
        workers = tuple(one if one.at == "held" else Worker() for one in world.workers)
        return World(workers=workers, operator=world.operator)

    def _leave(self, world: World) -> World | None:
        """A worker between two batches sees that it is paused, and releases its lease (`Partition.leave`)."""
        owner = world.row.owner
        if world.workers[owner].at != "held":
            return None
        released = world._replace(row=world.row._replace(owner=NOBODY), nobody_is_at_it=True)
        return _set(released, owner, Worker())


def _committed(world: World, position: int, *, overtaken: bool = False) -> World:
    """A transaction that applied the event after a position has committed."""
    applied = tuple(one + (number == position) for number, one in enumerate(world.applied))
    row = world.row._replace(position=position + 1, lock=NOBODY, expired=world.row.expired and overtaken)
    wrong = Breach.NOT_OWNER if overtaken or world.nobody_is_at_it else world.wrong
    return world._replace(applied=applied, row=row, wrong=wrong)


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=(*world.workers[:me], worker, *world.workers[me + 1 :]))

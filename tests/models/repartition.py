"""P7, C6: another number of partitions, while workers run and an operator rewinds.

Events have keys; which partition a key belongs to is its number modulo theirs (keys.py). Workers run the partitions of
as many as their code declares, and may be deployed anew. A transactional subscriber, or one that is delivered to at
most once.

    take         registration.py `check_contract`: the code declares the number that is registered; leases.py
    deliver      partition.py `_is_wanted`: of this partition, and above the floor of the old one (floors.py); a
                 failure is
                 written into the ledger, and what follows of its key waits
    retry        due.py: the entries of this partition
    change       control/repartition.py: all begin at the least position, new epochs, floors, entries hashed anew;
                 refused
                 while the last change's floors matter, and at most once while something is in hand
    rewind       control/moves.py: positions back, and floors
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple, TypeVar

from tests.models.explorer import Breach, Model, Removal

T = TypeVar("T")

KEYS = (1, 0, 3, 0)
"""The key of each event. Key 3 goes to partition 1 of 2, and to partition 0 of 3."""
EVENTS = len(KEYS)
NOBODY, GONE = -1, -2


class Row(NamedTuple):
    position: int = 0
    in_hand: int = 0
    owner: int = NOBODY


class Worker(NamedTuple):
    """`declares` is the number of partitions in its code."""

    declares: int
    at: str = "idle"
    ours: bool = False
    partition: int = 0
    position: int = 0
    event: int = 0


class World(NamedTuple):
    """Sets of events are numbers with a bit for each. `entries` has the partition of each open entry, -1 for none."""

    once: bool
    workers: tuple[Worker, ...]
    rows: tuple[Row, ...] = (Row(), Row())
    floors: tuple[int, ...] = ()
    entries: tuple[int, ...] = (-1,) * EVENTS
    done: int = 0
    fails: int = 0
    operator: tuple[str, ...] = ()
    deaths: int = 0
    wrong: str = ""


class Repartition(Model[World]):
    """Workers of old and new code, and an operator who changes their number."""

    name = "repartition"
    says = "another number of partitions, with floors"
    removals: ClassVar[Mapping[str, Removal]] = {
        "floors": Removal(says="what was handled stands below a floor", scope="2 to 3", breaks=Breach.TWICE),
        "least": Removal(says="the new partitions begin at the least position", scope="2 to 3", breaks=Breach.SKIPPED),
        "epochs": Removal(says="all epochs change", scope="2 to 3", breaks=Breach.SKIPPED),
        "asks-the-number": Removal(
            says="code that declares another number gets no lease", scope="2 to 3", breaks=Breach.SKIPPED
        ),
        "waits-for-floors": Removal(
            says="a second change waits until no floor matters", scope="2 to 3 to 1", breaks=Breach.TWICE
        ),
        "lowers-floors": Removal(
            says="a rewind lowers the floors", scope="2 to 3, and a rewind", breaks=Breach.SKIPPED
        ),
        "hashes-entries": Removal(
            says="entries are hashed anew", scope="2 to 1, and a failure", breaks=Breach.STRANDED
        ),
        "waits-for-the-hand": Removal(
            says="at most once, a change is refused while something is in hand",
            scope="2 to 3, at most once",
            breaks=Breach.AGAIN,
        ),
    }
    hides = frozenset({"at", "operator", "deaths", "once", "partition"})
    sets = frozenset({"done", "fails"})
    large = frozenset({"2 to 3 to 1, a rewind and a failure"})

    def scopes(self) -> Mapping[str, World]:
        old, new = Worker(2), Worker(3)
        return {
            "2 to 3": World(once=False, workers=(old, new), operator=("to 3",)),
            "2 to 1": World(once=False, workers=(old, Worker(1)), operator=("to 1",)),
            "1 to 2": World(once=False, workers=(Worker(1), old), rows=(Row(),), operator=("to 2",)),
            "2 to 3, two of each": World(once=False, workers=(old, old, new), operator=("to 3",)),
            "2 to 3, and a failure": World(once=False, workers=(old, new), fails=0b1000, operator=("to 3",)),
            "2 to 1, and a failure": World(once=False, workers=(old, Worker(1)), fails=0b1000, operator=("to 1",)),
            "2 to 3, and a rewind": World(once=False, workers=(old, new), operator=("to 3", "rewind to 1")),
            "2 to 3 to 1": World(once=False, workers=(old, new), operator=("to 3", "to 1")),
            "2 to 3, at most once": World(once=True, workers=(old, new), operator=("to 3",), deaths=1),
            "2 to 3 to 1, a rewind and a failure": World(
                once=False, workers=(old, old, new), fails=0b1000, operator=("to 3", "rewind to 1", "to 1")
            ),
        }

    def broken(self, world: World) -> Breach | None:
        if world.wrong:
            return Breach(world.wrong)
        for place, key in enumerate(KEYS):
            past = world.rows[key % len(world.rows)].position > place
            if past and not world.done >> place + 1 & 1 and world.entries[place] < 0:
                return Breach.SKIPPED
        return None

    def left_over(self, world: World) -> Breach | None:
        waits = any(one >= 0 for one in world.entries) and not world.once
        behind = any(row.position < EVENTS for row in world.rows)
        return Breach.STRANDED if waits or behind else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, worker in enumerate(world.workers):
            for said, after in self._work(world, me, worker):
                yield f"{'ABC'[me]}: {said}", after
            if world.deaths and worker.at != "idle":
                yield f"{'ABC'[me]}: dies", self._die(world, me, worker)
        if world.operator:
            done = self._operate(world, world.operator[0])
            if done is not None:
                yield f"operator: {world.operator[0]}", done._replace(operator=world.operator[1:])

    def _work(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        if now.at == "idle":
            if now.declares != len(world.rows) and not world.operator:
                yield f"is deployed anew, for {len(world.rows)}", _set(world, me, Worker(len(world.rows)))
            yield from self._take(world, me, now)
        elif not now.ours:
            yield "the fence fails", _set(world, me, Worker(now.declares))
        elif now.at == "turn":
            yield from self._turn(world, me, now)
        elif now.at == "call":
            yield f"event {now.event} is handed out", self._call(world, me, now)
        else:
            yield f"commit event {now.event}", self._commit(world, me, now)

    def _take(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        if now.declares != len(world.rows) and self.has("asks-the-number"):
            return
        for partition, row in enumerate(world.rows[: now.declares]):
            if row.owner >= 0 or not self._has_work(world, partition):
                continue
            taken = _at(world, partition, row._replace(owner=me))
            lease = Worker(now.declares, "turn", ours=True, partition=partition, position=row.position)
            doubtful = [one for one in range(row.position + 1, row.in_hand + 1) if self._is_wanted(world, lease, one)]
            if world.once and doubtful:
                entries = _put(world.entries, doubtful[0] - 1, partition)
                left = _at(taken, partition, Row(doubtful[0], doubtful[0], me))._replace(entries=entries)
                yield (
                    f"take {partition}, and leave {doubtful} to an operator",
                    _set(left, me, lease._replace(position=doubtful[0])),
                )
            else:
                yield f"take partition {partition}", _set(taken, me, lease)

    def _has_work(self, world: World, partition: int) -> bool:
        return world.rows[partition].position < EVENTS or partition in world.entries

    def _turn(self, world: World, me: int, now: Worker) -> Iterable[tuple[str, World]]:
        retried = self._due(world, now)
        if retried:
            closed = _put(world.entries, retried - 1, -1)
            wrong = Breach.ORDER if self._overtakes(world, retried) else world.wrong
            yield f"retry event {retried}", world._replace(entries=closed, done=world.done | 1 << retried, wrong=wrong)
            return
        wanted = [one for one in range(now.position + 1, EVENTS + 1) if self._is_wanted(world, now, one)]
        if wanted and world.once:
            row = world.rows[now.partition]._replace(in_hand=wanted[0])
            announced = _at(world, now.partition, row)
            yield f"announce event {wanted[0]}", _set(announced, me, now._replace(at="call", event=wanted[0]))
        elif wanted:
            yield f"handlers run for event {wanted[0]}", _set(world, me, now._replace(at="commit", event=wanted[0]))
        elif now.position < EVENTS:
            passed = _at(world, now.partition, Row(EVENTS, EVENTS, me))
            yield "pass by the rest", _set(passed, me, now._replace(position=EVENTS))
        else:
            released = _at(world, now.partition, world.rows[now.partition]._replace(owner=NOBODY))
            yield "release", _set(released, me, Worker(now.declares))

    def _due(self, world: World, now: Worker) -> int:
        """The first open entry of this partition that delivery has come up to, and that is the first of its key."""
        for place, partition in enumerate(world.entries):
            first = not any(world.entries[one] >= 0 and KEYS[one] == KEYS[place] for one in range(place))
            if partition == now.partition and first and place <= now.position and not world.once:
                return place + 1
        return 0

    def _is_wanted(self, world: World, now: Worker, number: int) -> bool:
        """Of this partition, above the floor of its old one, and not in the ledger."""
        key = KEYS[number - 1]
        floor = world.floors[key % len(world.floors)] if world.floors and self.has("floors") else 0
        mine = key % now.declares == now.partition
        return mine and number > floor and world.entries[number - 1] < 0

    def _overtakes(self, world: World, number: int) -> bool:
        """Whether an earlier event of the key is neither done nor left to an operator."""
        earlier = [one for one in range(1, number) if KEYS[one - 1] == KEYS[number - 1]]
        return any(not world.done >> one & 1 for one in earlier) and not world.once

    def _call(self, world: World, me: int, now: Worker) -> World:
        bit = 1 << now.event
        wrong = Breach.AGAIN if world.done & bit else world.wrong
        return _set(world._replace(done=world.done | bit, wrong=wrong), me, now._replace(at="commit"))

    def _commit(self, world: World, me: int, now: Worker) -> World:
        """The fence has passed. At most once the event was handed out before, and is only settled."""
        bit = 1 << now.event
        row = world.rows[now.partition]
        if row.position != now.position:
            return _set(world, me, Worker(now.declares))
        moved = _at(world, now.partition, Row(now.event, now.event, me))
        moved = _set(moved, me, now._replace(at="turn", position=now.event, event=0))
        if world.once:
            return moved
        key = KEYS[now.event - 1]
        held = any(world.entries[one] == now.partition and KEYS[one] == key for one in range(now.event - 1))
        if held or world.fails & bit:
            entries = _put(world.entries, now.event - 1, now.partition)
            return moved._replace(entries=entries, fails=world.fails & ~bit)
        wrong = Breach.ORDER if self._overtakes(world, now.event) else world.wrong
        wrong = Breach.TWICE if world.done & bit else wrong
        return moved._replace(done=world.done | bit, wrong=wrong)

    def _die(self, world: World, me: int, now: Worker) -> World:
        died = world._replace(deaths=world.deaths - 1)
        if now.ours:
            died = _at(died, now.partition, died.rows[now.partition]._replace(owner=GONE))
        return _set(died, me, Worker(now.declares))

    def _operate(self, world: World, deed: str) -> World | None:
        number = int(deed.rsplit(maxsplit=1)[-1])
        return self._change(world, number) if deed.startswith("to") else self._rewind(world, number)

    def _change(self, world: World, number: int) -> World | None:
        least = min(row.position for row in world.rows)
        if least < max(world.floors, default=0) and self.has("waits-for-floors"):
            return None
        in_hand = any(row.in_hand > row.position for row in world.rows)
        if world.once and in_hand and self.has("waits-for-the-hand"):
            return None
        begins = least if self.has("least") else max(row.position for row in world.rows)
        entries = tuple(
            KEYS[place] % number if one >= 0 and self.has("hashes-entries") else one
            for place, one in enumerate(world.entries)
        )
        kept = not self.has("epochs")
        rows = tuple(
            Row(begins, begins, world.rows[place].owner if kept and place < len(world.rows) else NOBODY)
            for place in range(number)
        )
        changed = world._replace(rows=rows, floors=tuple(row.position for row in world.rows), entries=entries)
        return changed if kept else _overtaken(changed)

    def _rewind(self, world: World, to: int) -> World | None:
        if all(row.position <= to for row in world.rows):
            return None
        rows = tuple(Row(min(row.position, to), min(row.position, to)) for row in world.rows)
        floors = tuple(min(one, to) for one in world.floors) if self.has("lowers-floors") else world.floors
        above = sum(1 << number for number in range(to + 1, EVENTS + 1))
        entries = (*world.entries[:to], *(-1 for _ in world.entries[to:]))
        return _overtaken(world._replace(rows=rows, floors=floors, done=world.done & ~above, entries=entries))


def _overtaken(world: World) -> World:
    return world._replace(workers=tuple(one._replace(ours=False) for one in world.workers))


def _at(world: World, partition: int, row: Row) -> World:
    return world._replace(rows=_put(world.rows, partition, row))


def _put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _set(world: World, me: int, worker: Worker) -> World:
    return world._replace(workers=_put(world.workers, me, worker))

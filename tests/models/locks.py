"""P4: one order of locks everywhere. Each transaction is the list of the locks it takes, which it lets go when it ends.

PostgreSQL ends one of those that wait for each other; nothing is lost by that, and nobody should have to wait for it.

    batch      delivery.py: a projection's tables, the fence (checkpoint), a ledger row (its foreign key shares the
               subscriber's key)
    take       leases.py: the subscriber FOR SHARE, the checkpoint FOR UPDATE
    rewind     control/moves.py: the subscriber, the checkpoints in order, entries
    rebuild    projections/rebuild.py: the tables first, then as a rewind
    skip       control/ledger.py: the subscriber, an entry
    heartbeat  heartbeat.py: all checkpoints of its owner in one statement, in any order, without those that are locked
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

BATCH = ("tables: write", "checkpoint 0: update", "entry: update", "subscriber: key share")
TAKE = ("subscriber: share", "checkpoint 0: update")
REWIND = ("subscriber: no key update", "checkpoint 0: update", "checkpoint 1: update", "entry: update")
REBUILD = ("tables: exclusive", *REWIND)
SKIP = ("subscriber: no key update", "entry: update")
HEARTBEAT = ("checkpoint 1: if free", "checkpoint 0: if free")

CONFLICTS = {
    "write": {"exclusive"},
    "exclusive": {"write", "exclusive"},
    "key share": {"update"},
    "share": {"no key update", "update"},
    "no key update": {"share", "no key update", "update"},
    "update": {"key share", "share", "no key update", "update", "if free"},
    "if free": {"key share", "share", "no key update", "update", "if free"},
}


class Actor(NamedTuple):
    """A transaction: the locks it has still to take, and those it holds."""

    name: str
    wants: tuple[str, ...]
    holds: frozenset[str] = frozenset()


class World(NamedTuple):
    actors: tuple[Actor, ...]


class Locks(Model[World]):
    """Transactions beside each other."""

    name = "locks"
    says = "one order of locks everywhere"
    removals: ClassVar[Mapping[str, Removal]] = {
        "tables-first": Removal(
            says="a rebuild locks the tables first", scope="a batch and a rebuild", breaks=Breach.WAITS
        ),
        "writes-first": Removal(
            says="a batch passes the fence after its handlers' writes",
            scope="a batch and a rebuild",
            breaks=Breach.WAITS,
        ),
        "fence-before-entries": Removal(
            says="a batch passes the fence before it writes the ledger",
            scope="a batch and a rewind",
            breaks=Breach.WAITS,
        ),
        "no-key-update": Removal(
            says="an operator holds the subscriber's row in a way that foreign keys pass",
            scope="a batch and a rewind",
            breaks=Breach.WAITS,
        ),
        "heartbeat-passes-by": Removal(
            says="a heartbeat passes by what is locked", scope="a heartbeat and a rewind", breaks=Breach.WAITS
        ),
    }
    large = frozenset({"all of them"})

    def scopes(self) -> Mapping[str, World]:
        batch = BATCH
        if not self.has("writes-first"):
            batch = (BATCH[1], BATCH[0], *BATCH[2:])
        if not self.has("fence-before-entries"):
            batch = (BATCH[0], *BATCH[2:], BATCH[1])
        rebuild = REBUILD if self.has("tables-first") else (*REWIND[:3], REBUILD[0])
        heartbeat = HEARTBEAT if self.has("heartbeat-passes-by") else ("checkpoint 1: update", "checkpoint 0: update")
        every = {
            "batch": batch,
            "take": TAKE,
            "rewind": REWIND,
            "rebuild": rebuild,
            "skip": SKIP,
            "heartbeat": heartbeat,
        }
        pairs = {
            f"a {one} and a {other}": (one, other) for number, one in enumerate(every) for other in list(every)[number:]
        }
        more = {
            "a heartbeat and a rewind": ("heartbeat", "rewind"),
            "a batch, a take, a rewind and a heartbeat": ("batch", "take", "rewind", "heartbeat"),
            "a batch, a rebuild, a skip and a heartbeat": ("batch", "rebuild", "skip", "heartbeat"),
            "all of them": tuple(every),
        }
        return {
            name: World(tuple(Actor(one, self._strong(every[one])) for one in names))
            for name, names in (pairs | more).items()
        }

    def _strong(self, wants: tuple[str, ...]) -> tuple[str, ...]:
        if self.has("no-key-update"):
            return wants
        return tuple(one.replace("no key update", "update") for one in wants)

    def broken(self, world: World) -> Breach | None:
        return None

    def left_over(self, world: World) -> Breach | None:
        return Breach.WAITS if any(one.wants for one in world.actors) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, actor in enumerate(world.actors):
            if actor.wants:
                after = self._lock(world, me, actor)
                if after is not None:
                    yield f"{actor.name}: {actor.wants[0]}", after
            elif actor.holds:
                yield f"{actor.name}: commit", _set(world, me, actor._replace(holds=frozenset()))

    def _lock(self, world: World, me: int, now: Actor) -> World | None:
        wanted, mode = now.wants[0].split(": ")
        others = (held.split(": ") for other, one in enumerate(world.actors) if other != me for held in one.holds)
        taken = any(what == wanted and held in CONFLICTS[mode] for what, held in others)
        if taken and mode != "if free":
            return None
        holds = now.holds if taken else now.holds | {now.wants[0]}
        return _set(world, me, now._replace(wants=now.wants[1:], holds=holds))


def _set(world: World, me: int, actor: Actor) -> World:
    return world._replace(actors=(*world.actors[:me], actor, *world.actors[me + 1 :]))

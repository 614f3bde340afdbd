"""Decisions by tag: appends under a condition (`append(..., unless=)`, decisions 18 and 22).

All writers write the one tag there is. Whenever a decision commits it has read every event of the tag that had been
committed by then; and where tags are locked before positions are drawn, no event of the tag stands before a decision in
the log that the decision has not read.

    writer    lock shared        lock_tags.sql, before the position; a plain INSERT can do so only afterwards
              (index_tags.sql)
              mark, draw         mark_append.2.sql, and the identity's default
              commit, unlock     rows visible, then the locks gone
    decision  head, marks, rows  what it is decided from is read up to the high-water mark (look.sql): `after`
              lock exclusive     recorded_since.sql: waits for whoever has written the tag
              look               in a new statement: anything after the position is a refusal
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

LONE = ("mark", "lock shared", "draw", "commit", "unlock")
BATCH = ("lock shared", "mark", "draw", "commit", "unlock")
PLAIN = ("mark", "draw", "lock shared", "commit", "unlock")
ROLLED_BACK = ("mark", "draw", "lock shared", "unlock")
READ = ("head", "marks", "rows")
DECIDE = ("lock exclusive", "look", "mark", "draw", "decide", "unlock")
DECISION = (*READ, *DECIDE)
TWICE = (*DECISION, "go on from own position", *DECIDE)

WRITERS = {"an append": LONE, "a batch": BATCH, "a plain insert": PLAIN, "one that is rolled back": ROLLED_BACK}


class Actor(NamedTuple):
    """One transaction after the other. `after` is the position decided from; `read` has a bit for each event read."""

    program: tuple[str, ...]
    decides: bool = False
    position: int = 0
    head: int = 0
    after: int = 0
    read: int = 0
    refused: bool = False


class World(NamedTuple):
    """`marks` has -1 for who has none; `shared` a bit for each who has the lock, `exclusive` who has it alone."""

    actors: tuple[Actor, ...]
    marks: tuple[int, ...]
    sequence: int = 0
    shared: int = 0
    exclusive: int = -1
    committed: int = 0
    wrong: str = ""
    ordered: bool = True


class Decisions(Model[World]):
    """Writers and deciders of one tag."""

    name = "decisions"
    says = "appends under a condition, by tag"
    removals: ClassVar[Mapping[str, Removal]] = {
        "shared-lock": Removal(
            says="a writer locks its tag", scope="two appends and a decision", breaks=Breach.DECIDED
        ),
        "exclusive-lock": Removal(
            says="a decision locks the tag", scope="two appends and a decision", breaks=Breach.DECIDED
        ),
        "lock-before-look": Removal(
            says="a decision looks after it has locked", scope="two appends and a decision", breaks=Breach.DECIDED
        ),
        "look": Removal(
            says="a decision looks for what has been recorded since",
            scope="two appends and a decision",
            breaks=Breach.DECIDED,
        ),
        "mark": Removal(says="a writer leaves its mark", scope="two appends and a decision", breaks=Breach.DECIDED),
        "marks": Removal(
            says="what is decided from is read up to the marks",
            scope="two appends and a decision",
            breaks=Breach.DECIDED,
        ),
        "marks-before-rows": Removal(
            says="the marks are read before the rows", scope="two appends and a decision", breaks=Breach.DECIDED
        ),
        "visible-first": Removal(
            says="rows are visible before their transaction's locks go",
            scope="two appends and a decision",
            breaks=Breach.DECIDED,
        ),
        "tag-before-position": Removal(
            says="a tag is locked before a position is drawn", scope="an append and a decision", breaks=Breach.ORDER
        ),
        "tag-before-position-twice": Removal(
            says="the same, for who goes on from the position of its own decision",
            scope="an append and who decides twice",
            breaks=Breach.DECIDED,
        ),
    }
    hides = frozenset({"program"})
    sets = frozenset({"read", "committed", "shared"})
    large = frozenset({"three appends and a decision", "an append, who decides twice, and a decision"})

    def scopes(self) -> Mapping[str, World]:
        pairs = {
            f"{one}, {other}, and a decision": _world(WRITERS[one], WRITERS[other], DECISION)
            for number, one in enumerate(WRITERS)
            for other in list(WRITERS)[number:]
        }
        scopes = {
            "an append and a decision": _world(LONE, DECISION),
            "a batch and a decision": _world(BATCH, DECISION),
            "two appends and a decision": _world(LONE, LONE, DECISION),
            **pairs,
            **{f"{name} and two decisions": _world(program, DECISION, DECISION) for name, program in WRITERS.items()},
            "an append and who decides twice": _world(LONE, TWICE),
            "a batch, an append and who decides twice": _world(BATCH, LONE, TWICE),
            "who decides twice, and a decision": _world(TWICE, DECISION),
            "three appends and a decision": _world(LONE, LONE, LONE, DECISION),
            "an append, who decides twice, and a decision": _world(LONE, TWICE, DECISION),
        }
        return {name: self._as_taken(world) for name, world in scopes.items()}

    def _as_taken(self, world: World) -> World:
        """Put the steps in the order that they are taken in."""
        return world._replace(actors=tuple(one._replace(program=self._order(one.program)) for one in world.actors))

    def _order(self, program: tuple[str, ...]) -> tuple[str, ...]:
        late = not (self.has("tag-before-position") and self.has("tag-before-position-twice"))
        if late and program in (LONE, BATCH):
            return PLAIN
        swaps = {
            "visible-first": ("commit", "unlock"),
            "marks-before-rows": ("marks", "rows"),
            "lock-before-look": ("lock exclusive", "look"),
        }
        steps = list(program)
        for removal, (one, other) in swaps.items():
            if self.has(removal):
                continue
            for place in range(len(steps) - 1):
                if (steps[place], steps[place + 1]) == (one, other):
                    steps[place], steps[place + 1] = other, one
        return tuple(steps)

    def broken(self, world: World) -> Breach | None:
        return Breach(world.wrong) if world.wrong else None

    def left_over(self, world: World) -> Breach | None:
        if any(actor.program for actor in world.actors):
            return Breach.WAITS
        decided = [one for one in world.actors if one.decides and one.position and not one.refused]
        overtaken = any(world.committed & ((1 << one.position) - 1) & ~one.read for one in decided)
        return Breach.ORDER if world.ordered and overtaken else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for me, actor in enumerate(world.actors):
            if actor.program:
                after = self._step(world, me, actor)
                if after is not None:
                    yield f"{'ABCD'[me]}: {actor.program[0]}", after

    def _step(self, world: World, me: int, now: Actor) -> World | None:
        mine = 1 << me
        match now.program[0]:
            case "mark":
                marks = self.has("mark") or now.decides
                return (
                    _go(world, me, now)._replace(marks=_put(world.marks, me, world.sequence))
                    if marks
                    else _go(world, me, now)
                )
            case "lock shared":
                if not self.has("shared-lock"):
                    return _go(world, me, now)
                return _go(world, me, now)._replace(shared=world.shared | mine) if world.exclusive in (-1, me) else None
            case "lock exclusive":
                if not self.has("exclusive-lock"):
                    return _go(world, me, now)
                free = world.shared | mine == mine and world.exclusive in (-1, me)
                return _go(world, me, now)._replace(exclusive=me) if free else None
            case "draw":
                return _go(world, me, now, position=world.sequence + 1)._replace(sequence=world.sequence + 1)
            case "head":
                return _go(world, me, now, head=world.sequence)
            case "marks":
                lows = [low for low in world.marks if low >= 0] if self.has("marks") else []
                return _go(world, me, now, after=min(now.head, *lows, now.head))
            case "rows":
                through = now.after if self.has("marks-before-rows") else now.head
                return _go(world, me, now, read=world.committed & ((2 << through) - 1))
            case "look":
                since = bool(world.committed >> now.after + 1) and self.has("look")
                return _go(world, me, now, refused=now.refused or since)
            case "go on from own position":
                return (
                    _go(world, me, now)
                    if now.refused
                    else _go(world, me, now, after=now.position, read=now.read | 1 << now.position)
                )
        return self._end(world, me, now)

    def _end(self, world: World, me: int, now: Actor) -> World:
        if now.program[0] == "unlock":
            gone = _go(world, me, now)._replace(marks=_put(world.marks, me, -1), shared=world.shared & ~(1 << me))
            return gone._replace(exclusive=-1 if world.exclusive == me else world.exclusive)
        if now.refused:
            return _go(world, me, now)
        decides = now.program[0] == "decide"
        overtaken = decides and world.committed & ~now.read
        committed = _go(world, me, now)._replace(committed=world.committed | 1 << now.position)
        return committed._replace(wrong=Breach.DECIDED) if overtaken else committed


def _world(*programs: tuple[str, ...]) -> World:
    return World(
        actors=tuple(Actor(program=one, decides="decide" in one) for one in programs),
        marks=(-1,) * len(programs),
        ordered=PLAIN not in programs and ROLLED_BACK not in programs,
    )


def _put(values: tuple[int, ...], place: int, value: int) -> tuple[int, ...]:
    return (*values[:place], value, *values[place + 1 :])


def _go(world: World, me: int, now: Actor, **changes: object) -> World:
    then = now._replace(program=now.program[1:], **changes)  # type: ignore[arg-type]  # fields of an actor
    return world._replace(actors=(*world.actors[:me], then, *world.actors[me + 1 :]))

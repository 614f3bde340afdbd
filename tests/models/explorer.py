"""Goes through every interleaving of a model, and returns the shortest way to where something is broken.

A model is a world, a value that can be hashed, and the steps that can be taken from it; a step is what the database or
a process does in one moment. Worlds that have been met are not gone through again, so loops end. The search is
breadth-first: the first world in which something is broken is as near to the start as any.

Nothing that keeps a world from ending is looked for, such as polling for ever. What a model promises of its ends is
asked where nobody has a step left.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Generic, NamedTuple, TypeVar

W = TypeVar("W", bound=tuple[object, ...])

WORLDS_MAX = 2_000_000


class Breach(StrEnum):
    """The ways in which a promise can be broken."""

    SKIPPED = "an event is skipped"
    SILENT = "a failure is silent"
    NOT_OWNER = "somebody else than the owner commits"
    TWICE = "an event is applied twice"
    AGAIN = "an event is handed out again without a word"
    FLAG = "what was handed out before is called no redelivery"
    ORDER = "an event overtakes one of its key"
    OPERATOR = "what an operator has done is undone by a worker"
    STRANDED = "something is left that nobody will do"
    SLEPT = "an event is slept through"
    CRASHES = "an event kills one worker after the other"
    REFUSED = "an append is refused that nothing is wrong with"
    DECIDED = "a decision is recorded that an event has overtaken"
    WAITS = "everybody waits for somebody else"


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """A step that can be left out or put elsewhere, the scope in which that is seen, and what it breaks there.

    Where one of two is enough, `also` names what has to be missing as well, and `alone` what breaks without this one
    only: nothing, or something that is at least not silent.
    """

    says: str
    scope: str
    breaks: Breach
    also: tuple[str, ...] = ()
    alone: Breach | None = None


class Model(Generic[W]):
    """A protocol. `without` are the removals in force; scopes in `large` are gone through on demand only."""

    name: ClassVar[str]
    says: ClassVar[str]
    removals: ClassVar[Mapping[str, Removal]]
    large: ClassVar[frozenset[str]] = frozenset()
    hides: ClassVar[frozenset[str]] = frozenset()
    """Fields that a trace leaves out, since what a step is called says it."""
    sets: ClassVar[frozenset[str]] = frozenset()
    """Fields that are numbers with a bit for each position."""

    def __init__(self, *without: str) -> None:
        unknown = set(without) - set(self.removals)
        if unknown:
            raise KeyError(f"{self.name} has no step {min(unknown)!r}; its steps are {', '.join(self.removals)}")
        self.without = frozenset(without)

    def has(self, step: str) -> bool:
        """Tell whether a step is taken as it ought to be."""
        return step not in self.without

    def scopes(self) -> Mapping[str, W]:
        """Return the worlds to begin with."""
        raise NotImplementedError

    def steps(self, world: W) -> Iterable[tuple[str, W]]:
        """Return what can happen now: what it is, and the world after it."""
        raise NotImplementedError

    def broken(self, world: W) -> Breach | None:
        """Tell what must never be, and is."""
        raise NotImplementedError

    def left_over(self, world: W) -> Breach | None:
        """Tell what must not be where nobody has a step left."""
        raise NotImplementedError


class Moment(NamedTuple, Generic[W]):
    """One step of a trace, and the world after it."""

    said: str
    world: W


@dataclass(frozen=True, slots=True, kw_only=True)
class Explored(Generic[W]):
    """What a search has come to: how many worlds, how many of them ends; and what is broken, with the way there."""

    worlds: int
    ends: int
    breach: Breach | None
    trace: tuple[Moment[W], ...]

    @property
    def steps(self) -> int:
        return len(self.trace) - 1


def explore(
    model: Model[W], scope: str, *, at_end: Callable[[W], None] | None = None, worlds_max: int = WORLDS_MAX
) -> Explored[W]:
    """Go through all worlds of a scope, nearest first, until one is broken or none is left; `at_end` sees each end."""
    start = model.scopes()[scope]
    came_from: dict[W, tuple[W, str] | None] = {start: None}
    now, ends = [start], 0
    while now:
        following: list[W] = []
        for world in now:
            breach = model.broken(world)
            if breach is None:
                has_steps = False
                for said, after in model.steps(world):
                    has_steps = True
                    if after not in came_from:
                        came_from[after] = world, said
                        following.append(after)
                if has_steps:
                    continue
                ends += 1
                if at_end is not None:
                    at_end(world)
                breach = model.left_over(world)
            if breach is not None:
                trace = tuple(_trace(came_from, world))
                return Explored(worlds=len(came_from), ends=ends, breach=breach, trace=trace)
        if len(came_from) > worlds_max:
            raise RuntimeError(f"{model.name}, {scope}: more than {worlds_max:,} worlds; make the scope smaller")
        now = following
    return Explored(worlds=len(came_from), ends=ends, breach=None, trace=())


def _trace(came_from: Mapping[W, tuple[W, str] | None], world: W) -> list[Moment[W]]:
    moments: list[Moment[W]] = []
    before = came_from[world]
    while before is not None:
        moments.append(Moment(before[1], world))
        world = before[0]
        before = came_from[world]
    return [Moment("", world), *reversed(moments)]


def told(model: Model[W], trace: Iterable[Moment[W]]) -> list[str]:
    """Write a trace for people: a line for each step, and below it what it changed."""
    lines: list[str] = []
    before: object = None
    for number, moment in enumerate(trace):
        if before is not None:
            lines.append(f"{number:3}  {moment.said}")
            changes = _changes(model, "", before, moment.world)
            lines += [f"         {name}: {old} -> {new}" for name, old, new in changes]
        before = moment.world
    return lines


def _changes(model: Model[W], name: str, before: object, after: object) -> Iterable[tuple[str, str, str]]:
    """Name the fields that differ, however deep they stand in values with names."""
    if before == after or name.rpartition(".")[2] in model.hides:
        return
    if isinstance(before, tuple) and isinstance(after, tuple):
        fields = getattr(after, "_fields", None)
        if fields is not None:
            for field, old, new in zip(fields, before, after, strict=True):
                yield from _changes(model, f"{name}.{field}" if name else field, old, new)
            return
        if len(before) == len(after) and any(isinstance(one, tuple) for one in after):
            for place, (old, new) in enumerate(zip(before, after, strict=True)):
                yield from _changes(model, f"{name}[{place}]", old, new)
            return
    in_bits = name.rpartition(".")[2] in model.sets
    yield name, _shown(before, in_bits=in_bits), _shown(after, in_bits=in_bits)


def _shown(value: object, *, in_bits: bool) -> str:
    if in_bits and isinstance(value, int):
        return "{" + ", ".join(f"{bit}" for bit in range(value.bit_length()) if value >> bit & 1) + "}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "(" + ", ".join(f"{field} {one}" for field, one in zip(value._fields, value, strict=True)) + ")"
    return f"{value}"

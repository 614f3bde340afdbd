"""A model of going to sleep beside a log (`eventlog/doorbell.py`), small enough to run through every interleaving.

One sleeper and some appenders take steps, one at a time, in every order there is. What a step does is what PostgreSQL
does in one moment: read the sequence, take a lock, allocate, commit, deliver a notification. There is no slow poll in
the model, so what is missed stays missed: an end in which the sleeper sleeps, nobody else has a step left, and an event
has not been handled.

A `Flaw` leaves one step out, or puts it elsewhere. Each is there to be seen to break something.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto


class Flaw(Enum):
    """One thing done wrongly."""

    HEAD_IS_NOT_READ_AGAIN = auto()
    LOOKS_BEFORE_THE_BELL_IS_OUT = auto()
    LISTENS_AFTER_THE_LOOK = auto()
    IN_FLIGHT_IS_MARK_BELOW_HEAD = auto()
    SLEEPS_WHILE_IN_FLIGHT = auto()
    SLEEPS_ON_AFTER_A_RING = auto()
    SLEEPS_ON_AFTER_A_RECONNECT = auto()
    BELL_IS_TRIED_BEFORE_THE_MARK = auto()
    RING_OUTLIVES_A_SAVEPOINT = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Appender:
    """A transaction: what it does, step by step, and what it holds."""

    steps: tuple[str, ...]
    low: int = 0
    marked: bool = False
    remembers_ring: bool = False
    notifies: bool = False
    allocated: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Everything there is at one moment."""

    appenders: tuple[Appender, ...]
    kills_left: int = 0
    head: int = 0
    visible: frozenset[int] = frozenset()
    bell_out: bool = False
    listening: bool = False
    rung: bool = False
    lost: bool = False
    at: str = "listen"
    head_read: int = 0
    mark_read: int = 0
    in_flight_read: bool = False
    handled_through: int = 0

    @property
    def marks(self) -> tuple[int, ...]:
        return tuple(one.low for one in self.appenders if one.marked)


ONE_EVENT = ("low", "mark", "bell", "allocate", "commit", "unmark", "deliver")
TWO_EVENTS = ("low", "mark", "bell", "allocate", "allocate", "commit", "unmark", "deliver")
ROLLED_BACK = ("low", "mark", "bell", "allocate", "roll back", "unmark")
SAVEPOINT = ("low", "mark", "bell", "allocate", "roll back to savepoint", *ONE_EVENT)


def missed(*transactions: tuple[str, ...], kills: int = 0, flaw: Flaw | None = None) -> World | None:
    """Run through every interleaving; return an end at which an event is slept through, None if there is none."""
    first = World(appenders=tuple(Appender(steps=_ordered(steps, flaw)) for steps in transactions), kills_left=kills)
    seen, left = {first}, [first]
    while left:
        world = left.pop()
        following = set(_following(world, flaw))
        if not following and _undone(world):
            return world
        left += following - seen
        seen |= following
    return None


def _following(world: World, flaw: Flaw | None) -> Iterator[World]:
    for place, appender in enumerate(world.appenders):
        if appender.steps:
            yield _APPENDER_STEPS[appender.steps[0]](world, place, flaw)
    if world.kills_left:
        yield replace(world, kills_left=world.kills_left - 1, bell_out=False, listening=False, rung=False, lost=True)
    slept = _SLEEPER_STEPS[world.at](world, flaw)
    # A poll that finds everything as it was is no step: it would go round for ever.
    if slept is not None and slept != world:
        yield slept


def _undone(world: World) -> bool:
    return any(position > world.handled_through for position in world.visible)


def _ordered(steps: tuple[str, ...], flaw: Flaw | None) -> tuple[str, ...]:
    if flaw is Flaw.BELL_IS_TRIED_BEFORE_THE_MARK:
        steps = tuple({"mark": "bell", "bell": "mark"}.get(step, step) for step in steps)
    return steps


def _change(world: World, place: int, **changes: object) -> World:
    """Take one step of an appender."""
    now = world.appenders[place]
    then = replace(now, steps=now.steps[1:], **changes)  # type: ignore[arg-type]  # checked by the dataclass's users
    return replace(world, appenders=(*world.appenders[:place], then, *world.appenders[place + 1 :]))


def _low(world: World, place: int, _flaw: Flaw | None) -> World:
    return _change(world, place, low=world.head)


def _mark(world: World, place: int, _flaw: Flaw | None) -> World:
    return _change(world, place, marked=True)


def _bell(world: World, place: int, flaw: Flaw | None) -> World:
    appender = world.appenders[place]
    if flaw is Flaw.RING_OUTLIVES_A_SAVEPOINT and appender.remembers_ring:
        return _change(world, place)
    return _change(world, place, notifies=appender.notifies or world.bell_out, remembers_ring=True)


def _allocate(world: World, place: int, _flaw: Flaw | None) -> World:
    position = world.head + 1
    allocated = world.appenders[place].allocated | {position}
    return replace(_change(world, place, allocated=allocated), head=position)


def _commit(world: World, place: int, _flaw: Flaw | None) -> World:
    return replace(_change(world, place), visible=world.visible | world.appenders[place].allocated)


def _unmark(world: World, place: int, _flaw: Flaw | None) -> World:
    return _change(world, place, marked=False)


def _deliver(world: World, place: int, _flaw: Flaw | None) -> World:
    heard = world.appenders[place].notifies and world.listening
    return replace(_change(world, place), rung=world.rung or heard)


def _roll_back(world: World, place: int, _flaw: Flaw | None) -> World:
    return _change(world, place, allocated=frozenset(), notifies=False)


def _roll_back_to_savepoint(world: World, place: int, _flaw: Flaw | None) -> World:
    return _change(world, place, allocated=frozenset(), notifies=False, marked=False)


_APPENDER_STEPS: dict[str, Callable[[World, int, Flaw | None], World]] = {
    "low": _low,
    "mark": _mark,
    "bell": _bell,
    "allocate": _allocate,
    "commit": _commit,
    "unmark": _unmark,
    "deliver": _deliver,
    "roll back": _roll_back,
    "roll back to savepoint": _roll_back_to_savepoint,
}


def _listen(world: World, flaw: Flaw | None) -> World:
    if flaw is Flaw.LISTENS_AFTER_THE_LOOK:
        return replace(world, at="bell")
    return replace(world, listening=True, lost=False, at="bell")


def _put_out(world: World, flaw: Flaw | None) -> World:
    if flaw is Flaw.LOOKS_BEFORE_THE_BELL_IS_OUT:
        return replace(world, at="head")
    return replace(world, bell_out=not world.lost, at="head")


def _read_head(world: World, _flaw: Flaw | None) -> World:
    return replace(world, rung=False, head_read=world.head, at="marks")


def _read_marks(world: World, flaw: Flaw | None) -> World:
    mark = min((world.head_read, *world.marks))
    in_flight = bool(world.marks)
    if flaw is Flaw.IN_FLIGHT_IS_MARK_BELOW_HEAD:
        in_flight = mark < world.head_read
    return replace(world, mark_read=mark, in_flight_read=in_flight, at="rows")


def _read_rows(world: World, flaw: Flaw | None) -> World:
    if any(world.handled_through < position <= world.mark_read for position in world.visible):
        return replace(world, bell_out=False, at="work")
    polls = world.in_flight_read and flaw is not Flaw.SLEEPS_WHILE_IN_FLIGHT
    return replace(world, at="head" if polls else "head again")


def _work(world: World, _flaw: Flaw | None) -> World:
    """Everything up to the mark is handled; then to sleep again, on the connection there is."""
    return replace(world, handled_through=world.mark_read, at="listen" if world.lost else "bell")


def _read_head_again(world: World, flaw: Flaw | None) -> World:
    if world.head > world.head_read and flaw is not Flaw.HEAD_IS_NOT_READ_AGAIN:
        return replace(world, at="head")
    bell_out = world.bell_out or (flaw is Flaw.LOOKS_BEFORE_THE_BELL_IS_OUT and not world.lost)
    late = flaw is Flaw.LISTENS_AFTER_THE_LOOK and not world.listening
    return replace(world, bell_out=bell_out, at="listen late" if late else "asleep")


def _listen_late(world: World, _flaw: Flaw | None) -> World:
    return replace(world, listening=not world.lost, at="asleep")


def _sleep(world: World, flaw: Flaw | None) -> World | None:
    if world.lost:
        woken = replace(world, at="listen")
        if flaw is Flaw.SLEEPS_ON_AFTER_A_RECONNECT:
            woken = replace(world, listening=True, bell_out=True, lost=False)
        return woken
    if not world.rung:
        return None
    return replace(world, rung=False, at="asleep" if flaw is Flaw.SLEEPS_ON_AFTER_A_RING else "head")


_SLEEPER_STEPS: dict[str, Callable[[World, Flaw | None], World | None]] = {
    "listen": _listen,
    "bell": _put_out,
    "head": _read_head,
    "marks": _read_marks,
    "rows": _read_rows,
    "work": _work,
    "head again": _read_head_again,
    "listen late": _listen_late,
    "asleep": _sleep,
}

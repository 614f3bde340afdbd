"""P3: going to sleep beside a log, and being woken (`eventlog/doorbell.py`).

One sleeper and some appenders. There is no slow poll in the model, so what is missed stays missed: an end in which the
sleeper sleeps, nobody else has a step left, and an event has not been handled. A lost connection (`kills`) takes
LISTEN and the bell with it, and is noticed.

    appender  low, mark          mark_append.2.sql
              bell               tried and given back, after the mark; out means that the commit notifies
              draw               a position
              commit             rows visible, then locks gone (`unmark`), then the notification (`deliver`)
    sleeper   listen             LISTEN, committed
              bell               put out, shared
              head, marks, rows  the look (look.sql), and rows in a new statement; rows -> the bell is put back, and
                                 work
              head again         it has moved -> look again
              asleep             until it rings, or the connection is lost; then from the look
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

ONE_EVENT = ("low", "mark", "bell", "draw", "commit", "unmark", "deliver")
TWO_EVENTS = ("low", "mark", "bell", "draw", "draw", "commit", "unmark", "deliver")
ROLLED_BACK = ("low", "mark", "bell", "draw", "roll back", "unmark")
SAVEPOINT = ("low", "mark", "bell", "draw", "to savepoint", *ONE_EVENT)


class Appender(NamedTuple):
    """A transaction: what it still does, and what it holds. `mark` is -1 without one."""

    program: tuple[str, ...]
    low: int = 0
    mark: int = -1
    has_rung: bool = False
    notifies: bool = False
    rows: int = 0


class Sleeper(NamedTuple):
    """What has been read: the head, the high-water mark, whether anything was in flight."""

    at: str = "listen"
    listening: bool = False
    rung: bool = False
    lost: bool = False
    head: int = 0
    mark: int = 0
    in_flight: bool = False
    handled_through: int = 0


class World(NamedTuple):
    """`visible` has a bit for each position; `bell_out` is whether appenders find it out."""

    appenders: tuple[Appender, ...]
    sleeper: Sleeper = Sleeper()
    head: int = 0
    visible: int = 0
    bell_out: bool = False
    kills: int = 0


class Doorbell(Model[World]):
    """Appenders beside one sleeper."""

    name = "doorbell"
    says = "going to sleep beside a log, and being woken"
    removals: ClassVar[Mapping[str, Removal]] = {
        "head-again": Removal(says="the head is read again before sleeping", scope="one append", breaks=Breach.SLEPT),
        "bell-before-look": Removal(
            says="the bell is put out before the look", scope="one append", breaks=Breach.SLEPT
        ),
        "listen-before-look": Removal(says="LISTEN comes before the look", scope="one append", breaks=Breach.SLEPT),
        "any-mark": Removal(
            says="in flight is any mark, and not only one below the head", scope="one append", breaks=Breach.SLEPT
        ),
        "polls-in-flight": Removal(
            says="what is in flight is waited for by polling", scope="one append", breaks=Breach.SLEPT
        ),
        "looks-after-a-ring": Removal(says="a ring is followed by a look", scope="one append", breaks=Breach.SLEPT),
        "looks-after-a-reconnect": Removal(
            says="a new connection is followed by a look",
            scope="one append, and a lost connection",
            breaks=Breach.SLEPT,
        ),
        "mark-before-bell": Removal(
            says="the mark is left before the bell is tried", scope="one append", breaks=Breach.SLEPT
        ),
        "rings-again": Removal(
            says="a ring that went with a savepoint is made up for",
            scope="an append after a savepoint that is rolled back",
            breaks=Breach.SLEPT,
        ),
    }
    hides = frozenset({"program", "at"})
    sets = frozenset({"visible", "rows"})
    large = frozenset({"three appends", "a transaction of two and an append, and two lost connections"})

    def scopes(self) -> Mapping[str, World]:
        return {
            "one append": _world(ONE_EVENT),
            "one append, and a lost connection": _world(ONE_EVENT, kills=1),
            "two appends": _world(ONE_EVENT, ONE_EVENT),
            "two appends, and a lost connection": _world(ONE_EVENT, ONE_EVENT, kills=1),
            "a transaction of two and an append": _world(TWO_EVENTS, ONE_EVENT),
            "an append beside one that is rolled back": _world(ROLLED_BACK, ONE_EVENT),
            "an append after a savepoint that is rolled back": _world(SAVEPOINT),
            "the same beside another append": _world(SAVEPOINT, ONE_EVENT),
            "three appends": _world(ONE_EVENT, ONE_EVENT, ONE_EVENT),
            "a transaction of two and an append, and two lost connections": _world(TWO_EVENTS, ONE_EVENT, kills=2),
        }

    def broken(self, world: World) -> Breach | None:
        return None

    def left_over(self, world: World) -> Breach | None:
        return Breach.SLEPT if world.visible >> world.sleeper.handled_through + 1 else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        for place, appender in enumerate(world.appenders):
            if appender.program:
                step = appender.program[0]
                if step in ("mark", "bell") and not self.has("mark-before-bell"):
                    step = {"mark": "bell", "bell": "mark"}[step]
                yield f"{'ABC'[place]}: {step}", self._append(world, place, appender, step)
        if world.kills:
            cut = world.sleeper._replace(listening=False, rung=False, lost=True)
            yield "the sleeper's connection is lost", world._replace(kills=world.kills - 1, bell_out=False, sleeper=cut)
        after = self._sleep(world, world.sleeper)
        # A poll that finds everything as it was is no step: it would go round for ever.
        if after != world:
            yield f"sleeper: {world.sleeper.at}", after

    def _append(self, world: World, me: int, now: Appender, step: str) -> World:
        rest = now.program[1:]
        match step:
            case "low":
                then = now._replace(low=world.head)
            case "mark":
                then = now._replace(mark=now.low)
            case "bell":
                again = self.has("rings-again") or not now.has_rung
                then = now._replace(notifies=now.notifies or (again and world.bell_out), has_rung=True)
            case "draw":
                then = now._replace(rows=now.rows | 2 << world.head)
                world = world._replace(head=world.head + 1)
            case "commit":
                then = now
                world = world._replace(visible=world.visible | now.rows)
            case "unmark":
                then = now._replace(mark=-1)
            case "deliver":
                then = now
                heard = world.sleeper.rung or (now.notifies and world.sleeper.listening)
                world = world._replace(sleeper=world.sleeper._replace(rung=heard))
            case "roll back":
                then = now._replace(rows=0, notifies=False)
            case _:
                then = now._replace(rows=0, notifies=False, mark=-1)
        appenders = (*world.appenders[:me], then._replace(program=rest), *world.appenders[me + 1 :])
        return world._replace(appenders=appenders)

    def _sleep(self, world: World, now: Sleeper) -> World:
        match now.at:
            case "listen":
                heard = {"listening": True, "lost": False} if self.has("listen-before-look") else {}
                return world._replace(sleeper=now._replace(at="bell", **heard))
            case "bell":
                out = not now.lost and self.has("bell-before-look")
                return world._replace(bell_out=out, sleeper=now._replace(at="head"))
            case "head":
                return world._replace(sleeper=now._replace(rung=False, head=world.head, at="marks"))
            case "marks":
                return self._look_at_marks(world, now)
            case "rows":
                return self._look_at_rows(world, now)
            case "work":
                done = now._replace(handled_through=now.mark, at="listen" if now.lost else "bell")
                return world._replace(sleeper=done)
            case "head again":
                return self._look_again(world, now)
            case "listen late":
                return world._replace(sleeper=now._replace(listening=not now.lost, at="asleep"))
        return self._wake(world, now)

    def _look_at_marks(self, world: World, now: Sleeper) -> World:
        marks = [one.mark for one in world.appenders if one.mark >= 0]
        mark = min(now.head, *marks, now.head)
        in_flight = bool(marks) if self.has("any-mark") else mark < now.head
        return world._replace(sleeper=now._replace(mark=mark, in_flight=in_flight, at="rows"))

    def _look_at_rows(self, world: World, now: Sleeper) -> World:
        if world.visible & ((2 << now.mark) - 1) >> now.handled_through + 1 << now.handled_through + 1:
            return world._replace(bell_out=False, sleeper=now._replace(at="work"))
        polls = now.in_flight and self.has("polls-in-flight")
        return world._replace(sleeper=now._replace(at="head" if polls else "head again"))

    def _look_again(self, world: World, now: Sleeper) -> World:
        if world.head > now.head and self.has("head-again"):
            return world._replace(sleeper=now._replace(at="head"))
        late = not self.has("listen-before-look") and not now.listening
        out = world.bell_out or (not self.has("bell-before-look") and not now.lost)
        return world._replace(bell_out=out, sleeper=now._replace(at="listen late" if late else "asleep"))

    def _wake(self, world: World, now: Sleeper) -> World:
        if now.lost:
            if self.has("looks-after-a-reconnect"):
                return world._replace(sleeper=now._replace(at="listen"))
            return world._replace(bell_out=True, sleeper=now._replace(listening=True, lost=False))
        if not now.rung:
            return world
        return world._replace(
            sleeper=now._replace(rung=False, at="head" if self.has("looks-after-a-ring") else "asleep")
        )


def _world(*programs: tuple[str, ...], kills: int = 0) -> World:
    return World(appenders=tuple(Appender(program=one) for one in programs), kills=kills)

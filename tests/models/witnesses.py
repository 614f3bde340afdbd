"""What a checkpoint is witnessed by, where a server may lose what was read: full pages, and sparse ones of rare types.

One worker, whose connection is not seen to be lost: a pooler stands between. What is lost comes after the checkpoint's
row, since who has a row has everything that was committed before it. Positions are given out again. That is so too of
those that nothing has come to, since their transactions were rolled back: holes.

    worker    full page       feed.py `Feed._read`: one statement, every event up to the mark
              sparse page     feed.py `SparsePages._read`: the last event there is, then what is wanted up to there
              passes by       partition.py `_pass_by`: nothing was wanted; the row stays, and the next page is read
              settles         settling.py: the row moves to an event of the page, to before one, or to its end, if the
                              witnesses stand (seen.py, fence.py); if not, everything is forgotten. Beyond the last
                              event that was read, the mark is asked first
    others    append, wanted or not, or roll back; and the server loses what it has at its end
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

PAGE_EVENTS = 1
"""So many that are wanted a sparse page holds: it may end before its ending."""


class Event(NamedTuple):
    """What a position was given out for; `id` is 0 for a hole."""

    position: int
    id: int
    wanted: bool


class Page(NamedTuple):
    """What was read after a position, up to `end`. A sparse one knows of what is wanted, and of its `ending`."""

    after: int
    end: int
    known: tuple[Event, ...]
    ending: Event | None = None

    @property
    def wanted(self) -> tuple[Event, ...]:
        return tuple(one for one in self.known if one.wanted and one.position > self.after)


class Witness(NamedTuple):
    """Of the events with after < position <= through the last is `last`; `is_open` is whether it stands before what is
    relied on.
    """

    after: int
    through: int
    last: Event | None
    is_open: bool = False


class World(NamedTuple):
    """`log` has something at each position from 1; `asked` is what the first statement of a sparse page has found."""

    log: tuple[Event, ...] = ()
    row: int = 0
    pages: tuple[Page, ...] = ()
    asked: tuple[Event, ...] | None = None
    until: int = 0
    handled: frozenset[int] = frozenset()
    ids: int = 0
    appends: int = 0
    rolls_back: int = 0
    losses: int = 0

    def events(self, after: int = 0, through: int | None = None) -> tuple[Event, ...]:
        """What can be read after a position, up to another."""
        return tuple(one for one in self.log[after:through] if one.id)


class Witnesses(Model[World]):
    """A worker, and a server that loses what it has at its end."""

    name = "witnesses"
    says = "what was read and is lost since moves no checkpoint"
    removals: ClassVar[Mapping[str, Removal]] = {
        "compares": Removal(says="the fence compares what was read", scope="a loss", breaks=Breach.SKIPPED),
        "each-page": Removal(
            says="there is a witness for each page, not for the last one alone", scope="a loss", breaks=Breach.SKIPPED
        ),
        "not-before": Removal(
            says="the witness of a sparse page is the last event there was, not the last that was wanted",
            scope="a loss",
            breaks=Breach.SKIPPED,
        ),
        "last-first": Removal(
            says="the last event there is is read first, and then what is wanted up to it",
            scope="a loss",
            breaks=Breach.SKIPPED,
        ),
        "at-or-after": Removal(
            says="the witness of a full page is the first event at or after the checkpoint, not the last before it",
            scope="a loss and a hole",
            breaks=Breach.SKIPPED,
        ),
        "given-out": Removal(
            says="beyond the last event that was read, the log has to have given out the position",
            scope="a loss and a hole",
            breaks=Breach.SKIPPED,
        ),
    }
    hides = frozenset({"ids", "appends", "losses", "until", "rolls_back"})
    large = frozenset({"three losses", "two losses and two holes"})

    def scopes(self) -> Mapping[str, World]:
        return {
            "no loss": World(appends=5),
            "a loss": World(appends=4, losses=1),
            "two losses": World(appends=4, losses=2),
            "a loss and a hole": World(appends=3, losses=1, rolls_back=1),
            "two losses and two holes": World(appends=4, losses=2, rolls_back=2),
            "three losses": World(appends=6, losses=3),
        }

    def broken(self, world: World) -> Breach | None:
        skipped = any(one.wanted and one.id not in world.handled for one in world.events(through=world.row))
        return Breach.SKIPPED if skipped else None

    def left_over(self, world: World) -> Breach | None:
        return Breach.STRANDED if world.events(world.row) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        if world.appends:
            for wanted in (False, True):
                one = Event(len(world.log) + 1, world.ids + 1, wanted)
                said = f"somebody appends an event that is {'wanted' if wanted else 'not wanted'}"
                yield said, world._replace(log=(*world.log, one), ids=one.id, appends=world.appends - 1)
        if world.rolls_back:
            hole = Event(len(world.log) + 1, 0, wanted=False)
            yield "somebody rolls back", world._replace(log=(*world.log, hole), rolls_back=world.rolls_back - 1)
        if world.losses:
            for kept in range(world.row, len(world.log)):
                yield (
                    f"the server loses what follows {kept}",
                    world._replace(log=world.log[:kept], losses=world.losses - 1),
                )
        if world.asked is not None:
            yield "the worker's second statement", self._second(world, world.asked)
        elif not (world.pages and world.pages[-1].wanted) and self._reached(world) < len(world.log):
            page = Page(self._reached(world), len(world.log), world.events(self._reached(world)))
            yield "the worker reads a full page", world._replace(pages=(*world.pages, page))
            yield "the worker's first statement for a sparse page", self._first(world)
        if world.pages and world.asked is None:
            for to in self._checkpoints(world.pages[-1], world.row):
                yield from self._settle(world, to)

    def _reached(self, world: World) -> int:
        return world.pages[-1].end if world.pages else world.row

    def _first(self, world: World) -> World:
        new = world.events(self._reached(world))
        found = new[-1:] if self.has("last-first") else tuple(one for one in new if one.wanted)
        return world._replace(asked=found, until=len(world.log))

    def _second(self, world: World, asked: tuple[Event, ...]) -> World:
        new = world.events(self._reached(world), world.until)
        wanted = tuple(one for one in new if one.wanted)
        last, found = (asked, wanted) if self.has("last-first") else (new[-1:], asked)
        now = world._replace(asked=None, until=0)
        if not last:
            return now
        (ending,) = last
        known = tuple(one for one in found if one.position <= ending.position)[:PAGE_EVENTS]
        end = known[-1].position if len(known) == PAGE_EVENTS else ending.position
        return now._replace(pages=(*now.pages, Page(self._reached(now), end, known, ending)))

    def _checkpoints(self, page: Page, row: int) -> list[int]:
        """The row moves to the end; or to an event that is wanted, or to before one that is waited at."""
        places = {place for one in page.wanted for place in (one.position, one.position - 1)} | {page.end}
        return sorted(one for one in places if one > max(row, page.after if page.wanted else row))

    def _settle(self, world: World, to: int) -> Iterable[tuple[str, World]]:
        *earlier, page = world.pages
        witnesses = [seen for one in earlier for seen in self._witness(one, one.end)] if self.has("each-page") else []
        witnesses += self._witness(page, to)
        stand = all(self._stands(world, one) for one in witnesses) or not self.has("compares")
        if any(one.is_open for one in witnesses) and self.has("given-out"):
            stand = stand and to <= len(world.log)
        if not stand:
            yield f"the worker is refused at {to}, and forgets", world._replace(pages=())
            return
        done = frozenset(one.id for one in page.wanted if one.position <= to)
        rest = (page._replace(after=to),) if to < page.end else ()
        yield f"the worker settles at {to}", world._replace(row=to, pages=rest, handled=world.handled | done)

    def _stands(self, world: World, witness: Witness) -> bool:
        last = world.events(witness.after, witness.through)[-1:]
        return last == (() if witness.last is None else (witness.last,))

    def _witness(self, page: Page, to: int) -> list[Witness]:
        """What a full page says of a checkpoint; of a sparse one its ending, since what stands before is not known."""
        before = [one for one in page.known if one.position <= to][-1:]
        after = [one for one in page.known if one.position >= to][:1]
        if page.ending is not None:
            ending = [page.ending] if self.has("not-before") else before
            return [Witness(page.after, one.position, one) for one in ending]
        if after and self.has("at-or-after"):
            return [Witness(page.after, after[0].position, after[0])]
        return [Witness(page.after, to, before[0] if before else None, is_open=not after)]

"""A mark, and what is read and settled under it, where another server may answer the next question.

One worker and full pages. A server is lost with what others had not been sent, and another takes over: the worker is
not told, since a pooler stands between, or since the connection that was lost is not the one that he asks next. What is
on its way when a server is lost never comes; where the next one knows of its position, that is a hole.

    worker    asks            the high-water mark: everything below it has come, or never will (P2)
              reads a page    feed.py `Feed._read`: every event up to the mark, on the server that told it; if that is
                              another one now, the mark is asked again
              settles         settling.py, seen.py, fence.py: at an event of the page, where it stands as it was read
              passes          partition.py `_pass_by`, leases.py `release`: to the end of the page, over positions that
                              nothing had come to: the mark is asked, and in the statement after it the page is compared
    others    begin an append, commit it, roll it back; a server is lost
"""

from collections.abc import Iterable, Mapping
from typing import ClassVar, NamedTuple

from tests.models.explorer import Breach, Model, Removal

ON_ITS_WAY, HOLE = 0, -1


class Page(NamedTuple):
    """What was read after the row up to `end`: the ids of the events, by position."""

    end: int
    known: tuple[tuple[int, int], ...]


class World(NamedTuple):
    """`log` has at each position from 1 the id of its event, or what became of it. `told` and `by` are the mark, and
    who told it; `asked` is what a worker who passes positions was told, and `compared` whether the page stood then.
    """

    log: tuple[int, ...] = ()
    server: int = 1
    row: int = 0
    told: int = 0
    by: int = 0
    page: Page | None = None
    asked: int | None = None
    compared: bool | None = None
    handled: frozenset[int] = frozenset()
    ids: int = 0
    appends: int = 0
    losses: int = 0

    @property
    def mark(self) -> int:
        return self.log.index(ON_ITS_WAY) if ON_ITS_WAY in self.log else len(self.log)

    def events(self, after: int, through: int) -> tuple[tuple[int, int], ...]:
        """What can be read after a position up to another."""
        return tuple((at, one) for at, one in enumerate(self.log, 1) if after < at <= through and one > 0)


class Servers(Model[World]):
    """A worker who goes from server to server without a word."""

    name = "servers"
    says = "a mark holds on the server that told it"
    removals: ClassVar[Mapping[str, Removal]] = {
        "same-server": Removal(
            says="a page is read on the server that told the mark",
            scope="four appends and a loss",
            breaks=Breach.SKIPPED,
        ),
        "asks-first": Removal(
            says="before positions are passed that nothing had come to, the mark is asked",
            scope="two appends and a loss",
            breaks=Breach.SKIPPED,
        ),
        "compares-after": Removal(
            says="the page is compared in the statement after the mark was told, not before",
            scope="three appends and a loss",
            breaks=Breach.SKIPPED,
        ),
        "one-transaction": Removal(
            says="the mark and the comparison are of one transaction, on one server",
            scope="three appends and a loss",
            breaks=Breach.SKIPPED,
        ),
    }
    hides = frozenset({"ids", "appends", "losses"})
    large = frozenset({"four appends and two losses"})

    def scopes(self) -> Mapping[str, World]:
        return {
            "three appends": World(appends=3),
            "two appends and a loss": World(appends=2, losses=1),
            "three appends and a loss": World(appends=3, losses=1),
            "four appends and a loss": World(appends=4, losses=1),
            "three appends and two losses": World(appends=3, losses=2),
            "four appends and two losses": World(appends=4, losses=2),
        }

    def broken(self, world: World) -> Breach | None:
        skipped = any(one not in world.handled for _, one in world.events(0, world.row))
        return Breach.SKIPPED if skipped else None

    def left_over(self, world: World) -> Breach | None:
        return Breach.STRANDED if world.events(world.row, len(world.log)) else None

    def steps(self, world: World) -> Iterable[tuple[str, World]]:
        yield from self._others(world)
        if world.asked is not None or world.compared is not None:
            yield from self._passes(world)
        elif world.page is None:
            if (world.told, world.by) != (world.mark, world.server):
                yield "the worker asks for the mark", world._replace(told=world.mark, by=world.server)
            if world.told > world.row and (world.by == world.server or not self.has("same-server")):
                page = Page(world.told, world.events(world.row, world.told))
                yield f"the worker reads a page up to {world.told}", world._replace(page=page)
        else:
            yield from self._settles(world, world.page)

    def _others(self, world: World) -> Iterable[tuple[str, World]]:
        if world.appends:
            yield "an append begins", world._replace(log=(*world.log, ON_ITS_WAY), appends=world.appends - 1)
        for at, one in enumerate(world.log, 1):
            if one == ON_ITS_WAY:
                new = world.ids + 1
                yield f"{at} is committed", world._replace(log=_with(world.log, at, new), ids=new)
                yield f"{at} is rolled back", world._replace(log=_with(world.log, at, HOLE))
        if world.losses:
            for kept in range(world.row, len(world.log) + 1):
                yield f"the server is lost, the next one has {kept}", self._lost(world, kept)

    def _lost(self, world: World, kept: int) -> World:
        """The transaction in which somebody asks and compares is lost with its server."""
        log = tuple(HOLE if one == ON_ITS_WAY else one for one in world.log[:kept])
        after = world._replace(log=log, server=world.server + 1, losses=world.losses - 1)
        return after._replace(asked=None, compared=None) if self.has("one-transaction") else after

    def _settles(self, world: World, page: Page) -> Iterable[tuple[str, World]]:
        for to, one in page.known:
            yield from self._moves(world, page, to, stands=world.events(world.row, to)[-1:] == ((to, one),))
        if not page.known or page.known[-1][0] < page.end:
            if not self.has("asks-first"):
                yield from self._moves(world, page, page.end, stands=self._stands(world, page))
            elif self.has("compares-after"):
                yield "the worker asks for the mark, to pass", world._replace(asked=world.mark)
            else:
                yield "the worker compares, to pass", world._replace(compared=self._stands(world, page))

    def _passes(self, world: World) -> Iterable[tuple[str, World]]:
        assert world.page is not None
        now = world._replace(asked=None, compared=None)
        told = world.mark if world.asked is None else world.asked
        compared = self._stands(world, world.page) if world.compared is None else world.compared
        yield from self._moves(now, world.page, world.page.end, stands=compared and told >= world.page.end)

    def _stands(self, world: World, page: Page) -> bool:
        """The last event up to the end of the page is the one that was read last."""
        return world.events(world.row, page.end)[-1:] == page.known[-1:]

    def _moves(self, world: World, page: Page, to: int, *, stands: bool) -> Iterable[tuple[str, World]]:
        if not stands:
            yield f"the worker is refused at {to}, and forgets", world._replace(page=None, told=0, by=0)
            return
        handled = world.handled | {one for at, one in page.known if at <= to}
        rest = Page(page.end, tuple(one for one in page.known if one[0] > to)) if to < page.end else None
        yield f"the worker settles at {to}", world._replace(row=to, page=rest, handled=handled)


def _with(log: tuple[int, ...], at: int, what: int) -> tuple[int, ...]:
    return (*log[: at - 1], what, *log[at:])

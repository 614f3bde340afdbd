"""What the model of live delivery is played with: what handlers do, what stands in the row, what a worker knows."""

from collections.abc import Mapping
from typing import NamedTuple

NOBODY, GONE = -1, -2


class Scene(NamedTuple):
    """What does not change. `does` and `keys` are by event; `parked` has a bit for each event that is in the ledger at
    first, with the checkpoint behind it; `width` is how many are announced at a time, at most once; a page of the
    second worker ends at `cut`, if it begins before.
    """

    mode: str
    does: tuple[str, ...] = ("ok", "ok")
    keys: str = "abc"
    parked: int = 0
    width: int = 1
    cut: int = 0
    kills: int = 3
    """So many are a crash loop: two, and one for each time that somebody takes over from the living."""


class Row(NamedTuple):
    position: int = 0
    in_hand: int = 0
    handled_through: int = 0
    owner: int = NOBODY
    expired: bool = False


class Worker(NamedTuple):
    """What a process knows. `ours` is whether the row still has its epoch, `clock` whether its own clock says so."""

    at: str = "idle"
    ours: bool = False
    clock: bool = True
    doubt: bool = False
    alone: int = 0
    suspect: int = 0
    in_hand: int = 0
    batch: tuple[int, ...] = ()
    place: int = 0
    before: int = 0
    entries: int = 0
    late: int = 0


class World(NamedTuple):
    """Sets of events are numbers with a bit for each: open entries, what handlers are done with, were called with, what
    an operator passed over.
    """

    scene: int
    workers: tuple[Worker, ...] = (Worker(), Worker())
    row: Row = Row()
    ledger: int = 0
    done: int = 0
    called: int = 0
    passed: int = 0
    times: tuple[int, ...] = (0, 0, 0)
    kills: int = 0
    deaths: int = 0
    expiries: int = 0
    losses: int = 0
    stops: int = 0
    operator: tuple[str, ...] = ()
    wrong: str = ""


TRANSACTIONAL, AT_LEAST_ONCE, AT_MOST_ONCE = "transactional", "at least once", "at most once"
MODES = (TRANSACTIONAL, AT_LEAST_ONCE, AT_MOST_ONCE)
BLOCKED = Scene(AT_LEAST_ONCE, does=("fails", "ok", "kills"), keys="aab", parked=0b10)
SCENES: Mapping[str, tuple[Scene, World]] = {
    **{f"{mode}, a death": (Scene(mode), World(0, deaths=1)) for mode in MODES},
    **{f"{mode}, two deaths": (Scene(mode), World(0, deaths=2)) for mode in MODES},
    **{f"{mode}, an expired lease": (Scene(mode), World(0, expiries=1)) for mode in MODES},
    **{f"{mode}, an interruption": (Scene(mode), World(0, losses=1, deaths=1)) for mode in MODES},
    **{f"{mode}, a stop and a death": (Scene(mode), World(0, stops=1, deaths=1)) for mode in MODES},
    **{f"{mode}, a failure": (Scene(mode, ("fails", "ok"), "aa"), World(0, deaths=1, expiries=1)) for mode in MODES},
    **{f"{mode}, a killer": (Scene(mode, ("ok", "kills")), World(0)) for mode in MODES},
    **{
        f"{mode}, a killer and an expired lease": (Scene(mode, ("ok", "kills"), kills=4), World(0, expiries=1))
        for mode in MODES
    },
    "at least once, a killer behind a blocked event": (BLOCKED, World(0, row=Row(1, 1, 1), ledger=0b10)),
    "at most once, a killer beside a blocked event": (
        BLOCKED._replace(mode=AT_MOST_ONCE, width=2),
        World(0, row=Row(1, 1, 1), ledger=0b10),
    ),
    "at most once, two at a time": (Scene(AT_MOST_ONCE, width=2), World(0, deaths=1, expiries=1)),
    "at most once, pages that end elsewhere": (
        Scene(AT_MOST_ONCE, does=("unwanted", "ok"), cut=1),
        World(0, deaths=1, expiries=1),
    ),
    "at most once, a move of other partitions": (
        Scene(AT_MOST_ONCE),
        World(0, deaths=1, operator=("touch",)),
    ),
    "at most once, an advance": (
        Scene(AT_MOST_ONCE, does=("unwanted", "ok")),
        World(0, deaths=1, operator=("advance to 1",)),
    ),
    **{
        f"{mode}, three events and one of each": (
            Scene(mode, ("ok", "fails", "ok"), "aba"),
            World(0, deaths=1, expiries=1, losses=1, stops=1),
        )
        for mode in MODES
    },
    **{
        f"{mode}, three events, two deaths and two expired leases": (
            Scene(mode, ("ok", "fails", "ok"), "aba", width=2),
            World(0, deaths=2, expiries=2),
        )
        for mode in MODES
    },
}
ALL = [scene for scene, _ in SCENES.values()]

"""Going to sleep beside a log, in every interleaving: nothing is slept through, and every step is needed for that."""

import pytest

from tests.doorbell_model import ONE_EVENT, ROLLED_BACK, SAVEPOINT, TWO_EVENTS, Flaw, missed

SCENES: dict[str, tuple[tuple[str, ...], ...]] = {
    "one append": (ONE_EVENT,),
    "two appends": (ONE_EVENT, ONE_EVENT),
    "a transaction of two appends and another": (TWO_EVENTS, ONE_EVENT),
    "an append beside one that is rolled back": (ROLLED_BACK, ONE_EVENT),
    "an append after a savepoint that is rolled back": (SAVEPOINT,),
    "the same beside another append": (SAVEPOINT, ONE_EVENT),
}

NEEDED = {
    Flaw.HEAD_IS_NOT_READ_AGAIN: ("one append", 0),
    Flaw.LOOKS_BEFORE_THE_BELL_IS_OUT: ("one append", 0),
    Flaw.LISTENS_AFTER_THE_LOOK: ("one append", 0),
    Flaw.IN_FLIGHT_IS_MARK_BELOW_HEAD: ("one append", 0),
    Flaw.SLEEPS_WHILE_IN_FLIGHT: ("one append", 0),
    Flaw.SLEEPS_ON_AFTER_A_RING: ("one append", 0),
    Flaw.SLEEPS_ON_AFTER_A_RECONNECT: ("one append", 1),
    Flaw.BELL_IS_TRIED_BEFORE_THE_MARK: ("one append", 0),
    Flaw.RING_OUTLIVES_A_SAVEPOINT: ("an append after a savepoint that is rolled back", 0),
}
"""The smallest scene, and how often the connection is lost in it, that each flaw is seen in."""


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("kills", [0, 1])
def test_nothing_is_slept_through_in_any_interleaving(scene: str, kills: int) -> None:
    assert missed(*SCENES[scene], kills=kills) is None


@pytest.mark.parametrize("flaw", Flaw, ids=lambda flaw: flaw.name.lower())
def test_an_event_is_slept_through_without(flaw: Flaw) -> None:
    scene, kills = NEEDED[flaw]
    end = missed(*SCENES[scene], kills=kills, flaw=flaw)
    assert end is not None
    assert (end.at, end.visible > frozenset()) == ("asleep", True)

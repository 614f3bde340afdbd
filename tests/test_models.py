"""The protocols in every order of steps: what they promise holds, and each step is needed for that.

A proof that cannot fail proves nothing, so every step is left out once, and something has to break. `EVENTLOG_SOAK` in
the environment goes through the large scopes as well.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import pytest
from click.testing import CliRunner

from tests.models import decisions
from tests.models.__main__ import main, with_figures
from tests.models.every import MODELS, explored, scopes
from tests.models.explorer import Breach, Model, Removal, explore, told

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
SCOPES = [(name, scope) for name in MODELS for scope in scopes(name)]
LARGE = (
    [(name, scope) for name in MODELS for scope in sorted(MODELS[name].large)] if "EVENTLOG_SOAK" in os.environ else []
)
REMOVALS = [(name, step) for name in MODELS for step in MODELS[name].removals]
DOUBLED = [(name, step) for name, step in REMOVALS if MODELS[name].removals[step].also]


@pytest.mark.parametrize(("name", "scope"), [*SCOPES, *LARGE], ids=lambda one: one)
def test_what_is_promised_holds_in_every_order_of_steps(name: str, scope: str) -> None:
    found = explored(name, scope)

    assert found.breach is None, "\n".join(told(MODELS[name](), found.trace))
    assert found.ends > 0


@pytest.mark.parametrize(("name", "step"), REMOVALS, ids=lambda one: one)
def test_each_step_is_needed(name: str, step: str) -> None:
    removal = MODELS[name].removals[step]

    assert explored(name, removal.scope, step, *removal.also).breach == removal.breaks


@pytest.mark.parametrize(("name", "step"), DOUBLED, ids=lambda one: one)
def test_where_one_of_two_is_enough_the_other_one_may_be_missing(name: str, step: str) -> None:
    removal = MODELS[name].removals[step]

    assert explored(name, removal.scope, step).breach == removal.alone


def test_somebody_decides_and_somebody_is_refused() -> None:
    """The model is not right because nothing happens in it."""
    outcomes: set[tuple[bool, ...]] = set()

    def note(world: decisions.World) -> None:
        outcomes.add(tuple(actor.refused for actor in world.actors))

    explore(decisions.Decisions(), "an append and two decisions", at_end=note)

    assert outcomes == {(False, False, False), (False, False, True), (False, True, False), (False, True, True)}


class Counter(NamedTuple):
    """Two who add one to a number, each by reading and then writing."""

    number: int = 0
    read: tuple[int, ...] = (-1, -1)
    left: tuple[int, ...] = (2, 2)


class Adding(Model[Counter]):
    """The smallest model that can go wrong."""

    name = "adding"
    says = "two who add"
    removals: ClassVar[Mapping[str, Removal]] = {}
    hides = frozenset({"left"})

    def scopes(self) -> dict[str, Counter]:
        return {"two": Counter()}

    def steps(self, world: Counter) -> Iterable[tuple[str, Counter]]:
        for me in (0, 1):
            left = tuple(one - (place == me) for place, one in enumerate(world.left))
            read = tuple(world.number if place == me else one for place, one in enumerate(world.read))
            if world.left[me] == 2:
                yield f"{me} reads", world._replace(left=left, read=read)
            elif world.left[me] == 1:
                yield f"{me} writes", world._replace(left=left, number=world.read[me] + 1)

    def broken(self, world: Counter) -> Breach | None:
        return None

    def left_over(self, world: Counter) -> Breach | None:
        return None if world.number == 2 else Breach.SKIPPED


def test_the_explorer_finds_the_shortest_way_and_tells_it() -> None:
    model = Adding()
    found: Any = explore(model, "two")

    assert (found.breach, found.steps) == (Breach.SKIPPED, 4)
    assert told(model, found.trace) == [
        "  1  0 reads",
        "         read: (-1, -1) -> (0, -1)",
        "  2  1 reads",
        "         read: (0, -1) -> (0, 0)",
        "  3  0 writes",
        "         number: 0 -> 1",
        "  4  1 writes",
    ]


def test_a_scope_that_is_too_large_is_told_and_not_waited_for() -> None:
    with pytest.raises(RuntimeError, match="more than 3 worlds"):
        explore(Adding(), "two", worlds_max=3)


def test_a_step_that_does_not_exist_cannot_be_left_out() -> None:
    with pytest.raises(KeyError, match="mark has no step 'snapshot'"):
        MODELS["mark"]("snapshot")


def test_the_page_has_todays_figures() -> None:
    """`python -m tests.models --write docs/models.md` writes them."""
    assert PAGE.read_text() == with_figures(PAGE.read_text())


def test_a_model_is_run_and_broken_on_the_command_line() -> None:
    listed = CliRunner().invoke(main, [])
    broken = CliRunner().invoke(main, ["fence", "--without", "position"])
    whole = CliRunner().invoke(main, ["fence", "--scope", "a lost answer"])
    unknown = CliRunner().invoke(main, ["fence", "--without", "luck"])

    assert [line.split()[0] for line in listed.output.splitlines()] == list(MODELS)
    assert (broken.exit_code, whole.exit_code, unknown.exit_code) == (1, 0, 2)
    assert "an event is applied twice, after 8 steps" in broken.output
    assert "A: commit, and the connection is lost" in broken.output
    assert whole.output.endswith("holds\n\n")

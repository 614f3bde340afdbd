"""Why a decision is right: every interleaving of writers, readers and decisions, gone through in a model.

The steps are those of the SQL: the mark, the lock of the tag, the position, the rows becoming visible and, after that,
the end of the locks. All writers write the one tag there is. What must hold whenever a decision commits: it has read
every event of the tag that had been committed by then. And taking a step out, or moving it, must break something here:
a proof that cannot fail proves nothing.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest


class Actor(NamedTuple):
    """One transaction after the other; `after` is the position decided from, `read` the events that were read."""

    program: tuple["Step", ...]
    at: int = 0
    position: int = 0
    head: int = 0
    after: int = 0
    read: frozenset[int] = frozenset()
    refused: bool = False


class World(NamedTuple):
    """`marks` and `rows` name an actor and a position; `writers` and `decider` hold the lock of the tag."""

    actors: tuple[Actor, ...]
    sequence: int = 0
    marks: frozenset[tuple[int, int]] = frozenset()
    writers: frozenset[int] = frozenset()
    decider: int | None = None
    committed: frozenset[int] = frozenset()
    broken: str = ""


Step = Callable[[World, int], World | None]
"""Takes an actor one step further; None while it has to wait."""


def change(world: World, me: int, **fields: Any) -> World:
    """Change the actor, and nothing else."""
    actor = world.actors[me]._replace(**fields)
    return world._replace(actors=(*world.actors[:me], actor, *world.actors[me + 1 :]))


def mark(world: World, me: int) -> World:
    return world._replace(marks=world.marks | {(me, world.sequence)})


def lock_shared(world: World, me: int) -> World | None:
    return world._replace(writers=world.writers | {me}) if world.decider in (None, me) else None


def lock_exclusive(world: World, me: int) -> World | None:
    is_free = world.writers <= {me} and world.decider in (None, me)
    return world._replace(decider=me) if is_free else None


def draw_position(world: World, me: int) -> World:
    drawn = world.sequence + 1
    return change(world._replace(sequence=drawn), me, position=drawn)


def become_visible(world: World, me: int) -> World:
    actor = world.actors[me]
    if actor.refused:
        return world
    return world._replace(committed=world.committed | {actor.position})


def decide(world: World, me: int) -> World:
    """Become visible as a decision, and tell whether it was one that others could have made in its place."""
    actor = world.actors[me]
    if not actor.refused and world.committed - actor.read:
        world = world._replace(broken="a committed event slipped by")
    return become_visible(world, me)


def release(world: World, me: int) -> World:
    marks = frozenset(one for one in world.marks if one[0] != me)
    decider = None if world.decider == me else world.decider
    return world._replace(marks=marks, writers=world.writers - {me}, decider=decider)


def read_head(world: World, me: int) -> World:
    return change(world, me, head=world.sequence)


def read_marks(world: World, me: int) -> World:
    """The high-water mark: the position that is decided from when the rows have been read."""
    return change(world, me, after=min([world.actors[me].head, *[low for _, low in world.marks]]))


def ignore_marks(world: World, me: int) -> World:
    return change(world, me, after=world.actors[me].head)


def read_rows(world: World, me: int) -> World:
    after = world.actors[me].after
    return change(world, me, read=frozenset(position for position in world.committed if position <= after))


def look(world: World, me: int) -> World:
    """Look for what has been committed after the position, in a snapshot of now."""
    found = any(position > world.actors[me].after for position in world.committed)
    return change(world, me, refused=world.actors[me].refused or found)


def continue_from_own_position(world: World, me: int) -> World:
    actor = world.actors[me]
    if actor.refused:
        return world
    return change(world, me, after=actor.position, read=actor.read | {actor.position})


LONE_APPEND: tuple[Step, ...] = (mark, lock_shared, draw_position, become_visible, release)
BATCH: tuple[Step, ...] = (lock_shared, mark, draw_position, become_visible, release)
PLAIN_INSERT: tuple[Step, ...] = (mark, draw_position, lock_shared, become_visible, release)
ROLLED_BACK: tuple[Step, ...] = (mark, draw_position, lock_shared, release)
READ: tuple[Step, ...] = (read_head, read_marks, read_rows)
DECIDE: tuple[Step, ...] = (lock_exclusive, look, mark, draw_position, decide, release)
DECISION = READ + DECIDE
DECIDE_TWICE = (*DECISION, continue_from_own_position, *DECIDE)

WRITERS = {"lone append": LONE_APPEND, "batch": BATCH, "plain insert": PLAIN_INSERT, "rolled back": ROLLED_BACK}


def ends(*programs: tuple[Step, ...]) -> Iterator[World]:
    """Go through all interleavings: every world in which nobody can go on, or something broke."""
    todo = [World(actors=tuple(Actor(program) for program in programs))]
    known = set(todo)
    while todo:
        world = todo.pop()
        nexts = [] if world.broken else [one for one in (step(world, me) for me in range(len(programs))) if one]
        if not nexts:
            yield world
        todo += [one for one in nexts if one not in known]
        known.update(nexts)


def step(world: World, me: int) -> World | None:
    actor = world.actors[me]
    if actor.at == len(actor.program):
        return None
    taken = actor.program[actor.at](world, me)
    return None if taken is None else change(taken, me, at=actor.at + 1)


def is_over(world: World) -> bool:
    return all(actor.at == len(actor.program) for actor in world.actors)


def has_slipped(*programs: tuple[Step, ...]) -> bool:
    """Whether in some interleaving an event slips by a decision; nobody ever waits for ever."""
    broken = False
    for world in ends(*programs):
        assert world.broken or is_over(world), f"a deadlock: {world}"
        broken = broken or bool(world.broken)
    return broken


def without(program: tuple[Step, ...], *steps: Step) -> tuple[Step, ...]:
    return tuple(one for one in program if one not in steps)


@pytest.mark.parametrize("one", WRITERS.values(), ids=WRITERS)
@pytest.mark.parametrize("other", WRITERS.values(), ids=WRITERS)
def test_no_event_slips_by_a_decision_between_two_writers(one: tuple[Step, ...], other: tuple[Step, ...]) -> None:
    assert not has_slipped(one, other, DECISION)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_no_event_slips_by_either_of_two_decisions(writer: tuple[Step, ...]) -> None:
    assert not has_slipped(writer, DECISION, DECISION)


def test_somebody_decides_and_somebody_is_refused() -> None:
    """The model is not right because nothing happens in it."""
    outcomes = {tuple(actor.refused for actor in world.actors) for world in ends(LONE_APPEND, DECISION, DECISION)}

    assert outcomes == {(False, False, False), (False, False, True), (False, True, False), (False, True, True)}


@pytest.mark.parametrize("writer", [LONE_APPEND, BATCH], ids=["lone append", "batch"])
def test_after_a_decision_its_own_position_is_as_good_as_a_read(writer: tuple[Step, ...]) -> None:
    assert not has_slipped(writer, writer, DECIDE_TWICE)
    assert not has_slipped(writer, DECIDE_TWICE, DECISION)


def test_with_plain_inserts_a_decisions_own_position_is_no_substitute_for_a_read() -> None:
    """Why `after` is to be the position of what was read: an INSERT draws its position before its tag is locked."""
    assert has_slipped(PLAIN_INSERT, DECIDE_TWICE)


def test_the_order_of_positions_is_the_order_of_decisions_where_the_tag_is_locked_first() -> None:
    """No event of the tag stands before a decision in the log that the decision had not read."""

    def out_of_order(writer: tuple[Step, ...]) -> bool:
        return any(
            not actor.refused and {position for position in world.committed if position < actor.position} - actor.read
            for world in ends(writer, DECISION)
            for actor in world.actors[1:]
        )

    assert not out_of_order(LONE_APPEND)
    assert not out_of_order(BATCH)
    assert out_of_order(PLAIN_INSERT)


@pytest.mark.parametrize(
    ("writer", "decision"),
    [
        pytest.param(without(LONE_APPEND, lock_shared), DECISION, id="a writer does not lock its tag"),
        pytest.param(LONE_APPEND, without(DECISION, lock_exclusive), id="a decision does not lock the tag"),
        pytest.param(LONE_APPEND, (*READ, look, lock_exclusive, *DECIDE[2:]), id="a decision looks before it locks"),
        pytest.param(LONE_APPEND, without(DECISION, look), id="a decision does not look"),
        pytest.param(without(LONE_APPEND, mark), DECISION, id="a writer leaves no mark"),
        pytest.param(LONE_APPEND, (read_head, ignore_marks, read_rows, *DECIDE), id="a reader ignores the marks"),
        pytest.param(LONE_APPEND, (read_head, read_rows, read_marks, *DECIDE), id="rows are read before the marks"),
        pytest.param(
            LONE_APPEND, (read_marks, read_head, ignore_marks, read_rows, *DECIDE), id="the head is read last"
        ),
        pytest.param(
            (mark, draw_position, lock_shared, release, become_visible),
            DECISION,
            id="locks end before rows are visible",
        ),
    ],
)
def test_each_step_is_needed(writer: tuple[Step, ...], decision: tuple[Step, ...]) -> None:
    assert has_slipped(writer, writer, decision)

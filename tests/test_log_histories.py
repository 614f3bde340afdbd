"""Random appends of many threads: the history they were told can be explained by one append after the other."""

import random
import secrets
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from eventlog.ids import new_id
from eventlog.log import EventLog
from tests.append_history import Writer, check, explain
from tests.log_support import at_once, errors_of, opened

WRITERS = 6
STEPS = 40


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    """Transactions cross all the time here: on PostgreSQL a deadlock is found sooner than after a second."""
    sooner = "?options=-cdeadlock_timeout%3D20ms" if database_url.startswith("postgres") else ""
    with opened(database_url + sooner) as log:
        yield log


def write(log: EventLog, seed: str) -> list[Writer]:
    ids = [new_id() for _ in range(12)]
    writers = [Writer(log=log, random=random.Random(f"{seed} {number}"), ids=ids) for number in range(WRITERS)]
    outcomes = at_once(*[partial(writer.run, STEPS) for writer in writers])
    assert errors_of(outcomes) == [], f"seed {seed}"
    return writers


@pytest.mark.parametrize("_round", range(3))
def test_random_appends_of_many_threads_can_be_explained(log: EventLog, _round: int) -> None:
    seed = secrets.token_hex(4)
    writers = write(log, seed)

    explain(partial(check, writers, log), seed=seed)
    told = Counter(type(call.outcome).__name__ for writer in writers for call in writer.calls)
    assert told["list"] > 50, f"seed {seed}: {told}"
    assert len(told) > 1, f"seed {seed}: {told}: nobody was in anybody's way"


def test_the_check_finds_an_append_that_passed_a_matching_event(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same race with conditions that nobody looks at cannot be explained."""
    monkeypatch.setattr(log.database, "recorded_since", lambda *_: [])
    seed = secrets.token_hex(4)

    with pytest.raises(AssertionError, match="stands between"):
        race_until_checked(log, seed=seed, rounds_max=20)


def race_until_checked(log: EventLog, *, seed: str, rounds_max: int) -> None:
    """Race on until the check finds something; a round in which nobody was in the way of anybody shows nothing."""
    writers: list[Writer] = []
    for round_ in range(rounds_max):
        writers += write(log, f"{seed} {round_}")
        explain(partial(check, writers, log), seed=seed)

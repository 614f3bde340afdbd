"""Following the log: every event as it comes, once, in order, whatever order transactions commit in."""

import threading
from contextlib import closing
from itertools import islice
from typing import Any

import pytest

from benchmarks.lost_events.adapters import Adapter, rewindlog
from benchmarks.lost_events.race import enough, run_race
from eventlog.errors import DatabaseUnreachableError, UsageError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.query import Query
from tests.log_support import Background, new_seed, note, notes, positions, said, wait_until
from tests.log_tags_support import tagged

WRITERS = 8
RACE_SECONDS = 1.5
NONE_WITHIN_SECONDS = 0.3
"""So long a follower is watched that must not see something."""


class Following:
    """A follower in a thread of its own, and what it has seen."""

    def __init__(self, log: EventLog, **arguments: Any) -> None:
        self.seen: list[Recorded[Any]] = []
        self._stop = threading.Event()
        self._events = log.follow(stop=self._stop, **arguments)
        self._thread = Background(self._run)

    def _run(self) -> None:
        for recorded in self._events:
            self.seen.append(recorded)

    def wait_for(self, count: int) -> list[str]:
        wait_until(lambda: len(self.seen) >= count or self._thread.done, what=f"{count} events")
        return said(self.seen)

    def sees_nothing_more(self) -> bool:
        count = len(self.seen)
        return not self._thread.ends_within(NONE_WITHIN_SECONDS) and len(self.seen) == count

    def stop(self) -> None:
        self._stop.set()
        self._thread.result()

    def __enter__(self) -> "Following":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def test_a_follower_sees_what_is_recorded_and_then_what_comes(log: EventLog) -> None:
    log.append(*notes(3))
    with Following(log) as follower:
        assert follower.wait_for(3) == ["note-1 1", "note-1 2", "note-1 3"]
        log.append(note("alone"))
        assert follower.wait_for(4)[3:] == ["alone"]
        log.append(*notes(2, stream="batch"))
        assert follower.wait_for(6)[4:] == ["batch 1", "batch 2"]


def test_a_follower_begins_after_a_position(log: EventLog) -> None:
    log.append(*notes(5))
    with Following(log, after=3) as follower:
        follower.wait_for(2)
        log.append(note("next"))
        follower.wait_for(3)

    assert positions(follower.seen) == [4, 5, 6]


def test_a_follower_of_a_position_that_is_still_to_come_waits_for_it(log: EventLog) -> None:
    with Following(log, after=2) as follower:
        log.append(*notes(2))
        assert follower.sees_nothing_more()
        log.append(note("third"))
        assert follower.wait_for(1) == ["third"]


@pytest.mark.parametrize(
    "filters",
    [
        {"types": ["note.closed"]},
        {"types": ["note.*"], "tags": ["b"]},
        {"tags": ["b"]},
        {"stream": "wanted"},
        {"stream_prefix": "want"},
        {"matching": Query(types=["note.closed"], tags=["b"])},
        {"matching": [Query(types=["*.closed"]), Query(tags=["nobody's"])]},
    ],
    ids=str,
)
def test_a_follower_sees_only_what_its_filters_want(log: EventLog, filters: dict[str, Any]) -> None:
    def once(number: int) -> None:
        log.append(tagged("a", stream="other"))
        log.append(*[tagged("a", stream="other") for _ in range(3)])
        log.append(tagged("a", "b", stream="wanted", type="note.closed", said=f"wanted {number}"))
        log.append(note("untagged", stream="other"))

    once(1)
    with Following(log, **filters) as follower:
        assert follower.wait_for(1) == ["wanted 1"]
        once(2)
        assert follower.wait_for(2) == ["wanted 1", "wanted 2"]
        assert follower.sees_nothing_more()


def test_a_follower_passes_long_stretches_nobody_wants(log: EventLog) -> None:
    log.append(*notes(2_500), Event({"said": "wanted"}, type="note.closed", stream="last"))
    with Following(log, types=["*.closed"]) as follower:
        assert follower.wait_for(1) == ["wanted"]


def test_a_stream_nobody_can_have_is_followed_without_an_event(log: EventLog) -> None:
    log.append(note("other"))
    with Following(log, stream="a\nb") as follower:
        assert follower.sees_nothing_more()


def test_a_wrong_filter_is_told_when_following_begins(log: EventLog) -> None:
    for wrong in ({"types": "note.*"}, {"after": "1"}, {"matching": ["x"]}, {"stream": 7}):
        with pytest.raises(UsageError):
            log.follow(**wrong)


def test_a_follower_stops_when_it_is_told_to_while_nothing_comes(log: EventLog) -> None:
    follower = Following(log)
    assert follower.sees_nothing_more()

    follower.stop()


def test_a_follower_that_stops_itself_sees_no_further_event_of_its_page(log: EventLog) -> None:
    log.append(*notes(10))
    stop = threading.Event()
    seen = []
    for recorded in log.follow(stop=stop):
        seen.append(recorded.position)
        if recorded.position == 3:
            stop.set()

    assert seen == [1, 2, 3]


def test_a_follower_that_was_stopped_before_it_began_sees_nothing(log: EventLog) -> None:
    log.append(note("first"))
    stop = threading.Event()
    stop.set()

    assert list(log.follow(stop=stop)) == []


def test_a_follower_holds_no_connection_of_the_pool_while_its_reader_works(log: EventLog) -> None:
    """The doorbell has one of its own, and borrows one for a moment when it begins, to test it."""
    log.append(*notes(3))
    with closing(log.follow()) as events:  # type: ignore[type-var]  # it is a generator
        assert next(events).position == 1

        wait_until(lambda: log.engine.pool.checkedout() == 0, what="connections given back")  # type: ignore[attr-defined]
        assert [event.position for event in islice(events, 2)] == [2, 3]


def test_a_follower_that_sleeps_is_woken_by_an_append(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the bell it would see the event at the slow poll, an hour later."""
    monkeypatch.setattr(log.doorbell, "slow_poll_seconds", 3600.0)
    monkeypatch.setattr("eventlog.log.SLOW_POLL_SECONDS", 3600.0)
    with Following(log) as follower:
        for number in range(3):
            wait_until(lambda: log.doorbell.is_out, what="the follower to sleep")
            log.append(note(f"{number}"))
            assert follower.wait_for(number + 1)[-1] == f"{number}"


def test_a_database_error_ends_following(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    log.append(note("first"))
    events = log.follow()
    assert next(events).position == 1

    def fail(_connection: object) -> int:
        raise DatabaseUnreachableError("gone", remedy="wait")

    monkeypatch.setattr(log.database, "head", fail)
    with pytest.raises(DatabaseUnreachableError):
        next(events)


def test_a_follower_waits_for_what_commits_late_and_sees_it_in_its_place(postgres_log: EventLog) -> None:
    with Following(postgres_log) as follower, postgres_log.engine.connect() as late:
        postgres_log.append(note("first"))
        follower.wait_for(1)
        postgres_log.append(note("late", stream="late"), tx=late)
        postgres_log.append(note("early", stream="early"))
        assert follower.sees_nothing_more()
        late.commit()
        assert follower.wait_for(3) == ["first", "late", "early"]


def test_a_follower_passes_what_was_rolled_back(postgres_log: EventLog) -> None:
    with Following(postgres_log) as follower, postgres_log.engine.connect() as late:
        postgres_log.append(note("gone", stream="late"), tx=late)
        postgres_log.append(note("early"))
        late.rollback()
        assert follower.wait_for(1) == ["early"]
        assert follower.sees_nothing_more()


def test_a_mark_that_goes_back_shows_no_event_twice(postgres_log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does when a mark was read early and locked late."""
    postgres_log.append(*notes(3))
    answers = iter([3, 1, 0, 3, 4])
    true_mark = postgres_log.database.high_water_mark
    monkeypatch.setattr(
        postgres_log.database, "high_water_mark", lambda connection: next(answers, None) or true_mark(connection)
    )
    with closing(postgres_log.follow()) as events:  # type: ignore[type-var]  # it is a generator
        first = [next(events).position for _ in range(3)]
        postgres_log.append(note("fourth"))
        assert first == [1, 2, 3]
        assert next(events).position == 4


@pytest.mark.parametrize("how", [rewindlog.Following, rewindlog.FollowingAsync])
def test_a_follower_skips_nothing_while_writers_race(postgres_database_url: str, how: type[Adapter]) -> None:
    race = run_race(
        how(postgres_database_url), writers=WRITERS, seconds=RACE_SECONDS, seed=new_seed(), until=enough(50)
    )

    assert race.verdict.faults == {}, race

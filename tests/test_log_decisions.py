"""Decisions that cross streams hold under load: courses are never overbooked, students never take too many.

After each race the log is read as a history: at every event, the rules held for what stands before it.
"""

import random
import secrets
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from eventlog.log import EventLog
from tests.course_subscriptions import (
    COURSES_PER_STUDENT_MAX,
    CapacityChanged,
    CourseDefined,
    Courses,
    RuleError,
    StudentSubscribed,
)
from tests.log_support import at_once, errors_of, everything

THREADS = 8


@pytest.fixture
def courses(log: EventLog) -> Courses:
    return Courses(log)


def check_history(log: EventLog, *, seed: str = "") -> Counter[str]:
    """Replay the log: no event breaks a rule where it stands. Return how many students each course has."""
    capacities: dict[str, int] = {}
    students: Counter[str] = Counter()
    taken: Counter[str] = Counter()
    pairs: set[StudentSubscribed] = set()
    for recorded in everything(log):
        fact = recorded.data
        where = f"event {recorded.position}: {fact}, seed {seed}"
        if isinstance(fact, CourseDefined):
            assert fact.course not in capacities, where
            capacities[fact.course] = fact.capacity
        elif isinstance(fact, CapacityChanged):
            assert capacities[fact.course] != fact.capacity, where
            capacities[fact.course] = fact.capacity
        else:
            assert isinstance(fact, StudentSubscribed)
            assert fact not in pairs, where
            assert taken[fact.course] < capacities[fact.course], where
            assert students[fact.student] < COURSES_PER_STUDENT_MAX, where
            pairs.add(fact)
            taken[fact.course] += 1
            students[fact.student] += 1
    return taken


def test_a_course_is_defined_once(log: EventLog, courses: Courses) -> None:
    courses.define("c1", capacity=10)
    with pytest.raises(RuleError, match="exists already"):
        courses.define("c1", capacity=15)

    assert [recorded.data for recorded in log.read()] == [CourseDefined("c1", 10)]


def test_the_capacity_of_a_course_changes_to_another_one(log: EventLog, courses: Courses) -> None:
    with pytest.raises(RuleError, match="there is no course"):
        courses.change_capacity("c1", capacity=3)
    courses.define("c1", capacity=12)
    with pytest.raises(RuleError, match="takes 12 students already"):
        courses.change_capacity("c1", capacity=12)
    courses.change_capacity("c1", capacity=15)

    assert everything(log)[-1].data == CapacityChanged("c1", 15)


def test_a_student_cannot_take_a_course_that_does_not_exist(log: EventLog, courses: Courses) -> None:
    with pytest.raises(RuleError, match="there is no course c0"):
        courses.subscribe("s1", course="c0")

    assert everything(log) == []


def test_a_full_course_takes_no_student_until_its_capacity_is_raised(log: EventLog, courses: Courses) -> None:
    courses.define("c1", capacity=2)
    courses.subscribe("s1", course="c1")
    courses.subscribe("s2", course="c1")
    with pytest.raises(RuleError, match="is full"):
        courses.subscribe("s3", course="c1")

    courses.change_capacity("c1", capacity=3)
    courses.subscribe("s3", course="c1")

    assert check_history(log) == {"c1": 3}


def test_a_capacity_lowered_below_the_students_takes_no_place_away(log: EventLog, courses: Courses) -> None:
    courses.define("c1", capacity=2)
    courses.subscribe("s1", course="c1")
    courses.subscribe("s2", course="c1")
    courses.change_capacity("c1", capacity=1)

    with pytest.raises(RuleError, match="is full"):
        courses.subscribe("s3", course="c1")
    assert check_history(log) == {"c1": 2}


def test_a_student_takes_a_course_once(courses: Courses) -> None:
    courses.define("c1", capacity=10)
    courses.subscribe("s1", course="c1")

    with pytest.raises(RuleError, match="takes course c1 already"):
        courses.subscribe("s1", course="c1")


def test_a_student_takes_ten_courses_and_no_eleventh(log: EventLog, courses: Courses) -> None:
    for number in range(COURSES_PER_STUDENT_MAX + 1):
        courses.define(f"c{number}", capacity=10)
    for number in range(COURSES_PER_STUDENT_MAX):
        courses.subscribe("s1", course=f"c{number}")

    with pytest.raises(RuleError, match="takes 10 courses already"):
        courses.subscribe("s1", course="c10")
    assert sum(check_history(log).values()) == COURSES_PER_STUDENT_MAX


def test_of_many_students_who_race_for_the_last_places_exactly_so_many_get_one(log: EventLog, courses: Courses) -> None:
    courses.define("c1", capacity=3)

    outcomes = at_once(*[partial(courses.subscribe, f"s{number}", course="c1") for number in range(THREADS)])

    assert [str(error) for error in errors_of(outcomes)] == ["course c1 is full"] * (THREADS - 3)
    assert check_history(log) == {"c1": 3}


def test_of_one_students_races_for_his_last_course_exactly_one_is_won(log: EventLog, courses: Courses) -> None:
    """Different courses, different streams: nothing but the student's tag is shared."""
    for number in range(COURSES_PER_STUDENT_MAX - 1 + THREADS):
        courses.define(f"c{number}", capacity=10)
    for number in range(COURSES_PER_STUDENT_MAX - 1):
        courses.subscribe("s1", course=f"c{number}")

    last = range(COURSES_PER_STUDENT_MAX - 1, COURSES_PER_STUDENT_MAX - 1 + THREADS)
    outcomes = at_once(*[partial(courses.subscribe, "s1", course=f"c{number}") for number in last])

    assert {str(error) for error in errors_of(outcomes)} == {"student s1 takes 10 courses already"}
    assert sum(check_history(log).values()) == COURSES_PER_STUDENT_MAX


def test_of_many_definitions_of_one_course_exactly_one_is_recorded(log: EventLog, courses: Courses) -> None:
    outcomes = at_once(*[partial(courses.define, "c1", capacity=number) for number in range(1, THREADS + 1)])

    assert [str(error) for error in errors_of(outcomes)] == ["course c1 exists already"] * (THREADS - 1)
    assert len(everything(log)) == 1


def test_rules_hold_at_every_event_while_students_and_deans_race(log: EventLog, courses: Courses) -> None:
    seed = secrets.token_hex(4)
    for number in range(4):
        courses.define(f"c{number}", capacity=3)

    def act(thread: int) -> None:
        chance = random.Random(f"{seed} {thread}")
        for _ in range(15):
            course = f"c{chance.randrange(4)}"
            command: Callable[[], None] = partial(courses.subscribe, f"s{chance.randrange(6)}", course=course)
            if chance.random() < 0.2:
                command = partial(courses.change_capacity, course, capacity=chance.randint(1, 6))
            with suppress(RuleError):
                command()

    outcomes = at_once(*[partial(act, thread) for thread in range(THREADS)])

    assert errors_of(outcomes) == [], f"seed {seed}"
    taken = check_history(log, seed=seed)
    assert sum(taken.values()) >= 4, f"seed {seed}: {taken}"

"""Courses and students, the example of the DCB specification: decisions about several entities at once.

A course takes as many students as its capacity, which may change; a student takes ten courses at most, each once. One
event says that a student takes a course, and carries the tags of both, so no entity owns the rule. Each command reads
what it decides by, decides, and appends under the condition that nothing it read by has been recorded since.
"""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from eventlog.errors import AppendConditionError
from eventlog.event_types import event
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.query import Query

COURSES_PER_STUDENT_MAX = 10
TRIES_MAX = 200


@event("course.defined", stream="course-{course}")
class CourseDefined(msgspec.Struct, frozen=True):
    """A course, and how many students it takes."""

    course: str
    capacity: int


@event("course.capacity-changed", stream="course-{course}")
class CapacityChanged(msgspec.Struct, frozen=True):
    """It takes another number of students from now on; nobody loses his place."""

    course: str
    capacity: int


@event("student.subscribed", stream="subscriptions-{course}")
class StudentSubscribed(msgspec.Struct, frozen=True):
    """A student takes a course."""

    student: str
    course: str


class RuleError(Exception):
    """A rule of the house refuses the command; trying again does not help."""


class Courses:
    """The commands. Each is tried again when somebody else's decision came first."""

    def __init__(self, log: EventLog) -> None:
        self._log = log

    def define(self, course: str, *, capacity: int) -> None:
        def decide(events: list[Any]) -> Event[Any]:
            if events:
                raise RuleError(f"course {course} exists already")
            return Event(CourseDefined(course, capacity), tags=[_course(course)])

        self._decide([Query(types=["course.defined"], tags=[_course(course)])], decide)

    def change_capacity(self, course: str, *, capacity: int) -> None:
        def decide(events: list[Any]) -> Event[Any]:
            if capacity == capacity_of(course, events):
                raise RuleError(f"course {course} takes {capacity} students already")
            return Event(CapacityChanged(course, capacity), tags=[_course(course)])

        self._decide([Query(types=["course.*"], tags=[_course(course)])], decide)

    def subscribe(self, student: str, *, course: str) -> None:
        def decide(events: list[Any]) -> Event[Any]:
            capacity = capacity_of(course, events)
            subscribed = [one for one in events if isinstance(one, StudentSubscribed)]
            if sum(one.course == course for one in subscribed) >= capacity:
                raise RuleError(f"course {course} is full")
            if any(one == StudentSubscribed(student, course) for one in subscribed):
                raise RuleError(f"student {student} takes course {course} already")
            if sum(one.student == student for one in subscribed) >= COURSES_PER_STUDENT_MAX:
                raise RuleError(f"student {student} takes {COURSES_PER_STUDENT_MAX} courses already")
            return Event(StudentSubscribed(student, course), tags=[_course(course), _student(student)])

        self._decide(
            [
                Query(types=["course.*", "student.subscribed"], tags=[_course(course)]),
                Query(types=["student.subscribed"], tags=[_student(student)]),
            ],
            decide,
        )

    def _decide(self, queries: Sequence[Query], decide: Callable[[list[Any]], Event[Any]]) -> None:
        for _ in range(TRIES_MAX):
            read: list[Recorded[Any]] = list(self._log.read(matching=queries))
            decided = decide([recorded.data for recorded in read])
            after = read[-1].position if read else 0
            try:
                self._log.append(decided, unless=[query.since(after) for query in queries])
            except AppendConditionError:
                continue
            return
        raise AssertionError(f"no decision in {TRIES_MAX} tries")


def capacity_of(course: str, events: Sequence[object]) -> int:
    """Return the capacity a course has after these events."""
    capacities = [one.capacity for one in events if isinstance(one, CourseDefined | CapacityChanged)]
    if not capacities:
        raise RuleError(f"there is no course {course}")
    return capacities[-1]


def _course(name: str) -> str:
    return f"course:{name}"


def _student(name: str) -> str:
    return f"student:{name}"

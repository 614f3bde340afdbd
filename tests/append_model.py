"""What `append` promises, as a model in Python small enough to be believed: a list of events, and who may add to it."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from eventlog.errors import AppendConditionError, IdConflictError, UsageError, WrongExpectedVersionError
from eventlog.events import Event, Recorded
from eventlog.query import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One event of an append."""

    stream: str
    type: str
    said: str
    tags: tuple[str, ...]
    id: UUID | None = None

    def event(self) -> Event[Any]:
        """What is handed to the log."""
        return Event({"said": self.said}, type=self.type, stream=self.stream, id=self.id, tags=self.tags)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A query, after the so many-th event of the log."""

    types: tuple[str, ...]
    tags: tuple[str, ...]
    after: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """One call of `append`."""

    facts: tuple[Fact, ...]
    expected: int | str = "any"
    unless: tuple[Condition, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A fact in the log, its position known when the log has told it."""

    fact: Fact
    version: int
    position: int


@dataclass(slots=True)
class Model:
    """The log as it has to be."""

    base: int
    entries: list[Entry] = field(default_factory=list)

    def copy(self) -> "Model":
        """Return a model that goes its own way."""
        return copy.deepcopy(self)

    def query(self, condition: Condition) -> Query:
        """Write a condition with a position of this log."""
        return Query(types=condition.types, tags=condition.tags, after=self._position(condition.after))

    def refusal(self, append: Append) -> type[Exception] | None:
        """Return the error an append must raise, if it must raise one."""
        streams = {fact.stream for fact in append.facts}
        if isinstance(append.expected, int) and len(streams) > 1:
            return UsageError
        known = {entry.fact.id: entry.fact for entry in self.entries if entry.fact.id is not None}
        again = [fact for fact in append.facts if fact.id in known]
        if again:
            same = len(again) == len(append.facts) and all(is_same(fact, known[fact.id]) for fact in again if fact.id)
            return None if same else IdConflictError
        version = {"any": None, "none": 0}.get(str(append.expected), append.expected)
        if version is not None and any(self.version(stream) != version for stream in streams):
            return WrongExpectedVersionError
        if any(self._matches(condition) for condition in append.unless):
            return AppendConditionError
        return None

    def add(self, append: Append, recorded: Sequence[Recorded[Any]]) -> None:
        """Take an append that has succeeded, and check what it returned."""
        assert [event.data["said"] for event in recorded] == [fact.said for fact in append.facts]
        known = {entry.fact.id: entry for entry in self.entries if entry.fact.id is not None}
        for fact, event in zip(append.facts, recorded, strict=True):
            if fact.id is not None and fact.id in known:
                entry = known[fact.id]
                assert (event.position, event.version) == (entry.position, entry.version)
                continue
            assert event.version == self.version(fact.stream) + 1
            assert event.position > max([self.base, *[entry.position for entry in self.entries]])
            self.entries.append(Entry(fact, event.version, event.position))

    def version(self, stream: str) -> int:
        """Count the events of a stream."""
        return sum(entry.fact.stream == stream for entry in self.entries)

    def check(self, recorded: Sequence[Recorded[Any]]) -> None:
        """Check that the log holds what this model holds, and nothing else."""
        assert [_seen(event) for event in recorded] == [
            (entry.position, entry.fact.stream, entry.version, entry.fact.type, entry.fact.said, entry.fact.tags)
            for entry in self.entries
        ]

    def _matches(self, condition: Condition) -> bool:
        after = self._position(condition.after)
        return any(entry.position > after and covers(condition, entry.fact) for entry in self.entries)

    def _position(self, count: int) -> int:
        return self.entries[min(count, len(self.entries)) - 1].position if count and self.entries else self.base


def covers(condition: Condition | Query, fact: Fact | Recorded[Any]) -> bool:
    """Whether a fact has one of the types, of which `x.*` is the only kind of pattern used here, and all the tags."""
    of_type = any(fact.type == one or (one == "x.*" and fact.type.startswith("x.")) for one in condition.types)
    return (of_type or not condition.types) and set(condition.tags) <= set(fact.tags)


def is_same(one: Fact, other: Fact) -> bool:
    """Whether two facts of one id say the same."""
    return (one.stream, one.type, one.said, set(one.tags)) == (other.stream, other.type, other.said, set(other.tags))


def _seen(event: Recorded[Any]) -> tuple[int, str, int, str, str, tuple[str, ...]]:
    return (event.position, event.stream, event.version, event.type, event.data["said"], event.tags)

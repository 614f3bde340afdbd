"""Threads that append at random and note what they were told, and the check that their history can be explained.

What holds exactly, whatever the order of commits: who succeeds under a condition has read, at the position he decided
from, every event that stands before his own in the log and matches; tags are locked before positions are drawn, so the
order of positions is the order of decisions (plain INSERTs are left out for that reason: `models/decisions.py`).
And whoever is refused is shown an event that is really there, unless it was his own and went with his transaction.
"""

import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventlog.errors import AppendConditionError, IdConflictError, WrongExpectedVersionError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.query import Query
from tests.append_model import covers

STREAMS = [f"s{number}" for number in range(6)]
TAGS = [f"t{number}" for number in range(5)]
TYPES = ["x.a", "x.b", "y.a"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One append: what was asked, and what came of it. `within` numbers the transaction it was part of."""

    events: tuple[Event[Any], ...]
    expected: int | str
    unless: tuple[Query, ...]
    within: int | None
    outcome: list[Recorded[Any]] | Exception


@dataclass(slots=True, kw_only=True)
class Writer:
    """Appends at random; `calls` are those that were committed, or refused."""

    log: EventLog
    random: random.Random
    ids: Sequence[UUID]
    calls: list[Call] = field(default_factory=list)
    transactions: int = 0
    deadlocks: int = 0

    def run(self, steps: int) -> None:
        for _ in range(steps):
            if self.random.random() < 0.6:
                self.calls.append(self._append(tx=None, within=None))
                continue
            with suppress(_RolledBack):
                self.calls += self._transaction()

    def _transaction(self) -> list[Call]:
        self.transactions += 1
        try:
            with self.log.engine.begin() as connection:
                calls = [
                    self._append(tx=connection, within=self.transactions) for _ in range(self.random.randint(1, 3))
                ]
                if self.random.random() < 0.25:
                    raise _RolledBack
        except DBAPIError as error:
            if "deadlock" not in str(error):
                raise
            self.deadlocks += 1
            return []
        return calls

    def _append(self, *, tx: Connection | None, within: int | None) -> Call:
        events, expected, unless = self._events(), self._expected(), self._unless()
        if expected != "any":
            events = tuple(Event(one.data, one.type, events[0].stream, one.id, tags=one.tags) for one in events)
            expected = self.log.version(events[0].stream or "") if self.random.random() < 0.8 else expected
        call = partial(Call, events=events, expected=expected, unless=unless, within=within)
        try:
            return call(outcome=self.log.append(*events, expected=expected, unless=unless, tx=tx))
        except (AppendConditionError, WrongExpectedVersionError, IdConflictError) as error:
            return call(outcome=error)

    def _events(self) -> tuple[Event[Any], ...]:
        chosen = self.random.choice([1, 1, 1, 2, 4])
        ids = self.random.sample(self.ids, chosen) if self.random.random() < 0.2 else [None] * chosen
        return tuple(
            Event(
                {"said": self.random.random()} if one is None else {"said": f"{one}"},
                self.random.choice(TYPES) if one is None else "x.a",
                self.random.choice(STREAMS) if one is None else f"id-{one}",
                one,
                tags=self.random.sample(TAGS, self.random.choice([0, 1, 1, 2])) if one is None else ["t0"],
            )
            for one in ids
        )

    def _expected(self) -> int | str:
        choices: list[int | str] = ["any", "any", "any", "none", 0, 2]
        return self.random.choice(choices)

    def _unless(self) -> tuple[Query, ...]:
        """Conditions decided from what can be read now, as a service would."""
        if self.random.random() < 0.5:
            return ()
        queries = [
            Query(
                types=self.random.choice([(), ("x.*",), ("y.a",)]),
                tags=self.random.sample(TAGS, self.random.choice([1, 1, 2])),
            )
            for _ in range(self.random.choice([1, 1, 2]))
        ]
        last = next(self.log.read(matching=queries, backwards=True, limit=1), None)
        return tuple(query.since(last.position if last is not None else 0) for query in queries)


class _RolledBack(Exception):
    """Rolls a transaction back."""


def check(writers: Sequence[Writer], log: EventLog) -> None:
    """Check that the log and everything the writers were told can have come about one after the other."""
    recorded = list(log.read())
    by_position = {event.position: event for event in recorded}
    _check_log(recorded)
    told = set()
    for writer in writers:
        for call in writer.calls:
            if isinstance(call.outcome, Exception):
                _check_refusal(call, call.outcome, recorded, by_position)
                continue
            assert [by_position.get(event.position) for event in call.outcome] == call.outcome, call
            told |= {event.position for event in call.outcome}
            _check_success(call, call.outcome, recorded, own=_positions_of(writer, call))
    assert told == set(by_position), "somebody was not told of an event that is there"


def _check_log(recorded: Sequence[Recorded[Any]]) -> None:
    assert len({event.id for event in recorded}) == len(recorded)
    versions: dict[str, int] = {}
    for event in recorded:
        assert event.version == versions.get(event.stream, 0) + 1, event
        versions[event.stream] = event.version


def _positions_of(writer: Writer, call: Call) -> set[int]:
    """The positions of the transaction a call belongs to."""
    calls = [call] if call.within is None else [one for one in writer.calls if one.within == call.within]
    return {event.position for one in calls if isinstance(one.outcome, list) for event in one.outcome}


def _check_success(
    call: Call, outcome: list[Recorded[Any]], recorded: Sequence[Recorded[Any]], *, own: set[int]
) -> None:
    if all(event.id is not None for event in call.events) and min(event.version for event in outcome) == 1:
        # Ids that may have been recorded before: they are returned whatever was expected.
        return
    if call.expected != "any":
        before = 0 if call.expected == "none" else call.expected
        assert outcome[0].version == before + 1, call  # type: ignore[operator]  # "any" is out, "none" is 0
    first = min(event.position for event in outcome)
    for query in call.unless:
        passed = [
            event
            for event in recorded
            if query.after < event.position < first and covers(query, event) and event.position not in own
        ]
        assert not passed, f"{call} was recorded although {passed[0]} stands between"


def _check_refusal(
    call: Call, error: Exception, recorded: Sequence[Recorded[Any]], by_position: dict[int, Recorded[Any]]
) -> None:
    if isinstance(error, AppendConditionError):
        shown = by_position.get(error.position)
        if shown is None:
            assert call.within is not None, f"{error}: no such event"
            return
        assert shown.type == error.type
        assert any(covers(query, shown) and shown.position > query.after for query in call.unless), f"{error}: {call}"
    elif isinstance(error, WrongExpectedVersionError):
        last = max((event.version for event in recorded if event.stream == error.stream), default=0)
        assert error.actual != (0 if call.expected == "none" else call.expected)
        assert error.actual <= last or call.within is not None, f"{error}: {call}"
    else:
        assert isinstance(error, IdConflictError)
        known = {event.id for event in recorded}
        assert known & set(error.ids) or call.within is not None, f"{error}: {call}"


def explain(check_it: Callable[[], None], *, seed: str) -> None:
    """Run a check; a failure tells the seed."""
    try:
        check_it()
    except AssertionError as error:
        raise AssertionError(f"seed {seed}: {error}") from error

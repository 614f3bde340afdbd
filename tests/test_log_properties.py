"""Random appends against a model: the log is what the model is, after every step, in and outside transactions.

Hypothesis makes up appends of one and of many, with versions expected and conditions, with ids appended again, in
transactions that are committed and rolled back and savepoints within them; when the log and the model part, it looks
for the shortest way there and prints it with its seed. Each example has streams and tags of its own in one log.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any
from uuid import UUID, uuid5

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection

from eventlog.errors import EventLogError
from eventlog.events import Recorded
from eventlog.log import EventLog
from eventlog.query import Query
from tests.append_model import Append, Condition, Fact, Model, covers

EXAMPLES = 1_000 if "EVENTLOG_SOAK" in os.environ else 60
_EXAMPLE = count()
_NAMESPACE = UUID(int=0)

quickly = settings(
    max_examples=EXAMPLES, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@dataclass(frozen=True, slots=True)
class Block:
    """A transaction, or a savepoint within one: its steps, and whether they stay."""

    steps: tuple["Append | Block", ...]
    stays: bool


def facts() -> st.SearchStrategy[Fact]:
    new = st.builds(
        Fact,
        stream=st.sampled_from(["s", "t"]),
        type=st.sampled_from(["x.a", "x.b", "y.a"]),
        said=st.sampled_from(["yes", "no"]),
        tags=st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple),
    )
    return new | facts_with_ids()


def facts_with_ids() -> st.SearchStrategy[Fact]:
    """Alike but for one thing, so that an id comes again with the same content, or with other content, often."""
    alike = {"stream": "s", "type": "x.a", "said": "yes", "tags": ("a", "b")}
    changes = st.sampled_from([{}, {}, {}, {"tags": ("b", "a")}, {"tags": ("a",)}, {"said": "no"}, {"type": "x.b"}])
    return st.builds(
        lambda number, change: Fact(**{**alike, **change}, id=UUID(int=number)), st.integers(0, 3), changes
    )


def conditions() -> st.SearchStrategy[Condition]:
    return st.builds(
        Condition,
        types=st.lists(st.sampled_from(["x.a", "y.a", "x.*"]), unique=True, max_size=2).map(tuple),
        tags=st.lists(st.sampled_from("abc"), unique=True, min_size=1, max_size=2).map(tuple),
        after=st.integers(0, 8),
    )


def appends() -> st.SearchStrategy[Append]:
    return st.builds(
        Append,
        facts=st.lists(
            facts(), min_size=1, max_size=3, unique_by=lambda fact: fact.id if fact.id is not None else object()
        ).map(tuple),
        expected=st.sampled_from(["any", "any", "any", "none", 0, 1, 2, 3]),
        unless=st.lists(conditions(), max_size=2).map(tuple),
    )


def blocks(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Block]:
    return st.builds(Block, st.lists(inner, max_size=4).map(tuple), st.booleans())


STEPS = st.lists(st.one_of(appends(), blocks(st.one_of(appends(), blocks(appends())))), min_size=1, max_size=10)


class Example:
    """The names of one example in a log that other examples have written to, and the steps carried out."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._number = next(_EXAMPLE)
        self.model = Model(log.head())

    def run(self, steps: Sequence[Append | Block]) -> None:
        for one in steps:
            if isinstance(one, Append):
                self._append(one, tx=None)
            else:
                self._transaction(one)
            self.model.check(list(self._log.read(after=self.model.base)))

    def _transaction(self, block: Block) -> None:
        before = self.model.copy()
        with self._log.engine.connect() as connection, connection.begin() as transaction:
            self._within(block, connection)
            if not block.stays:
                transaction.rollback()
                self.model = before

    def _savepoint(self, block: Block, connection: Connection) -> None:
        before = self.model.copy()
        with connection.begin_nested() as savepoint:
            self._within(block, connection)
            if not block.stays:
                savepoint.rollback()
                self.model = before

    def _within(self, block: Block, connection: Connection) -> None:
        for one in block.steps:
            if isinstance(one, Append):
                self._append(one, tx=connection)
            else:
                self._savepoint(one, connection)

    def _append(self, step: Append, *, tx: Connection | None) -> None:
        append = self._named(step)
        refusal = self.model.refusal(append)
        unless = [self.model.query(condition) for condition in append.unless]
        events = [fact.event() for fact in append.facts]
        if refusal is None:
            self.model.add(append, self._log.append(*events, expected=append.expected, unless=unless, tx=tx))
            return
        with pytest.raises(EventLogError) as refused:
            self._log.append(*events, expected=append.expected, unless=unless, tx=tx)
        assert type(refused.value) is refusal
        assert refused.value.remedy

    def _named(self, step: Append) -> Append:
        """The step with the names of this example."""
        return Append(
            facts=tuple(
                Fact(
                    stream=self.name(fact.stream),
                    type=fact.type,
                    said=fact.said,
                    tags=tuple(map(self.name, fact.tags)),
                    id=None if fact.id is None else uuid5(_NAMESPACE, self.name(str(fact.id))),
                )
                for fact in step.facts
            ),
            expected=step.expected,
            unless=tuple(
                Condition(types=one.types, tags=tuple(map(self.name, one.tags)), after=one.after) for one in step.unless
            ),
        )

    def name(self, name: str) -> str:
        return f"{self._number}:{name}"


@quickly
@given(steps=STEPS)
def test_the_log_is_what_the_model_is_after_every_step(log: EventLog, steps: list[Append | Block]) -> None:
    Example(log).run(steps)


def queries() -> st.SearchStrategy[tuple[tuple[str, ...], tuple[str, ...], int]]:
    return st.tuples(
        st.lists(st.sampled_from(["x.a", "y.a", "x.*"]), unique=True, max_size=2).map(tuple),
        st.lists(st.sampled_from("abc"), unique=True, max_size=3).map(tuple),
        st.integers(0, 30),
    )


@quickly
@given(
    written=st.lists(facts(), min_size=1, max_size=20),
    asked=st.lists(queries(), max_size=3),
    tags=st.lists(st.sampled_from("abc"), max_size=2),
    types=st.lists(st.sampled_from(["x.a", "y.a", "x.*", "**"]), max_size=2),
    stream=st.sampled_from([None, "s", "t"]),
    prefix=st.sampled_from([None, "", "s", "u"]),
    limit=st.none() | st.integers(0, 6),
    after=st.integers(0, 20),
    until=st.none() | st.integers(0, 30),
    backwards=st.booleans(),
    page=st.integers(1, 4),
)
def test_a_read_is_what_a_filter_over_the_whole_log_gives(
    log: EventLog,
    monkeypatch: pytest.MonkeyPatch,
    written: list[Fact],
    asked: list[tuple[tuple[str, ...], tuple[str, ...], int]],
    tags: list[str],
    types: list[str],
    stream: str | None,
    prefix: str | None,
    limit: int | None,
    after: int,
    until: int | None,
    backwards: bool,
    page: int,
) -> None:
    """Pages of a few events, so that every read goes over several; streams and tags of all examples are in the log."""
    monkeypatch.setattr("eventlog.reading.PAGE_EVENTS", page)
    base = log.head()
    number = f"{next(_EXAMPLE)}:"
    log.append(
        *[Fact(stream=f"{number}{one.stream}", type=one.type, said=one.said, tags=one.tags).event() for one in written]
    )
    begin, end = base + after, None if until is None else base + until
    matching = [Query(types=of, tags=with_tags, after=base + since) for of, with_tags, since in asked]
    wanted: list[Callable[[Recorded[Any]], bool]] = [
        lambda event: event.position > begin,
        lambda event: end is None or event.position <= end,
        lambda event: set(tags) <= set(event.tags),
        lambda event: not types or "**" in types or covers(Query(types=types), event),
        lambda event: stream is None or event.stream == number + stream,
        lambda event: prefix is None or event.stream.startswith(number + prefix),
        lambda event: not matching or any(covers(one, event) and event.position > one.after for one in matching),
    ]
    if tags and matching:
        matching = [Query(types=one.types, tags=[*one.tags, *tags], after=one.after) for one in matching]

    found = [event for event in log.read(after=base) if all(holds(event) for holds in wanted)]
    read = log.read(
        after=begin,
        until=end,
        limit=limit,
        backwards=backwards,
        types=types,
        stream=None if stream is None else number + stream,
        stream_prefix=None if prefix is None else number + prefix,
        tags=() if matching else tags,
        matching=matching,
    )

    assert list(read) == (found[::-1] if backwards else found)[:limit]

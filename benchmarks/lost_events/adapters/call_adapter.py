"""A log whose appends always are transactions of their own, made by a call: most libraries offer no more.

What such a call raises when its connection is ended says nothing about its outcome, and may come late, since some try
again by themselves: it is looked up in the table.
"""

import random
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar
from uuid import UUID

from benchmarks.lost_events.adapters.adapter import Adapter
from benchmarks.lost_events.audit import Journal, Outcome
from benchmarks.lost_events.shapes import CALLS, Shape
from benchmarks.lost_events.writing import WRITER_NAME, NewEvent, Writer
from eventlog.ids import new_id

Call = Callable[[Sequence[NewEvent]], None]
"""Appends events of one stream in one call."""

FAILURES_MAX = 0.5
"""When more of a writer's calls fail, it is no connection that was lost: the adapter does not work."""


class CallAdapter(Adapter):
    """`uncertain` are the errors after which nobody knows whether the events were recorded."""

    uncertain: ClassVar[tuple[type[Exception], ...]]

    @property
    def shapes(self) -> frozenset[Shape]:
        return CALLS

    @abstractmethod
    def caller(self, name: str) -> AbstractContextManager[Call]:
        """Lend a way to append, on connections of this name."""

    def writers(
        self, count: int, *, seed: int, shapes: frozenset[Shape], was_read: Callable[[UUID], bool]
    ) -> list[Writer]:
        names = [f"{WRITER_NAME}-{number}" for number in range(count)]
        return [
            CallWriter(caller=self.caller, name=name, random=random.Random(f"{seed} {name}"), uncertain=self.uncertain)
            for name in names
        ]


@dataclass(slots=True, kw_only=True)
class CallWriter:
    """Appends one event or a few in each call, to a stream of its own."""

    caller: Callable[[str], AbstractContextManager[Call]]
    name: str
    random: random.Random
    uncertain: tuple[type[Exception], ...]
    journal: Journal = field(default_factory=Journal)
    done: Counter[Shape] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    _errors: int = 0

    def run(self, stop: threading.Event) -> None:
        try:
            with self.caller(self.name) as call:
                while not stop.is_set():
                    self._append(call)
        except Exception as error:
            self.failures.append(error)

    def _append(self, call: Call) -> None:
        # After an error its version is as unknown as its outcome: what follows goes to another stream.
        stream = f"{self.name}-{self._errors}"
        events = [NewEvent(id=new_id(), stream=stream) for _ in range(self.random.choice((1, 1, 3, 5)))]
        ids = [one.id for one in events]
        self.journal.intend(ids)
        try:
            call(events)
        except self.uncertain:
            self._errors += 1
            self.done[Shape.KILLED] += 1
            if self._errors > 10 and self._errors > FAILURES_MAX * self.done.total():
                raise
        else:
            self.journal.settle(ids, Outcome.COMMITTED)
            self.done[Shape.ALONE] += 1

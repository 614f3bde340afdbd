"""A writer with a connection: it does everything that puts events into a table, in a random order.

Its transactions are of one to four steps, with random pauses within and before their end. How each ends is drawn
before it begins, because a transaction that is to be prepared must not have rung the doorbell.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, text

from benchmarks.lost_events.audit import Journal, Outcome
from benchmarks.lost_events.shapes import Shape
from benchmarks.lost_events.writing import (
    EVENT_TYPE,
    NAMED,
    Hand,
    NewEvent,
    insert,
    lost_connection,
    was_rolled_back,
)
from eventlog.ids import new_id

PAUSE_PROBABILITY = 0.15
PAUSE_SECONDS_MAX = 0.02
SLOW_SECONDS = (0.05, 0.15)
IDLE_SECONDS = (0.3, 1.0)
COPY_ROWS_MAX = 30
SHARED_STREAMS = 5
ATTEMPTS_MAX = 20
PREPARED_PREFIX = "lost-"
"""How the names of prepared transactions begin: what a race leaves behind is found by it."""

ENDINGS = {
    Shape.ROLLBACK: 0.15,
    Shape.PREPARED: 0.04,
    Shape.KILLED: 0.03,
    Shape.SLOW: 0.03,
}
"""How often a transaction ends other than with a commit."""

IDLE_PROBABILITY = 0.05
"""Of the first writer alone: while a transaction stands idle, readers wait for it."""

STRICT_PROBABILITY = 0.15
STEPS = (Shape.INSERT, Shape.COPY, Shape.APPEND, Shape.BATCH, Shape.FUNCTION)


@dataclass(slots=True, kw_only=True)
class SqlWriter:
    """Writes through `hand`, which lends it connections, until told to stop."""

    hand: Callable[[str], AbstractContextManager[Hand]]
    number: int
    name: str
    random: random.Random
    shapes: frozenset[Shape]
    journal: Journal = field(default_factory=Journal)
    done: Counter[Shape] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    _has_begun: bool = False
    _version: int = 0
    """Of the stream that plain INSERTs go to, which nobody counts for them; taken back when it is known to be free."""

    def run(self, stop: threading.Event) -> None:
        try:
            with self.hand(self.name) as hand:
                while not stop.is_set():
                    if Shape.ALONE in self.shapes and self.random.random() < 0.3:
                        self._alone(hand)
                    else:
                        self._transaction(hand)
        except Exception as error:
            self.failures.append(error)

    def _alone(self, hand: Hand) -> None:
        """A single event goes to a stream others write to as well; a batch stays apart, so that batches never cross."""
        shared = f"shared-{self.random.randrange(SHARED_STREAMS)}"
        batch = self._events(1, shared) if self.random.random() < 0.7 else self._events(3)
        with self._journaled([one.id for one in batch]):
            hand.append(batch, None)
            self.journal.settle([one.id for one in batch], Outcome.COMMITTED)
        self.done[Shape.ALONE] += 1

    def _transaction(self, hand: Hand) -> None:
        ending, version = self._drawn_ending(), self._version
        written: list[UUID] = []
        self._pause()
        with self._journaled(written), self._connection(hand) as connection:
            if ending is Shape.PREPARED:
                connection.execute(text("set local eventlog.doorbell_eventlog = off"))
            for _ in range(self.random.randint(1, 4)):
                self._step(hand, connection, written)
                self._pause()
            outcome = self._end(hand, connection, ending)
            self.journal.settle(written, outcome)
            if outcome is Outcome.ROLLED_BACK:
                self._version = version
        self.done[ending or Shape.APPEND] += 1

    @contextmanager
    def _journaled(self, written: Sequence[UUID]) -> Iterator[None]:
        """Read an error as the outcome of a transaction, or as a failure of the race."""
        self.journal.intend(written)
        try:
            yield
        except Exception as error:
            if was_rolled_back(error):
                self.journal.settle(written, Outcome.ROLLED_BACK)
            elif not lost_connection(error):
                raise

    @contextmanager
    def _connection(self, hand: Hand) -> Iterator[Connection]:
        with hand.session.connect() as connection:
            if Shape.STRICT in self.shapes and self.random.random() < STRICT_PROBABILITY:
                level = self.random.choice(("REPEATABLE READ", "SERIALIZABLE"))
                connection.execution_options(isolation_level=level)
                self.done[Shape.STRICT] += 1
            connection.begin()
            yield connection

    def _drawn_ending(self) -> Shape | None:
        """The first one is given by the writer's number: however short a race is, there is one of each."""
        endings = [one for one in (Shape.IDLE, *ENDINGS) if one in self.shapes]
        if not self._has_begun and self.number < len(endings):
            self._has_begun = True
            return endings[self.number]
        if self.number == 0 and Shape.IDLE in self.shapes and self.random.random() < IDLE_PROBABILITY:
            return Shape.IDLE
        drawn = self.random.random()
        for ending, probability in ENDINGS.items():
            if drawn < probability:
                return ending if ending in self.shapes else None
            drawn -= probability
        return None

    def _step(self, hand: Hand, connection: Connection, written: list[UUID]) -> None:
        shape = self.random.choice([one for one in STEPS if one in self.shapes])
        if Shape.SAVEPOINT not in self.shapes or self.random.random() < 0.7:
            written += self._write(shape, hand, connection)
            return
        version = self._version
        savepoint = connection.begin_nested()
        inside = self._write(shape, hand, connection)
        self._pause()
        if self.random.random() < 0.5:
            savepoint.commit()
            written += inside
        else:
            savepoint.rollback()
            self._version = version
            self.journal.settle(inside, Outcome.ROLLED_BACK)
        self.done[Shape.SAVEPOINT] += 1

    def _write(self, shape: Shape, hand: Hand, connection: Connection) -> list[UUID]:
        """Write in one way, journaled before it is sent, and return the ids."""
        count = {Shape.BATCH: 5, Shape.COPY: self.random.randint(1, COPY_ROWS_MAX)}.get(shape, 1)
        plain = f"plain-{self.name}" if shape in (Shape.INSERT, Shape.COPY) else None
        events = self._events(count, plain)
        self.journal.intend(one.id for one in events)
        match shape:
            case Shape.INSERT:
                insert(hand, connection, events[0], version=self._next_version())
            case Shape.COPY:
                self._copy(hand, connection, events)
            case Shape.FUNCTION:
                self._call(hand, connection, events[0])
            case _:
                hand.append(events, connection)
        self.done[shape] += 1
        return [one.id for one in events]

    def _copy(self, hand: Hand, connection: Connection, events: Sequence[NewEvent]) -> None:
        driver: Any = connection.connection.driver_connection
        with driver.cursor().copy(f"copy {hand.events} {NAMED} from stdin") as rows:
            for event in events:
                rows.write_row((event.id, event.stream, self._next_version(), EVENT_TYPE, "{}"))
                if self.random.random() < 0.02:
                    self._pause()

    def _call(self, hand: Hand, connection: Connection, event: NewEvent) -> None:
        connection.execute(
            text(f"select from {hand.schema}.append(stream => :stream, type => :type, data => '{{}}', id => :id)"),
            {"stream": event.stream, "type": EVENT_TYPE, "id": event.id},
        )

    def _end(self, hand: Hand, connection: Connection, ending: Shape | None) -> Outcome:
        match ending:
            case Shape.ROLLBACK:
                connection.rollback()
                return Outcome.ROLLED_BACK
            case Shape.PREPARED:
                return self._prepare(hand, connection)
            case Shape.KILLED:
                self._kill(hand, connection)
            case Shape.SLOW:
                time.sleep(self.random.uniform(*SLOW_SECONDS))
            case Shape.IDLE:
                time.sleep(self.random.uniform(*IDLE_SECONDS))
        connection.commit()
        return Outcome.COMMITTED

    def _prepare(self, hand: Hand, connection: Connection) -> Outcome:
        name = f"{PREPARED_PREFIX}{uuid4().hex}"
        commits = self.random.random() < 0.7
        try:
            connection.execute(text(f"prepare transaction '{name}'"))
            connection.commit()
            self._pause()
        finally:
            # Even if nobody was told that it is prepared: left as it is, it would hold its streams and all readers.
            self._end_prepared(hand, name, commits=commits)
        return Outcome.COMMITTED if commits else Outcome.ROLLED_BACK

    def _end_prepared(self, hand: Hand, name: str, *, commits: bool) -> None:
        for _ in range(ATTEMPTS_MAX):
            with self._journaled(()), hand.observer.connect() as other:
                if other.scalar(text("select true from pg_prepared_xacts where gid = :name"), {"name": name}):
                    other.execute(text(f"{'commit' if commits else 'rollback'} prepared '{name}'"))
                return

    def _kill(self, hand: Hand, connection: Connection) -> None:
        """End the backend right before its COMMIT is sent: which of the two comes first is left to the server."""
        pid = connection.scalar(text("select pg_backend_pid()"))
        with suppress(Exception), hand.observer.connect() as other:
            other.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})

    def _events(self, count: int, stream: str | None = None) -> list[NewEvent]:
        named = stream or f"own-{self.name}-{self.random.randrange(3)}"
        return [NewEvent(id=new_id(), stream=named) for _ in range(count)]

    def _next_version(self) -> int:
        self._version += 1
        return self._version

    def _pause(self) -> None:
        if self.random.random() < PAUSE_PROBABILITY:
            time.sleep(self.random.random() * PAUSE_SECONDS_MAX)

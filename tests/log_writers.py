"""Many writers at once and a reader that follows them, for the race test of safe order.

Each writer has a connection of its own and does, in a random order, everything that puts events into the log: library
appends of one and of many, in transactions of their own and of the caller, plain INSERTs, COPY, savepoints and
transactions that are rolled back, with random pauses within transactions and before commits. Each notes what it
committed; the follower reads as a subscriber does, from the last position it saw, or as it is told to.
"""

import contextlib
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import Connection, text

from eventlog.events import Event, Recorded
from eventlog.ids import new_id
from eventlog.log import EventLog
from tests.log_support import THREAD_SECONDS_MAX, engine_of, opened

PAUSE_SECONDS_MAX = 0.02
PAUSE_PROBABILITY = 0.15
SHARED_STREAMS = 5
RACE_ENDED = "race.ended"
"""The type of the last event of a race; a follower that waits for events stops at it."""

Follow = Callable[[EventLog, Callable[[Recorded[Any]], None]], None]
"""Hands every event of a log over, up to one of type RACE_ENDED."""

_NAMES = "(id, stream, version, type, data)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What happened: the ids that were committed, and those the follower saw, with their positions, in its order."""

    seed: int
    committed: frozenset[UUID]
    rolled_back: frozenset[UUID]
    seen: tuple[UUID, ...]
    positions: tuple[int, ...]

    @property
    def missed(self) -> frozenset[UUID]:
        return self.committed - set(self.seen)


def run_race(
    url: str,
    *,
    writers: int,
    seconds: float,
    seed: int,
    connect_args: Mapping[str, Any] | None = None,
    beside: Sequence["Writer"] = (),
    follow: Follow | None = None,
) -> Race:
    """Let writers write for so long while a follower reads; return when it has read all it will ever read.

    `connect_args` are for the engines the writers have beside the log's own, for what is not the library's. `beside`
    are more writers, of another kind.
    """
    stop = threading.Event()
    workers: list[Writer] = [*beside]
    workers += [
        _Writer(url=url, number=number, random=random.Random(f"{seed} {number}"), connect_args=dict(connect_args or {}))
        for number in range(writers)
    ]
    follower = _Follower(url=url, follow=follow)
    threads = [threading.Thread(target=worker.run, args=[stop], daemon=True) for worker in workers]
    following = threading.Thread(target=follower.run, daemon=True)
    following.start()
    for thread in threads:
        thread.start()
    stop.wait(seconds)
    stop.set()
    for thread in threads:
        thread.join(THREAD_SECONDS_MAX)
    with opened(url) as log:
        log.append(Event({}, type=RACE_ENDED, stream="race"))
    follower.all_is_written.set()
    following.join(THREAD_SECONDS_MAX)
    failures = [*follower.failures, *[failure for worker in workers for failure in worker.failures]]
    assert not failures, f"seed {seed}: {failures[0]!r}"
    assert not any(thread.is_alive() for thread in (*threads, following)), f"seed {seed}: a thread hangs"
    return Race(
        seed=seed,
        committed=frozenset().union(*[worker.committed for worker in workers]),
        rolled_back=frozenset().union(*[worker.rolled_back for worker in workers]),
        seen=tuple(one for one, _ in follower.seen),
        positions=tuple(position for _, position in follower.seen),
    )


class Writer(Protocol):
    """Writes until told to stop, and notes what it committed and rolled back, and what should not have happened."""

    committed: set[UUID]
    rolled_back: set[UUID]
    failures: list[Exception]

    def run(self, stop: threading.Event) -> None: ...


@dataclass(slots=True, kw_only=True)
class _Follower:
    url: str
    follow: Follow | None
    all_is_written: threading.Event = field(default_factory=threading.Event)
    seen: list[tuple[UUID, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)

    def run(self) -> None:
        try:
            with opened(self.url) as log:
                if self.follow is not None:
                    self.follow(log, self._note)
                    return
                last = self._read(log, after=0)
                while not self.all_is_written.is_set():
                    last = self._read(log, after=last)
                self._read(log, after=last)
        except Exception as error:
            self.failures.append(error)

    def _read(self, log: EventLog, *, after: int) -> int:
        for recorded in log.read(after=after):
            self._note(recorded)
            after = recorded.position
        return after

    def _note(self, recorded: Recorded[Any]) -> None:
        if recorded.type != RACE_ENDED:
            self.seen.append((recorded.id, recorded.position))


@dataclass(slots=True, kw_only=True)
class _Writer:
    url: str
    number: int
    random: random.Random
    connect_args: dict[str, Any]
    versions: int = 0
    committed: set[UUID] = field(default_factory=set)
    rolled_back: set[UUID] = field(default_factory=set)
    failures: list[Exception] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        try:
            with (
                opened(self.url) as log,
                engine_of(self.url, connect_args=self.connect_args) as engine,
                engine.connect() as connection,
            ):
                while not stop.is_set():
                    if self.random.random() < 0.3:
                        self.committed |= self._append_alone(log)
                    else:
                        self._transaction(log, connection)
        except Exception as error:
            self.failures.append(error)

    def _append_alone(self, log: EventLog) -> set[UUID]:
        """A single event goes to a stream others write to as well; a batch stays apart, so that batches never cross."""
        stream = f"shared-{self.random.randrange(SHARED_STREAMS)}"
        batch = [self._event(stream)] if self.random.random() < 0.7 else [self._event() for _ in range(3)]
        return {recorded.id for recorded in log.append(*batch)}

    def _transaction(self, log: EventLog, connection: Connection) -> None:
        written: set[UUID] = set()
        versions = self.versions
        self._pause()
        with contextlib.suppress(_RolledBack), connection.begin():
            for _ in range(self.random.randint(1, 4)):
                written |= self._step(log, connection)
                self._pause()
            if self.random.random() < 0.2:
                self.rolled_back |= written
                self.versions = versions
                written = set()
                raise _RolledBack
        self.committed |= written

    def _step(self, log: EventLog, connection: Connection) -> set[UUID]:
        ways = [self._insert, self._copy, self._append, self._append_many]
        write = self.random.choice(ways)
        if self.random.random() < 0.7:
            return write(log, connection)
        versions = self.versions
        savepoint = connection.begin_nested()
        written = write(log, connection)
        self._pause()
        if self.random.random() < 0.5:
            savepoint.commit()
            return written
        savepoint.rollback()
        self.versions = versions
        self.rolled_back |= written
        return set()

    def _insert(self, _log: EventLog, connection: Connection) -> set[UUID]:
        event_id, version = new_id(), self._next_version()
        connection.execute(
            text(f"insert into eventlog.events {_NAMES} values (:id, :stream, :version, 'race.run', '{{}}')"),
            {"id": event_id, "stream": f"plain-{self.number}", "version": version},
        )
        return {event_id}

    def _copy(self, _log: EventLog, connection: Connection) -> set[UUID]:
        driver: Any = connection.connection.driver_connection
        ids = [new_id() for _ in range(self.random.randint(1, 30))]
        with driver.cursor().copy(f"copy eventlog.events {_NAMES} from stdin") as rows:
            for event_id in ids:
                rows.write_row((event_id, f"plain-{self.number}", self._next_version(), "race.run", "{}"))
                if self.random.random() < 0.02:
                    self._pause()
        return set(ids)

    def _append(self, log: EventLog, connection: Connection) -> set[UUID]:
        return {recorded.id for recorded in log.append(self._event(), tx=connection)}

    def _append_many(self, log: EventLog, connection: Connection) -> set[UUID]:
        return {recorded.id for recorded in log.append(*[self._event() for _ in range(5)], tx=connection)}

    def _event(self, stream: str | None = None) -> Event[object]:
        return Event({}, type="race.run", stream=stream or f"own-{self.number}-{self.random.randrange(3)}")

    def _next_version(self) -> int:
        self.versions += 1
        return self.versions

    def _pause(self) -> None:
        if self.random.random() < PAUSE_PROBABILITY:
            time.sleep(self.random.random() * PAUSE_SECONDS_MAX)


class _RolledBack(Exception):
    """Leaves a transaction without committing it."""

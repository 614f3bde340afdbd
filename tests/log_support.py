"""What the tests of the log share: opening one, events to append, threads that start together, waiting for a fact."""

import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar
from uuid import UUID

import pytest
import sqlalchemy
from sqlalchemy import Connection, Engine, text

from eventlog import pending
from eventlog.events import Event, Recorded
from eventlog.log import EventLog

T = TypeVar("T")

WAIT_SECONDS_MAX = 20.0
POLL_SECONDS = 0.005
THREAD_SECONDS_MAX = 60.0


@contextmanager
def opened(url: str | Engine, *, schema: str = "eventlog") -> Iterator[EventLog]:
    """A log whose connections are closed afterwards."""
    log = EventLog(url, schema=schema)
    try:
        yield log
    finally:
        log.engine.dispose()


@contextmanager
def engine_of(url: str, **options: Any) -> Iterator[Engine]:
    """An engine as a service would make it, without anything of ours."""
    engine = sqlalchemy.create_engine(url, **options)
    try:
        yield engine
    finally:
        engine.dispose()


def note(said: str, *, stream: str = "note-1", id: UUID | None = None) -> Event[dict[str, str]]:  # noqa: A002
    """An event of a type that nobody declares."""
    return Event({"said": said}, type="note.taken", stream=stream, id=id)


def notes(count: int, *, stream: str = "note-1") -> list[Event[dict[str, str]]]:
    return [note(f"{stream} {number}", stream=stream) for number in range(1, count + 1)]


@contextmanager
def as_other_code() -> Iterator[None]:
    """Have appends take what the classes of this process cannot read, as a process with other classes would."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pending, "_reader", lambda *_declared: None)
        yield


def everything(log: EventLog) -> list[Recorded[Any]]:
    return list(log.read())


def positions(events: Sequence[Recorded[Any]]) -> list[int]:
    return [event.position for event in events]


def said(events: Sequence[Recorded[Any]]) -> list[str]:
    return [event.data["said"] for event in events]


def wait_until(fact: Callable[[], T], *, what: str) -> T:
    """Ask until the answer is true, and return it; fail after a deadline."""
    deadline = time.monotonic() + WAIT_SECONDS_MAX
    while not (answer := fact()):
        assert time.monotonic() < deadline, f"waited {WAIT_SECONDS_MAX:g} s for {what}"
        time.sleep(POLL_SECONDS)
    return answer


def at_once(*works: Callable[[], T]) -> list[T | Exception]:
    """Run each in a thread of its own, all starting together; return what they returned or raised, in order."""
    outcomes: list[T | Exception | None] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(place: int, work: Callable[[], T]) -> None:
        start.wait(THREAD_SECONDS_MAX)
        try:
            outcomes[place] = work()
        except Exception as error:
            outcomes[place] = error

    threads = [threading.Thread(target=run, args=item, daemon=True) for item in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(THREAD_SECONDS_MAX)
        assert not thread.is_alive(), "a thread hangs"
    return [outcome for outcome in outcomes if outcome is not None]


def new_seed() -> int:
    """Draw a seed, and say it: what a random test did can be done again."""
    seed = secrets.randbits(32)
    sys.stdout.write(f"seed {seed}\n")
    return seed


def errors_of(outcomes: Sequence[object]) -> list[Exception]:
    return [outcome for outcome in outcomes if isinstance(outcome, Exception)]


class Background:
    """A call that runs in a thread of its own until `result` waits for it."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._outcome: object = None
        self._thread = threading.Thread(target=self._run, args=[work], daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def ends_within(self, seconds: float) -> bool:
        self._thread.join(seconds)
        return self.done

    def result(self) -> object:
        outcome = self.outcome()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def outcome(self) -> object:
        """What the call returned or raised."""
        self._thread.join(THREAD_SECONDS_MAX)
        assert self.done, "the call hangs"
        return self._outcome

    def _run(self, work: Callable[[], object]) -> None:
        try:
            self._outcome = work()
        except Exception as error:
            self._outcome = error


def backend(connection: Connection) -> int:
    """The process number of a PostgreSQL connection."""
    return int(connection.scalar(text("select pg_backend_pid()")) or 0)


def waiting_for_locks(observer: Engine) -> int:
    """How many connections to this PostgreSQL database wait for a lock."""
    question = text(
        "select count(distinct pid) from pg_locks join pg_stat_activity using (pid)"
        " where not granted and datname = current_database()"
    )
    with observer.connect() as connection:
        return int(connection.scalar(question) or 0)

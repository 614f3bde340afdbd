"""What the tests of the doorbell share: a doorbell that can be watched, one who sleeps beside it, one who overhears it.

The slow poll is far away in all of them, so that what is found was rung for, or polled for on purpose.
"""

import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from sqlalchemy import Engine, make_url

from eventlog.bell import Look
from eventlog.doorbell import Doorbell
from eventlog.log import EventLog
from tests.log_support import WAIT_SECONDS_MAX, Background, wait_until

FAR_AWAY_SECONDS = 600.0


def nothing() -> None:
    """Do nothing at this point."""


class Once:
    """A deed that is done at the first call only."""

    def __init__(self, deed: Callable[[], object]) -> None:
        self._deed: Callable[[], object] | None = deed

    def __call__(self) -> None:
        deed, self._deed = self._deed, None
        if deed is not None:
            deed()


class WatchedDoorbell(Doorbell):
    """Lets a test act at the points between a sleeper's steps, and counts the steps."""

    def __init__(self, log: EventLog, *, slow_poll_seconds: float = FAR_AWAY_SECONDS, **options: Any) -> None:
        super().__init__(log.database, slow_poll_seconds=slow_poll_seconds, **options)
        self._log = log
        self.looks = 0
        self.heads = 0
        self.before_look: Callable[[], None] = nothing
        self.between_head_and_marks: Callable[[], None] | None = None
        self.after_second_head: Callable[[], None] = nothing

    def look(self) -> Look:
        self.before_look()
        self.looks += 1
        if self.between_head_and_marks is None:
            return super().look()
        head = self._log.head()
        self.between_head_and_marks()
        then = super().look()
        return Look(head=head, high_water_mark=min(head, then.high_water_mark), in_flight=then.in_flight)

    def head(self) -> int:
        head = super().head()
        self.heads += 1
        self.after_second_head()
        return head


class Dozer:
    """Sleeps beside a log in a thread of its own, and wakes for what is above the position it has seen."""

    def __init__(self, doorbell: Doorbell) -> None:
        self.doorbell = doorbell
        self.seen = 0
        self.waits = 0
        self.stop = threading.Event()
        self._thread = Background(self._run)

    def has_seen(self, position: int) -> None:
        """Wait until it has woken for this position."""
        wait_until(lambda: self.seen >= position or self._thread.done, what=f"position {position} is seen")
        assert self.seen >= position, self._thread.result()

    def is_asleep(self) -> None:
        """Wait until it has looked with the bell out, and found nothing."""
        waits = self.waits
        wait_until(lambda: self.doorbell.is_out and self.waits > waits, what="it sleeps")

    def end(self) -> None:
        self.stop.set()
        self._thread.result()

    def _run(self) -> None:
        with self.doorbell.sleeper(self.stop) as sleeper:
            while not self.stop.is_set():
                sleeper.sleep(self._allowance)

    def _allowance(self, look: Look) -> float:
        if look.high_water_mark > self.seen:
            self.seen = look.high_water_mark
            return 0.0
        self.waits += 1
        return FAR_AWAY_SECONDS


@contextmanager
def asleep(doorbell: Doorbell, *, seen: int = 0) -> Iterator[Dozer]:
    """Somebody who is asleep when the block begins, and has seen everything up to a position."""
    dozer = Dozer(doorbell)
    dozer.seen = seen
    try:
        wait_until(lambda: doorbell.is_out and dozer.waits > 0, what="it sleeps")
        yield dozer
    finally:
        dozer.end()


class Eavesdropper:
    """Listens to a log's channel without sleeping beside it: hears what is notified, and is no reason to notify."""

    def __init__(self, url: str, *, schema: str = "eventlog") -> None:
        self._connection = psycopg.connect(plain(url), autocommit=True)
        self._connection.execute(f"listen eventlog_doorbell_{schema}".encode())
        self._connection.execute(b"listen end_of_question")

    def heard(self) -> int:
        """Count the rings since the last question: notifications come in the order of commits, ours as the last."""
        rings = 0
        question = secrets.token_hex(8)
        self._connection.execute("select pg_notify('end_of_question', %s)", [question])
        for notification in self._connection.notifies(timeout=WAIT_SECONDS_MAX):
            if notification.payload == question:
                return rings
            rings += notification.payload == ""
        raise AssertionError("the end of the question was not heard")

    def close(self) -> None:
        self._connection.close()


@contextmanager
def eavesdropping(url: str, *, schema: str = "eventlog") -> Iterator[Eavesdropper]:
    listener = Eavesdropper(url, schema=schema)
    try:
        yield listener
    finally:
        listener.close()


def plain(url: str) -> str:
    """Write a URL the way the driver itself takes it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def doorbell_connections(engine: Engine) -> list[int]:
    """The process numbers of the connections somebody listens on, in this database."""
    question = (
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'eventlog doorbell'"
    )
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(question).scalars())

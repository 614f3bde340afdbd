"""The bell of a log on PostgreSQL: a connection that listens, and an advisory lock that says so to appenders.

The lock is held shared, at session level, by every sleeper. An append tries it exclusively, after its mark, and only
if that fails it notifies (`schema/postgres/mark_append.2.sql`): NOTIFY takes one lock of the server at commit, which
many writers would queue at. The connection commits every statement at once; a LISTEN in a transaction hears nothing.

A pooler between us and the server takes LISTEN without a word, and nothing ever comes through. So the connection is
tested before it is relied on: a notification is sent on ANOTHER connection, and must arrive. One that is sent on the
listening connection comes back through the pooler together with the answer, and proves nothing. Only then is the lock
taken, and anything set: what a pooler's connection is made to hold stays with whoever is lent it next. A LISTEN does,
so it is not tried where a pooler is noticed on the log's own way. On a `listen_url` it is: a pooler that lends its
connections for whole sessions is as good as none.

A listener that is frozen, or gone without a word, would keep the server's queue of notifications from being emptied,
so the server gives the connection up when nothing is acknowledged for a while; and so do we.
"""

import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from os import dup
from typing import Any

import psycopg
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from eventlog.bell import SilentBellError
from eventlog.clock import Clock, SystemClock
from eventlog.errors import DatabaseError, DatabaseUnreachableError, first_line
from eventlog.nudge import Nudge
from eventlog.postgres_pooler import Pooler
from eventlog.shown_urls import shown_url

SELF_TEST_SECONDS_MAX = 3.0
PUT_OUT_TRIES_MAX = 5
PUT_OUT_PAUSE_SECONDS = 0.001
UNACKNOWLEDGED_SECONDS_MAX = 20
KEEPALIVE_IDLE_SECONDS = 10
KEEPALIVE_INTERVAL_SECONDS = 5
KEEPALIVE_TRIES_MAX = 3

_SETTINGS = {
    "application_name": "eventlog doorbell",
    "idle_session_timeout": "0",
    "tcp_user_timeout": str(UNACKNOWLEDGED_SECONDS_MAX * 1000),
    "tcp_keepalives_idle": str(KEEPALIVE_IDLE_SECONDS),
    "tcp_keepalives_interval": str(KEEPALIVE_INTERVAL_SECONDS),
    "tcp_keepalives_count": str(KEEPALIVE_TRIES_MAX),
}
"""Of the session, on the server's side; it lasts for as long as somebody may sleep."""

_SOCKET_OPTIONS = {
    "TCP_USER_TIMEOUT": UNACKNOWLEDGED_SECONDS_MAX * 1000,
    "TCP_KEEPIDLE": KEEPALIVE_IDLE_SECONDS,
    "TCP_KEEPINTVL": KEEPALIVE_INTERVAL_SECONDS,
    "TCP_KEEPCNT": KEEPALIVE_TRIES_MAX,
}
"""The same on our side, where the system knows them."""


class PostgresBell:
    """Listens on one connection. `notify` sends a notification through the log's own connections, for the self-test.

    Raises `DatabaseUnreachableError` when there is no connection, `SilentBellError` when nothing comes through it.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        schema: str,
        notify: Callable[[str, str], None],
        tries_poolers: bool,
        clock: Clock | None = None,
    ) -> None:
        self._place = shown_url(engine.url)
        self._channel = channel_of(schema)
        self._key = f"{schema}.doorbell_key()"
        self._clock: Clock = clock or SystemClock()
        self._heard: set[str] = set()
        self._nudge = Nudge()
        self._driver: psycopg.Connection[Any] | None = None
        try:
            self._connect(engine, tries_poolers=tries_poolers)
            self._test(notify)
            self._settle_down()
        except BaseException:
            self.close()
            raise

    def put_out(self) -> bool:
        """A try, some milliseconds long: an append holds the lock for a moment, and is not waited for."""
        for _ in range(PUT_OUT_TRIES_MAX):
            if self._ask(f"select pg_try_advisory_lock_shared({self._key})"):
                return True
            self._nudge.wait(PUT_OUT_PAUSE_SECONDS)
        return False

    def take_in(self) -> None:
        self._ask(f"select pg_advisory_unlock_shared({self._key})")

    def listen(self, seconds: float) -> bool:
        self._receive()
        if "" not in self._heard:
            self._nudge.wait(seconds)
            self._receive()
        rang = "" in self._heard
        self._heard.clear()
        return rang

    def nudge(self) -> None:
        self._nudge.give()

    def close(self) -> None:
        if self._driver is not None:
            with suppress(psycopg.Error):
                self._driver.close()
        self._nudge.close()

    def _connect(self, engine: Engine, *, tries_poolers: bool) -> None:
        with self._as_ours():
            self._driver = driver = _connection_of_its_own(engine)
            driver.rollback()
            driver.autocommit = True
            driver.prepare_threshold = None
            if not tries_poolers and Pooler().is_before(driver):
                raise self._silent()
            driver.add_notify_handler(self._on_notification)
            driver.execute(f"listen {self._channel}")
            self._nudge.watch(driver.fileno())

    def _test(self, notify: Callable[[str, str], None]) -> None:
        """Make sure that notifications come through; other listeners of this log leave the test's ones alone."""
        word = f"test {secrets.token_hex(8)}"
        with self._as_ours():
            notify(self._channel, word)
        ends = self._clock.monotonic() + SELF_TEST_SECONDS_MAX
        self._receive()
        while word not in self._heard:
            left = ends - self._clock.monotonic()
            if left <= 0:
                self._ask(f"unlisten {self._channel}", answers=False)
                raise self._silent()
            self._nudge.wait(left)
            self._receive()

    def _silent(self) -> SilentBellError:
        return SilentBellError(
            f"{self._place}: no notification comes through this connection",
            remedy="a pooler in transaction mode swallows them: give listen_url=, a URL that leads to the same database"
            " directly",
        )

    def _settle_down(self) -> None:
        """Make the session fit to last; not before the test, or a pooler's connections would be given our settings."""
        settings = ", ".join(f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items())
        with self._as_ours():
            assert self._driver is not None
            self._driver.execute(f"select {settings}")
            _set_socket_options(self._driver.fileno())

    def _receive(self) -> None:
        with self._as_ours():
            assert self._driver is not None
            self._driver.pgconn.consume_input()
            while (notification := self._driver.pgconn.notifies()) is not None:
                self._heard.add(notification.extra.decode())

    def _on_notification(self, notification: psycopg.Notify) -> None:
        """One that came while a statement was run."""
        self._heard.add(notification.payload)

    def _ask(self, statement: str, *, answers: bool = True) -> bool:
        with self._as_ours():
            assert self._driver is not None
            cursor = self._driver.execute(statement)
            row = cursor.fetchone() if answers else None
            return bool(row and row[0])

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        try:
            yield
        except DatabaseError:
            raise
        except (psycopg.Error, SQLAlchemyError, OSError) as error:
            raise DatabaseUnreachableError(
                f"{self._place}: {first_line(error)}", remedy="is the server up, and is listen_url right?"
            ) from error


def channel_of(schema: str) -> str:
    """Name the channel of a log; `ring.sql` names it too. A schema's name has at most 41 characters, a channel's 63."""
    return f"eventlog_doorbell_{schema}"


def _connection_of_its_own(engine: Engine) -> psycopg.Connection[Any]:
    """Take a connection out of the engine's pool for good; the pool makes itself another one."""
    lent = engine.raw_connection()
    driver = lent.driver_connection
    lent.detach()
    assert isinstance(driver, psycopg.Connection)
    return driver


def _set_socket_options(file: int) -> None:
    with suppress(OSError), socket.socket(fileno=dup(file)) as shared:
        if shared.family in (socket.AF_INET, socket.AF_INET6):
            shared.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in _SOCKET_OPTIONS.items():
                if hasattr(socket, name):
                    shared.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

"""The bell of a SQLite file: `data_version`, which changes when another connection has committed.

It ignores what its own connection commits and stands still inside a transaction, so the connection is one of its own,
never in a transaction, and the number is read before the sleeper looks. Reading it costs microseconds and no lock.

Between looks at the number it pauses, a millisecond first and doubling. A commit through the log's own engine is heard
at once: it ends the pause, and the pauses begin small again, since the commit is only about to happen.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import Engine, event
from sqlalchemy.exc import SQLAlchemyError

from eventlog.engines import once_of
from eventlog.errors import DatabaseUnreachableError
from eventlog.nudge import Nudge
from eventlog.sqlite_files import OpenedFile

PAUSE_SECONDS_MIN = 0.001
PAUSE_SECONDS_MAX = 0.025


class Commits:
    """Tells whoever asked for it that this engine is about to commit. There is one per engine, see `commits_of`.

    The engine's own list of listeners must not change while another thread goes through it.
    """

    def __init__(self, engine: Engine) -> None:
        self._tell: tuple[Callable[[], None], ...] = ()
        self._lock = threading.Lock()
        event.listen(engine, "commit", lambda _connection: self.tell())

    def add(self, tell: Callable[[], None]) -> None:
        with self._lock:
            self._tell = (*self._tell, tell)

    def remove(self, tell: Callable[[], None]) -> None:
        with self._lock:
            self._tell = tuple(one for one in self._tell if one != tell)

    def tell(self) -> None:
        """Say that a commit is about to happen: for those that SQLAlchemy knows nothing of."""
        for tell in self._tell:
            tell()


def commits_of(engine: Engine) -> Commits:
    """Return what listens to the commits of an engine; made with the first log on it, shared by all others."""
    return once_of(engine, Commits, name="eventlog_commits")


class SqliteBell:
    """Watches one file while it is out."""

    def __init__(self, engine: Engine, commits: Commits) -> None:
        self._engine = engine
        self._driver = _connection_of_its_own(engine)
        self._file = OpenedFile(self._driver)
        self._nudge = Nudge()
        self._version: int | None = None
        self._pause = PAUSE_SECONDS_MIN
        self._commits = commits
        commits.add(self._nudge.give)

    def put_out(self) -> bool:
        self._version = self._read_version()
        self._pause = PAUSE_SECONDS_MIN
        return True

    def take_in(self) -> None:
        self._version = None

    def listen(self, seconds: float) -> bool:
        if self._version is None:
            self._nudge.wait(seconds)
            return False
        left = seconds
        while left > 0:
            pause = min(self._pause, left)
            if self._nudge.wait(pause):
                self._pause = PAUSE_SECONDS_MIN
                return self._has_changed()
            if self._has_changed():
                return True
            left -= pause
            self._pause = min(PAUSE_SECONDS_MAX, self._pause * 2)
        return False

    def nudge(self) -> None:
        self._nudge.give()

    def close(self) -> None:
        self._commits.remove(self._nudge.give)
        with suppress(sqlite3.Error):
            self._driver.close()
        self._nudge.close()

    def _has_changed(self) -> bool:
        if self._file.is_replaced:
            raise DatabaseUnreachableError(f"{self._file.path} has been replaced", remedy="it is opened again")
        before, self._version = self._version, self._read_version()
        return before != self._version

    def _read_version(self) -> int:
        with _as_ours(self._engine):
            return int(self._driver.execute("pragma data_version").fetchone()[0])


def _connection_of_its_own(engine: Engine) -> sqlite3.Connection:
    """Take a connection out of the engine's pool for good; the pool makes itself another one."""
    with _as_ours(engine):
        lent = engine.raw_connection()
        driver = lent.driver_connection
        lent.detach()
        assert isinstance(driver, sqlite3.Connection)
        driver.isolation_level = None
        return driver


@contextmanager
def _as_ours(engine: Engine) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, SQLAlchemyError) as error:
        raise DatabaseUnreachableError(
            f"{engine.url.database} cannot be watched: {error}", remedy="is the path right, and readable?"
        ) from error

"""A log for one test: a SQLite file where files live in memory if there is such a place, gone afterwards.

It is a real log in a real database. The tables are made once in a process, and their file is copied, so that a log
costs milliseconds.
"""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from eventlog.log import EventLog
from eventlog.subscribers.app import App

MEMORY = Path("/dev/shm")


@contextmanager
def temporary_app(like: App | None = None, *, lease_seconds: float = 15.0) -> Iterator[App]:
    """Lend an application on an empty log of its own, for a test.

    With `like` it has the subscribers of a service's own application, and what runs around their handlers. Handlers
    have to append by `ctx.append` and write by `ctx.connection`: what they do through the service's own objects is done
    there. The log is gone when the block ends.
    """
    with tempfile.TemporaryDirectory(prefix="eventlog-", dir=_place()) as folder:
        file = shutil.copyfile(_template(), Path(folder, "log.db"))
        url = f"sqlite:///{file}"
        app = App(url, lease_seconds=lease_seconds) if like is None else like.on_database(url)
        try:
            yield app
        finally:
            app.engine.dispose()


@cache
def _template() -> Path:
    """Make the tables once. The folder goes when the process does."""
    file = Path(_folder().name, "log.db")
    log = EventLog(f"sqlite:///{file}")
    log.init()
    log.engine.dispose()
    return file


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="eventlog-template-", dir=_place())


def _place() -> str | None:
    """Where files live in memory on Linux; elsewhere the system's folder for temporary files."""
    try:
        with tempfile.TemporaryFile(dir=MEMORY):
            return str(MEMORY)
    except OSError:
        return None

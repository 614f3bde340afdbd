"""The file behind a SQLite connection: whether it is still the one that was opened.

A backup that is moved to its place leaves whoever has the old one open with a file that has no name any more: he reads
and writes on, and nobody else sees any of it. So a connection whose file is another now is given up when it is to be
lent, and the pool opens the new one. A file that is gone is left alone: opening it would make an empty one.
"""

from pathlib import Path
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import DisconnectionError

from eventlog.engines import once_of

_OPENED = "eventlog_opened"


class OpenedFile:
    """The file that a connection of the driver has opened; none for a database in memory."""

    def __init__(self, driver: Any) -> None:
        name = driver.execute("pragma database_list").fetchone()[2]
        self.path = Path(name) if name else None
        self.identity = self._found()
        """What tells it from others while it is there; None for a database in memory, and for a file that is gone."""

    @property
    def is_replaced(self) -> bool:
        """Whether there is another file in its place now. Costs microseconds."""
        return self._found() not in (self.identity, None)

    def _found(self) -> tuple[int, int] | None:
        if self.path is None:
            return None
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_dev, found.st_ino


class Replacements:
    """Counts how often connections of an engine were given up because their file had been replaced."""

    def __init__(self, _engine: Engine) -> None:
        self.count = 0

    def opened(self, driver: Any, info: dict[Any, Any]) -> None:
        """Remember what a new connection has opened; `info` is what the pool keeps with it."""
        info[_OPENED] = OpenedFile(driver)

    def check(self, info: dict[Any, Any]) -> None:
        """Raise `DisconnectionError`, by which the pool gives it and all others up, if its file has been replaced."""
        opened = info.get(_OPENED)
        if opened is not None and opened.is_replaced:
            self.count += 1
            raise DisconnectionError(f"{opened.path} has been replaced")


def replacements_of(engine: Engine) -> Replacements:
    """Return what counts the replacements behind an engine; made with the first log on it, shared by all others."""
    return once_of(engine, Replacements, name="eventlog_replacements")

"""The health file of a worker: small, written in one move, and as old as the last time the worker got an answer.

Whoever probes it looks at its age alone; what stands in it is for people. It is written while the worker's loop is
alive and the database answers it, every few seconds, and is gone when the worker has ended in order.
"""

import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from eventlog.clock import Clock, SystemClock
from eventlog.errors import UsageError

logger = logging.getLogger("eventlog.worker")

WRITE_SECONDS = 2.0
"""How often it is written at the most."""

FRESH_SECONDS = 30.0
"""How old it may be before something is wrong: several times as long as a worker goes without a look."""


class HealthFile:
    """Writes one file. Raises `UsageError` at the start, if it cannot be written at all; later that is logged, once."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = path
        self._clock: Clock = clock or SystemClock()
        self._written_at: float | None = None
        self._complained = False
        try:
            self._replace({"state": "starting"})
        except OSError as error:
            raise UsageError(
                f"the health file {path} cannot be written: {error.strerror}",
                remedy="name a file in a folder that is there and writable",
            ) from error

    @property
    def is_due(self) -> bool:
        """Whether it has not been written for a while."""
        return self._written_at is None or self._clock.monotonic() - self._written_at >= WRITE_SECONDS

    def write(self, document: Any) -> None:
        """Write that all is well, and what stands there."""
        self._written_at = self._clock.monotonic()
        try:
            self._replace(document)
        except OSError as error:
            if not self._complained:
                logger.error("the health file %s could not be written: %s", self.path, error.strerror)
            self._complained = True
        else:
            self._complained = False

    def remove(self) -> None:
        """Take it away: nobody is running any more."""
        with suppress(OSError):
            self.path.unlink()

    def _replace(self, document: Any) -> None:
        """Write beside it, then take its place: no reader sees half a document."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            beside.write_bytes(msgspec.json.encode(document))
            beside.replace(self.path)
        except OSError:
            with suppress(OSError):
                beside.unlink()
            raise


def age_of(path: Path, *, now: float) -> float | None:
    """How many seconds ago a file was written, by the machine's clock; None where there is none."""
    try:
        return max(0.0, now - path.stat().st_mtime)
    except OSError:
        return None

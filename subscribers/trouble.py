"""Saying that the database gives trouble: at once, and then the more seldom the longer it lasts.

A database that is away for an hour is away for every poll, turn and heartbeat of every worker. What an operator needs
is the first line, a sign of life now and then, and the line that says that it is over. Trouble lasts until nothing has
failed for a while: what fails again and again between successes is one trouble.
"""

import logging

from eventlog.errors import first_line
from eventlog.subscribers.runtime import Runtime

AGAIN_SECONDS = 1.0
"""How long after the first line the second comes at the earliest; each next when it has lasted twice as long."""

QUIET_SECONDS = 10.0
"""How long nothing has to fail before trouble is over."""


class Trouble:
    """One kind of trouble of one worker. Used by one thread."""

    def __init__(self, runtime: Runtime, logger: logging.Logger) -> None:
        self._runtime = runtime
        self._logger = logger
        self._since: float | None = None
        self._last = 0.0
        self._says_at = 0.0
        self._failures = 0

    def say(self, message: str, error: BaseException) -> None:
        """Note a failure, and say so when it is time to; `message` has a place for the error."""
        now = self._runtime.clock.monotonic()
        if self._since is None:
            self._since, self._says_at, self._failures = now, now, 0
        self._failures += 1
        self._last = now
        if now >= self._says_at:
            self._says_at = now + max(AGAIN_SECONDS, now - self._since)
            self._logger.warning(message, first_line(self._runtime.database.translate(error) or error))

    def say_if_over(self) -> None:
        """Say that it is over when nothing has failed for a while."""
        if self._since is None or self._runtime.clock.monotonic() - self._last < self._quiet_seconds:
            return
        seconds = self._last - self._since
        self._logger.info("the database is well again, after %d failures in %.1f s", self._failures, seconds)
        self._since = None

    @property
    def _quiet_seconds(self) -> float:
        """Longer than the pause between two heartbeats."""
        return max(QUIET_SECONDS, self._runtime.lease_seconds)

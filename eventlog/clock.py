"""The one place that asks a machine for the time or waits.

What is compared between workers is compared on the database's clock. The machine's clock serves only for what stays in
one process: how long a handler took, when to look again, whether a lease that was just renewed may still be relied on.
"""

import threading
import time
from datetime import UTC, datetime
from typing import Protocol


class Clock(Protocol):
    """What a worker asks of time; tests hand in one they move by hand."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; never goes back."""
        ...

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        """Wait until `stop` is set, at most for so long; return whether it is set."""
        ...


class SystemClock:
    """The machine's own clock."""

    monotonic = staticmethod(time.monotonic)
    """The function itself: it is asked before each call of a handler."""

    def wait(self, stop: threading.Event, seconds: float) -> bool:
        return stop.wait(seconds)


def wall_milliseconds() -> int:
    """Return milliseconds since 1970, for ids."""
    return time.time_ns() // 1_000_000


def utc_now() -> datetime:
    """Return the machine's idea of now, for what a person reads or types (`--since 2h`)."""
    return datetime.now(UTC)

"""A clock that stands still, for what a process does by its own time: pauses, time limits, when to look again.

What is compared between workers, leases and the times of retries, is compared on the database's clock, which nobody can
move: `make_retries_due` moves the times instead.
"""

import threading

POLL_SECONDS = 0.01


class StillClock:
    """A clock that only moves by hand; who waits is woken after a moment of real time."""

    def __init__(self) -> None:
        self.now = 0.0

    def advance(self, seconds: float) -> None:
        """Let so much time pass."""
        self.now += seconds

    def monotonic(self) -> float:
        return self.now

    def wait(self, stop: threading.Event, _seconds: float) -> bool:
        return stop.wait(POLL_SECONDS)

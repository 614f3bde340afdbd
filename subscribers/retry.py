"""When a failed event is tried again: exponential backoff with full jitter.

The wait before attempt n+1 is drawn evenly from 0 to min(longest, first * factor**(n-1)) seconds. Full jitter spreads
the retries of events that failed together over the whole interval (Marc Brooker, "Exponential Backoff And Jitter",
AWS Architecture Blog, 2015). The wait is kept in the ledger, so a restart forgets nothing.
"""

from collections.abc import Callable
from typing import Any

import msgspec

WAIT_SECONDS_MAX = 366 * 86_400.0
"""No event waits longer than a year for its next attempt."""


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """How often an event is tried, the first time included, and how long to wait in between, in seconds.

    Exceptions of the classes `final` are not tried again: the event is parked after the first.
    """

    attempts: int = 5
    first_seconds: float = 1.0
    factor: float = 2.0
    longest_seconds: float = 3600.0
    final: tuple[type[BaseException], ...] = ()

    def __post_init__(self) -> None:
        if not (_is_number(self.attempts, int) and self.attempts >= 1):
            raise ValueError(f"attempts={self.attempts!r}: an event is tried at least once, a whole number of times")
        for name in ("first_seconds", "factor", "longest_seconds"):
            if not _is_number(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: give a number")
        if not (self.first_seconds >= 0 and self.factor >= 1 and 0 <= self.longest_seconds <= WAIT_SECONDS_MAX):
            raise ValueError(
                "first_seconds must not be negative, factor not below 1,"
                f" and longest_seconds between 0 and {WAIT_SECONDS_MAX:,.0f}"
            )
        if not _are_exceptions(self.final):
            raise ValueError(f"final={self.final!r}: give a tuple of exception classes")

    def spent(self, attempts: int) -> bool:
        """Tell whether an event that failed so often is left to an operator."""
        return attempts >= self.attempts

    def wait_seconds(self, attempts: int, *, draw: Callable[[], float]) -> float:
        """Draw the wait after so many failed attempts; `draw` gives a number from 0 to 1."""
        try:
            ceiling = min(self.longest_seconds, self.first_seconds * self.factor ** (attempts - 1))
        except OverflowError:
            ceiling = self.longest_seconds
        return draw() * ceiling


def _is_number(one: Any, kind: Any = int | float) -> bool:
    return isinstance(one, kind) and not isinstance(one, bool)


def _are_exceptions(given: Any) -> bool:
    return isinstance(given, tuple) and all(isinstance(one, type) and issubclass(one, BaseException) for one in given)

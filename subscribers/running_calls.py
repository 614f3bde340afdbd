"""The calls of handlers that have a time limit and are running now: who is over it is reported, once."""

import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from eventlog.clock import Clock

logger = logging.getLogger("eventlog.worker")


@dataclass(slots=True, kw_only=True)
class _Running:
    what: str
    about: Mapping[str, object]
    began: float
    limit_seconds: float
    reported: bool = False


class RunningCalls:
    """Safe to share between threads; the heartbeat asks it."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._running: dict[int, _Running] = {}

    @contextmanager
    def noted(self, what: str, *, limit_seconds: float, about: Mapping[str, object]) -> Iterator[None]:
        """Note a call while the block runs; `about` are the fields of the line that reports it."""
        call = _Running(what=what, about=about, began=self._clock.monotonic(), limit_seconds=limit_seconds)
        with self._lock:
            self._running[id(call)] = call
        try:
            yield
        finally:
            with self._lock:
                del self._running[id(call)]

    def report_overdue(self) -> list[str]:
        """Log each call that is over its time limit, the first time it is seen to be; return what was logged."""
        now = self._clock.monotonic()
        with self._lock:
            overdue = [
                one for one in self._running.values() if not one.reported and now - one.began > one.limit_seconds
            ]
            for one in overdue:
                one.reported = True
        for one in overdue:
            logger.warning(
                "%s has run for %.0f s, its time limit is %g s; it cannot be interrupted, and its lease is kept",
                one.what,
                now - one.began,
                one.limit_seconds,
                extra=one.about,
            )
        return [one.what for one in overdue]

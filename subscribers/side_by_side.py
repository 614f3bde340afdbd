"""Runs the calls of one batch several at a time, with the order of each key kept.

What was begun is always a stretch without holes once it has ended: calls begin in the order of the log but for keys
that are busy, never further ahead of the oldest unfinished one than a window, and when no more are to begin, those left
out in between are still run. So a checkpoint can move over all of it, and a hot key cannot put that off for long.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from enum import Enum


class _Stand(Enum):
    TODO = 0
    RUNNING = 1
    DONE = 2


class SideBySide:
    """One batch. `begin` starts the call at a place, or settles it without one and returns None; `ended` is told how a
    call ended; `goes_on` says whether more may begin.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        width: int,
        begin: Callable[[int], "Future[None] | None"],
        ended: Callable[[int, BaseException | None], None],
        goes_on: Callable[[], bool],
    ) -> None:
        self._keys = keys
        self._width = width
        self._begin = begin
        self._ended = ended
        self._goes_on = goes_on
        self._stands = [_Stand.TODO] * len(keys)
        self._running: dict[Future[None], int] = {}
        self._busy: set[str] = set()
        self._first = 0
        self._end = len(keys)

    def run(self) -> int:
        """Run until everything, or everything up to where it stopped, has ended; return how many calls that were.

        What `begin` and `ended` raise is raised when nothing runs any more.
        """
        try:
            while self._first < self._end:
                self._begin_some()
                self._end_some()
        except BaseException:
            for future in self._running:
                future.cancel()
            wait(self._running)
            raise
        return self._end

    def _begin_some(self) -> None:
        if self._end == len(self._keys) and not self._goes_on():
            begun = [place for place, stand in enumerate(self._stands) if stand is not _Stand.TODO]
            self._end = max(begun, default=-1) + 1
        for place in range(self._first, min(self._end, self._first + 2 * self._width)):
            if len(self._running) >= self._width:
                return
            if self._stands[place] is _Stand.TODO and self._keys[place] not in self._busy:
                self._begin_at(place)

    def _begin_at(self, place: int) -> None:
        future = self._begin(place)
        if future is None:
            self._stands[place] = _Stand.DONE
            return
        self._stands[place] = _Stand.RUNNING
        self._running[future] = place
        self._busy.add(self._keys[place])

    def _end_some(self) -> None:
        if self._running:
            done, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in sorted(done, key=self._running.__getitem__):
                self._end_at(future)
        while self._first < self._end and self._stands[self._first] is _Stand.DONE:
            self._first += 1

    def _end_at(self, future: "Future[None]") -> None:
        place = self._running.pop(future)
        self._busy.discard(self._keys[place])
        self._stands[place] = _Stand.DONE
        try:
            error = future.exception()
        except BaseException as cancelled:
            error = cancelled
        self._ended(place, error)

"""Event ids: UUID version 7, so that ids made later sort later and indexes on them stay compact.

RFC 9562, section 6.2, method 1: 48 bits of milliseconds, then a counter of 18 bits that starts at random in each
millisecond and keeps ids of one process in order, then 56 random bits.
"""

import os
import struct
import threading
from collections.abc import Iterator
from uuid import UUID

from eventlog.clock import wall_milliseconds

_IDS_AT_ONCE = 1_000
_COUNTER_BITS = 18
_FRESH_COUNTER_BITS = 16
"""A fresh counter starts in the lower quarter, which leaves room for 196,608 ids in one millisecond."""


class _Ticks:
    """Pairs of millisecond and counter, each larger than the one before, whatever the clock does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def take(self, count: int, *, random: int) -> tuple[int, int]:
        """Take so many, which follow each other and are all of one millisecond; return the first."""
        with self._lock:
            now = wall_milliseconds()
            if now > self._milliseconds:
                self._milliseconds = now
                self._counter = random & ((1 << _FRESH_COUNTER_BITS) - 1)
            else:
                self._counter += 1
                if (self._counter + count - 1) >> _COUNTER_BITS:
                    self._milliseconds += 1
                    self._counter = 0
            first = self._counter
            self._counter += count - 1
            return self._milliseconds, first


_ticks = _Ticks()


def new_id() -> UUID:
    """Make an id that sorts after every id this process made before."""
    return next(new_ids(1))


def new_ids(count: int) -> Iterator[UUID]:
    """Make so many ids, each larger than the one before. What they share is asked for once a thousand, not for each."""
    for start in range(0, count, _IDS_AT_ONCE):
        yield from _ids(min(_IDS_AT_ONCE, count - start))


def _ids(count: int) -> Iterator[UUID]:
    random = struct.unpack(f"{count + 1}Q", os.urandom(8 * (count + 1)))
    milliseconds, first = _ticks.take(count, random=random[count])
    start = (milliseconds << 80) | (0x7 << 76) | (0b10 << 62)
    for counter, one in enumerate(random[:count], first):
        yield UUID(int=start | (counter >> 6) << 64 | (counter & 0x3F) << 56 | one >> 8)

"""Event ids: UUID version 7, so that ids made later sort later and indexes on them stay compact.

RFC 9562, section 6.2, method 1: 48 bits of milliseconds, then a counter of 18 bits that starts at random in each
millisecond and keeps ids of one process in order, then 56 random bits.
"""

import os
import threading
from collections.abc import Iterator
from uuid import UUID

from eventlog.clock import wall_milliseconds

_RANDOM_BYTES = 10
_COUNTER_BITS = 18
_FRESH_COUNTER_BITS = 16
"""A fresh counter starts in the lower quarter, which leaves room for 196,608 ids in one millisecond."""


class _Ticks:
    """Pairs of millisecond and counter, each larger than the one before, whatever the clock does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._milliseconds = 0
        self._counter = 0

    def next(self, random: int) -> tuple[int, int]:
        with self._lock:
            now = wall_milliseconds()
            if now > self._milliseconds:
                self._milliseconds = now
                self._counter = random & ((1 << _FRESH_COUNTER_BITS) - 1)
            else:
                self._counter += 1
                if self._counter >> _COUNTER_BITS:
                    self._milliseconds += 1
                    self._counter = 0
            return self._milliseconds, self._counter


_ticks = _Ticks()


def new_id() -> UUID:
    """Make an id that sorts after every id this process made before."""
    return _id_of(os.urandom(_RANDOM_BYTES))


def new_ids(count: int) -> Iterator[UUID]:
    """Make so many ids, as they are asked for: the system is asked for randomness once, not for each."""
    random = os.urandom(_RANDOM_BYTES * count)
    return (_id_of(random[start : start + _RANDOM_BYTES]) for start in range(0, len(random), _RANDOM_BYTES))


def _id_of(random_bytes: bytes) -> UUID:
    random = int.from_bytes(random_bytes, "big")
    milliseconds, counter = _ticks.next(random >> 56)
    high = (milliseconds << 16) | 0x7000 | (counter >> 6)
    low = (0b10 << 62) | ((counter & 0x3F) << 56) | (random & ((1 << 56) - 1))
    return UUID(int=(high << 64) | low)

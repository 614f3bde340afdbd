"""The ordering key of an event, and the partition a key belongs to.

Events of one key are handled in the order of the log, by one worker at a time; an event whose handler failed holds back
only those of its key. The key is the stream unless a subscriber declares otherwise.

A worker may run all partitions of a subscriber, and each of them looks at every event that is read: an item keeps the
hash that was asked for last. The hash is MD5, which PostgreSQL has built in: the SQL function `partition_of` gives the
same number.
"""

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

from eventlog.errors import DeclarationError
from eventlog.events import Recorded
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.problems import clean

STREAM = "stream"

KeyFunction = Callable[[Recorded[Any]], object]


class KeyRule:
    """How a subscriber reads the key of an event: its stream, a field of its data, or a function of the recorded event.

    `name` is what the database keeps of it, to notice when code declares another. Where the field is missing or None,
    the function raises, or the event cannot be decoded, the key is the stream.
    """

    def __init__(self, declared: KeyFunction | str | None, *, name: str | None = None) -> None:
        self.name = name or _name(declared)
        self._read = _reader(declared)
        self._hashed_by: object = self if callable(declared) else self.name
        """Under which an item keeps the hash: two functions may have one name, and find different keys."""

    def of(self, item: FeedItem) -> str:
        """Return the key of an event."""
        if self._read is None:
            return item.stored.stream
        try:
            key = self._read(item.recorded())
            return item.stored.stream if key is None else clean(str(key))
        except Exception:
            return item.stored.stream

    def hash_of(self, item: FeedItem) -> int:
        """Return the hash of an event's key, of which the partition is the remainder."""
        kept = item.hashed
        if kept is None or kept[0] != self._hashed_by:
            kept = item.hashed = (self._hashed_by, _hash(self.of(item)))
        return kept[1]


def partition_of(key: str, *, partitions: int) -> int:
    """Return the partition a key belongs to, from 0: the first 32 bits of its MD5, modulo their number."""
    return 0 if partitions == 1 else _hash(key) % partitions


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.md5(key.encode(), usedforsecurity=False).digest()[:4], "big")


def _name(declared: KeyFunction | str | None) -> str:
    if declared is None or declared == STREAM:
        return STREAM
    if isinstance(declared, str):
        if not declared.isidentifier():
            raise DeclarationError(f"key={declared!r} names no field", remedy="name a field of the events' data")
        return f"data.{declared}"
    if callable(declared):
        _check_takes_one(declared)
        return f"{getattr(declared, '__module__', '')}.{getattr(declared, '__qualname__', type(declared).__qualname__)}"
    raise DeclarationError(
        f"key={declared!r} is neither a field nor a function", remedy="leave it out for the stream, or name a field"
    )


def _check_takes_one(function: KeyFunction) -> None:
    """Where a key function raises, the key is the stream, so one that never can be called would never be noticed."""
    try:
        inspect.signature(function).bind(None)
        if not inspect.iscoroutinefunction(function):
            return
    except ValueError:  # a function of C, which does not tell what it takes
        return
    except TypeError:
        pass
    raise DeclarationError(
        f"key={getattr(function, '__qualname__', function)!r} is no function of one event",
        remedy="write a plain function of the recorded event that returns its key",
    )


def _reader(declared: KeyFunction | str | None) -> KeyFunction | None:
    if declared is None or declared == STREAM:
        return None
    if isinstance(declared, str):
        return lambda recorded: _field(recorded.data, declared)
    return declared


def _field(data: Any, name: str) -> object:
    return data.get(name) if isinstance(data, dict) else getattr(data, name, None)

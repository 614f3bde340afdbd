"""Rows of the log's own tables that cannot be read: one error for them all, raised where a row is made into a value."""

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from eventlog.errors import DamagedRowError, first_line

_UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)

SAID_MAX = 200
"""Characters of what a decoder says: it may repeat the document."""

REMEDY = (
    "it was changed by hand, or by another release: `eventlog verify --all` looks through all of them; put it back from"
    " a backup"
)


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Raise `DamagedRowError` where what a row holds is not what it can hold; only for turning rows into values."""
    try:
        yield
    except _UNREADABLE as error:
        raise DamagedRowError(f"{what} cannot be read: {first_line(error)[:SAID_MAX]}", remedy=REMEDY) from error

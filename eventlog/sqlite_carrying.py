"""Writing events of another log into this one on SQLite, with the positions they had there or with new ones.

The file numbers events itself, one after the other, and a trigger refuses any other number. What it numbers by is the
last number it has drawn, in `sqlite_sequence`; moved to just before the next event, it draws the position that is
wanted. That is part of the transaction, which holds the only write lock there is.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from sqlite3 import Connection as Driver
from typing import Any

import msgspec

from eventlog.carried import Carried
from eventlog.schema.timestamps import sqlite_text


def carry(driver: Driver, table: str, events: Sequence[Carried], *, keep_positions: bool) -> None:
    """Insert events, under the positions they have if those are to be kept; they rise, and are above the last one."""
    insert = (
        f"insert into {table} (id, stream, version, type, type_version, data, metadata, recorded_at, tags)"
        " values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
    )
    if not keep_positions:
        driver.executemany(insert, map(_row, events))
        return
    for run in _runs(events):
        _number_from(driver, table, run[0].position)
        driver.executemany(insert, map(_row, run))


def _number_from(driver: Driver, table: str, position: int) -> None:
    moved = driver.execute("update sqlite_sequence set seq = ? where name = ?", (position - 1, table))
    if moved.rowcount == 0:
        driver.execute("insert into sqlite_sequence (seq, name) values (?, ?)", (position - 1, table))


def _runs(events: Sequence[Carried]) -> Iterator[list[Carried]]:
    """Cut events where their positions have a hole."""
    for _, run in groupby(enumerate(events), key=lambda one: one[1].position - one[0]):
        yield [event for _, event in run]


def _row(event: Carried) -> tuple[Any, ...]:
    return (
        str(event.id),
        event.stream,
        event.version,
        event.type,
        event.type_version,
        event.data_text,
        event.metadata_text,
        sqlite_text(event.recorded_at),
        msgspec.json.encode(event.tags).decode() if event.tags else None,
    )

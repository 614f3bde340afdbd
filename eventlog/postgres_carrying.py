"""Writing events of another log into this one on PostgreSQL, with the positions they had there or with new ones.

Positions are the database's to give out, and a guard refuses a row that no in-flight mark covers. To keep positions is
possible within that, as long as nobody else gives any out meanwhile and the sequence is past them when they appear:

    lock_timeout                                    nobody stands behind us for longer than that
    lock_tags                                       before positions are held, as everybody does it
    alter sequence ... cache 1                      waits for every append in flight, and keeps others out: whoever
                                                    appends has read the sequence, and holds its lock until he ends
    head                                            nobody can move it now
    alter sequence ... restart; setval(head)        a sequence of our own until we commit: setval alone would not be
                                                    rolled back, and readers may have passed what was taken back
    copy                                            marked by the trigger, at the head; positions above it are covered
    setval(last)                                    commit shows the rows and the sequence at once

A reader that asks for the head waits for the commit, and its next statement sees the rows: the lock of the sequence is
let go after they are visible. Why not a lock of the table: docs/decisions/0045.
"""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError

from eventlog.carried import Carried
from eventlog.errors import RefusedError

HOLD_TRIES_MAX = 20
HOLD_WAIT_SECONDS = 0.2
"""For how long appends and readers may stand behind one try."""
PAUSE_SECONDS = 0.3

_COLUMNS = ("position", "id", "stream", "version", "type", "type_version", "data", "metadata", "recorded_at", "tags")


def hold_positions(connection: Connection, schema: str, tags: Sequence[str]) -> int:
    """Keep all appends out until the transaction ends, and return the head. Takes ten seconds when it is in vain.

    It must be the first thing the transaction does. Raises `RefusedError` when an append stays open.
    """
    before = connection.scalar(text("select current_setting('lock_timeout')"))
    for tries in range(1, HOLD_TRIES_MAX + 1):
        if _held(connection, schema, tags):
            break
        if tries == HOLD_TRIES_MAX:
            raise RefusedError(
                f"a transaction that has appended or read the end of the log stayed open for {tries} tries of"
                f" {HOLD_WAIT_SECONDS:g} s: positions cannot be kept beside it",
                remedy="stop what appends to this log, `eventlog status` names it; or give the events new positions:"
                " --new-positions",
            )
        connection.execute(text("select pg_sleep(:seconds)"), {"seconds": PAUSE_SECONDS})
    connection.execute(text("select set_config('lock_timeout', :before, true)"), {"before": before})
    head = int(connection.scalar(text(f"select {schema}.head()")) or 0)
    connection.exec_driver_sql(f"alter sequence {schema}.events_position_seq restart with {head + 1}")
    if head:
        _set_head(connection, schema, head)
    return head


def carry(connection: Connection, schema: str, events: Sequence[Carried], *, keep_positions: bool) -> bool:
    """Insert events, under the positions they have where those are held; return whether no id or version was taken.

    Where one was, the transaction is broken. Raises the driver's errors.
    """
    columns = _COLUMNS if keep_positions else _COLUMNS[1:]
    if not keep_positions and (tags := sorted({tag for event in events for tag in event.tags})):
        connection.execute(text(f"select {schema}.lock_tags(:tags, null)"), {"tags": tags})
    try:
        with closing(connection.connection.cursor()) as cursor:
            _copy(cursor, f"copy {schema}.events ({', '.join(columns)}) from stdin", events, len(columns))
    except psycopg.errors.UniqueViolation:
        return False
    if keep_positions:
        _set_head(connection, schema, events[-1].position)
    return True


def _copy(cursor: Any, statement: str, events: Sequence[Carried], columns: int) -> None:
    with cursor.copy(statement) as copy:
        for event in events:
            copy.write_row(_row(event)[-columns:])


def _held(connection: Connection, schema: str, tags: Sequence[str]) -> bool:
    try:
        with connection.begin_nested():
            wait = f"{round(HOLD_WAIT_SECONDS * 1000)}ms"
            connection.execute(text("select set_config('lock_timeout', :wait, true)"), {"wait": wait})
            if tags:
                connection.execute(text(f"select {schema}.lock_tags(:tags, null)"), {"tags": list(tags)})
            connection.exec_driver_sql(f"alter sequence {schema}.events_position_seq cache 1")
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":
            raise
        return False
    return True


def _set_head(connection: Connection, schema: str, position: int) -> None:
    connection.execute(text(f"select setval('{schema}.events_position_seq', :position)"), {"position": position})


def _row(event: Carried) -> tuple[Any, ...]:
    return (
        event.position,
        event.id,
        event.stream,
        event.version,
        event.type,
        event.type_version,
        event.data_text,
        event.metadata_text,
        event.recorded_at,
        list(event.tags) or None,
    )

"""The failure ledger: each subscriber's own record of the events whose handler failed, and every attempt at them.

    (no entry) --handler fails--> RETRYING --attempts spent, final, or Park--> PARKED
        |                          ^ |  ^                                        |
        | an earlier one of its    | |  +--------------- retry, by an operator --+
        | key is open              | |
        v        the first of      | +--handler succeeds--> RESOLVED
     BLOCKED ----its key now-------+
     any open one --an operator, or the handler's own Skip--> SKIPPED
     any one      --a rewind goes below it--> SUPERSEDED; the event comes again, and a new failure reopens the row
                                              (round + 1); the rewind's undo brings it back as it was

Nothing releases a blocked entry. The lowest open entry of a key is the one that is due, and that is asked each time: a
step that releases what waits would leave entries behind when it races with a batch that adds to them.

An entry points at its event and never copies it. A worker writes to it only inside a transaction that has passed its
fence, and only if the entry is still at the revision it was read at: an operator's skip is never overwritten.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import TypeVar

import msgspec
from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    Select,
    Table,
    false,
    func,
    insert,
    literal,
    null,
    or_,
    select,
    update,
)

from eventlog.damage import readable
from eventlog.errors import LeaseLostError
from eventlog.schema.inserts import insert_into
from eventlog.schema.tables import OPEN_STATES, Tables
from eventlog.schema.timestamps import database_now, seconds_from_now
from eventlog.subscribers.problems import Problem

ROWS_MAX = 500
"""How many rows one statement writes; a database takes some ten thousand values at a time."""

T = TypeVar("T")


class EntryState(StrEnum):
    """Where a ledger entry stands; the drawing is at the top of this file."""

    RETRYING = "retrying"
    PARKED = "parked"
    BLOCKED = "blocked"
    RESOLVED = "resolved"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A ledger entry as it was read."""

    subscriber: str
    position: int
    partition: int
    key: str
    state: EntryState
    attempts: int
    round: int
    revision: int
    redelivery: bool
    next_attempt_at: datetime | None
    first_failed_at: datetime
    last_failed_at: datetime
    error_type: str
    message: str
    fingerprint: str
    reason: str | None
    handler: str | None

    @property
    def open(self) -> bool:
        return self.state in OPEN_STATES


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a handler for an event that is, or now comes, into the ledger."""

    position: int
    number: int
    worker: str
    epoch: int
    duration_seconds: float
    problem: Problem | None
    skipped: bool = False
    operation: int | None = None
    """The replay it belongs to, if it does."""

    @property
    def outcome(self) -> str:
        if self.problem is None:
            return "resolved"
        return "skipped" if self.skipped else "failed"


class NewEntry(msgspec.Struct, frozen=True, kw_only=True):
    """What live delivery writes for an event that it did not hand out with success: it failed, was given up by its
    handler, or waits behind another one; then `attempt` is None. `redelivery` is the entry's own mark.
    """

    subscriber: str
    partition: int
    position: int
    key: str
    handler: str
    state: EntryState
    problem: Problem
    redelivery: bool
    wait_seconds: float = 0.0
    reason: str | None = None
    attempt: Attempt | None = None


def record_entries(connection: Connection, tables: Tables, entries: Sequence[NewEntry]) -> None:
    """Write entries of live delivery and their attempts: two statements for a batch of them, whatever their number.

    A row that was closed before is opened for a new round.
    """
    for some in batched(entries, ROWS_MAX):
        rounds = _upsert(connection, tables, some)
        attempts = [(one.attempt, rounds[one.position]) for one in some if one.attempt is not None]
        if attempts:
            _insert_attempts(connection, tables, some[0].subscriber, attempts)


def begin_attempt(connection: Connection, tables: Tables, entry: Entry) -> Entry:
    """Count an attempt before its handler is called, so that one that kills its worker has been counted.

    Until its outcome is written the entry has no time of a next attempt, and nobody takes it up.
    """
    attempts = entry.attempts + 1
    state = EntryState.RETRYING
    values = {"state": state, "attempts": attempts, "redelivery": True, "next_attempt_at": None}
    _change(connection, tables.failures, entry, values)
    return msgspec.structs.replace(
        entry, state=state, attempts=attempts, revision=entry.revision + 1, redelivery=True, next_attempt_at=None
    )


def fail_again(
    connection: Connection,
    tables: Tables,
    entry: Entry,
    problem: Problem,
    *,
    state: EntryState,
    wait_seconds: float,
    reason: str | None = None,
) -> None:
    """Write that another attempt has failed, or that the handler gave the event up."""
    values = {**_latest(problem), **_next_attempt(state, wait_seconds), "state": state}
    if reason is not None:
        values["reason"] = reason
    _change(connection, tables.failures, entry, values)


def close_entry(
    connection: Connection, tables: Tables, entry: Entry, *, state: EntryState, reason: str | None = None
) -> None:
    """Resolve or skip an entry."""
    values: dict[str, object] = {"state": state, "next_attempt_at": None}
    if reason is not None:
        values["reason"] = reason
    _change(connection, tables.failures, entry, values)


def make_due(connection: Connection, tables: Tables, entry: Entry) -> None:
    """Have an entry tried again as soon as a worker looks."""
    _change(connection, tables.failures, entry, {"state": EntryState.RETRYING, "next_attempt_at": database_now()})


def record_attempt(
    connection: Connection, tables: Tables, attempt: Attempt, *, subscriber: str, round_number: int
) -> None:
    """Append one attempt to the history of an entry."""
    _insert_attempts(connection, tables, subscriber, [(attempt, round_number)])


def supersede_above(
    connection: Connection,
    tables: Tables,
    *,
    subscriber: str,
    partitions: Collection[int],
    position: int,
    operation: int,
) -> int:
    """Close every entry above a position because the events come again; return how many were still open."""
    table = tables.failures
    above = (table.c.subscriber == subscriber) & (table.c.position > position) & table.c.partition.in_(partitions)
    current = above & (table.c.state != EntryState.SUPERSEDED)
    open_ones = select(func.count()).select_from(table).where(current, table.c.state.in_(OPEN_STATES))
    count = connection.scalar(open_ones) or 0
    connection.execute(
        update(table)
        .where(current)
        .values(
            state_before=table.c.state,
            state=literal(str(EntryState.SUPERSEDED)),
            closed_by=operation,
            revision=table.c.revision + 1,
        )
    )
    return count


def superseded_by(
    connection: Connection, tables: Tables, *, subscriber: str, above: Mapping[int, int], operation: int
) -> int:
    """Count the entries an operation closed, above a position of each partition."""
    table = tables.failures
    closed = _closed_by(table, subscriber, above, operation)
    return connection.scalar(select(func.count()).select_from(table).where(closed)) or 0


def restore_superseded(
    connection: Connection, tables: Tables, *, subscriber: str, above: Mapping[int, int], operation: int
) -> int:
    """Bring back the entries an operation closed, above a position of each partition; return how many.

    They stand as they were. But their events may have been handed out meanwhile, by somebody who has not come to settle
    that, so what is tried of them is a redelivery.
    """
    table = tables.failures
    restored = connection.execute(
        update(table)
        .where(_closed_by(table, subscriber, above, operation))
        .values(
            state=table.c.state_before,
            state_before=None,
            closed_by=None,
            redelivery=literal(value=True),
            revision=table.c.revision + 1,
        )
    )
    return restored.rowcount


def entry_from(row: RowMapping) -> Entry:
    """Make an entry of a row of `failures`. Raises `DamagedRowError`."""
    with readable(f"the entry of {row['subscriber']!r} for event {row['position']}"):
        return msgspec.convert({name: row[name] for name in Entry.__struct_fields__}, Entry)


def batched(entries: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Cut a sequence into pieces of at most so many."""
    for start in range(0, len(entries), size):
        yield entries[start : start + size]


def _upsert(connection: Connection, tables: Tables, entries: Sequence[NewEntry]) -> dict[int, int]:
    """Write the rows, and return the round of each by its position."""
    table = tables.failures
    rows = [_row(one) for one in entries]
    statement = insert_into(connection, table).values(rows)
    changed = {name: statement.excluded[name] for name in rows[0] if name not in ("subscriber", "position", "round")}
    written = connection.execute(
        statement.on_conflict_do_update(
            index_elements=[table.c.subscriber, table.c.position],
            set_={**changed, "round": table.c.round + 1, "revision": table.c.revision + 1},
        ).returning(table.c.position, table.c.round)
    )
    return {row.position: row.round for row in written}


def _row(entry: NewEntry) -> dict[str, object]:
    return {
        "subscriber": entry.subscriber,
        "position": entry.position,
        "partition": entry.partition,
        "key": entry.key,
        "handler": entry.handler,
        "state": str(entry.state),
        "attempts": entry.attempt.number if entry.attempt is not None else 0,
        "round": 0,
        "redelivery": entry.redelivery,
        "first_failed_at": database_now(),
        "reason": entry.reason,
        "closed_by": None,
        "state_before": None,
        **_latest(entry.problem),
        **_next_attempt(entry.state, entry.wait_seconds),
    }


def _insert_attempts(
    connection: Connection, tables: Tables, subscriber: str, attempts: Sequence[tuple[Attempt, int]]
) -> None:
    connection.execute(
        insert(tables.attempts),
        [
            {
                "subscriber": subscriber,
                "position": attempt.position,
                "round": round_number,
                "attempt": attempt.number,
                "outcome": attempt.outcome,
                "error_type": attempt.problem.error_type if attempt.problem else None,
                "message": attempt.problem.message if attempt.problem else None,
                "traceback": attempt.problem.traceback if attempt.problem else None,
                "worker": attempt.worker,
                "epoch": attempt.epoch,
                "duration_seconds": attempt.duration_seconds,
                "operation": attempt.operation,
            }
            for attempt, round_number in attempts
        ],
    )


def _closed_by(table: Table, subscriber: str, above: Mapping[int, int], operation: int) -> ColumnElement[bool]:
    places = ((table.c.partition == one) & (table.c.position > position) for one, position in above.items())
    return (table.c.subscriber == subscriber) & (table.c.closed_by == operation) & or_(false(), *places)


def _entries(tables: Tables) -> Select[tuple[object, ...]]:
    return select(tables.failures)


def _change(connection: Connection, table: Table, entry: Entry, values: dict[str, object]) -> None:
    changed = connection.execute(
        update(table)
        .where(
            table.c.subscriber == entry.subscriber,
            table.c.position == entry.position,
            table.c.revision == entry.revision,
        )
        .values(revision=entry.revision + 1, **values)
    )
    if changed.rowcount != 1:
        raise LeaseLostError(
            f"{entry.subscriber}: the entry of event {entry.position} was changed by somebody else",
            remedy="nothing to do: what the other one wrote stands",
        )


def _latest(problem: Problem) -> dict[str, object]:
    return {
        "error_type": problem.error_type,
        "message": problem.message,
        "fingerprint": problem.fingerprint,
        "last_failed_at": database_now(),
    }


def _next_attempt(state: EntryState, wait_seconds: float) -> dict[str, object]:
    due = seconds_from_now(literal(wait_seconds)) if state is EntryState.RETRYING else null()
    return {"next_attempt_at": due}

"""The failure ledger: each subscriber's own record of the events whose handler failed, and every attempt at them.

    (no entry) --handler fails--> RETRYING --attempts spent, or final--> PARKED
                                     |  ^                                  |
                      handler        |  +---------- retry, by an operator -+
                      succeeds       v                                     v
                                  RESOLVED                              SKIPPED, by an operator, from either
    BLOCKED: waits behind an earlier failure of its key
    SUPERSEDED: a rewind went below it; the event comes again, and a new failure reopens the row (round + 1)

An entry points at its event and never copies it. A worker writes to it only inside a transaction that has passed its
fence, and only if the entry is still at the revision it was read at: an operator's skip is never overwritten.
"""

import hashlib
import re
import traceback
from datetime import datetime
from enum import StrEnum

import msgspec
from sqlalchemy import Connection, RowMapping, Select, Table, func, insert, literal, select, update

from eventlog.errors import LeaseLostError
from eventlog.schema.tables import OPEN_STATES, Tables
from eventlog.schema.timestamps import database_now, seconds_from_now

TRACEBACK_CHARACTERS_MAX = 16_000
MESSAGE_CHARACTERS_MAX = 2_000


class EntryState(StrEnum):
    """Where a ledger entry stands; the drawing is at the top of this file."""

    RETRYING = "retrying"
    PARKED = "parked"
    BLOCKED = "blocked"
    RESOLVED = "resolved"
    SKIPPED = "skipped"
    SUPERSEDED = "superseded"


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in one attempt. One fingerprint means: raised at one place, with one kind of message."""

    error_type: str
    message: str
    traceback: str
    fingerprint: str


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


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """The first failure of an event since it was last delivered live, and what shall become of it."""

    subscriber: str
    partition: int
    key: str
    attempt: Attempt
    problem: Problem
    state: EntryState
    wait_seconds: float


def problem_of(error: BaseException) -> Problem:
    """Describe an exception: its type, message, traceback (the innermost end if it is long) and fingerprint."""
    error_type = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    message = _clean(_said(error))[:MESSAGE_CHARACTERS_MAX]
    text = _clean("".join(traceback.format_exception(error)))
    if len(text) > TRACEBACK_CHARACTERS_MAX:
        text = f"... cut ...\n{text[-TRACEBACK_CHARACTERS_MAX:]}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].name}" if frames else ""
    kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"", "?", message)
    fingerprint = hashlib.sha256(f"{error_type}\n{place}\n{kind}".encode()).hexdigest()[:12]
    return Problem(error_type=error_type, message=message, traceback=text, fingerprint=fingerprint)


def read_entry(connection: Connection, tables: Tables, *, subscriber: str, position: int) -> Entry | None:
    """Read one entry."""
    row = connection.execute(
        _entries(tables).where(tables.failures.c.subscriber == subscriber, tables.failures.c.position == position)
    ).one_or_none()
    return entry_from(row._mapping) if row is not None else None


def entries_above(
    connection: Connection, tables: Tables, *, subscriber: str, partition: int, position: int
) -> dict[int, Entry]:
    """Read the entries live delivery will meet: open or skipped, above a position."""
    table = tables.failures
    rows = connection.execute(
        _entries(tables).where(
            table.c.subscriber == subscriber,
            table.c.partition == partition,
            table.c.position > position,
            table.c.state.in_((*OPEN_STATES, EntryState.SKIPPED)),
        )
    )
    return {row.position: entry_from(row._mapping) for row in rows}


def due_entries(
    connection: Connection, tables: Tables, *, subscriber: str, partition: int, until: int, limit: int
) -> list[Entry]:
    """Read the entries whose next attempt is due, the lowest position first."""
    table = tables.failures
    rows = connection.execute(
        _entries(tables)
        .where(
            table.c.subscriber == subscriber,
            table.c.partition == partition,
            table.c.position <= until,
            table.c.state == EntryState.RETRYING,
            table.c.next_attempt_at <= database_now(),
        )
        .order_by(table.c.position)
        .limit(limit)
    )
    return [entry_from(row._mapping) for row in rows]


def unfinished_entries(connection: Connection, tables: Tables, *, subscriber: str, partition: int) -> list[Entry]:
    """Read the entries whose attempt was counted and has no outcome."""
    table = tables.failures
    rows = connection.execute(
        _entries(tables)
        .where(
            table.c.subscriber == subscriber,
            table.c.partition == partition,
            table.c.state == EntryState.RETRYING,
            table.c.next_attempt_at.is_(None),
        )
        .order_by(table.c.position)
    )
    return [entry_from(row._mapping) for row in rows]


def record_failure(connection: Connection, tables: Tables, failure: Failure) -> None:
    """Write the first failure of an event, and its attempt; a row that was closed before is opened for a new round."""
    table = tables.failures
    values = {
        "partition": failure.partition,
        "key": failure.key,
        "state": failure.state,
        "attempts": failure.attempt.number,
        "redelivery": True,
        "first_failed_at": database_now(),
        "reason": None,
        "closed_by": None,
        "state_before": None,
        **_latest(failure.problem),
        **_next_attempt(failure.state, failure.wait_seconds),
    }
    reopened = connection.execute(
        update(table)
        .where(table.c.subscriber == failure.subscriber, table.c.position == failure.attempt.position)
        .values(round=table.c.round + 1, revision=table.c.revision + 1, **values)
    )
    if reopened.rowcount == 0:
        connection.execute(
            insert(table).values(subscriber=failure.subscriber, position=failure.attempt.position, **values)
        )
    round_now = select(table.c.round).where(
        table.c.subscriber == failure.subscriber, table.c.position == failure.attempt.position
    )
    record_attempt(
        connection,
        tables,
        failure.attempt,
        subscriber=failure.subscriber,
        round_number=connection.scalar(round_now) or 0,
    )


def begin_attempt(connection: Connection, tables: Tables, entry: Entry) -> Entry:
    """Count an attempt before its handler is called, so that one that kills its worker has been counted.

    Until its outcome is written the entry has no time of a next attempt, and nobody takes it up.
    """
    attempts = entry.attempts + 1
    _change(connection, tables.failures, entry, {"attempts": attempts, "redelivery": True, "next_attempt_at": None})
    return msgspec.structs.replace(
        entry, attempts=attempts, revision=entry.revision + 1, redelivery=True, next_attempt_at=None
    )


def fail_again(
    connection: Connection, tables: Tables, entry: Entry, problem: Problem, *, state: EntryState, wait_seconds: float
) -> None:
    """Write that another attempt has failed."""
    _change(
        connection, tables.failures, entry, {**_latest(problem), **_next_attempt(state, wait_seconds), "state": state}
    )


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
    problem = attempt.problem
    connection.execute(
        insert(tables.attempts).values(
            subscriber=subscriber,
            position=attempt.position,
            round=round_number,
            attempt=attempt.number,
            outcome="resolved" if problem is None else "failed",
            error_type=problem.error_type if problem else None,
            message=problem.message if problem else None,
            traceback=problem.traceback if problem else None,
            worker=attempt.worker,
            epoch=attempt.epoch,
            duration_seconds=attempt.duration_seconds,
        )
    )


def supersede_above(connection: Connection, tables: Tables, *, subscriber: str, position: int, operation: int) -> int:
    """Close every entry above a position because the events come again; return how many were still open."""
    table = tables.failures
    above = (table.c.subscriber == subscriber) & (table.c.position > position)
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


def superseded_by(connection: Connection, tables: Tables, *, subscriber: str, above: int, operation: int) -> int:
    """Count the entries above a position that an operation closed."""
    table = tables.failures
    closed = (table.c.subscriber == subscriber) & (table.c.position > above) & (table.c.closed_by == operation)
    return connection.scalar(select(func.count()).select_from(table).where(closed)) or 0


def restore_superseded(connection: Connection, tables: Tables, *, subscriber: str, above: int, operation: int) -> int:
    """Bring back the entries an operation closed, as they were; return how many."""
    table = tables.failures
    restored = connection.execute(
        update(table)
        .where(table.c.subscriber == subscriber, table.c.position > above, table.c.closed_by == operation)
        .values(state=table.c.state_before, state_before=None, closed_by=None, revision=table.c.revision + 1)
    )
    return restored.rowcount


def entry_from(row: RowMapping) -> Entry:
    """Make an entry of a row of `failures`."""
    return msgspec.convert({name: row[name] for name in Entry.__struct_fields__}, Entry)


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
    due = seconds_from_now(literal(wait_seconds)) if state is EntryState.RETRYING else None
    return {"next_attempt_at": due}


def _said(error: BaseException) -> str:
    """An exception may be so broken that it cannot even be shown; it must not take the worker with it."""
    try:
        return str(error)
    except Exception as unshowable:
        return f"<its message cannot be shown: {type(unshowable).__name__}>"


def _clean(text: str) -> str:
    """PostgreSQL text holds no NUL, and UTF-8 no halves of surrogate pairs."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")

"""Retry and skip (C4): what operators do with entries of the ledger. Neither draws an epoch; an entry is only changed
if it still is as it was read.
"""

from collections.abc import Callable, Sequence

import msgspec
from sqlalchemy import ColumnElement, Connection, Table, case, func, select

from eventlog.database import Database, translated
from eventlog.errors import NotFoundError, RefusedError
from eventlog.patterns import check_pattern
from eventlog.schema.tables import OPEN_STATES
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.failed import Sought, conditions
from eventlog.subscribers.ledger import Entry, EntryState, close_entry, entry_from, make_due
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.registration import RowLock, read_subscriber

ENTRIES_MAX = 10_000
"""How many ledger entries one retry or skip changes at the most; the next one takes up the rest."""


class Chosen(msgspec.Struct, frozen=True, kw_only=True):
    """Which entries are meant: these positions; or the open ones, of them those whose fingerprint is `error`, or whose
    error's type or message has it in it, and whose event's type is covered by `event_type`, a pattern; at most so many.
    """

    positions: tuple[int, ...] = ()
    error: str | None = None
    event_type: str | None = None
    limit: int = ENTRIES_MAX


class Changed(msgspec.Struct, frozen=True, kw_only=True):
    """Ledger entries that were changed, or would be; `more` is whether there are others that one call did not reach."""

    entries: tuple[Entry, ...]
    operation: int | None
    more: bool = False

    def and_then(self, later: "Changed") -> "Changed":
        """Sum up two of them, of different databases."""
        return Changed(
            entries=(*self.entries, *later.entries),
            operation=self.operation if later.operation is None else later.operation,
            more=self.more or later.more,
        )


def retry(
    database: Database,
    name: str | None,
    positions: Sequence[int] = (),
    *,
    error: str | None = None,
    event_type: str | None = None,
    limit: int = ENTRIES_MAX,
    reason: str | None = None,
    dry_run: bool = False,
) -> Changed:
    """Make entries of the ledger due now: these of a subscriber, or all its open ones that match, or those of the log.

    A worker runs them. An entry that waits behind another of its key is none of them. Raises `UnknownSubscriberError`,
    `NotFoundError` for a position that is not in the ledger, and `RefusedError` for one that is not open, or that waits
    behind another.
    """

    def change(connection: Connection, entry: Entry) -> None:
        make_due(connection, database.tables, entry)

    chosen = Chosen(positions=tuple(positions), error=error, event_type=event_type, limit=limit)
    return _change(database, name, chosen, "retry", change, blocked_too=False, reason=reason, dry_run=dry_run)


def skip(
    database: Database,
    name: str,
    positions: Sequence[int] = (),
    *,
    reason: str,
    error: str | None = None,
    event_type: str | None = None,
    limit: int = ENTRIES_MAX,
    dry_run: bool = False,
) -> Changed:
    """Give entries up: they are not tried again, and what waits behind them goes on. Raises as `retry` does.

    Without positions, at least one of `error` and `event_type` has to be given.
    """
    if not positions and error is None and event_type is None:
        raise RefusedError(
            f"{name}: a skip of everything that is open is not done unasked",
            remedy="name positions, an error, or a type of event ('**' for all)",
        )

    def change(connection: Connection, entry: Entry) -> None:
        close_entry(connection, database.tables, entry, state=EntryState.SKIPPED, reason=reason)

    chosen = Chosen(positions=tuple(positions), error=error, event_type=event_type, limit=limit)
    return _change(database, name, chosen, "skip", change, blocked_too=True, reason=reason, dry_run=dry_run)


def _change(
    database: Database,
    name: str | None,
    chosen: Chosen,
    action: str,
    change: Callable[[Connection, Entry], None],
    *,
    blocked_too: bool,
    reason: str | None,
    dry_run: bool,
) -> Changed:
    if chosen.event_type is not None:
        check_pattern(chosen.event_type)
    with translated(database), database.transaction() as connection:
        names = [name] if name is not None else _names(connection, database)
        changed: list[Entry] = []
        operation, more = None, False
        for one in names:
            read_subscriber(connection, database, one, lock=RowLock.EXCLUSIVE)
            left = len(chosen.positions) or chosen.limit - len(changed)
            found = _entries_to_change(connection, database, one, chosen, left=left, blocked_too=blocked_too)
            entries, more = found[:left], more or len(found) > left
            changed += entries
            if dry_run or not entries:
                continue
            for entry in entries:
                change(connection, entry)
            before = {"entries": {str(entry.position): entry.state for entry in entries}}
            done = Operation(action=action, subscriber=one, before=before, after=None, reason=reason)
            operation = record(connection, database.tables, done)
    return Changed(entries=tuple(changed), operation=operation, more=more)


def _names(connection: Connection, database: Database) -> list[str]:
    """Everybody's, in the order of the locks; in a database elsewhere, those that follow the log."""
    subscribers = database.tables.subscribers
    question = select(subscribers.c.name).order_by(subscribers.c.name)
    if database.follows is not None:
        question = question.where(subscribers.c.log.is_not(None))
    return list(connection.scalars(question))


def _entries_to_change(
    connection: Connection, database: Database, name: str, chosen: Chosen, *, left: int, blocked_too: bool
) -> list[Entry]:
    """The entries that are meant, and one more where there are more than are left to be changed."""
    failures = database.tables.failures
    question = select(failures).order_by(_due_last(failures), failures.c.position).limit(left + 1)
    if chosen.positions:
        question = question.where(failures.c.subscriber == name, failures.c.position.in_(chosen.positions))
    else:
        sought = Sought(subscriber=name, states=OPEN_STATES, error=chosen.error, event_type=chosen.event_type)
        wanted = conditions(connection, database, sought)
        question = question.where(_retriable(failures, blocked_too=blocked_too), *wanted)
    found = [entry_from(row._mapping) for row in connection.execute(question.with_for_update())]
    if chosen.positions:
        _check_named(connection, failures, name, chosen.positions, found, blocked_too=blocked_too)
    return found


def _check_named(
    connection: Connection,
    failures: Table,
    name: str,
    positions: Sequence[int],
    found: Sequence[Entry],
    *,
    blocked_too: bool,
) -> None:
    missing = set(positions) - {entry.position for entry in found}
    if missing:
        raise NotFoundError(
            f"{name} has no failure at {', '.join(f'{one:,}' for one in sorted(missing))}",
            remedy=f"`eventlog failures {name}` lists them",
        )
    for entry in found:
        if not entry.open:
            raise RefusedError(
                f"{name}: the failure at {entry.position:,} is {entry.state}",
                remedy="only open failures can be retried or skipped; rewind to have an event delivered again",
            )
        if entry.state is EntryState.BLOCKED and not blocked_too:
            first = _first_of_key(connection, failures, entry)
            raise RefusedError(
                f"{name}: event {entry.position:,} waits behind event {first:,} of its key {entry.key!r}",
                remedy=f"retry or skip that one: `eventlog retry {name} {first}`; the others follow by themselves",
            )


def _first_of_key(connection: Connection, failures: Table, entry: Entry) -> int:
    first = connection.scalar(
        select(func.min(failures.c.position)).where(
            failures.c.subscriber == entry.subscriber,
            failures.c.partition == entry.partition,
            failures.c.key == entry.key,
            failures.c.state.in_(OPEN_STATES),
        )
    )
    return entry.position if first is None else int(first)


def _retriable(failures: Table, *, blocked_too: bool) -> ColumnElement[bool]:
    """Open, and not being tried at this moment."""
    being_tried = (failures.c.state == EntryState.RETRYING) & failures.c.next_attempt_at.is_(None)
    states = OPEN_STATES if blocked_too else [one for one in OPEN_STATES if one != EntryState.BLOCKED]
    return failures.c.state.in_(states) & ~being_tried


def _due_last(failures: Table) -> ColumnElement[int]:
    """Order what a retry changes before what is due anyway, so that one after the other reaches all."""
    return case((failures.c.next_attempt_at <= database_now(), 1), else_=0)

"""The append protocol: insert, and when that was refused find out why, or try again.

A refused append leaves nothing behind, and a transaction that was handed over usable. Ids come before everything else:
events that are recorded already are returned, whatever version or condition was expected.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import Connection
from sqlalchemy.engine import RootTransaction
from sqlalchemy.exc import DBAPIError

from eventlog.database import Database, Inserted, Transaction, connection_of
from eventlog.encoding import same_json
from eventlog.errors import AppendConditionError, ConflictError, IdConflictError, WrongExpectedVersionError
from eventlog.event_types import decode
from eventlog.events import Recorded, StoredEvent
from eventlog.pending import Expected, PendingEvent
from eventlog.whereabouts import Whereabouts

APPEND_TRIES_MAX = 100
"""How often an append runs again because another one took its version; each try lets one other append through."""
DEADLOCKS_MAX = 10
"""How often an append in a transaction of its own runs again after the database ended it to resolve a deadlock."""

Outcome = list[Inserted] | AppendConditionError | None
"""What was inserted; or else the condition that did not hold, None when a version or an id was taken."""


class OpenAppends:
    """The positions that transactions of callers in this process have appended and not committed yet."""

    def __init__(self) -> None:
        self._positions: WeakKeyDictionary[RootTransaction, list[tuple[int, int]]] = WeakKeyDictionary()

    def note(self, connection: Connection, inserted: list[Inserted]) -> None:
        """Take note of what a transaction has appended."""
        transaction = connection.get_transaction()
        if transaction is not None:
            stretch = (inserted[0].position, inserted[-1].position)
            self._positions.setdefault(transaction, []).append(stretch)

    def hold(self, position: int) -> bool:
        """Tell whether the event at a position belongs to a transaction that is still open here."""
        held = ((one, stretches) for one, stretches in list(self._positions.items()) if one.is_active)
        return any(first <= position <= last for _, stretches in held for first, last in stretches)


class Appender:
    """Appends to one log. `lend` lends a connection to read with; `check` looks at the schema the first time, and so
    does `check_once`, which takes a connection of its own only then.
    """

    def __init__(
        self,
        database: Database,
        *,
        lend: Callable[[], AbstractContextManager[Connection]],
        check: Callable[[Connection], None],
        check_once: Callable[[], None],
    ) -> None:
        self.database = database
        self._reader = lend
        self.check = check
        self.check_once = check_once
        self.open_appends = OpenAppends()
        self._whereabouts = Whereabouts(database, lend)

    def append(self, pending: list[PendingEvent], expected: Expected, *, tx: Transaction | None) -> list[Recorded[Any]]:
        """Record the events, in the transaction handed over or in one of its own. Raises `ConflictError`."""
        if tx is not None:
            return self._append_within(connection_of(tx), pending, expected)
        return self._append_alone(pending, expected)

    def _append_alone(self, pending: list[PendingEvent], expected: Expected) -> list[Recorded[Any]]:
        deadlocks = 0
        for _ in range(APPEND_TRIES_MAX):
            try:
                inserted = self._insert_alone(pending, expected, queue_up=deadlocks > 0)
            except DBAPIError as error:
                deadlocks += 1
                if deadlocks <= DEADLOCKS_MAX and self.database.was_rolled_back(error):
                    continue
                raise
            if isinstance(inserted, list):
                return _recorded(pending, inserted)
            with self._reader() as connection:
                known = self._why_refused(connection, pending, expected, inserted)
            if known is not None:
                return known
        raise _out_of_tries(pending)

    def _insert_alone(self, pending: list[PendingEvent], expected: Expected, *, queue_up: bool) -> Outcome:
        if len(pending) == 1 and not expected.unless and not queue_up:
            self.check_once()
            return self.database.insert_alone(pending[0], expected)
        with self.database.transaction() as connection:
            self.check(connection)
            if queue_up:
                self.database.queue_up(connection)
            inserted = self._insert(connection, pending, expected)
            if not isinstance(inserted, list):
                connection.rollback()
        return inserted

    def _append_within(
        self, connection: Connection, pending: list[PendingEvent], expected: Expected
    ) -> list[Recorded[Any]]:
        with self.database.join(connection):
            self._whereabouts.check(connection)
            self.check(connection)
            for _ in range(APPEND_TRIES_MAX):
                inserted = self._insert_or_nothing(connection, pending, expected)
                if isinstance(inserted, list):
                    self.open_appends.note(connection, inserted)
                    return _recorded(pending, inserted)
                known = self._why_refused(connection, pending, expected, inserted)
                if known is not None:
                    return known
        raise _out_of_tries(pending)

    def _insert_or_nothing(self, connection: Connection, pending: list[PendingEvent], expected: Expected) -> Outcome:
        """Insert all or none: a savepoint takes back the rows that stand when another one is refused, and the locks."""
        if len(pending) == 1 and not expected.unless:
            return self.database.insert(connection, pending, expected)
        with connection.begin_nested() as savepoint:
            inserted = self._insert(connection, pending, expected)
            if not isinstance(inserted, list):
                savepoint.rollback()
        return inserted

    def _insert(self, connection: Connection, pending: list[PendingEvent], expected: Expected) -> Outcome:
        """The condition is looked at before the insert, under locks that keep it as it was found until the commit."""
        if expected.unless:
            for found in self.database.recorded_since(connection, pending, expected.unless):
                if found.query.covers_type(found.type):
                    return AppendConditionError(
                        position=found.position,
                        type=found.type,
                        after=found.query.after,
                        tags=tuple(found.query.tags),
                    )
        return self.database.insert(connection, pending, expected)

    def _why_refused(
        self,
        connection: Connection,
        pending: list[PendingEvent],
        expected: Expected,
        outdated: AppendConditionError | None,
    ) -> list[Recorded[Any]] | None:
        """Return the events if they are recorded already, raise for a conflict; None when another append came first."""
        known = self._recorded_before(connection, pending)
        if known is not None:
            return known
        if expected.version is not None:
            streams = list(dict.fromkeys(event.stream for event in pending))
            versions = self.database.versions(connection, streams)
            for stream in streams:
                actual = versions.get(stream, 0)
                if actual != expected.version:
                    raise WrongExpectedVersionError(stream=stream, expected=expected.version, actual=actual)
        if outdated is not None:
            raise outdated
        return None

    def _recorded_before(self, connection: Connection, pending: list[PendingEvent]) -> list[Recorded[Any]] | None:
        given = [event.id for event in pending if event.id_given]
        found = self.database.find(connection, given) if given else {}
        if not found:
            return None
        changed = tuple(event.id for event in pending if event.id in found and not _same(event, found[event.id]))
        if changed:
            raise IdConflictError(f"event {changed[0]} is already recorded with other content", ids=changed)
        if len(found) < len(pending):
            raise IdConflictError(
                f"{len(found)} of the {len(pending)} events of this batch are already recorded", ids=tuple(found)
            )
        return [decode(found[event.id]) for event in pending]


def _recorded(pending: list[PendingEvent], inserted: list[Inserted]) -> list[Recorded[Any]]:
    return [
        Recorded(
            position=place.position,
            id=event.id,
            stream=event.stream,
            version=place.version,
            type=event.type,
            type_version=event.type_version,
            data=event.data,
            metadata=event.metadata,
            recorded_at=place.recorded_at,
            tags=event.tags,
        )
        for event, place in zip(pending, inserted, strict=True)
    ]


def _same(event: PendingEvent, stored: StoredEvent) -> bool:
    return (
        event.stream == stored.stream
        and event.type == stored.type
        and event.type_version == stored.type_version
        and set(event.tags) == set(stored.tags)
        and same_json(event.data_text, stored.data)
    )


def _out_of_tries(pending: list[PendingEvent]) -> ConflictError:
    return ConflictError(
        f"stream {pending[0].stream!r} was appended to by others {APPEND_TRIES_MAX} times in a row",
        remedy="append again; if this is the rule, spread the events over more streams",
    )

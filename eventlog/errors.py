"""Every error this project raises on purpose, in one small tree.

A message tells what happened with its numbers; `remedy` tells what to do next. The four branches say who is to act:
the caller (`UsageError`), somebody who named what is not there (`NotFoundError`), somebody whose write came second
(`ConflictError`), or whoever runs the database (`DatabaseError`). A driver's error becomes one of these once, at the
edge where the driver is called, and stays attached as the cause.
"""

from uuid import UUID


class EventLogError(Exception):
    """The root: `str(error)` is what happened, `error.remedy` what to do, `error.code` a stable name for programs."""

    code = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class UsageError(EventLogError):
    """The call cannot be carried out as it was made."""

    code = "usage"


class InvalidEventError(UsageError):
    """An event cannot be recorded: its data, type, stream, id or metadata is not what the log can hold."""

    code = "invalid_event"


class DeclarationError(UsageError):
    """An event type, a handler or a subscriber is declared in a way that cannot work."""

    code = "declaration"


class UnsafeTransactionError(UsageError):
    """The transaction handed over would not be atomic, or would not see what it must."""

    code = "unsafe_transaction"


class RefusedError(UsageError):
    """An operation that would do harm wants consent, or is not possible now."""

    code = "refused"


class RestoredLogError(RefusedError):
    """A checkpoint stands beyond the log, or at an event that the log no longer has."""

    code = "restored_log"


class BrokenLineError(UsageError):
    """A line of a file that is imported is no event, or one that this log cannot take. `line` is its number."""

    code = "broken_line"

    def __init__(self, line: int, problem: str, *, remedy: str = "") -> None:
        super().__init__(
            f"line {line:,}: {problem}",
            remedy=remedy
            or "lines are what `eventlog export` writes; of the batch this line is in nothing was imported",
        )
        self.line = line


class NotFoundError(EventLogError):
    """Something was named that is not there."""

    code = "not_found"


class UnknownSubscriberError(NotFoundError):
    """No subscriber of this name is registered."""

    code = "unknown_subscriber"


class UnknownEventError(NotFoundError):
    """No event has this position or id."""

    code = "unknown_event"


class ConflictError(EventLogError):
    """Somebody else's write came first."""

    code = "conflict"


class WrongExpectedVersionError(ConflictError):
    """The stream is not at the version the append expected. `expected` and `actual` are versions, 0 for no stream."""

    code = "wrong_expected_version"

    def __init__(self, *, stream: str, expected: int, actual: int) -> None:
        super().__init__(
            f"stream {stream!r} is at version {actual}, expected {expected}",
            remedy="read the stream again, decide again, and append with the version you then saw",
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class AppendConditionError(ConflictError):
    """An event that an append was conditional on not being there has been recorded: its `position` and `type`.

    Readers may not see it yet, while a transaction that appended before it is still open.
    """

    code = "append_condition"

    def __init__(self, *, position: int, type: str, after: int, tags: tuple[str, ...]) -> None:  # noqa: A002
        super().__init__(
            f"event {position} ({type}), tagged {', '.join(tags)}, has been recorded after position {after}",
            remedy="read again, decide again, and append under the condition of what you then saw",
        )
        self.position = position
        self.type = type


class IdConflictError(ConflictError):
    """An event id is already recorded with other content, or only part of a batch is."""

    code = "id_conflict"

    def __init__(self, message: str, *, ids: tuple[UUID, ...]) -> None:
        super().__init__(message, remedy="give a new fact a new id; repeat an append with exactly the events it had")
        self.ids = ids


class UndecodableEventError(EventLogError):
    """A recorded event cannot be read as the type declared for it."""

    code = "undecodable_event"


class UpcastError(EventLogError):
    """The data of a recorded event cannot be brought to the version its class stands for."""

    code = "upcast"


class CheckFailedError(EventLogError):
    """What was looked at is not as it must be."""

    code = "check_failed"


class DamagedRowError(EventLogError):
    """A row of the log's own tables holds what this release cannot read: changed by hand, or written by another one."""

    code = "damaged_row"


class DatabaseError(EventLogError):
    """The database cannot be used as it is."""

    code = "database"


class DatabaseUnreachableError(DatabaseError):
    """The database does not answer."""

    code = "database_unreachable"


class DatabaseFullError(DatabaseError):
    """The database has no room left to write."""

    code = "database_full"


class DatabaseReadOnlyError(DatabaseError):
    """The database takes no writes now: it is a standby, or was told so."""

    code = "database_read_only"


class SchemaMissingError(DatabaseError):
    """The tables of the log are not in this database, or are older than this code."""

    code = "schema_missing"


class SchemaTooNewError(DatabaseError):
    """The tables of the log were made by a later release."""

    code = "schema_too_new"


class PermissionDeniedError(DatabaseError):
    """The database role may not do this."""

    code = "permission_denied"


class NotHandledError(EventLogError):
    """A subscriber has not handled an event that somebody waited for, and will not do so by itself."""

    code = "not_handled"


class WaitTimeoutError(NotHandledError, TimeoutError):
    """A subscriber has not handled an event in the time that somebody waited for it."""

    code = "wait_timeout"


class LeaseLostError(EventLogError):
    """A worker is no longer the owner of a partition: it was overtaken, or an operator moved the checkpoint."""

    code = "lease_lost"


def first_line(error: BaseException) -> str:
    """Say what an error says, in one line; of SQLAlchemy's what the database said, without its statement and values."""
    said = str(getattr(error, "orig", None) or error).strip()
    return said.splitlines()[0] if said else type(error).__name__


def with_remedy(error: EventLogError) -> str:
    """Say what happened and what to do, in one line of a log."""
    return f"{error}; {error.remedy}" if error.remedy else str(error)

"""Events: what a service appends, and what it reads back.

An event is an immutable fact. `Event` carries one into the log when a declared Struct alone does not say enough;
`Recorded` is one that has been appended, and has a position.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from eventlog.errors import DamagedRowError

T = TypeVar("T")

JsonObject = dict[str, Any]
"""Decoded JSON: what it holds is known to the reader of the field, not to a type checker."""

CORRELATION_ID = "correlation_id"
CAUSATION_ID = "causation_id"


class Event(msgspec.Struct, Generic[T], frozen=True):
    """One fact to append: data, and what the log should know about it.

    `data` is a Struct declared with `@event`, or anything JSON can hold. `type` may be left out for a declared Struct,
    `stream` where the declaration has a template or the append names one. An `id` given here makes the append
    idempotent: the same id with the same content is recorded once. By `tags` events are found and decided on across
    streams.
    """

    data: T
    type: str | None = None
    stream: str | None = None
    id: UUID | None = None
    metadata: Mapping[str, Any] | None = None
    type_version: int | None = None
    tags: Sequence[str] = ()


class Recorded(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """An event as it stands in the log. It never changes.

    `position` is its place in the global sequence, `version` its 1-based number within `stream`. `data` is an instance
    of the class declared for `type`, or plain data where none is declared. `recorded_at` is the database's clock at the
    insert, aware, in UTC.
    """

    position: int
    id: UUID
    stream: str
    version: int
    type: str
    type_version: int
    data: T
    metadata: JsonObject
    recorded_at: datetime
    tags: tuple[str, ...] = ()


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """A row of the log as it was read, its data and metadata still JSON text.

    `id`, `recorded_at` and `tags` are made of what the driver gave when somebody asks: few who read need them, and they
    would cost more than the rest of the row. A time without a zone is UTC. Nothing held here can refer back to the
    event, so the garbage collector need not look at it.
    """

    position: int
    row_id: UUID | str
    stream: str
    version: int
    type: str
    type_version: int
    data: str
    metadata: str
    row_time: datetime | str
    row_tags: Sequence[str] | str | None = None
    """JSON, where it is a text."""

    @property
    def id(self) -> UUID:
        try:
            return UUID(self.row_id) if isinstance(self.row_id, str) else self.row_id
        except ValueError as error:
            raise self._damaged("id", self.row_id) from error

    @property
    def recorded_at(self) -> datetime:
        try:
            moment = datetime.fromisoformat(self.row_time) if isinstance(self.row_time, str) else self.row_time
        except ValueError as error:
            raise self._damaged("time", self.row_time) from error
        return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)

    @property
    def tags(self) -> tuple[str, ...]:
        if not self.row_tags:
            return ()
        try:
            given = msgspec.json.decode(self.row_tags) if isinstance(self.row_tags, str) else self.row_tags
            return msgspec.convert(given, tuple[str, ...])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise self._damaged("tags", self.row_tags) from error

    def _damaged(self, what: str, value: object) -> DamagedRowError:
        return DamagedRowError(
            f"the {what} of event {self.position} cannot be read: {str(value)[:100]!r}",
            remedy="the row was changed by hand: put it back from a backup; `eventlog verify` finds others",
        )


def caused_by(cause: Recorded[Any]) -> JsonObject:
    """Make the metadata of an event that happens because of another one.

    The causation id is the id of the cause; the correlation id is that of the whole chain, begun by its first event.
    """
    first = cause.metadata.get(CORRELATION_ID, str(cause.id))
    return {CORRELATION_ID: first, CAUSATION_ID: str(cause.id)}

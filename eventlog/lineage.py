"""Where an event stands among others: before and after it in its stream, what caused it, what it caused.

Causation and correlation are metadata (`caused_by`), which has no index: one would cost every append, for a question
that a person asks about one event, now and then. What belongs to an event is looked for among a stated number of events
before and after it, and the answer says whether that reached far enough (docs/decisions/0020).
"""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import ColumnElement, Connection, Select, Text, case, cast, func, literal, or_, select

from eventlog.database import Database, translated
from eventlog.events import CAUSATION_ID, CORRELATION_ID, JsonObject, StoredEvent

LOOKED_THROUGH = 100_000
"""How many events are looked through in each direction."""

NAMED_MAX = 20
"""How many of the events that belong to one are returned; all that were found are counted."""


class Related(msgspec.Struct, frozen=True, kw_only=True):
    """Events that belong to one: the first of them by position, and how many were found."""

    events: tuple[StoredEvent, ...]
    count: int


class Lineage(msgspec.Struct, frozen=True, kw_only=True):
    """The neighbours of an event.

    `effects` are those it is the cause of. `correlated` are all others of its correlation, with the first event of the
    chain, which bears no correlation id itself. `complete` is false where not everything was looked through, so that
    some may be missing.
    """

    causation_id: str | None
    correlation_id: str | None
    cause: StoredEvent | None
    effects: Related
    correlated: Related
    previous: StoredEvent | None
    next: StoredEvent | None
    complete: bool


def lineage(database: Database, event: StoredEvent, *, look_through: int = LOOKED_THROUGH) -> Lineage:
    """Find the neighbours of a recorded event. It costs two scans of at most `look_through` events each."""
    with translated(database), database.reader() as connection:
        return _Finder(database, connection, event, look_through).lineage()


class _Found(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    is_effect: bool
    is_correlated: bool


class _Finder:
    def __init__(self, database: Database, connection: Connection, event: StoredEvent, look_through: int) -> None:
        self._database = database
        self._connection = connection
        self._events = database.tables.events
        self._event = event
        self._look_through = look_through
        metadata = _object(event.metadata)
        self._causation = _text(metadata.get(CAUSATION_ID))
        self._correlation = _text(metadata.get(CORRELATION_ID))

    def lineage(self) -> Lineage:
        cause = self._by_id(self._causation)
        found = [*self._before(), *self._after()]
        near = {one.version: one for one in self._read(self._ids(self._beside_in_stream()))}
        return Lineage(
            causation_id=self._causation,
            correlation_id=self._correlation,
            cause=cause,
            effects=self._related([one.id for one in found if one.is_effect]),
            correlated=self._related([one.id for one in found if one.is_correlated]),
            previous=near.get(self._event.version - 1),
            next=near.get(self._event.version + 1),
            complete=self._complete,
        )

    def _before(self) -> list[_Found]:
        """Events of the correlation that came earlier; there are none before the one that began it, if that is known.

        Sets whether they are all there.
        """
        self._complete = True
        if self._correlation in (None, str(self._event.id)):
            return []
        events = self._events
        first = self._by_id(self._correlation)
        begin = first.position if first is not None else 0
        range_ = select(events).where(events.c.position < self._event.position, events.c.position > begin)
        found = self._among(range_.order_by(events.c.position.desc()))[::-1]
        began = [] if first is None or begin > self._event.position else [first.id]
        return [*(_Found(id=one, is_effect=False, is_correlated=True) for one in began), *found]

    def _after(self) -> list[_Found]:
        events = self._events
        return self._among(
            select(events).where(events.c.position > self._event.position).order_by(events.c.position.asc())
        )

    def _among(self, ordered: "Select[Any]") -> list[_Found]:
        """Look through the first events of a range for those that belong to the event."""
        positions = ordered.with_only_columns(self._events.c.position)
        if self._connection.execute(positions.offset(self._look_through).limit(1)).first() is not None:
            self._complete = False
        some = ordered.limit(self._look_through).subquery()
        causation = self._field(some.c.metadata, CAUSATION_ID)
        correlation = self._field(some.c.metadata, CORRELATION_ID)
        is_effect = func.coalesce(causation == str(self._event.id), literal(value=False))
        is_correlated = func.coalesce(correlation == (self._correlation or str(self._event.id)), literal(value=False))
        question = select(some.c.id, is_effect, is_correlated).where(or_(is_effect, is_correlated))
        return [
            _Found(id=UUID(str(found)), is_effect=bool(effect), is_correlated=bool(correlated))
            for found, effect, correlated in self._connection.execute(question)
        ]

    def _field(self, metadata: "ColumnElement[Any]", name: str) -> "ColumnElement[str]":
        if self._connection.dialect.name == "sqlite":
            return cast(func.json_extract(metadata, f"$.{name}"), Text)
        # PostgreSQL stores an escaped NUL, but refuses to look into a document that has one.
        readable = func.strpos(cast(metadata, Text), "\\u0000") == 0
        return case((readable, func.json_extract_path_text(metadata, name)))

    def _beside_in_stream(self) -> "Select[Any]":
        events, version = self._events, self._event.version
        return select(events.c.id).where(
            events.c.stream == self._event.stream, events.c.version.in_((version - 1, version + 1))
        )

    def _ids(self, question: "Select[Any]") -> list[UUID]:
        return [UUID(str(row.id)) for row in self._connection.execute(question)]

    def _related(self, ids: Sequence[UUID]) -> Related:
        return Related(events=tuple(self._read(ids[:NAMED_MAX])), count=len(ids))

    def _read(self, ids: Sequence[UUID]) -> list[StoredEvent]:
        found = self._database.find(self._connection, ids) if ids else {}
        return sorted(found.values(), key=lambda one: one.position)

    def _by_id(self, text: str | None) -> StoredEvent | None:
        try:
            wanted = UUID(text) if text is not None else None
        except ValueError:
            return None
        return self._database.find(self._connection, [wanted]).get(wanted) if wanted is not None else None


def _object(text: str) -> JsonObject:
    try:
        metadata = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return metadata if isinstance(metadata, dict) else {}


def _text(value: object) -> str | None:
    """An id may be any text, or a number that another program wrote."""
    return str(value) if isinstance(value, str | int) and not isinstance(value, bool) else None

"""What is about to be appended, checked and encoded: pure, before any statement is sent.

Everything that can be wrong with an event by itself is found here, so that a refused append has touched nothing.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import msgspec

from eventlog.encoding import check_metadata, encode_data, encode_metadata
from eventlog.errors import InvalidEventError, UsageError
from eventlog.event_types import EventType, declared_as, declared_for
from eventlog.events import Event, JsonObject
from eventlog.ids import new_ids
from eventlog.limits import BATCH_BYTES_MAX, BATCH_EVENTS_MAX, STREAM_CHARACTERS_MAX
from eventlog.patterns import check_type
from eventlog.query import Query, check_queries
from eventlog.tags import check_tags

_VERSIONS_END = 2**63
"""Versions are 64-bit integers in the database."""


class PendingEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event, ready to be inserted. `number` counts the events of its stream within this append, from 1.

    Nothing it holds refers back to it, so the garbage collector need not look at it.
    """

    id: UUID
    id_given: bool
    stream: str
    number: int
    type: str
    type_version: int
    data: Any
    data_text: str
    metadata: JsonObject
    metadata_text: str
    tags: tuple[str, ...]


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What an append expects: of its streams, `version` None is any, 0 is that the stream does not exist; of the log,
    that no event matches one of `unless`.
    """

    version: int | None
    unless: tuple[Query, ...] = ()


def prepare(
    events: Sequence[object], *, stream: str | None, metadata: Mapping[str, Any] | None, tags: Sequence[str] = ()
) -> list[PendingEvent]:
    """Check and encode events in the order given. Raises `InvalidEventError`; nothing has been sent then."""
    shared = Event(None, stream=stream, metadata=check_metadata(metadata), tags=check_tags(tags))
    numbers: dict[str, int] = {}
    ids: set[UUID] = set()
    if len(events) > BATCH_EVENTS_MAX:
        raise _too_large(f"{len(events):,} events; at most {BATCH_EVENTS_MAX:,}")
    fresh_ids = new_ids(len(events))
    pending = []
    size = 0
    for item in events:
        one = _pending(_as_event(item), shared, numbers, ids, fresh_ids)
        size += _bytes(one.data_text) + _bytes(one.metadata_text)
        if size > BATCH_BYTES_MAX:
            raise _too_large(f"more than {BATCH_BYTES_MAX:,} bytes of data and metadata")
        pending.append(one)
    return pending


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _too_large(what: str) -> InvalidEventError:
    return InvalidEventError(
        f"an append of {what} is too large",
        remedy="append in several calls, with tx= where they belong to one transaction",
    )


def check_expected(
    expected: int | str, pending: Sequence[PendingEvent], *, unless: Query | Sequence[Query] = ()
) -> Expected:
    """Read what an append expects. Raises `UsageError` when it cannot be meant for these events."""
    return Expected(version=_check_version(expected, pending), unless=_check_conditions(unless))


def _check_conditions(unless: Query | Sequence[Query]) -> tuple[Query, ...]:
    conditions = check_queries(unless, name="unless")
    if not all(condition.tags for condition in conditions):
        raise UsageError(
            "a condition of unless= names no tag: every append to the log would have to wait for it",
            remedy="tag the events that are decided on together (tags=['invoices']), and name the tag in the query",
        )
    return tuple(condition.with_old_names() for condition in conditions)


def _check_version(expected: int | str, pending: Sequence[PendingEvent]) -> int | None:
    if expected == "any":
        return None
    if expected == "none":
        return 0
    if isinstance(expected, bool) or not isinstance(expected, int) or not 0 <= expected < _VERSIONS_END:
        raise UsageError(
            f"expected={expected!r} is neither a version nor 'none' nor 'any'",
            remedy="give the version the stream was read at, 'none' for a stream that must not exist, or 'any'",
        )
    streams = {event.stream for event in pending}
    if len(streams) > 1:
        raise UsageError(
            f"expected={expected} is given for {len(streams)} streams",
            remedy="append to one stream at a time where a version is expected; one transaction can hold several",
        )
    return expected


def _as_event(item: object) -> Event[Any]:
    if isinstance(item, Event):
        return item
    if declared_for(type(item)) is None:
        raise InvalidEventError(
            f"{type(item).__qualname__} is not declared as an event",
            remedy="declare the class with @event('order.placed'), or append Event(data, type=..., stream=...)",
        )
    return Event(item)


def _pending(
    event: Event[Any],
    shared: Event[None],
    numbers: dict[str, int],
    ids: set[UUID],
    fresh_ids: Iterator[UUID],
) -> PendingEvent:
    declared = declared_for(type(event.data))
    name = declared.name if declared is not None and not event.type else _type_name(event, declared)
    given = event.stream if event.stream is not None else shared.stream
    if given is None and declared is not None:
        given = declared.stream_of(event.data)
    into = _check_stream(given)
    number = numbers[into] = numbers.get(into, 0) + 1
    metadata, metadata_text = _metadata(event, shared, name)
    into_class = declared or declared_as(name)
    version = _type_version(event.type_version, into_class, name)
    return PendingEvent(
        id=_check_id(event.id, ids) if event.id is not None else next(fresh_ids),
        id_given=event.id is not None,
        stream=into,
        number=number,
        type=name,
        type_version=version,
        data=event.data,
        data_text=encode_data(event.data, event_type=name, read=_reader(into_class, name, version)),
        metadata=metadata,
        metadata_text=metadata_text,
        tags=_all_tags(event, declared, shared),
    )


def _reader(declared: EventType | None, name: str, version: int) -> Callable[[str], Any] | None:
    """What reads the data, of a type as it is declared today; what was recorded before may need its upcasters."""
    if declared is None or (name, version) != (declared.name, declared.version):
        return None
    return declared.decode


def _metadata(event: Event[Any], shared: Event[None], name: str) -> tuple[JsonObject, str]:
    """Return an event's own metadata, which goes before what is given for all, and its text."""
    if event.metadata is None and not shared.metadata:
        return {}, "{}"
    merged = {**(shared.metadata or {}), **check_metadata(event.metadata)}
    return merged, encode_metadata(merged, event_type=name)


def _type_name(event: Event[Any], declared: EventType | None) -> str:
    name = check_type(_text(event.type, what="type"))
    if declared is not None and name != declared.name:
        raise InvalidEventError(
            f"{type(event.data).__qualname__} is declared as {declared.name!r}, not {name!r}",
            remedy="leave type out for a declared class",
        )
    return name


def _all_tags(event: Event[Any], declared: EventType | None, shared: Event[None]) -> tuple[str, ...]:
    by_declaration = declared.tags_of(event.data) if declared is not None and declared.tag_templates else ()
    if not event.tags and not by_declaration:
        return tuple(shared.tags)
    return check_tags((*by_declaration, *check_tags(event.tags), *shared.tags))


def _type_version(given: object, declared: EventType | None, name: str) -> int:
    """Data for a type that is declared here has the form of today; under an old name of it, nobody knows."""
    if given is None:
        return declared.version if declared is not None and name == declared.name else 1
    if isinstance(given, int) and not isinstance(given, bool) and 1 <= given < 2**31:
        return given
    raise InvalidEventError(f"type_version={given!r} is no version", remedy="versions are whole numbers from 1")


def _check_id(given: object, ids: set[UUID]) -> UUID:
    if not isinstance(given, UUID):
        raise InvalidEventError(f"{given!r} is not a UUID", remedy="give id=uuid.UUID(...), or leave it out")
    if given in ids:
        raise InvalidEventError(f"id {given} stands twice in one append", remedy="give each event an id of its own")
    ids.add(given)
    return given


def _check_stream(stream: object) -> str:
    name = _text(stream, what="stream")
    if len(name) > STREAM_CHARACTERS_MAX:
        raise InvalidEventError(
            f"a stream name of {len(name):,} characters; at most {STREAM_CHARACTERS_MAX} are allowed",
            remedy="name the entity (`order-42`), and put what else is known into the data",
        )
    if not name.isprintable():
        raise InvalidEventError(
            f"stream {name!r} holds control characters or half a surrogate pair",
            remedy="use printable characters in the names of streams",
        )
    return name


def _text(value: object, *, what: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise InvalidEventError(
        f"the {what} of an event is {value!r}",
        remedy=f"give a {what}: in the declaration, in Event(..., {what}=...)"
        + (", or append(..., stream=...)" if what == "stream" else ""),
    )

"""Recorded events without a log: what functions are given that want more than the data.

Events go through JSON and back, as they would through a log, so that data which does not survive that is noticed.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from eventlog.event_types import declared_for, decode
from eventlog.events import Event, Recorded, StoredEvent
from eventlog.pending import PendingEvent, prepare

FIRST_MOMENT = datetime(2020, 1, 1, tzinfo=UTC)
STREAM = "test"


def recorded(*events: object, stream: str | None = None) -> list[Recorded[Any]]:
    """Make events as if they had been appended to an empty log.

    Positions are without holes, versions count in each stream, and a second lies between any two. Events are what
    `append` takes; those that name no stream, and whose type has no template for one, are in `stream`, or else in one
    called "test". Raises `InvalidEventError` for what could not be appended.
    """
    pending = prepare([_with_stream(one, stream) for one in events], stream=None, metadata=None)
    return [_recorded(one, position) for position, one in enumerate(pending, start=1)]


def _with_stream(event: object, stream: str | None) -> object:
    given = event if isinstance(event, Event) else Event(event)
    declared = declared_for(type(given.data))
    has_stream = given.stream is not None or (declared is not None and declared.stream_template is not None)
    if has_stream and stream is None:
        return event
    if isinstance(event, Event) or declared is not None:
        return Event(**{**_fields(given), "stream": given.stream or stream or STREAM})
    return event


def _fields(event: Event[Any]) -> dict[str, Any]:
    return {name: getattr(event, name) for name in Event.__struct_fields__}


def _recorded(pending: PendingEvent, position: int) -> Recorded[Any]:
    return decode(
        StoredEvent(
            position=position,
            row_id=pending.id,
            stream=pending.stream,
            version=pending.number,
            type=pending.type,
            type_version=pending.type_version,
            data=pending.data_text,
            metadata=pending.metadata_text,
            row_time=FIRST_MOMENT + timedelta(seconds=position),
            row_tags=pending.tags,
        )
    )

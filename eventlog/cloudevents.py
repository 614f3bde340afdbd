"""Events as CloudEvents 1.0, in the JSON event format, for programs that speak it.

id               the event's id
source           given by whoever exports: together with the id it must mean one event
type             the type
subject          the stream
time             recorded_at
datacontenttype  application/json
data             the data, as it is stored
position, streamversion    where it stands, as texts: integers end at 31 bits there
typeversion      the version of the data's form
correlationid, causationid    from the metadata, where `caused_by` wrote them
metadata, tags   what else there is, as JSON in a text: attributes hold nothing that is nested
"""

from typing import Any

import msgspec

from eventlog.carried import on_one_line
from eventlog.events import CAUSATION_ID, CORRELATION_ID, JsonObject, StoredEvent


def cloud_event(event: StoredEvent, *, source: str) -> bytes:
    """Write an event as a CloudEvent, on one line, without the line's end."""
    written: dict[str, Any] = {
        "specversion": "1.0",
        "id": str(event.id),
        "source": source,
        "type": event.type,
        "subject": event.stream,
        "time": event.recorded_at,
        "datacontenttype": "application/json",
        "position": str(event.position),
        "streamversion": str(event.version),
        "typeversion": event.type_version,
        **_from_metadata(event.metadata),
    }
    if event.tags:
        written["tags"] = msgspec.json.encode(event.tags).decode()
    return msgspec.json.encode({**written, "data": on_one_line(event.data)})


def _from_metadata(text: str) -> JsonObject:
    try:
        metadata = msgspec.json.decode(text, type=JsonObject)
    except (msgspec.MsgspecError, RecursionError):
        return {"metadata": bytes(on_one_line(text)).decode()}
    found: JsonObject = {}
    for name, attribute in ((CORRELATION_ID, "correlationid"), (CAUSATION_ID, "causationid")):
        if isinstance(metadata.get(name), str) and metadata[name]:
            found[attribute] = metadata.pop(name)
    if metadata:
        found["metadata"] = msgspec.json.encode(metadata).decode()
    return found

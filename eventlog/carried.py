"""Events on their way from one log to another: one a line, as JSON, in the form that `eventlog read` prints.

What is written is what is stored, byte for byte, but for line breaks between the tokens of data, which become spaces.
What is read is held against what the tables of a log hold, and not against the stricter rules of an append: an event
that is in a log can be carried into another one. Pure: nothing is asked of a database here.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

import msgspec
from msgspec import Meta

from eventlog.encoding import same_json
from eventlog.errors import BrokenLineError
from eventlog.events import StoredEvent
from eventlog.limits import STREAM_CHARACTERS_MAX, TAG_CHARACTERS_MAX, TAGS_MAX, TYPE_CHARACTERS_MAX

LINE_BYTES_MAX = 67_108_864
BATCH_EVENTS_MAX = 1_000
BATCH_BYTES_MAX = 8_388_608
"""A batch ends when it has so many events, or more bytes than this."""

Number = Annotated[int, Meta(ge=1, le=2**63 - 2)]
Tag = Annotated[str, Meta(min_length=1, max_length=TAG_CHARACTERS_MAX)]


class Carried(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An event as a line has it."""

    position: Number
    id: UUID
    stream: Annotated[str, Meta(min_length=1, max_length=STREAM_CHARACTERS_MAX)]
    version: Number
    type: Annotated[str, Meta(min_length=1, max_length=TYPE_CHARACTERS_MAX)]
    type_version: Annotated[int, Meta(ge=1, le=2**31 - 1)] = 1
    data: msgspec.Raw
    metadata: msgspec.Raw = msgspec.Raw(b"{}")
    recorded_at: Annotated[datetime, Meta(tz=True)]
    tags: Annotated[tuple[Tag, ...], Meta(max_length=TAGS_MAX)] = ()

    @property
    def data_text(self) -> str:
        return bytes(self.data).decode()

    @property
    def metadata_text(self) -> str:
        return bytes(self.metadata).decode()


class Line(msgspec.Struct, frozen=True):
    """A line of a file, and the event that stands in it."""

    number: int
    event: Carried


def event_line(event: StoredEvent) -> bytes:
    """Write an event as a line, without the line's end."""
    return msgspec.json.encode(carried(event))


def carried(event: StoredEvent) -> Carried:
    """Make of a stored event what a line has of it."""
    return Carried(
        position=event.position,
        id=event.id,
        stream=event.stream,
        version=event.version,
        type=event.type,
        type_version=event.type_version,
        data=on_one_line(event.data),
        metadata=on_one_line(event.metadata),
        recorded_at=event.recorded_at,
        tags=event.tags,
    )


def on_one_line(text: str) -> msgspec.Raw:
    """Return JSON that is written as it is stored. A line break can only stand between its tokens."""
    return msgspec.Raw(text.strip().replace("\n", " ").replace("\r", " ").encode())


def read_line(line: bytes, number: int) -> Carried:
    """Read the event of a line. Raises `BrokenLineError`, which names the line and says what is wrong with it."""
    try:
        line.decode()
        event = _decoder.decode(line)
        event.recorded_at.astimezone(UTC)
    except (msgspec.MsgspecError, UnicodeError, RecursionError, OverflowError) as error:
        raise BrokenLineError(number, str(error)) from error
    for name in (event.stream, event.type, *event.tags):
        if "\0" in name:
            raise BrokenLineError(number, f"{name!r} holds a NUL character")
    if not bytes(event.metadata).startswith(b"{"):
        raise BrokenLineError(number, "the metadata is no JSON object")
    return event


def batches(lines: Iterable[bytes]) -> Iterator[list[Line]]:
    """Read lines in batches of a bounded size, passing empty ones by. Raises `BrokenLineError`."""
    batch: list[Line] = []
    size = 0
    for number, line in enumerate(lines, start=1):
        if len(line) > LINE_BYTES_MAX:
            raise BrokenLineError(number, f"it has more than {LINE_BYTES_MAX:,} bytes")
        if line.isspace():
            continue
        batch.append(Line(number, read_line(line, number)))
        size += len(line)
        if len(batch) >= BATCH_EVENTS_MAX or size > BATCH_BYTES_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def same_content(one: Carried, other: Carried) -> bool:
    """Tell whether two events say the same: as for an append, whatever their places and their metadata."""
    return (
        (one.stream, one.type, one.type_version) == (other.stream, other.type, other.type_version)
        and set(one.tags) == set(other.tags)
        and _same_data(one.data_text, other.data_text)
    )


def _same_data(one: str, other: str) -> bool:
    try:
        return one == other or same_json(one, other)
    except (msgspec.MsgspecError, RecursionError):
        return False


_decoder = msgspec.json.Decoder(Carried)

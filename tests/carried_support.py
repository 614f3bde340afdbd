"""What the tests of carrying share: lines of events, a log emptied again, an import run to its end."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import text

from eventlog.carried import event_line
from eventlog.importing import Imported, Importing
from eventlog.log import EventLog

BEGINNING = datetime(2026, 1, 31, 9, 30, tzinfo=UTC)


def line(
    position: int,
    /,
    *,
    stream: str = "note-1",
    version: int | None = None,
    data: Any = None,
    id: int | None = None,  # noqa: A002
    **changes: Any,
) -> bytes:
    """An event as a line of a file; by default the next one of one stream."""
    event: dict[str, Any] = {
        "position": position,
        "id": UUID(int=id if id is not None else position),
        "stream": stream,
        "version": version if version is not None else position,
        "type": "note.taken",
        "type_version": 1,
        "data": {"said": f"{position}"} if data is None else data,
        "metadata": {},
        "recorded_at": BEGINNING + timedelta(seconds=position),
        "tags": [],
    }
    return msgspec.json.encode({**event, **changes}) + b"\n"


def lines(count: int, *, first: int = 1) -> list[bytes]:
    return [line(position) for position in range(first, first + count)]


def imported(log: EventLog, given: Iterable[bytes], **options: bool) -> Imported:
    """Import lines to their end."""
    importing = Importing(log.database, given, **options)
    for _ in importing.run():
        pass
    return importing.done


def exported(log: EventLog) -> list[bytes]:
    """The log as lines."""
    return [event_line(one) + b"\n" for one in log.read_stored()]


def places(log: EventLog) -> list[tuple[int, str, int]]:
    """Position, stream and version of each event."""
    return [(one.position, one.stream, one.version) for one in log.read_stored()]


def emptied(log: EventLog) -> EventLog:
    """Return the log as it was made: what nobody may do but a test, and its tables' owner."""
    with log.engine.begin() as connection:
        for statement in _EMPTYING[connection.dialect.name]:
            connection.execute(text(statement))
    return log


_EMPTYING: dict[str, Sequence[str]] = {
    "postgresql": (
        "alter table eventlog.events disable trigger refuse_change",
        "alter table eventlog.event_tags disable trigger refuse_change",
        "truncate eventlog.events, eventlog.event_tags restart identity",
        "alter table eventlog.events enable always trigger refuse_change",
        "alter table eventlog.event_tags enable always trigger refuse_change",
    ),
}

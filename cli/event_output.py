"""Recorded events as they are printed: a line of JSON each, or a table that is written while the log is read.

Nothing is decoded as a class: what is stored is shown. Neither form holds more of the log in memory than a page.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import tee

import msgspec

from eventlog.cli.output import ROWS_MEASURED, Column, is_terminal, moment, number, plain_lines, printable, width
from eventlog.events import Recorded, StoredEvent

DATA_CHARACTERS_MIN = 24
"""Data gets a line of its own where a terminal leaves it less than this."""

NAME_CHARACTERS = 20
"""How wide the columns of streams and types begin where events are printed as they come."""

_TITLES = ("recorded", "stream", "type", "data")
_COLUMNS = (Column(title="position", right=True), *(Column(title=title) for title in _TITLES))
_MOMENT = len("2026-01-31T09:30:00Z")
_TO_STREAM = len("POSITION  ") + _MOMENT + 2


def json_line(event: StoredEvent) -> str:
    """Write a `Recorded` as JSON, its data number for number and key for key as it is stored."""
    return msgspec.json.encode(recorded(event)).decode()


def recorded(event: StoredEvent) -> Recorded[object]:
    """Make a `Recorded` that is written as JSON with its data and metadata as they are stored."""
    return Recorded(
        position=event.position,
        id=event.id,
        stream=event.stream,
        version=event.version,
        type=event.type,
        type_version=event.type_version,
        data=_raw(event.data),
        metadata=_raw(event.metadata),  # type: ignore[arg-type]  # written out as it is, never read here
        recorded_at=event.recorded_at,
        tags=event.tags,
    )


def table_lines(events: Iterable[StoredEvent], *, measured: int = ROWS_MEASURED) -> Iterator[str]:
    """Set events in a table, the titles first: whole in a pipe, cut to the width of a terminal.

    The first `measured` events are waited for, to see how wide the columns must be.
    """
    if is_terminal():
        yield from _fitted(events, width(), measured=measured)
        return
    yield from plain_lines(
        _columns(measured), ((*_place(one), printable(one.data)) for one in events), measured=measured
    )


def _fitted(events: Iterable[StoredEvent], room: int, *, measured: int) -> Iterator[str]:
    names = max(20, room - _TO_STREAM - 2)
    to_place, to_show = tee(events)
    stream_max, type_max = names * 6 // 11, names * 5 // 11
    places = ((*_place(one, stream_max=stream_max, type_max=type_max), "") for one in to_place)
    lines = plain_lines(_columns(measured, stream_max, type_max), places, measured=measured)
    header = next(lines)
    data_at = header.index("DATA")
    beside = room - data_at >= DATA_CHARACTERS_MIN
    yield _cut(header if beside else header[:data_at].rstrip(), room)
    for line, event in zip(lines, to_show, strict=True):
        data = printable(event.data)
        if beside:
            data_at = max(data_at, len(line) + 2)
            yield _cut(f"{line.ljust(data_at)}{data}", room)
        else:
            yield f"{_cut(line, room)}\n{_cut(f'    {data}', room)}"


def _columns(measured: int, stream_max: int = NAME_CHARACTERS, type_max: int = NAME_CHARACTERS) -> Sequence[Column]:
    """Where no event has been measured the columns begin as wide as names usually are, and may be."""
    if measured:
        return _COLUMNS
    widths = (0, _MOMENT, min(NAME_CHARACTERS, stream_max), min(NAME_CHARACTERS, type_max), 0)
    return [replace(column, width_min=width) for column, width in zip(_COLUMNS, widths, strict=True)]


def _place(event: StoredEvent, *, stream_max: int = 0, type_max: int = 0) -> tuple[str, str, str, str]:
    stream, kind = printable(event.stream), printable(event.type)
    return number(event.position), moment(event.recorded_at), _cut(stream, stream_max), _cut(kind, type_max)


def _cut(text: str, room: int) -> str:
    """Cut a text to so many characters; no room at all means that there is no limit."""
    return text if not room or len(text) <= room else f"{text[: room - 1]}…"


def _raw(text: str) -> msgspec.Raw | str:
    """JSON on one line; a text that is no JSON, which only another program can have written, as a text."""
    try:
        return msgspec.Raw(msgspec.json.format(text.encode(), indent=-1))
    except msgspec.DecodeError:
        return text

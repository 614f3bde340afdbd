"""Filters on the data of events: a dotted path into it, and the value that must stand there.

Looked at here and not by a database: a path means the same on both, and in data that PostgreSQL stores but refuses to
look into. It costs a decoding of each event that could match.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from eventlog.errors import UsageError


class Field(msgspec.Struct, frozen=True, kw_only=True):
    """A place in the data of an event, and what must stand there."""

    path: tuple[str, ...]
    value: Any
    needle: str | None
    """What a text has in it that says so, unless it has escapes; None where that cannot be told."""


def check_where(where: Mapping[str, Any]) -> tuple[Field, ...]:
    """Read `{"customer.name": "ada"}`: all that stand in it must hold. Raises `UsageError`."""
    if not isinstance(where, Mapping):
        raise UsageError(f"where={where!r} is no mapping", remedy='give {"path.to.field": value}')
    return tuple(_field(path, value) for path, value in where.items())


def hold(fields: Sequence[Field], data: str) -> bool:
    """Tell whether all of the fields stand in data, given as JSON text."""
    if any(one.needle is not None and one.needle not in data and "\\" not in data for one in fields):
        return False
    try:
        decoded = _decoded(data)
    except (ValueError, RecursionError):
        return False
    return all(_stands_in(decoded, one) for one in fields)


def _field(path: object, value: Any) -> Field:
    segments = tuple(path.split(".")) if isinstance(path, str) else ()
    if not all(segments) or not segments:
        raise UsageError(f"{path!r} is no path into data", remedy="name fields, joined by dots: customer.name, lines.0")
    text = value if isinstance(value, str) and value.isprintable() and not {'"', "\\"} & set(value) else None
    return Field(path=segments, value=value, needle=None if text is None else f'"{text}"')


def _decoded(data: str) -> Any:
    """What other programs have recorded may hold what only Python's own decoder takes: 1e999, half a surrogate pair."""
    try:
        return msgspec.json.decode(data)
    except msgspec.MsgspecError:
        return json.loads(data)


def _stands_in(found: Any, field: Field) -> bool:
    for segment in field.path:
        if isinstance(found, dict) and segment in found:
            found = found[segment]
        elif isinstance(found, list) and segment.isdecimal() and int(segment) < len(found):
            found = found[int(segment)]
        else:
            return False
    return _same(found, field.value)


def _same(one: Any, other: Any) -> bool:
    """1 and 1.0 are the same number; true is none."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)

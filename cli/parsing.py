"""What people type: `key=value` pairs, JSON, durations and times. Pure, but for the clock."""

import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec

from eventlog.clock import utc_now
from eventlog.errors import UsageError

GROUPED = re.compile(r"\d{1,3}(,\d{3})+")
"""A number as our tables print it."""

_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def pairs(given: Sequence[str], *, option: str) -> dict[str, Any]:
    """Read `key=text` and `key:=json`. Raises `UsageError`."""
    read: dict[str, Any] = {}
    for one in given:
        key, value = _pair(one, option=option)
        if key in read:
            raise UsageError(f"{option} names {key!r} twice", remedy="give each key once")
        read[key] = value
    return read


def json_value(text: str | bytes, *, what: str) -> Any:
    """Read JSON. Raises `UsageError`, which says what of it is wrong."""
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise UsageError(
            f"{what} is not JSON: {error}", remedy='text stands in double quotes: {"key": "value"}'
        ) from error


def json_lines(lines: Iterable[bytes], *, limit: int) -> list[Any]:
    """Read one JSON value a line, passing empty lines by. Raises `UsageError` with the number of a wrong line."""
    values = [json_value(line, what=f"line {place}") for place, line in enumerate(lines, start=1) if line.strip()]
    if len(values) > limit:
        raise UsageError(
            f"{len(values):,} events in one append; at most {limit:,} are allowed", remedy="append them in parts"
        )
    return values


def expected_version(text: str) -> int | str:
    """Read `any`, `none` or a version. Raises `UsageError`."""
    if text in ("any", "none"):
        return text
    if text.isdecimal():
        return int(text)
    raise UsageError(
        f"--expected {text!r} is neither a version nor 'none' nor 'any'",
        remedy="give the version the stream is at, or 'none' for a stream that must not exist",
    )


def event_id(text: str | None) -> UUID | None:
    """Read a UUID. Raises `UsageError`."""
    try:
        return None if text is None else UUID(text)
    except ValueError:
        raise UsageError(
            f"--id {text!r} is not a UUID", remedy="give one, or leave --id out to have one made"
        ) from None


def event_place(text: str) -> int | UUID:
    """Read a position, 1234 or 1,234, or an event's id. Raises `UsageError`."""
    plain = text.replace(",", "") if GROUPED.fullmatch(text) else text
    try:
        return int(plain) if plain.isdecimal() else UUID(text)
    except ValueError:
        raise UsageError(
            f"{text!r} is neither a position nor an id", remedy="give the number of its position, or its UUID"
        ) from None


def since(text: str) -> datetime:
    """Read a duration before now (`90s`, `15m`, `2h`, `3d`, `1w`, `1h30m`) or an ISO time; return it in UTC.

    A time without an offset is read as the local time of this machine. Raises `UsageError`.
    """
    try:
        found = _before_now(text) or datetime.fromisoformat(text)
        return found.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"{text!r} is neither a duration nor a time",
            remedy="write 90s, 15m, 2h, 3d or 1w, or an ISO time like 2026-01-31T09:30:00+01:00",
        ) from error


def seconds(text: str, *, option: str) -> float:
    """Read a duration: `90s`, `15m`, `2h`, `1h30m`. Raises `UsageError`."""
    try:
        length = _length(text)
    except OverflowError:
        length = None
    if length is None:
        raise UsageError(f"{option} {text!r} is no duration", remedy="write 90s, 15m, 2h or 1d")
    return length.total_seconds()


def _pair(text: str, *, option: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    typed = key.endswith(":")
    key = key.removesuffix(":")
    if not (key and equals):
        raise UsageError(
            f"{option} {text!r} is not a pair", remedy="write key=text, or key:=json for numbers, lists and true"
        )
    return key, json_value(value, what=f"the value of {key!r}") if typed else value


def _before_now(text: str) -> datetime | None:
    length = _length(text)
    return None if length is None else utc_now() - length


def _length(text: str) -> timedelta | None:
    parts = _DURATION.findall(text)
    if not parts or "".join(amount + unit for amount, unit in parts) != text:
        return None
    return sum((timedelta(**{_UNITS[unit]: float(amount)}) for amount, unit in parts), timedelta())

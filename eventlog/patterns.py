"""Names of event types, and patterns over them.

A type is one or more segments joined by dots: `flight.arrived`. In a pattern `*` stands for exactly one segment and
`**` for any number of them, also none: `flight.*` covers `flight.arrived`, `flight.**` also `flight` and
`flight.gate.changed`.
"""

import re
from functools import lru_cache

from eventlog.errors import DeclarationError, InvalidEventError
from eventlog.limits import TYPE_CHARACTERS_MAX

_SEGMENT = r"[^\s.*\x00-\x1f\x7f]+"
_TYPE = re.compile(rf"{_SEGMENT}(\.{_SEGMENT})*")
_PATTERN = re.compile(rf"({_SEGMENT}|\*\*?)(\.({_SEGMENT}|\*\*?))*")


def check_type(name: str) -> str:
    """Return the name if it can name an event type; raise `InvalidEventError` otherwise."""
    if len(name) > TYPE_CHARACTERS_MAX:
        raise InvalidEventError(
            f"an event type of {len(name):,} characters; at most {TYPE_CHARACTERS_MAX} are allowed",
            remedy="name the kind of fact (`flight.arrived`), and put what varies into the data",
        )
    if not _TYPE.fullmatch(name):
        raise InvalidEventError(
            f"{name!r} cannot name an event type",
            remedy="use segments joined by dots, without spaces, control characters or `*`: `flight.arrived`",
        )
    return name


def check_pattern(pattern: str) -> str:
    """Return the pattern if it is one; raise `DeclarationError` otherwise."""
    if len(pattern) > TYPE_CHARACTERS_MAX or not _PATTERN.fullmatch(pattern):
        raise DeclarationError(
            f"{pattern[:TYPE_CHARACTERS_MAX]!r} is not a pattern over event types",
            remedy="use segments joined by dots, `*` for one segment, `**` for any number: `flight.*`",
        )
    return pattern


def is_exact(pattern: str) -> bool:
    """Tell whether the pattern covers one type alone."""
    return "*" not in pattern


def covers(pattern: str, event_type: str) -> bool:
    """Tell whether a type is among those the pattern stands for."""
    return _compile(pattern).fullmatch(event_type) is not None


def specificity(pattern: str) -> tuple[int, int, int]:
    """Rank patterns: an exact type, then more named segments, then fewer `**`. Larger is more specific."""
    segments = pattern.split(".")
    return (
        int(is_exact(pattern)),
        sum(1 for segment in segments if not segment.startswith("*")),
        -segments.count("**"),
    )


def overlap(one: str, other: str) -> bool:
    """Tell whether some type is covered by both patterns."""
    return _overlap(tuple(one.split(".")), tuple(other.split(".")))


@lru_cache(maxsize=4096)
def _compile(pattern: str) -> re.Pattern[str]:
    if pattern == "**":
        return re.compile(r".*", re.DOTALL)
    parts: list[str] = []
    for index, segment in enumerate(pattern.split(".")):
        dot = "" if index == 0 else r"\."
        if segment == "**":
            parts.append(rf"({dot}[^.]+)*" if index else r"([^.]+(\.[^.]+)*)?")
        else:
            parts.append(dot + (r"[^.]+" if segment == "*" else re.escape(segment)))
    if pattern.startswith("**."):
        rest = "".join(parts[1:]).removeprefix(r"\.")
        return re.compile(rf"([^.]+\.)*{rest}")
    return re.compile("".join(parts))


def _overlap(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    if not one or not other:
        return all(segment == "**" for segment in one + other)
    if one[0] == "**":
        return _overlap(one[1:], other) or _overlap(one, other[1:])
    if other[0] == "**":
        return _overlap(other, one)
    if one[0] == other[0] or "*" in (one[0], other[0]):
        return _overlap(one[1:], other[1:])
    return False

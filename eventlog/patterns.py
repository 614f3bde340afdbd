"""Names of event types, and patterns over them.

A type is one or more segments joined by dots: `flight.arrived`. In a pattern `*` stands for exactly one segment and
`**` for any number of them, also none: `flight.*` covers `flight.arrived`, `flight.**` also `flight` and
`flight.gate.changed`.
"""

import re
from functools import cache, lru_cache

from eventlog.errors import DeclarationError, InvalidEventError
from eventlog.limits import TYPE_CHARACTERS_MAX

_SEGMENT = r"[^\s.*\x00-\x1f\x7f\ud800-\udfff]+"
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


@lru_cache(maxsize=16_384)
def covers(pattern: str, event_type: str) -> bool:
    """Tell whether a type is among those the pattern stands for."""
    return overlap(pattern, event_type)


def specificity(pattern: str) -> tuple[int, int, int]:
    """Rank patterns: an exact type, then more named segments, then fewer `**`. Larger is more specific."""
    segments = pattern.split(".")
    return (
        int(is_exact(pattern)),
        sum(1 for segment in segments if not segment.startswith("*")),
        -segments.count("**"),
    )


def overlap(one: str, other: str) -> bool:
    """Tell whether some type is covered by both patterns. Takes as many steps as the product of their segments."""
    left, right = one.split("."), other.split(".")

    @cache
    def rest(i: int, j: int) -> bool:
        """Whether what follows i segments of the one and j of the other can stand for the same segments."""
        more_left, more_right = i < len(left), j < len(right)
        if more_left and left[i] == "**":
            return rest(i + 1, j) or (more_right and rest(i, j + 1))
        if more_right and right[j] == "**":
            return rest(i, j + 1) or (more_left and rest(i + 1, j))
        if not (more_left and more_right):
            return not more_left and not more_right
        return (left[i] == right[j] or "*" in (left[i], right[j])) and rest(i + 1, j + 1)

    return rest(0, 0)

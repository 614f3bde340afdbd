"""Whether a function leaves alone what it is given. Looked at in tests only, where nobody waits for it."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import msgspec

from eventlog.errors import UsageError


def watched(function: Callable[..., Any], *, given: str) -> Callable[..., Any]:
    """Make a function that calls another, and raises `UsageError` when that changes its first argument in place.

    The two are compared by their JSON. What JSON cannot say is compared by its `repr`, and passes where that tells
    nothing.
    """
    name = getattr(function, "__qualname__", repr(function))

    @wraps(function)
    def call(value: Any, *rest: Any) -> Any:
        before, shown = _written(value), repr(value)
        returned = function(value, *rest)
        if _written(value) != before:
            raise UsageError(
                f"{name} changes the {given} that it is given in place\nbefore: {shown}\n after: {value!r}",
                remedy=f"return another {given}: msgspec.structs.replace({given}, ...), with new lists and dicts in it",
            )
        return returned

    return call


def _written(value: Any) -> bytes | None:
    try:
        return msgspec.json.encode(value, enc_hook=repr)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return None

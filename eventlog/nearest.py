"""The name that somebody may have meant."""

import difflib
from collections.abc import Iterable

LIKE = 0.6
VERY_LIKE = 0.8
"""From which likeness on a second name is offered, too."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'mail'?` where a known name is like the one that was given, else nothing."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=2, cutoff=VERY_LIKE)
    near = near or difflib.get_close_matches(name, names, n=1, cutoff=LIKE)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""

"""What is made once for each engine, and shared by all logs on it."""

import threading
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Engine

Made = TypeVar("Made")

_MAKING = threading.Lock()


def once_of(engine: Engine, make: Callable[[Engine], Made], *, name: str) -> Made:
    """Return what an engine keeps under a name of ours; it is made when it is asked for first, and goes with it."""
    with _MAKING:
        kept: Made | None = getattr(engine, name, None)
        if kept is None:
            kept = make(engine)
            setattr(engine, name, kept)
        return kept

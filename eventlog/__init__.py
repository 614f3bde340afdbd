"""Rewindlog: Kafka's replay, in the database you already have.

This file is the facade for the people who install it: it re-exports the names they need, each imported when it is first
used. Nothing inside the project imports from here.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.event_types import event
    from eventlog.events import Event, Recorded, caused_by
    from eventlog.log import EventLog
    from eventlog.query import Query
    from eventlog.subscribers.app import App
    from eventlog.subscribers.context import Context
    from eventlog.subscribers.outcomes import Park, RetryAfter, Skip
    from eventlog.subscribers.retry import Retry
    from eventlog.upcasting import upcast

__all__ = [
    "App",
    "Context",
    "Event",
    "EventLog",
    "Park",
    "Query",
    "Recorded",
    "Retry",
    "RetryAfter",
    "Skip",
    "caused_by",
    "event",
    "upcast",
]

_HOMES = {
    "App": "eventlog.subscribers.app",
    "Context": "eventlog.subscribers.context",
    "Event": "eventlog.events",
    "EventLog": "eventlog.log",
    "Park": "eventlog.subscribers.outcomes",
    "Query": "eventlog.query",
    "Recorded": "eventlog.events",
    "Retry": "eventlog.subscribers.retry",
    "RetryAfter": "eventlog.subscribers.outcomes",
    "Skip": "eventlog.subscribers.outcomes",
    "caused_by": "eventlog.events",
    "event": "eventlog.event_types",
    "upcast": "eventlog.upcasting",
}


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'eventlog' has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""Whose readers are audited. A name that has a colon is somebody else's: `package.module:Class`."""

from importlib import import_module
from importlib.util import find_spec

from benchmarks.lost_events.adapters.adapter import Adapter

__all__ = ["NAMES", "Adapter", "installed", "load"]

_HERE = "benchmarks.lost_events.adapters"
_PLACES = {
    "rewindlog": f"{_HERE}.rewindlog:Pages",
    "rewindlog-follow": f"{_HERE}.rewindlog:Following",
    "rewindlog-follow-async": f"{_HERE}.rewindlog:FollowingAsync",
    "rewindlog-projection": f"{_HERE}.rewindlog:Projection",
    "rewindlog-effect": f"{_HERE}.rewindlog:Effect",
    "eventsourcing": f"{_HERE}.peer_eventsourcing:Eventsourcing",
    "eventsource-py": f"{_HERE}.peer_eventsource:EventsourcePy",
    "naive-cursor": f"{_HERE}.controls:NaiveCursor",
    "xmin-cursor": f"{_HERE}.controls:XminCursor",
}
_NEEDED = {"eventsourcing": "eventsourcing", "eventsource-py": "eventsource"}
"""What has to be importable for those that are somebody else's work."""

NAMES = tuple(_PLACES)


def installed() -> list[str]:
    """Name the adapters that can be run here."""
    return [name for name in NAMES if name not in _NEEDED or find_spec(_NEEDED[name]) is not None]


def load(name: str) -> type[Adapter]:
    """Import an adapter by its name, or by its place. Raises `ImportError`, `AttributeError`."""
    module, _, attribute = _PLACES.get(name, name).partition(":")
    found: type[Adapter] = getattr(import_module(module), attribute)
    return found

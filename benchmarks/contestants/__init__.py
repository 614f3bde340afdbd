"""Who is measured. Each has a module of its own: a reader can see there whether it is used as its makers advise."""

from importlib import import_module

from benchmarks.contestants.contestant import Contestant

__all__ = ["NAMES", "Contestant", "load"]

_MODULES = {
    "raw": "benchmarks.contestants.raw",
    "raw-notify": "benchmarks.contestants.raw_notify",
    "rewindlog": "benchmarks.contestants.rewindlog",
}

NAMES = tuple(_MODULES)


def load(name: str) -> type[Contestant]:
    """Import a contestant by its name."""
    found: type[Contestant] = import_module(_MODULES[name]).CONTESTANT
    return found

"""Who is measured. Each has a module of its own: a reader can see there whether it is used as its makers advise."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.contestants.contestant import Contestant

__all__ = ["NAMES", "PEERS", "load"]

_MODULES = {
    "raw": "benchmarks.contestants.raw",
    "raw-notify": "benchmarks.contestants.raw_notify",
    "rewindlog": "benchmarks.contestants.rewindlog",
    "eventsourcing": "benchmarks.contestants.eventsourcing",
    "eventsourcing-loop": "benchmarks.contestants.eventsourcing_loop",
    "eventsourcing-functions": "benchmarks.contestants.eventsourcing_functions",
    "procrastinate": "benchmarks.contestants.procrastinate",
    "pgqueuer": "benchmarks.contestants.pgqueuer",
    "raw-sqlite": "benchmarks.contestants.raw_sqlite",
    "rewindlog-sqlite": "benchmarks.contestants.rewindlog_sqlite",
}

NAMES = tuple(_MODULES)
PEERS = ("eventsourcing", "eventsourcing-loop", "eventsourcing-functions", "procrastinate", "pgqueuer")


def load(name: str) -> "type[Contestant]":
    """Import a contestant by its name. Raises `ImportError` where it is not installed."""
    found: type[Contestant] = import_module(_MODULES[name]).CONTESTANT
    return found

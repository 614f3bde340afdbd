"""Who is measured. Each has a module of its own: a reader can see there whether it is used as its makers advise."""

from benchmarks.contestants.contestant import Contestant

__all__ = ["Contestant", "load"]

_MODULES = {
    "rewindlog": "benchmarks.contestants.rewindlog",
    "raw": "benchmarks.contestants.raw",
    "eventsourcing": "benchmarks.contestants.eventsourcing_peer",
    "procrastinate": "benchmarks.contestants.procrastinate_peer",
    "pgqueuer": "benchmarks.contestants.pgqueuer_peer",
}


def load(name: str) -> type[Contestant]:
    """Import a contestant by its name."""
    from importlib import import_module

    found = import_module(_MODULES[name]).CONTESTANT
    assert issubclass(found, Contestant)
    return found

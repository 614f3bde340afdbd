"""`eventsourcing` with `POSTGRES_ENABLE_DB_FUNCTIONS`, as in the "speed run" of its documentation.

An append is one call of a function in the database then. In 9.5 that function leaves out the table lock by which the
package otherwise keeps the order of commits, so who follows may pass by what commits late: W7 counts that.
"""

from typing import ClassVar

from benchmarks.contestants.contestant import APPENDS, FLOWS
from benchmarks.contestants.eventsourcing import Eventsourcing


class EventsourcingFunctions(Eventsourcing):
    """Reads as `Eventsourcing` does."""

    name = "eventsourcing-functions"
    workloads = APPENDS | FLOWS
    settings: ClassVar[dict[str, str]] = {"POSTGRES_ENABLE_DB_FUNCTIONS": "y"}


CONTESTANT = EventsourcingFunctions

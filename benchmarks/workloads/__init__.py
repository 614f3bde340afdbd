"""What is measured, of any contestant, in a process that does nothing else.

    python -m benchmarks.workloads WORKLOAD CONTESTANT URL      prints a JSON object of figures by unit

Each run has an empty database of its own. Rates are whole jobs: what is counted has been done, durably, when the clock
is stopped, and what came of it is compared with the input.
"""

from collections.abc import Callable

from benchmarks.contestants.contestant import Contestant
from benchmarks.workloads.appending import beside_a_row, bulk, crowd, lone
from benchmarks.workloads.catching_up import catch_up, memory, project, project_by_event
from benchmarks.workloads.fanning_out import fan_out
from benchmarks.workloads.following import flow, latency
from benchmarks.workloads.sharing import shared

__all__ = ["WORKLOADS", "Result"]

Result = dict[str, float]
"""Figures by unit, see `benchmarks/results.py`."""

WORKLOADS: dict[str, Callable[[Contestant], Result]] = {
    "W1": lone,
    "W1t": beside_a_row,
    "W2-8": crowd(8),
    "W2-32": crowd(32),
    "W3": bulk,
    "W4": catch_up,
    "W5": project,
    "W5p": project_by_event,
    "W6": latency,
    "W7-1": flow(1),
    "W7-100": flow(100),
    "W8-1": fan_out(1),
    "W8-10": fan_out(10),
    "W8-50": fan_out(50),
    "W9-1": shared(1),
    "W9-2": shared(2),
    "W9-4": shared(4),
    "W11": memory,
}

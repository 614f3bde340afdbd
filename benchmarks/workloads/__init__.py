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

__all__ = ["TITLES", "WORKLOADS", "Result"]

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

# Of W10 and S-... too, which have scripts of their own.
TITLES = {
    "W1": "lone durable appends, 1 client",
    "W1t": "an append and a row in one Session",
    "W2-8": "lone durable appends, 8 clients",
    "W2-32": "lone durable appends, 32 clients",
    "W3": "1,000 events a call, many streams",
    "W4": "catch-up, typed, checkpointed",
    "W5": "catch-up into a read model",
    "W5p": "the same, a statement an event",
    "W6": "commit to handler, idle, another process",
    "W7-1": "4 writers and a consumer process",
    "W7-100": "the same, 100 events a call",
    "W8-1": "1 subscriber at the head of a worker",
    "W8-10": "10 subscribers at the head",
    "W8-50": "50 subscribers at the head",
    "W9-1": "1 worker process, the handler waits 2 ms",
    "W9-2": "2 worker processes",
    "W9-4": "4 worker processes",
    "W10-append": "lone appends to a log of ten million",
    "W10-head": "reading its last hundred events",
    "W10-sparse": "catching up with one event of a thousand",
    "W10-status": "the command `eventlog status`",
    "W10-rewind": "the command `eventlog rewind --dry-run`",
    "W11": "peak memory of catching up",
    "S-1": "1 writer inside the server",
    "S-8": "8 writers",
    "S-32": "32 writers",
    "S-open": "32 writers, 5 ms longer in their transactions",
}

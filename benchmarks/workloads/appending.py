"""W1 to W3: how fast events are recorded."""

import time
from collections.abc import Callable
from itertools import islice

from benchmarks import sizes
from benchmarks.contestants.contestant import Append, Contestant
from benchmarks.flights import read_events
from benchmarks.workloads.processes import SECONDS, writers

Result = dict[str, float]


def lone(contestant: Contestant) -> Result:
    """W1: lone durable appends by one client, each a transaction of its own."""
    with contestant.appender() as append:
        return {"rate": _one_by_one(append)}


def beside_a_row(contestant: Contestant) -> Result:
    """W1t: an append and a row of the caller's, in the caller's Session."""
    with contestant.appender_with_row() as append:
        return {"rate": _one_by_one(append)}


def crowd(clients: int) -> Callable[[Contestant], Result]:
    """W2: so many clients that append at the same time, in at most four processes."""

    def measure(contestant: Contestant) -> Result:
        with writers(contestant, clients, call_events=1) as counts:
            began = time.perf_counter()
        return {"rate": sum(counts) / (time.perf_counter() - began)}

    return measure


def bulk(contestant: Contestant) -> Result:
    """W3: a thousand events a call, over many streams."""
    count = sizes.events(contestant.bulk_events)
    events = read_events(count + sizes.CALL_EVENTS)
    with contestant.appender() as append:
        append(events[count:])
        began = time.perf_counter()
        for start in range(0, count, sizes.CALL_EVENTS):
            append(events[start : start + sizes.CALL_EVENTS])
        passed = time.perf_counter() - began
    return {"rate": count / passed, "events": count}


def _one_by_one(append: Append) -> float:
    """Append for `SECONDS`, or all events if that takes less, and return how many a second."""
    events = iter(read_events(60_000))
    for event in islice(events, 50):
        append([event])
    enough, count, passed = sizes.seconds(SECONDS), 0, 0.0
    began = time.perf_counter()
    for event in events:
        append([event])
        count += 1
        passed = time.perf_counter() - began
        if passed >= enough:
            break
    return count / passed

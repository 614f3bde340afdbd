"""W9: several worker processes share one subscriber's partitions, of a handler that waits.

There are eight times as many partitions as processes at most, because one process runs eight of them at a time: with
fewer, one process would do what four can. What is to be handled is committed at once, when all processes have their
share; the clock starts then.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable
from typing import Any

from benchmarks import sizes
from benchmarks.contestants import load
from benchmarks.contestants.contestant import Contestant
from benchmarks.flights import FlightEvent, read_events
from benchmarks.workloads.processes import READY_SECONDS_MAX

EVENTS_EACH = 12_000
"""So many for each process, so that each number of processes has about the same time to run."""
WAIT_SECONDS = 0.002
SECONDS_MAX = 120.0

Result = dict[str, float]


def shared(processes: int) -> Callable[[Contestant], Result]:
    """W9: so many worker processes."""

    def measure(contestant: Contestant) -> Result:
        events = read_events(processes * sizes.events(EVENTS_EACH))
        context = multiprocessing.get_context("spawn")
        stop, ready = context.Event(), [context.Event() for _ in range(processes)]
        counts = [context.RawValue("q", 0) for _ in range(processes)]
        workers = [
            context.Process(target=_share, args=(type(contestant).name, contestant.url, count, one, stop), daemon=True)
            for one, count in zip(ready, counts, strict=True)
        ]
        for worker in workers:
            worker.start()
        assert all(one.wait(timeout=READY_SECONDS_MAX) for one in ready), "a worker did not get ready"
        _wait_until(lambda: contestant.sharing() == processes, "every process has its share")
        contestant.fill_at_once(events)
        began = time.perf_counter()
        _wait_until(lambda: sum(count.value for count in counts) >= len(events), "all is handled")
        seconds = time.perf_counter() - began
        stop.set()
        for worker in workers:
            worker.join(timeout=30)
        assert sum(count.value for count in counts) == len(events), [count.value for count in counts]
        return {"rate": len(events) / seconds, "events": len(events)}

    return measure


def _share(name: str, url: str, count: Any, ready: Any, stop: Any) -> None:
    over, lock = threading.Event(), threading.Lock()

    def handle(event: FlightEvent) -> None:
        time.sleep(WAIT_SECONDS)
        with lock:
            count.value += 1

    def watch() -> None:
        stop.wait()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    load(name)(url).share(handle, ready=ready.set, stop=over)


def _wait_until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + SECONDS_MAX
    while not holds():
        assert time.monotonic() < deadline, f"not within {SECONDS_MAX:.0f} s: {what}"
        time.sleep(0.005)

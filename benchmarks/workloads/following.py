"""W6 and W7: what is appended now is handled in another process."""

import random
import statistics
import time
from collections.abc import Callable

from benchmarks import sizes
from benchmarks.contestants.contestant import Contestant
from benchmarks.flights import read_events
from benchmarks.workloads.processes import follower, writers

LATENCY_EVENTS = 200
WARM_UP_EVENTS = 20
PAUSE_SECONDS = (0.02, 0.06)
FLOW_SECONDS_MAX = 200

Result = dict[str, float]


def latency(contestant: Contestant) -> Result:
    """W6: from the return of a lone append to the call of the handler, in another process that is idle."""
    count = WARM_UP_EVENTS + sizes.events(LATENCY_EVENTS, least=20)
    draw = random.Random(LATENCY_EVENTS)
    events = read_events(count)
    with follower(contestant) as heard:
        returned = []
        with contestant.appender() as append:
            for event in events:
                time.sleep(draw.uniform(*PAUSE_SECONDS))
                append([event])
                returned.append(time.monotonic())
        called = dict(heard.get(timeout=60) for _ in events)
    times = [(here, called[event.flight]) for event, here in zip(events, returned, strict=True)][WARM_UP_EVENTS:]
    late = [max(0.0, there - here) * 1e3 for here, there in times]
    return {"p50": statistics.median(late), "p99": statistics.quantiles(late, n=100)[98], "events": len(late)}


def flow(call_events: int) -> Callable[[Contestant], Result]:
    """W7: four writers and one consumer, until it has all: what the two can keep up together.

    Who reads without a guard may pass by what commits late. It is through when nothing has come for a while, and what
    it has lost is told.
    """

    def measure(contestant: Contestant) -> Result:
        events_max = max(contestant.flow_events, 4 * call_events + 4)
        with follower(contestant, quiet=True) as heard:
            with writers(contestant, 4, call_events=call_events, events_max=events_max) as counts:
                began = time.monotonic()
            heard.put(sum(counts))
            seen, ended = heard.get(timeout=FLOW_SECONDS_MAX)
            return {"rate": seen / (ended - began), "lost": float(sum(counts) - seen), "events": sum(counts)}

    return measure

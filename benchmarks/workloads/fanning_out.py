"""W8: many subscribers at the head of the log, in one worker process.

A thousand events are appended when everybody has handled the thousand before, so that everybody stays at the head. The
cost is the processor time of the worker's process; how often each event was read is what the database has counted, how
often it was decoded the event's class.
"""

import multiprocessing
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks import sizes
from benchmarks.contestants import load
from benchmarks.contestants.contestant import Append, Contestant
from benchmarks.flights import Counted, FlightEvent, counted_events
from benchmarks.workloads.processes import READY_SECONDS_MAX

ROUNDS = 20
WARM_UP_ROUNDS = 2
ROUND_SECONDS_MAX = 60

Result = dict[str, float]


def fan_out(subscribers: int) -> Callable[[Contestant], Result]:
    """W8: so many subscribers of which each handles every event."""

    def measure(contestant: Contestant) -> Result:
        rounds = max(2, round(ROUNDS * min(1.0, sizes.scale())))
        calls = _calls(WARM_UP_ROUNDS + rounds)
        context = multiprocessing.get_context("spawn")
        told, ready, stop = context.Queue(), context.Event(), context.Event()
        follower = context.Process(
            target=_follow, args=(type(contestant).name, contestant.url, subscribers, told, ready, stop), daemon=True
        )
        follower.start()
        assert ready.wait(timeout=READY_SECONDS_MAX), "the worker did not get ready"
        with contestant.appender() as append:
            before = _rounds(append, calls[:WARM_UP_ROUNDS], told)
            began = time.perf_counter()
            after = _rounds(append, calls[WARM_UP_ROUNDS:], told)
            seconds = time.perf_counter() - began
        stop.set()
        follower.join(timeout=30)
        count, in_all = rounds * sizes.CALL_EVENTS, len(calls) * sizes.CALL_EVENTS
        return {
            "rate": count / seconds,
            "cpu": (after.cpu_seconds - before.cpu_seconds) / count * 1e6,
            "reads": contestant.reads() / in_all,
            "decodes": after.decoded / in_all,
            "events": count,
        }

    return measure


@dataclass(frozen=True, slots=True, kw_only=True)
class _Through:
    """Told by the worker's process when all its handlers have handled a round: what it has used since it began."""

    cpu_seconds: float
    decoded: int


def _rounds(append: Append, calls: Sequence[Sequence[FlightEvent]], told: Any) -> _Through:
    through = _Through(cpu_seconds=0.0, decoded=0)
    for events in calls:
        append(events)
        through = told.get(timeout=ROUND_SECONDS_MAX)
    return through


def _calls(number: int) -> list[Sequence[FlightEvent]]:
    events = counted_events(number * sizes.CALL_EVENTS)
    return [events[start : start + sizes.CALL_EVENTS] for start in range(0, len(events), sizes.CALL_EVENTS)]


def _follow(name: str, url: str, subscribers: int, told: Any, ready: Any, stop: Any) -> None:  # noqa: PLR0917
    over, lock = threading.Event(), threading.Lock()
    left = subscribers

    def one_is_through() -> None:
        nonlocal left
        with lock:
            left -= 1
            if left:
                return
            left = subscribers
        told.put(_Through(cpu_seconds=time.process_time(), decoded=Counted.made()))

    def handler() -> Callable[[FlightEvent], None]:
        seen = 0

        def handle(event: FlightEvent) -> None:
            nonlocal seen
            seen += 1
            if seen % sizes.CALL_EVENTS == 0:
                one_is_through()

        return handle

    def watch() -> None:
        stop.wait()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    load(name)(url).follow_with([handler() for _ in range(subscribers)], ready=ready.set, stop=over)

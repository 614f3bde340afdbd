"""What is measured, of any contestant, in a process that does nothing else.

    python -m benchmarks.workloads WORKLOAD CONTESTANT URL      prints JSON: a rate per second, or milliseconds for W6

Each run has an empty database of its own. Rates are whole jobs: what is counted has been done, durably, when the clock
is stopped, and what came of it is compared with the input.
"""

import json
import multiprocessing
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

import psycopg

from benchmarks.contestants import load
from benchmarks.contestants.contestant import Append, Board, Contestant
from benchmarks.flights import Arrived, FlightEvent, read_events

SECONDS = 4.0
CALL_EVENTS = 1_000
BULK_EVENTS = 100_000
CATCH_UP_EVENTS = 200_000
BY_EVENT_EVENTS = 20_000
PROCESSES_MAX = 4
LATENCY_EVENTS = 200
PAUSE_SECONDS = (0.02, 0.06)
QUIET_SECONDS = 3.0
"""Who has not got everything after so long without any event will not get it."""

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
        with _writers(contestant, clients, call_events=1) as counts:
            began = time.perf_counter()
        return {"rate": sum(counts) / (time.perf_counter() - began)}

    return measure


def bulk(contestant: Contestant) -> Result:
    """W3: a thousand events a call, over many streams."""
    events = read_events(BULK_EVENTS + CALL_EVENTS)
    with contestant.appender() as append:
        append(events[BULK_EVENTS:])
        began = time.perf_counter()
        for start in range(0, BULK_EVENTS, CALL_EVENTS):
            append(events[start : start + CALL_EVENTS])
        seconds = time.perf_counter() - began
    return {"rate": BULK_EVENTS / seconds}


def catch_up(contestant: Contestant) -> Result:
    """W4: what is recorded, typed, handed to a handler, with progress that a crash does not lose."""
    count, minutes = _filled(contestant)
    seen = [0, 0]

    def handle(event: FlightEvent) -> None:
        seen[0] += 1
        seen[1] += event.minutes

    began = time.perf_counter()
    contestant.catch_up(count, handle)
    seconds = time.perf_counter() - began
    assert seen == [count, minutes], (seen, count, minutes)
    return {"rate": count / seconds}


def project(contestant: Contestant) -> Result:
    """W5: what is recorded, counted into a table by carrier, with the last value."""
    count, _ = _filled(contestant)
    began = time.perf_counter()
    contestant.project(count)
    seconds = time.perf_counter() - began
    found, expected = contestant.board(), board_of(read_events(count))
    assert found == expected, (found, expected)
    return {"rate": count / seconds}


def project_by_event(contestant: Contestant) -> Result:
    """W5p: the same, one statement for each event."""
    count = _filled(contestant, BY_EVENT_EVENTS)[0]
    began = time.perf_counter()
    contestant.project_by_event(count)
    seconds = time.perf_counter() - began
    assert contestant.board() == board_of(read_events(count))
    return {"rate": count / seconds}


def latency(contestant: Contestant) -> Result:
    """W6: from the return of a lone append to the call of the handler, in another process that is idle."""
    draw = random.Random(LATENCY_EVENTS)
    events = read_events(LATENCY_EVENTS + 20)
    with _follower(contestant) as heard:
        returned = []
        with contestant.appender() as append:
            for event in events:
                time.sleep(draw.uniform(*PAUSE_SECONDS))
                append([event])
                returned.append(time.monotonic())
        called = [heard.get(timeout=60) for _ in events]
    late = [max(0.0, there - here) * 1e3 for (_, there), here in zip(called, returned, strict=True)][20:]
    return {"p50": statistics.median(late), "p99": statistics.quantiles(late, n=100)[98]}


def flow(call_events: int) -> Callable[[Contestant], Result]:
    """W7: four writers and one consumer, until it has all: what the two can keep up together.

    Who reads without a guard may pass by what commits late. It is through when nothing has come for a while, and what
    it has lost is told.
    """

    def measure(contestant: Contestant) -> Result:
        with _follower(contestant, quiet=True) as heard:
            with _writers(contestant, 4, call_events=call_events) as counts:
                began = time.monotonic()
            heard.put(sum(counts))
            seen, ended = heard.get(timeout=300)
            return {"rate": seen / (ended - began), "lost": float(sum(counts) - seen)}

    return measure


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
}


def board_of(events: list[FlightEvent]) -> Board:
    """Count in plain Python what the contestants count in a table."""
    board: Board = {}
    for event in events:
        if isinstance(event, Arrived):
            board[event.carrier] = (board.get(event.carrier, (0, 0))[0] + 1, event.minutes)
    return board


def _one_by_one(append: Append) -> float:
    """Append for `SECONDS`, and return how many a second."""
    events = iter(read_events(60_000))
    for _ in range(50):
        append([next(events)])
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < SECONDS:
        append([next(events)])
        count += 1
    return count / passed


def _filled(contestant: Contestant, count: int = CATCH_UP_EVENTS) -> tuple[int, int]:
    """Record what is to be caught up with, let the database settle; return the events' number and sum of minutes."""
    events = read_events(count)
    contestant.fill(events)
    with psycopg.connect(contestant.url, autocommit=True) as connection:
        connection.execute("vacuum analyze")
        connection.execute("checkpoint")
    return count, sum(event.minutes for event in events)


@contextmanager
def _writers(contestant: Contestant, clients: int, *, call_events: int) -> Iterator[list[int]]:
    """Begin when so many clients are connected, and end with how many events each process appended in `SECONDS`.

    Each client's first one is among them, appended before the clock started: the consumer gets it as well.
    """
    processes = min(PROCESSES_MAX, clients)
    context = multiprocessing.get_context("spawn")
    ready, counted = context.Barrier(processes + 1), context.Queue()
    workers = [
        context.Process(
            target=_write,
            args=(type(contestant).name, contestant.url, clients // processes, call_events, number, ready, counted),
        )
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    ready.wait()
    counts: list[int] = []
    yield counts
    counts += [counted.get() for _ in workers]
    for worker in workers:
        worker.join()


def _write(  # noqa: PLR0917
    name: str, url: str, clients: int, call_events: int, number: int, ready: Barrier, counted: Any
) -> None:
    contestant = load(name)(url)
    share = 1_000_000 // PROCESSES_MAX
    events = read_events((number + 1) * share)[number * share :]
    counts, go = [0] * clients, threading.Barrier(clients + 1)

    def run(client: int) -> None:
        own = events[client::clients]
        at = 0
        with contestant.appender() as append:
            append(own[-1:])
            go.wait()
            began = time.perf_counter()
            while time.perf_counter() - began < SECONDS and at + call_events < len(own):
                append(own[at : at + call_events])
                at += call_events
        counts[client] = at + 1

    threads = [threading.Thread(target=run, args=[client]) for client in range(clients)]
    for thread in threads:
        thread.start()
    while go.n_waiting < clients:
        time.sleep(0.01)
    ready.wait()
    go.wait()
    for thread in threads:
        thread.join()
    counted.put(sum(counts))


class _Heard:
    """What the following process tells: each call with its time, or how many there were and when it was through."""

    def __init__(self, told: Any, asked: Any) -> None:
        self.get = told.get
        self.put = asked.put


@contextmanager
def _follower(contestant: Contestant, *, quiet: bool = False) -> Iterator[_Heard]:
    context = multiprocessing.get_context("spawn")
    told, asked, ready, stop = context.Queue(), context.Queue(), context.Event(), context.Event()
    process = context.Process(
        target=_follow, args=(type(contestant).name, contestant.url, told, asked, ready, stop, quiet)
    )
    process.start()
    ready.wait()
    time.sleep(0.5)
    try:
        yield _Heard(told, asked)
    finally:
        stop.set()
        process.join(timeout=30)
        process.terminate()


def _follow(name: str, url: str, told: Any, asked: Any, ready: Any, stop: Any, quiet: bool) -> None:  # noqa: PLR0917
    contestant = load(name)(url)
    over = threading.Event()
    seen, last = 0, time.monotonic()

    def handle(event: FlightEvent) -> None:
        nonlocal seen, last
        seen, last = seen + 1, time.monotonic()
        if not quiet:
            told.put((event.flight, last))

    def watch() -> None:
        until = None
        while not stop.wait(0.005):
            if until is None and not asked.empty():
                until = asked.get()
            if until is not None and (seen >= until or time.monotonic() - last > QUIET_SECONDS):
                told.put((seen, last))
                break
        stop.wait()
        over.set()

    threading.Thread(target=watch, daemon=True).start()
    contestant.follow(handle, ready=ready.set, stop=over)


def main() -> None:
    """Measure one workload of one contestant, and print it as JSON."""
    workload, name, url = sys.argv[1:]
    contestant = load(name)(url)
    contestant.create()
    sys.stdout.write(json.dumps(WORKLOADS[workload](contestant)) + "\n")


if __name__ == "__main__":
    main()

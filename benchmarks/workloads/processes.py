"""Processes that append, and one that follows what they append: each contestant in both, with nothing in common."""

import multiprocessing
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from typing import Any

from benchmarks import sizes
from benchmarks.contestants import load
from benchmarks.contestants.contestant import Contestant
from benchmarks.flights import EVENTS, FlightEvent, read_events

SECONDS = 4.0
PROCESSES_MAX = 4
QUIET_SECONDS = 3.0
"""Who has not got everything after so long without any event will not get it."""
READY_SECONDS_MAX = 120.0
SHARE_EVENTS = (30_000, 100_000)
"""What a process of writers has: appending lone events, and many a call. More than it can append in its time."""


@contextmanager
def writers(contestant: Contestant, clients: int, *, call_events: int, events_max: int = EVENTS) -> Iterator[list[int]]:
    """Begin when so many clients are connected, and end with how many events each process appended in `SECONDS`.

    Each client's first one is among them, appended before the clock started: the consumer gets it as well. All clients
    together append no more than `events_max`.
    """
    processes = min(PROCESSES_MAX, clients)
    context = multiprocessing.get_context("spawn")
    ready, counted = context.Barrier(processes + 1), context.Queue()
    each = (clients // processes, call_events, events_max // clients)
    workers = [
        context.Process(
            target=_write, args=(type(contestant).name, contestant.url, *each, number, ready, counted), daemon=True
        )
        for number in range(processes)
    ]
    for worker in workers:
        worker.start()
    ready.wait(timeout=READY_SECONDS_MAX)
    counts: list[int] = []
    yield counts
    counts += [counted.get() for _ in workers]
    for worker in workers:
        worker.join()


def _write(  # noqa: PLR0917
    name: str, url: str, clients: int, call_events: int, events_max: int, number: int, ready: Barrier, counted: Any
) -> None:
    contestant = load(name)(url)
    share = min(SHARE_EVENTS[call_events > 1], sizes.events(clients * (events_max + 1)))
    events = read_events((number + 1) * share)[number * share :]
    counts, go = [0] * clients, threading.Barrier(clients + 1)
    enough = sizes.seconds(SECONDS)

    def run(client: int) -> None:
        own = events[client::clients][: events_max + 1]
        at = 0
        with contestant.appender() as append:
            append(own[-1:])
            go.wait()
            began = time.perf_counter()
            while time.perf_counter() - began < enough and at + call_events < len(own):
                append(own[at : at + call_events])
                at += call_events
        counts[client] = at + 1

    threads = [threading.Thread(target=run, args=[client]) for client in range(clients)]
    for thread in threads:
        thread.start()
    while go.n_waiting < clients:
        time.sleep(0.01)
    ready.wait(timeout=READY_SECONDS_MAX)
    go.wait()
    for thread in threads:
        thread.join()
    counted.put(sum(counts))


class Heard:
    """What the following process tells: each call with its time, or how many there were and when it was through."""

    def __init__(self, told: Any, asked: Any) -> None:
        self.get = told.get
        self.put = asked.put


@contextmanager
def follower(contestant: Contestant, *, quiet: bool = False) -> Iterator[Heard]:
    """Run a process that follows, ready when the block begins. A quiet one tells only the end, when asked for it."""
    context = multiprocessing.get_context("spawn")
    told, asked, ready, stop = context.Queue(), context.Queue(), context.Event(), context.Event()
    process = context.Process(
        target=_follow, args=(type(contestant).name, contestant.url, told, asked, ready, stop, quiet), daemon=True
    )
    process.start()
    assert ready.wait(timeout=READY_SECONDS_MAX), "the following process did not get ready"
    time.sleep(0.5)
    try:
        yield Heard(told, asked)
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

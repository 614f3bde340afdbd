"""How fast the queues catch up with other settings than those they have in the contest.

    python -m benchmarks.tuning [--rounds 3] [--scale 0.2]

For whoever doubts that they are used well. The settings alternate, as contestants do.
"""

import argparse
import time

from benchmarks import sizes
from benchmarks.contestants.contestant import Contestant
from benchmarks.contestants.pgqueuer import Pgqueuer
from benchmarks.contestants.procrastinate import Procrastinate
from benchmarks.flights import FlightEvent, read_events
from benchmarks.results import Collected, show
from benchmarks.server import bench_server, empty_database

TRIED: tuple[tuple[type[Contestant], str, tuple[int, ...]], ...] = (
    (Pgqueuer, "batch", (10, 100, 500, 1_000)),
    (Procrastinate, "concurrency", (1, 4, 10, 30)),
)


def main() -> None:
    """Try the settings in turns, and print what they did."""
    parser = argparse.ArgumentParser(description="the queues of the contest with other settings")
    parser.add_argument("--rounds", type=int, default=3)
    sizes.add_option(parser)
    options = parser.parse_args()
    sizes.take_option(options)
    with bench_server() as server:
        for contestant, setting, values in TRIED:
            collected = Collected("W4")
            for _ in range(options.rounds):
                for value in values:
                    tried = type(contestant.__name__, (contestant,), {setting: value})
                    collected.add(f"{contestant.name} {setting} {value}", {"rate": _rate(server, tried)})
            for one in collected.measured():
                print(show(one, None), flush=True)


def _rate(server: str, tried: type[Contestant]) -> float:
    events = read_events(sizes.events(tried.catch_up_events))
    handled: list[FlightEvent] = []
    with empty_database(server, "tuning") as url:
        contestant = tried(url)
        contestant.create()
        contestant.fill(events)
        contestant.settle()
        began = time.perf_counter()
        contestant.catch_up(len(events), handled.append)
        seconds = time.perf_counter() - began
    assert len(handled) == len(events), (len(handled), len(events))
    return len(events) / seconds


if __name__ == "__main__":
    main()

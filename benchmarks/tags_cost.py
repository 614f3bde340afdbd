"""What tags and conditions cost an append, as ratios within one run.

    python -m benchmarks.tags_cost [--url URL]                   else the server of the tests
    python -m benchmarks.tags_cost --only untagged               what an earlier release can do too

The rounds of the kinds alternate (A B C A B C), and a kind's figure is its best round: what the machine can do when
nobody is in the way. Kinds of one event are appends by one client, each a transaction; kinds of many are one append.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext

from eventlog.events import Event
from eventlog.log import EventLog
from tests.postgres_server import postgres_server

LONE = 1_500
BATCH = 20_000


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", help="a database whose log may be written to; without it, the tests' server")
    arguments.add_argument("--only", choices=["all", "untagged"], default="all")
    arguments.add_argument("--rounds", type=int, default=4)
    given = arguments.parse_args()
    with nullcontext(given.url) if given.url else postgres_server() as url:
        measure(EventLog(url), only=given.only, rounds=given.rounds)


def measure(log: EventLog, *, only: str, rounds: int) -> None:
    log.init()
    kinds = {name: work for name, work in KINDS.items() if only == "all" or "untagged" in name}
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for round_number in range(rounds):
        for name, work in kinds.items():
            begun = time.perf_counter()
            events = work(log, f"{time.time_ns()}-{round_number}")
            seconds[name].append((time.perf_counter() - begun) / events)
    base = {"lone": min(seconds["lone untagged"]), "bulk": min(seconds["bulk untagged"])}
    for name, measured in seconds.items():
        best = min(measured)
        sys.stdout.write(f"{name:34} {1 / best:9,.0f} events/s   {best / base[name.split()[0]]:5.2f} of untagged\n")
    sys.stdout.write(
        f"peak memory of the client {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB\n"
    )


def lone_untagged(log: EventLog, run: str) -> int:
    for number in range(LONE):
        log.append(Event({"n": number}, "t.t", f"{run}-{number % 50}"))
    return LONE


def lone_tagged(log: EventLog, run: str) -> int:
    for number in range(LONE):
        log.append(Event({"n": number}, "t.t", f"{run}-{number % 50}", tags=[f"{run}:{number}", f"{run}:all"]))
    return LONE


def lone_own_transaction(log: EventLog, run: str) -> int:
    for number in range(LONE):
        with log.engine.begin() as connection:
            log.append(Event({"n": number}, "t.t", f"{run}-{number % 50}"), tx=connection)
    return LONE


def lone_condition(log: EventLog, run: str) -> int:
    from eventlog.query import Query

    after = log.head()
    for number in range(LONE):
        decided = Event({"n": number}, "t.t", f"{run}-{number % 50}", tags=[f"{run}:{number}"])
        log.append(decided, unless=Query(types=["t.*"], tags=[f"{run}:{number}"], after=after))
    return LONE


def bulk_untagged(log: EventLog, run: str) -> int:
    log.append(*[Event({"n": number}, "t.t", f"{run}-{number}") for number in range(BATCH)])
    return BATCH


def bulk_tagged(log: EventLog, run: str) -> int:
    log.append(*[Event({"n": number}, "t.t", f"{run}-{number}", tags=[f"{run}:{number}"]) for number in range(BATCH)])
    return BATCH


KINDS: dict[str, Callable[[EventLog, str], int]] = {
    "lone untagged": lone_untagged,
    "lone with two tags": lone_tagged,
    "lone in a transaction of its caller": lone_own_transaction,
    "lone tagged, under a condition": lone_condition,
    "bulk untagged": bulk_untagged,
    "bulk tagged": bulk_tagged,
}

if __name__ == "__main__":
    main()

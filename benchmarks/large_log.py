"""W10: what a log of ten million events costs that an empty one does not.

    python -m benchmarks.large_log [--events 10000000] [--rounds 3] [--json build/large_log.json]

The log is made once, of the flights of 2013 over and over in new streams, by plain INSERTs inside the server. One event
of a thousand is a `flight.diverted`. Then, in turns on the empty and the large log:

W10-append   lone appends by one client
W10-head     reading the last hundred events
W10-sparse   a subscriber of `flight.diverted` catches up; the database says how many rows of events were read for it
W10-status   `eventlog status`, as a command from start to end, of a log with subscribers at both ends
W10-rewind   `eventlog rewind --dry-run` of a subscriber at the head, over the whole log, as a command
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import psycopg

from benchmarks import sizes
from benchmarks.contestants.rewindlog import Rewindlog
from benchmarks.flights import EVENTS, Flight, FlightEvent, iterate_events, read_events, type_of
from benchmarks.results import Collected, Measured, Results, about, show
from benchmarks.server import bench_server, empty_database
from benchmarks.titles import TITLES
from benchmarks.workloads.processes import SECONDS
from eventlog import App, event
from eventlog.log import EventLog

LARGE, EMPTY = "large-log", "empty-log"
SPARSE_OF = 1_000
FEW_EVENTS = 1_000
"""In the empty log, so that it can be read too."""
LAST_EVENTS = 100
READS = 200
"""How often the last events are read for one figure."""
COMMAND_SECONDS_MAX = 300.0

STAGE = "create unlogged table stage (number bigint, stream text, version bigint, type text, data json)"
MULTIPLY = """
insert into eventlog.events (id, stream, version, type, data)
select uuidv7(), stream || '+' || %(turn)s, version,
       case when number %% %(sparse_of)s = 0 then 'flight.diverted' else type end, data
from stage where number <= %(count)s order by number
"""


@event("flight.diverted", stream="{flight}")
class Diverted(Flight, frozen=True):
    """What the sparse subscriber waits for."""


class LogOf(Rewindlog):
    """One of the two logs: with what is measured on both."""

    def appends(self) -> dict[str, float]:
        """Append lone events, for a while."""
        events, began, count = iter(self._fresh_events()), time.perf_counter(), 0
        with self.appender() as append:
            while (passed := time.perf_counter() - began) < sizes.seconds(SECONDS):
                append([next(events)])
                count += 1
        return {"rate": count / passed}

    def head(self) -> dict[str, float]:
        """Read the last events again and again."""
        log = EventLog(self.url)
        after, times = log.head() - LAST_EVENTS, []
        for _ in range(READS):
            began = time.perf_counter()
            found = sum(1 for _ in log.read(after=after))
            times.append((time.perf_counter() - began) * 1e3)
            assert 0 < found <= LAST_EVENTS, found
        log.engine.dispose()
        return {"p50": sorted(times)[READS // 2]}

    def sparse(self, expected: int, number: int) -> dict[str, float]:
        """Have a new subscriber of few events catch up."""
        app, before = App(self.url), self.reads()
        handled = []

        @app.subscriber(f"sparse-{number}")
        def take(diverted: Diverted) -> None:
            handled.append(diverted.flight)

        app.register()
        began = time.perf_counter()
        app.drain()
        seconds = time.perf_counter() - began
        app.engine.dispose()
        assert len(handled) == expected, (len(handled), expected)
        return {"seconds": seconds, "rows": self.reads() - before, "events": len(handled)}

    def command(self, *words: str) -> dict[str, float]:
        """Run a command of the operator's; it has to succeed."""
        environment = {**os.environ, "EVENTLOG_URL": self.url, "EVENTLOG_OUTPUT": "json"}
        # What is installed has its bytecode beside it; where this is set, every command would compile its modules anew.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        began = time.perf_counter()
        done = subprocess.run(
            [Path(sys.executable).with_name("eventlog"), *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS_MAX,
        )
        seconds = time.perf_counter() - began
        assert done.returncode == 0, done.stderr
        json.loads(done.stdout)
        return {"seconds": seconds}

    def _fresh_events(self) -> Iterator[FlightEvent]:
        """The flights in streams that are not there yet."""
        turn = time.monotonic_ns()
        return (msgspec.structs.replace(one, flight=f"{one.flight}-{turn}") for one in read_events(60_000))


def main() -> None:
    """Make the log, measure both, print and keep the figures."""
    parser = argparse.ArgumentParser(description="what a large log costs that an empty one does not")
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/large_log.json"))
    sizes.add_option(parser)
    options = parser.parse_args()
    sizes.take_option(options)
    count = sizes.events(options.events)
    with bench_server() as server, empty_database(server, "small") as small, empty_database(server, "large") as large:
        here = about(server, packages=Rewindlog.packages, rounds=options.rounds)
        print(here, flush=True)
        logs = {EMPTY: LogOf(small), LARGE: LogOf(large)}
        for log in logs.values():
            log.create()
        logs[EMPTY].fill(read_events(FEW_EVENTS))
        logs[EMPTY].settle()
        rare = fill_large(logs[LARGE], count)
        found = measure(logs, sparse_events=rare, rounds=options.rounds)
        Results(script="large_log", about=here, measured=found).write(options.json)


def fill_large(log: LogOf, count: int) -> int:
    """Record so many events, let the database settle, and return how many are of the rare type."""
    began, rare = time.perf_counter(), 0
    with psycopg.connect(log.url, autocommit=True) as connection:
        connection.execute(STAGE)
        each = min(EVENTS, count)
        with connection.cursor().copy("copy stage from stdin") as copy:
            for row in _stage(each):
                copy.write_row(row)
        for turn in range(-(-count // each)):
            wanted = min(each, count - turn * each)
            connection.execute(MULTIPLY, {"turn": turn, "sparse_of": SPARSE_OF, "count": wanted})
            rare += wanted // SPARSE_OF
        connection.execute("drop table stage")
    log.settle()
    seconds = time.perf_counter() - began
    print(f"{count:,} events recorded in {seconds:.0f} s, {count / seconds:,.0f}/s", flush=True)
    return rare


def measure(logs: dict[str, LogOf], *, sparse_events: int, rounds: int) -> list[Measured]:
    """Measure both logs in turns, and print what was found."""
    workloads = [name for name in TITLES if name.startswith("W10-")]
    collected = {name: Collected(name) for name in workloads}
    for number in range(rounds):
        for name, log in logs.items():
            collected["W10-append"].add(name, log.appends())
        for name, log in logs.items():
            collected["W10-head"].add(name, log.head())
        collected["W10-sparse"].add(LARGE, logs[LARGE].sparse(sparse_events, number))
    _declare_subscribers(logs)
    for _ in range(rounds):
        for name, log in logs.items():
            collected["W10-status"].add(name, log.command("status"))
            words = ("rewind", "at-the-head", "--from", "1", "--resend", "--dry-run")
            collected["W10-rewind"].add(name, log.command(*words))
    found = [one for name in workloads for one in collected[name].measured()]
    for workload in workloads:
        print(f"\n{workload:12}{TITLES[workload]}")
        those = {one.contestant: one for one in found if one.workload == workload}
        for one in those.values():
            print(show(one, those.get(EMPTY)), flush=True)
    return found


def _declare_subscribers(logs: dict[str, LogOf]) -> None:
    for log in logs.values():
        app = App(log.url)
        for name in ("at-the-start", "at-the-head"):

            @app.subscriber(name)
            def take(flight: FlightEvent) -> None:
                raise NotImplementedError

        app.register()
        app.engine.dispose()
        log.command("advance", "at-the-head", "--to-end", "--yes")


def _stage(count: int) -> Iterator[tuple[Any, ...]]:
    versions: dict[str, int] = {}
    for number, one in zip(range(1, count + 1), iterate_events(), strict=False):
        version = versions[one.flight] = versions.get(one.flight, 0) + 1
        yield number, one.flight, version, type_of(one), msgspec.json.encode(one).decode()


if __name__ == "__main__":
    main()

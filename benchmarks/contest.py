"""Everybody in one run: this project, its peers, and what the database can do, by workload.

    python -m benchmarks.contest [W1 W4 ...] [--rounds 3] [--only rewindlog] [--json build/contest.json]

Starts a PostgreSQL of its own at shipped durability (fsync and synchronous_commit on). In each round every contestant
has its turn, in an empty database and a process of its own, so that a disk that becomes slower does so for all of them.
Printed are medians, the spread, and what they are in parts of the limit. Who does not finish within `--seconds-max`,
or fails, is reported as such; the exit code is 1 if this project is among them.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import sizes
from benchmarks.contestants import NAMES, load
from benchmarks.contestants.contestant import Contestant
from benchmarks.results import Collected, Measured, Results, about, show
from benchmarks.server import bench_server, empty_database
from benchmarks.titles import TITLES
from benchmarks.workloads import WORKLOADS

LIMITS = {"postgresql": "raw", "sqlite": "raw-sqlite"}
"""What contestants are compared with, by database."""
LIMITS_OF_WORKLOADS = {"W6": "raw-notify"}
SECONDS_MAX = 240.0


def main() -> None:
    """Run the contest, print it, and keep the figures."""
    parser = argparse.ArgumentParser(description="this project, its peers and the limits, measured in one run")
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"of {', '.join(WORKLOADS)}; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=NAMES, help="a contestant, may be given several times")
    parser.add_argument("--json", type=Path, default=Path("build/contest.json"))
    parser.add_argument("--seconds-max", type=float, default=SECONDS_MAX, help="how long one run may take")
    sizes.add_option(parser)
    options = parser.parse_args()
    workloads = options.workloads or list(WORKLOADS)
    if unknown := set(workloads) - set(WORKLOADS):
        parser.error(f"no workload {', '.join(sorted(unknown))}: choose from {', '.join(WORKLOADS)}")
    sizes.take_option(options)
    contestants = [load(name) for name in options.only] if options.only else list(_installed())
    found: list[Measured] = []
    with bench_server() as url:
        packages = [package for one in contestants for package in one.packages]
        here = about(url, packages=packages, rounds=options.rounds)
        print(here, flush=True)
        for workload in workloads:
            takers = [one for one in contestants if workload in one.workloads]
            found += measure(url, workload, takers, options.rounds, options.seconds_max)
            Results(script="contest", about=here, measured=found).write(options.json)
    if any(one.problems and one.contestant.startswith("rewindlog") for one in found):
        raise SystemExit(1)


def _installed() -> Iterator[type[Contestant]]:
    for name in NAMES:
        try:
            yield load(name)
        except ImportError as error:
            print(f"left out: {name} ({error}); `make bench` installs it", file=sys.stderr)


def measure(
    url: str, workload: str, takers: Sequence[type[Contestant]], rounds: int, seconds_max: float
) -> list[Measured]:
    """Give every contestant its turns at one workload, and print what they did."""
    collected = Collected(workload)
    for number in range(rounds):
        for taker in takers:
            try:
                collected.add(taker.name, _one_run(url, workload, taker, number, seconds_max))
            except _NoFigureError as error:
                collected.fail(taker.name, str(error))
    found = collected.measured()
    databases = {taker.name: taker.database for taker in takers}
    limits = {one.contestant: one for one in found}
    print(f"\n{workload:7}{TITLES[workload]}")
    for one in found:
        limit = limits.get(LIMITS_OF_WORKLOADS.get(workload, LIMITS[databases[one.contestant]]))
        print(show(one, limit), flush=True)
    return found


class _NoFigureError(Exception):
    """A run has failed or was not over in time."""


def _one_run(server: str, workload: str, taker: type[Contestant], number: int, seconds_max: float) -> dict[str, float]:
    with _database(server, f"w{number}_{workload}_{taker.name}", taker.database) as url:
        command = [sys.executable, "-m", "benchmarks.workloads", workload, taker.name, url]
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        try:
            out, err = process.communicate(timeout=seconds_max)
        except subprocess.TimeoutExpired:
            raise _NoFigureError(f"did not finish within {seconds_max:.0f} s") from None
        finally:
            _end(process)
    if process.returncode:
        print(err, file=sys.stderr)
        raise _NoFigureError(f"failed: {err.strip().splitlines()[-1] if err.strip() else process.returncode}")
    return dict(json.loads(out.splitlines()[-1]))


def _end(process: subprocess.Popen[str]) -> None:
    """End what the run has left: its own processes have its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.communicate()


@contextmanager
def _database(server: str, label: str, kind: str) -> Iterator[str]:
    """Lend an empty database."""
    if kind == "sqlite":
        with tempfile.TemporaryDirectory(prefix="eventlog-bench-") as folder:
            yield f"sqlite:///{folder}/log.db"
        return
    with empty_database(server, label.lower().replace("-", "_")) as url:
        yield url


if __name__ == "__main__":
    main()

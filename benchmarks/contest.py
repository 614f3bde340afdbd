"""Everybody in one run: this project, and what the database can do, by workload.

    python -m benchmarks.contest [W1 W4 ...] [--rounds 3] [--only rewindlog] [--json build/contest.json]

Starts a PostgreSQL of its own at shipped durability (fsync and synchronous_commit on). In each round every contestant
has its turn, in an empty database and a process of its own, so that a disk that becomes slower does so for all of them.
Printed are medians, the spread, and what they are in parts of the limit.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psycopg
import sqlalchemy

from benchmarks.contestants import NAMES, load
from tests.postgres_server import server_of_the_wheel

SETTINGS = {"max_connections": "200"}
"""All else is as PostgreSQL is shipped."""
LIMITS = {"W6": "raw-notify"}
"""What a workload is compared with, where it is not `raw`."""
TITLES = {
    "W1": "lone durable appends, 1 client",
    "W1t": "append and a row in one Session",
    "W2-8": "lone appends, 8 clients",
    "W2-32": "lone appends, 32 clients",
    "W3": "1,000 events a call",
    "W4": "catch-up, typed, checkpointed",
    "W5": "catch-up into a read model",
    "W5p": "the same, a statement an event",
    "W6": "commit to handler, idle",
    "W7-1": "4 writers and a consumer",
    "W7-100": "the same, 100 events a call",
}


class Measured(msgspec.Struct, frozen=True):
    """One contestant at one workload: every round's figure, by unit (`rate` per second; `p50`, `p99` milliseconds)."""

    workload: str
    contestant: str
    rounds: dict[str, list[float]]

    def median(self, unit: str) -> float:
        return statistics.median(self.rounds[unit])


def main() -> None:
    """Run the contest, print it, and keep the figures."""
    parser = argparse.ArgumentParser(description="this project and the limits, measured in one run")
    parser.add_argument("workloads", nargs="*", metavar="W", help=f"of {', '.join(TITLES)}; all if left out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", action="append", choices=NAMES, help="a contestant, may be given several times")
    parser.add_argument("--json", type=Path, default=Path("build/contest.json"))
    options = parser.parse_args()
    workloads = options.workloads or list(TITLES)
    if unknown := set(workloads) - set(TITLES):
        parser.error(f"no workload {', '.join(sorted(unknown))}: choose from {', '.join(TITLES)}")
    names = options.only or NAMES
    options.json.parent.mkdir(parents=True, exist_ok=True)
    found: list[Measured] = []
    with server_of_the_wheel(SETTINGS) as url:
        about = _about(url, names)
        print(about)
        for workload in workloads:
            found += _measure(url, workload, names, options.rounds)
            kept = {"about": about, "measured": msgspec.to_builtins(found)}
            options.json.write_text(json.dumps(kept, indent=1) + "\n")


def _measure(url: str, workload: str, names: Sequence[str], rounds: int) -> list[Measured]:
    figures: dict[str, dict[str, list[float]]] = {}
    takers = [name for name in names if workload in load(name).workloads]
    for number in range(rounds):
        for name in takers:
            for unit, value in _one_run(url, workload, name, f"w{number}").items():
                figures.setdefault(name, {}).setdefault(unit, []).append(value)
    found = [Measured(workload, name, units) for name, units in figures.items()]
    _show(workload, found)
    return found


def _one_run(server: str, workload: str, name: str, label: str) -> dict[str, float]:
    database = f"{label}_{workload}_{name}".lower().replace("-", "_")
    base = sqlalchemy.make_url(server).set(drivername="postgresql")
    with psycopg.connect(base.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"create database {database}".encode())
        url = base.set(database=database).render_as_string(hide_password=False)
        command = [sys.executable, "-m", "benchmarks.workloads", workload, name, url]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        connection.execute(f"drop database {database} with (force)".encode())
    if done.returncode:
        raise SystemExit(f"{workload} of {name} failed:\n{done.stderr}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _show(workload: str, found: Sequence[Measured]) -> None:
    limit = next((one for one in found if one.contestant == LIMITS.get(workload, "raw")), None)
    print(f"\n{workload:7}{TITLES[workload]}")
    for one in found:
        for unit, values in one.rounds.items():
            middle = one.median(unit)
            if unit == "lost":
                print(f"  {'':15}{middle:11,.0f} events lost in a run")
                continue
            ratio = f"{middle / limit.median(unit):6.2f} of {limit.contestant}" if limit is not None else ""
            shown = f"{middle:11,.0f}/s" if unit == "rate" else f"{unit} {middle:6.2f} ms"
            spread = (max(values) - min(values)) / middle
            print(f"  {one.contestant:15}{shown}  ±{spread / 2:4.0%}  {ratio}", flush=True)


def _about(url: str, names: Sequence[str]) -> str:
    packages = sorted({package for name in names for package in load(name).packages})
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    plain = sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        shown = [connection.execute(f"show {one}".encode()).fetchone() for one in ("server_version", "fsync")]
    server, fsync = (str(row[0]) if row else "?" for row in shown)
    return (
        f"PostgreSQL {server} (fsync {fsync}), Python {platform.python_version()}, {os.cpu_count()} cores,"
        f" {platform.machine()}\n{versions}"
    )


if __name__ == "__main__":
    main()

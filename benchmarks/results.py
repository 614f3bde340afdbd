"""What a benchmark finds, as it is kept: every round's figure of everybody, and where it was measured.

All scripts write the same form, so that `benchmarks/report.py` makes one page of them.
"""

import datetime
import importlib.metadata
import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import psycopg
import sqlalchemy

from benchmarks import sizes

UNITS = {
    "rate": "/s",
    "p50": " ms (p50)",
    "p99": " ms (p99)",
    "seconds": " s",
    "cpu": " µs of processor an event",
    "reads": " reads an event",
    "decodes": " decodings an event",
    "rows": " rows read",
    "megabytes_few": " MB at the first reading",
    "megabytes_many": " MB at the second",
    "lost": " events lost",
    "events": " events",
}
"""What is counted. `lost` and `events` tell about a run and are compared with nothing."""
NOTES = frozenset({"lost", "events"})
SHOWN_SETTINGS = ("server_version", "fsync", "synchronous_commit", "full_page_writes", "shared_buffers", "max_wal_size")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One contestant at one workload: every round's figures by unit, and what kept it from finishing a round."""

    workload: str
    contestant: str
    rounds: dict[str, list[float]]
    problems: tuple[str, ...] = ()

    def median(self, unit: str) -> float:
        """Return the middle one of the rounds."""
        return statistics.median(self.rounds[unit])

    def spread(self, unit: str) -> float:
        """Return how far the rounds lie to either side of the middle of them, in parts of the median."""
        values = self.rounds[unit]
        middle = self.median(unit)
        return (max(values) - min(values)) / 2 / middle if middle else 0.0


class About(msgspec.Struct, frozen=True, kw_only=True):
    """The machine, the versions, and how much was done."""

    taken_at: str
    machine: str
    python: str
    sqlite: str
    packages: dict[str, str]
    postgres: dict[str, str]
    rounds: int
    scale: float

    def place(self) -> str:
        """Tell where it was measured."""
        settings = ", ".join(f"{name} {value}" for name, value in self.postgres.items())
        return f"{self.machine}, Python {self.python}, SQLite {self.sqlite}, PostgreSQL with {settings}."

    def run(self) -> str:
        """Tell when, how often and how much."""
        size = "full size" if self.scale == 1 else f"{self.scale:g} of the full size"
        return f"{self.taken_at}, {self.rounds} rounds at {size}"

    def __str__(self) -> str:
        versions = ", ".join(f"{name} {version}" for name, version in self.packages.items())
        return f"{self.run()}\n{self.place()}\n{versions}"


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What one script found in one run."""

    script: str
    about: About
    measured: list[Measured]

    def write(self, path: Path) -> None:
        """Keep them, in a folder that is made if need be."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")


def read_results(paths: Iterable[Path]) -> list[Results]:
    """Read what scripts have kept. Raises `msgspec.ValidationError` for another form."""
    return [msgspec.json.decode(path.read_bytes(), type=Results) for path in paths]


class Collected:
    """Collects figures of rounds, in the order in which contestants first have one."""

    def __init__(self, workload: str) -> None:
        self._workload = workload
        self._rounds: dict[str, dict[str, list[float]]] = {}
        self._problems: dict[str, list[str]] = {}

    def add(self, contestant: str, figures: dict[str, float]) -> None:
        """Note what one round gave."""
        rounds = self._rounds.setdefault(contestant, {})
        for unit, value in figures.items():
            rounds.setdefault(unit, []).append(value)

    def fail(self, contestant: str, problem: str) -> None:
        """Note that a round gave nothing, and why."""
        self._rounds.setdefault(contestant, {})
        self._problems.setdefault(contestant, []).append(problem)

    def measured(self) -> list[Measured]:
        """Return what has been collected."""
        return [
            Measured(
                workload=self._workload, contestant=name, rounds=units, problems=tuple(self._problems.get(name, ()))
            )
            for name, units in self._rounds.items()
        ]


def about(url: str, *, packages: Sequence[str], rounds: int) -> About:
    """Look at the machine and the server."""
    return About(
        taken_at=datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        machine=f"{os.cpu_count()} cores, {_memory_gib():.0f} GiB, {platform.system()} {platform.machine()}",
        python=platform.python_version(),
        sqlite=sqlite3.sqlite_version,
        packages={name: importlib.metadata.version(name) for name in sorted(set(packages))},
        postgres=_settings(url),
        rounds=rounds,
        scale=sizes.scale(),
    )


def show(measured: Measured, limit: Measured | None) -> str:
    """Write what one contestant did in lines, its ratios to another one beside."""
    lines = []
    for unit, values in measured.rounds.items():
        if unit in NOTES:
            continue
        middle, shown = measured.median(unit), number(measured.median(unit))
        there = limit is not None and unit in limit.rounds and limit.median(unit)
        ratio = f"{middle / limit.median(unit):6.2f} of {limit.contestant}" if limit and there else ""
        lines.append(
            f"  {measured.contestant:24}{shown + UNITS[unit]:>36}  ±{measured.spread(unit):4.0%}"
            f" of {len(values)}  {ratio}".rstrip()
        )
    if any(measured.rounds.get("lost", ())):
        lines.append(f"  {'':24}{measured.median('lost'):,.0f} events lost in a run")
    lines += [f"  {measured.contestant:24}{problem}" for problem in measured.problems]
    return "\n".join(lines)


def number(value: float) -> str:
    """Write a figure with as many digits as mean something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _settings(url: str) -> dict[str, str]:
    plain = sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain) as connection:
        shown = {name: connection.execute(f"show {name}".encode()).fetchone() for name in SHOWN_SETTINGS}
    return {name: str(row[0]) for name, row in shown.items() if row}

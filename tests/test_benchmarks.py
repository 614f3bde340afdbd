"""The benchmarks: every workload runs, small, and compares its results with its input; marks are judged as they say."""

import csv
import io
import json
import os
import subprocess
import sys
import uuid
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from benchmarks import report, sizes
from benchmarks.marks import judge
from benchmarks.results import About, Collected, Measured, Results, read_results
from benchmarks.server import empty_database

FLIGHTS = 5_000
RATES = ("W1", "W1t", "W3", "W4", "W5", "W5p", "W7-1", "W8-10")
SOAKED = ("W2-8", "W7-100", "W9-2", "W11") if "EVENTLOG_SOAK" in os.environ else ()
"""Each process that a workload starts costs the better part of a second."""
SECONDS_MAX = 1_500 if SOAKED else 250


@pytest.fixture(scope="module")
def found(
    postgres_url: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[str, Any]]:
    """What the workloads found, by workload and contestant: at a hundredth of their size, on made-up flights."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with ExitStack() as stack:
        wanted = [("late", "rewindlog", plain(postgres_url))]
        for workload in (*RATES, "W6", *SOAKED):
            lent = empty_database(postgres_url, f"benchmark_{uuid.uuid4().hex}", template=postgres_template)
            wanted.append((workload, "rewindlog", stack.enter_context(lent)))
        wanted += [
            (workload, name, f"sqlite:///{folder}/{workload}-{name}.db")
            for workload in ("W1", "W3", "W4", "W5")
            for name in ("raw-sqlite", "rewindlog-sqlite")
        ]
        answers = run(folder, wanted)
    return {(workload, name): answer for (workload, name, _), answer in zip(wanted, answers, strict=True)}


def run(folder: Path, wanted: Sequence[tuple[str, str, str]]) -> list[dict[str, Any]]:
    """Run workloads in one process, whose children cost enough."""
    environment = {**os.environ, sizes.VARIABLE: "0.01", "EVENTLOG_BENCH_FLIGHTS": str(flights_in(folder))}
    command = [sys.executable, "-m", "tests.benchmarks_child", json.dumps(wanted)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stderr
    answers: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return answers


def flights_in(folder: Path) -> Path:
    """Write flights in the form of the package they are from otherwise: most arrive, every seventh is cancelled."""
    text = io.StringIO()
    times = ("dep_time", "dep_delay", "arr_time", "arr_delay")
    names = ("month", "day", *times, "carrier", "flight", "tailnum", "origin", "dest", "time_hour")
    rows = csv.DictWriter(text, names)
    rows.writeheader()
    for number in range(FLIGHTS):
        known = dict.fromkeys(times, "NA" if number % 7 == 0 else str(number % 60))
        place = {"month": 1, "day": 1 + number // 500, "carrier": ("AA", "B6", "UA")[number % 3], "flight": number}
        rows.writerow({**place, **known, "tailnum": "N1", "origin": "JFK", "dest": "BOS", "time_hour": "2013-01-01"})
    path = folder / "flights.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("flights.csv", text.getvalue())
    return path


@pytest.mark.timeout(SECONDS_MAX + 50)
def test_every_workload_runs_and_finds_what_was_put_in(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    ours = {workload: figures for (workload, name), figures in found.items() if name == "rewindlog"}

    assert all(ours[workload]["rate"] > 0 for workload in RATES)
    assert ours["W7-1"]["lost"] == 0
    assert 0 < ours["W6"]["p50"] <= ours["W6"]["p99"]
    assert ours["W8-10"]["decodes"] == pytest.approx(1, rel=0.05), "two threads may decode the same event at a time"
    assert ours.keys() >= {*SOAKED}


def test_on_sqlite_the_limit_and_ours_do_the_same(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    rates = {(workload, name): figures["rate"] for (workload, name), figures in found.items() if "sqlite" in name}

    assert len(rates) == 8
    assert all(rate > 0 for rate in rates.values())


def test_who_is_not_through_in_time_is_reported(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    assert found["late", "rewindlog"] == {"problems": ["did not finish within 0 s"], "figures": {}}


def test_a_mark_is_reached_missed_or_not_measured() -> None:
    measured = [one("W1", "rewindlog", 80), one("W1", "raw", 100), one("W1", "eventsourcing", 40)]

    verdicts = {(it.mark.workload, it.mark.claim): (it.value, it.reached) for it in judge(measured)}

    assert verdicts["W1", "at least 0.8 x raw"] == (0.8, True)
    assert verdicts["W1", "at least 3 x eventsourcing"] == (2.0, False)
    assert verdicts["W3", "at least 0.6 x raw"] == (None, None)


def test_ahead_of_every_peer_is_ahead_of_the_best_of_them() -> None:
    rates = [one("W3", "rewindlog", 50), one("W3", "pgqueuer", 40), one("W3", "procrastinate", 60)]
    times = [one("W6", "rewindlog", 2, unit="p50"), one("W6", "pgqueuer", 3, unit="p50")]

    verdicts = {it.mark.workload: it.reached for it in judge(rates + times) if it.mark.claim == "ahead of every peer"}

    assert verdicts["W3"] is False
    assert verdicts["W6"] is True


def test_the_page_gets_the_figures_between_its_marks_and_nothing_else(tmp_path: Path) -> None:
    collected = Collected("W7-1")
    collected.add("raw", {"rate": 100, "lost": 7, "events": 50})
    collected.add("rewindlog", {"rate": 60, "lost": 0, "events": 50})
    collected.fail("procrastinate", "did not finish within 240 s")
    kept = tmp_path / "kept" / "contest.json"
    Results(script="contest", about=ABOUT, measured=collected.measured()).write(kept)
    page = f"before\n{report.BEGIN}\nold figures\n{report.END}\nafter\n"

    new = report.replaced(page, report.render(read_results([kept])))

    assert new.startswith(f"before\n{report.BEGIN}\n")
    assert new.endswith(f"{report.END}\nafter\n")
    assert "old figures" not in new
    assert report.replaced(report.PAGE.read_text(), "new ones").count("new ones") == 1
    assert "| 100 ±0% | 60.00 ±0%, 0.60 |" in new
    assert "- W7-1: raw lost 7 of 50 events in a run" in new
    assert "- W7-1: procrastinate did not finish within 240 s" in new
    assert "| W7-1 | 4 writers and a consumer process | at least 0.6 x raw | 0.60 | reached |" in new


def plain(url: str) -> str:
    """Write a URL as PostgreSQL's own programs do: not only SQLAlchemy is measured."""
    return url.replace("postgresql+psycopg", "postgresql")


def one(workload: str, contestant: str, value: float, *, unit: str = "rate") -> Measured:
    return Measured(workload=workload, contestant=contestant, rounds={unit: [value]})


ABOUT = About(
    taken_at="2013-01-01T00:00+00:00",
    machine="2 cores",
    python="3.11",
    sqlite="3.40",
    packages={"rewindlog": "0"},
    postgres={"fsync": "on"},
    rounds=1,
    scale=1.0,
)

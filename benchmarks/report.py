"""Writes the figures into docs/performance.md: everything between its two marks is made here, nothing else is touched.

    python -m benchmarks.report [build/contest.json ...] [--page docs/performance.md]

Takes what the benchmarks have kept, by itself the three files they write. Where two of them have the same workload, the
later one named counts.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from benchmarks.contestants import PEERS
from benchmarks.marks import Judged, judge
from benchmarks.results import NOTES, UNITS, Measured, Results, number, read_results
from benchmarks.titles import TITLES

FILES = [Path("build") / f"{name}.json" for name in ("contest", "large_log", "safety_cost")]
PAGE = Path("docs/performance.md")
BEGIN = "<!-- figures: begin (python -m benchmarks.report) -->"
END = "<!-- figures: end -->"
POSTGRES = ("raw", "raw-notify", "rewindlog", *PEERS)
SQLITE = ("raw-sqlite", "rewindlog-sqlite")
LOGS = ("empty-log", "large-log")
TABLES: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("Beside the peers and the limits", ("W1", "W1t", "W2", "W3", "W4", "W5", "W5p", "W6", "W7"), POSTGRES),
    ("Subscribers, processes, memory", ("W8", "W9", "W11"), ("raw", "rewindlog")),
    ("A log of ten million events", ("W10",), LOGS),
    ("On a SQLite file", ("W1", "W3", "W4", "W5"), SQLITE),
    (
        "The cost of safety",
        ("S",),
        ("unguarded", "guarded", "with-worker", "table-lock", "always-notify"),
    ),
)
"""Each with its workloads, as called before the dash, and its columns; the first that has a figure is the limit."""


def main() -> None:
    """Replace the figures in the page."""
    parser = argparse.ArgumentParser(description="write the figures into the page about performance")
    parser.add_argument("files", nargs="*", type=Path, help="what benchmarks have kept")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--print", action="store_true", help="print the figures, and leave the page alone")
    options = parser.parse_args()
    results = read_results(options.files or [path for path in FILES if path.exists()])
    if options.print:
        print(render(results))
        return
    options.page.write_text(replaced(options.page.read_text(), render(results)))


def replaced(page: str, figures: str) -> str:
    """Return the page with other figures. Raises `ValueError` if it has no place for them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no place for figures: it needs {BEGIN!r} and {END!r}, each on a line")
    return f"{before}{BEGIN}\n\n{figures}\n\n{END}{after}"


def render(results: Sequence[Results]) -> str:
    """Write all figures as Markdown."""
    latest = {(one.workload, one.contestant): one for result in results for one in result.measured}
    measured = list(latest.values())
    parts = [_about(results), "### The marks", _marks(judge(measured))]
    for title, workloads, columns in TABLES:
        rows = [name for name in TITLES if name.split("-")[0] in workloads]
        table = _table(rows, [one for one in columns if any((row, one) in latest for row in rows)], latest)
        parts += [f"### {title}", *table] if table else []
    return "\n\n".join(parts)


def _about(results: Iterable[Results]) -> str:
    """Where it was measured, once if it is the same for all."""
    places = dict.fromkeys(one.about.place() for one in results)
    runs = "; ".join(f"`{one.script}` {one.about.run()}" for one in results)
    packages = {name: version for one in results for name, version in one.about.packages.items()}
    versions = ", ".join(f"{name} {version}" for name, version in packages.items())
    return "\n\n".join([*places, versions + ".", runs + "."])


def _marks(judged: Iterable[Judged]) -> str:
    lines = ["| | | mark | found | |", "|---|---|---|---|---|"]
    for one in judged:
        found = "" if one.value is None else number(one.value)
        verdict = {True: "reached", False: "**missed**", None: "not measured"}[one.reached]
        lines.append(f"| {one.mark.workload} | {TITLES[one.mark.workload]} | {one.mark.claim} | {found} | {verdict} |")
    return "\n".join(lines)


def _table(rows: Sequence[str], columns: Sequence[str], latest: dict[tuple[str, str], Measured]) -> list[str]:
    lines = [f"| | | {' | '.join(columns)} |", "|---" * (2 + len(columns)) + "|"]
    notes: list[str] = []
    for row in rows:
        there = {column: latest[row, column] for column in columns if (row, column) in latest}
        units = dict.fromkeys(unit for one in there.values() for unit in one.rounds if unit not in NOTES)
        for unit in units:
            limit = next(one for one in there.values() if unit in one.rounds)
            cells = [_cell(there.get(column), unit, limit) for column in columns]
            lines.append(f"| {row} | {TITLES[row]}, {UNITS[unit].strip()} | {' | '.join(cells)} |")
        notes += _notes(row, there)
    return ["\n".join(lines), *(["\n".join(f"- {note}" for note in notes)] if notes else [])] if lines[2:] else []


def _cell(one: Measured | None, unit: str, limit: Measured) -> str:
    if one is None or unit not in one.rounds:
        return ""
    ratio = "" if one is limit or not limit.median(unit) else f", {one.median(unit) / limit.median(unit):.2f}"
    return f"{number(one.median(unit))} ±{one.spread(unit):.0%}{ratio}"


def _notes(row: str, there: dict[str, Measured]) -> Iterator[str]:
    counts = {name: one.median("events") for name, one in there.items() if "events" in one.rounds}
    if len(set(counts.values())) > 1 and not row.startswith("W7"):
        yield f"{row}: events " + ", ".join(f"{name} {count:,.0f}" for name, count in counts.items())
    for name, one in there.items():
        if any(one.rounds.get("lost", ())):
            yield f"{row}: {name} lost {one.median('lost'):,.0f} of {one.median('events'):,.0f} events in a run"
        yield from (f"{row}: {name} {problem}" for problem in one.problems)


if __name__ == "__main__":
    main()

"""What a run says: line by line while it goes on, and as a table for docs/reliability.md."""

import importlib.metadata
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lost_events.adapters import Adapter
from benchmarks.lost_events.adapters.adapter import Promise
from benchmarks.lost_events.race import Race

PAGE = Path(__file__).parent.parent.parent / "docs" / "reliability.md"
BEGIN = "<!-- written by `python -m benchmarks.lost_events --write-docs` -->"
END = "<!-- until here -->"
_BETWEEN = re.compile(f"({re.escape(BEGIN)}\n).*?({re.escape(END)})", re.DOTALL)


def line(race: Race) -> str:
    """Say in one line what came of a race."""
    if race.promise is Promise.LOSES:
        outcome = "caught" if race.is_as_promised else "NOT CAUGHT: nothing was lost, so this run proves nothing"
    else:
        outcome = "as promised" if race.is_as_promised else "NOT AS PROMISED"
    return f"{race}; {race.killed} connections ended; {outcome}"


def shapes(race: Race) -> str:
    """Say how often each shape was done."""
    return ", ".join(f"{name.name.lower()} {count:,}" for name, count in sorted(race.done.items()) if count)


def about(server: str, adapters: Sequence[type[Adapter]]) -> str:
    """Say on what a run was made."""
    packages = sorted({package for adapter in adapters for package in adapter.packages})
    versions = ", ".join(f"{package} {importlib.metadata.version(package)}" for package in packages)
    return f"{server}, Python {platform.python_version()}, {os.cpu_count()} cores; {versions}"


def write_docs(page: Path, races: Sequence[tuple[Race, type[Adapter]]], *, writers: int, where: str) -> None:
    """Write the table between its marks. Raises `ValueError` when the page has none."""
    text, count = _BETWEEN.subn(rf"\g<1>{table(races, writers=writers, where=where)}\g<2>", page.read_text())
    if count != 1:
        raise ValueError(f"{page} has {count} places for the table: put `{BEGIN}` and `{END}` around one")
    page.write_text(text)


def table(races: Sequence[tuple[Race, type[Adapter]]], *, writers: int, where: str) -> str:
    """The table, and what it was made on."""
    first = races[0][0]
    rows = [
        "| reader | how it reads | committed | rolled back | looked up | missed | twice | out of order |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for race, adapter in races:
        verdict = race.verdict
        counts = (
            verdict.committed,
            verdict.rolled_back,
            verdict.unknown,
            len(verdict.missed),
            len(verdict.twice),
            len(verdict.out_of_order),
        )
        control = " (control)" if race.promise is Promise.LOSES else ""
        cells = " | ".join(f"{count:,}" for count in counts)
        rows.append(f"| {race.adapter}{control} | {adapter.about} | {cells} |")
    made = f"{where}; {writers} writers for {first.seconds:g} s each, seed {first.seed}."
    return "\n".join(["", *rows, "", made, "", ""])

"""How commands print: data on stdout, talk on stderr, tables for people, JSON for programs.

A table on a terminal fits its width, and is set row under row where it cannot; in a pipe it is plain text, every cell
whole, so that other tools can pick it apart. What comes out of a database is never passed to a terminal with control
characters in it.
"""

import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from eventlog.clock import utc_now

if TYPE_CHECKING:
    from rich.table import Table

_WRAPPED_WIDTH = 12
"""How narrow a cell is that may be broken over lines: narrower ones are a word or less."""

ROWS_MEASURED = 200
"""How many rows of a stream decide the widths of its columns; the rest is not waited for."""


class Format(StrEnum):
    """The forms of output."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column of a table: numbers stand on the right; `wraps` may be broken over lines on a narrow terminal.

    `width_min` is how wide it begins where it is printed as rows come.
    """

    title: str
    right: bool = False
    wraps: bool = False
    width_min: int = 0


def say(message: str = "") -> None:
    """Tell the person at the terminal something; never data."""
    print(message, file=sys.stderr, flush=True)


def show(text: str = "") -> None:
    """Print a line that people asked for."""
    sys.stdout.write(f"{text}\n")


def show_json(document: Any) -> None:
    """Print one document: a line in a pipe, indented on a terminal."""
    import msgspec

    text = msgspec.json.encode(document)
    show((msgspec.json.format(text, indent=2) if is_terminal() else text).decode())


def show_items(key: str, items: Iterable[Any], output: Format) -> None:
    """Print a list: as `{key: [...]}` in one document, or as one line of JSON for each."""
    if output is Format.JSON:
        show_json({key: list(items)})
        return
    import msgspec

    for item in items:
        show(msgspec.json.encode(item).decode())


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table that is small enough to be held in memory."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if is_terminal():
        _show_rich(columns, cells)
        return
    for line in plain_lines(columns, cells):
        show(line)


def plain_lines(
    columns: Sequence[Column], rows: Iterable[Sequence[str]], *, measured: int = ROWS_MEASURED
) -> Iterator[str]:
    """Set rows in columns, line by line, no more of them held in memory than the first ones, which are measured.

    They decide how wide the columns are; one that a later row does not fit into grows.
    """
    coming = iter(rows)
    first = list(islice(coming, measured))
    titles = [column.title.upper() for column in columns]
    widths = [column.width_min for column in columns]
    for row in (titles, *first):
        widths = _grown(widths, row)
    for row in chain([titles], first, coming):
        widths = _grown(widths, row)
        cells = (
            cell.rjust(width) if column.right else cell.ljust(width)
            for column, width, cell in zip(columns, widths, row, strict=True)
        )
        yield "  ".join(cells).rstrip()


def _grown(widths: Sequence[int], row: Sequence[str]) -> list[int]:
    return [max(width, len(cell)) for width, cell in zip(widths, row, strict=True)]


def is_terminal() -> bool:
    """Tell whether a person reads stdout."""
    return sys.stdout.isatty() or bool(os.environ.get("FORCE_COLOR"))


def width() -> int:
    """Return the width of the terminal."""
    return shutil.get_terminal_size().columns


def table_width() -> int:
    """Return how wide a table on the terminal may be; a dumb one is taken for 80 columns."""
    from rich.console import Console

    return Console().width


def printable(text: str) -> str:
    """Replace control characters and line breaks, which could write anywhere on a terminal."""
    return text if text.isprintable() else "".join(one if one.isprintable() else " " for one in text)


def number(value: int) -> str:
    """Write a number for people."""
    return f"{value:,}"


def moment(value: datetime | None) -> str:
    """Write a time for people, in UTC, to the second."""
    return "" if value is None else value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def until(value: datetime | None) -> str:
    """Write for people how long it is until a time."""
    if value is None:
        return "-"
    seconds = (value - utc_now()).total_seconds()
    if seconds <= 0:
        return "now"
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * length:
            return f"in {seconds / length:.0f} {unit}"
    return f"in {seconds:.0f} s"


def age(seconds: float) -> str:
    """Write for people how long something has been so, in at most four characters: `9 s`, `15 m`, `2 h`, `40 d`."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{int(seconds)} s"


def counted(count: int, what: str) -> str:
    """Write `1 event`, `2 events`."""
    return f"{count:,} {what}" + ("" if count == 1 else "s")


def rich_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], *, caption: str | None = None) -> "Table":
    """Make a table for a terminal; it is as wide as what it is printed on."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=not column.wraps,
            # A word of a title that is broken over lines is no word any more.
            min_width=max(column.width_min, len(column.title)) if column.wraps else column.width_min or None,
            overflow="fold" if column.wraps else "ellipsis",
        )
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    return table


def fits(columns: Sequence[Column], rows: Sequence[Sequence[str]], wide: int) -> bool:
    """Tell whether a table has room on a terminal without numbers and names being cut off."""
    return _width_min(columns, rows) <= wide


def record(columns: Sequence[Column], row: Sequence[str], wide: int) -> list[str]:
    """Set one row under another: where there is no room for a table, each cell has a line, and a title before it."""
    begin = max(len(one.title) for one in columns) + 2
    lines: list[str] = []
    for column, cell in zip(columns, row, strict=True):
        lines += textwrap.wrap(
            cell or "-",
            max(wide, begin + _WRAPPED_WIDTH),
            initial_indent=column.title.ljust(begin),
            subsequent_indent=" " * begin,
        )
    return lines


def _show_rich(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console

    console = Console()
    if fits(columns, rows, console.width):
        console.print(rich_table(columns, rows))
        return
    for row in rows:
        for line in record(columns, row, console.width):
            show(line)
        show()


def _width_min(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> int:
    """How narrow a table may become before numbers and names in it are cut off."""
    titles = [column.title for column in columns]
    widths = [max(map(len, cells)) for cells in zip(titles, *rows, strict=True)]
    kept = [
        max(len(column.title), min(width, _WRAPPED_WIDTH)) if column.wraps else width
        for column, width in zip(columns, widths, strict=True)
    ]
    return sum(kept) + 3 * len(columns) - 1

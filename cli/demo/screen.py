"""How the demo looks to a person: steps with what came of them, the board of delays, and what to try next.

The story is printed on stdout, progress on stderr and only on a terminal. Where a program is to read the result the
screen is quiet. Where whoever reads has gone away, it becomes quiet, and the demo is carried through.
"""

import os
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from eventlog.cli.demo.deeds import COUNTS, MAIL, Airport, Failure, Rewound
from eventlog.cli.demo.flights import FLIGHTS, Flight
from eventlog.cli.demo.workspace import APP_FILE, Repair
from eventlog.cli.output import counted
from eventlog.subscribers.worker import Drained

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

COLUMNS_MAX = 100
AIRPORTS_SHOWN = 12
FAILURES_SHOWN = 3
BAR_CELLS = 12
INDENT = 3
MUCH = 0.3
"""The share of late arrivals from which it is shown in red."""


class Screen:
    """Prints the demo, step by step."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = _console(quiet=quiet)
        self._progress = not quiet and sys.stderr.isatty()
        self._step = 0

    def begin(self) -> None:
        self._print("[bold]Flights out of New York, 1 to 7 January 2013[/]")
        self._print("[dim]Real ones, in an application with an event log, three subscribers and one bug.[/]")

    def appended(self, events: dict[str, int], *, flights: int, seconds: float) -> None:
        self._head("Append", f"{flights:,} flights: one row and its events in one transaction each.", seconds)
        self._lines([(f"{count:,}", name) for name, count in events.items()], right=0)

    def delivered(self, drained: Drained, *, mails: int, seconds: float) -> None:
        self._head("Deliver", "to three subscribers, each with a checkpoint of its own.", seconds)
        mailed = f"{counted(mails, 'mail')} sent about arrivals more than two hours late"
        rows = [
            (f"{count.handled:,}", name, f"{count.failed:,} failed" if count.failed else mailed if name == MAIL else "")
            for name, count in drained.subscribers.items()
        ]
        self._lines(rows, right=0)

    def ledger(self, failures: Sequence[Failure]) -> None:
        self._head("Look", f"into the failure ledger: {counted(len(failures), 'event')}, and nothing waited for them.")
        kinds = Counter(f"{one.entry.error_type}: {one.entry.message}" for one in failures)
        for kind, count in kinds.most_common(FAILURES_SHOWN):
            self._indented(f"{count} x {kind}", style="red")
        rows = [(f"{one.entry.position:,}", one.stream, one.type, str(one.entry.state)) for one in failures]
        self._lines(rows[:FAILURES_SHOWN], right=0)
        if len(failures) > FAILURES_SHOWN:
            self._indented(f"and {len(failures) - FAILURES_SHOWN} more", style="dim")

    def repaired(self, repair: Repair) -> None:
        self._head("Fix", f"the handler: line {repair.line} of {APP_FILE}.")
        self._indented(f"- {repair.before}", style="red")
        self._indented(f"+ {repair.after}", style="green")

    def retried(self, drained: Drained, *, left: int) -> None:
        rest = f"{counted(left, 'failure')} left in the ledger" if left else "the ledger is empty"
        self._head("Retry", f"what failed: {drained.handled:,} handled, {rest}.")

    def rewound(self, rewound: Rewound, *, seconds: float) -> None:
        again = counted(rewound.drained.handled, "event")
        self._head("Rewind", f"{COUNTS} to its start: {again} again, the same counts.", seconds)

    def board(self, airports: Sequence[Airport], *, missing: int) -> None:
        """Print the airports with the most minutes of delay; `missing` arrivals are in the ledger instead."""
        from rich import box
        from rich.padding import Padding
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        table.add_column("airport", style="bold")
        for title in ("arrivals", "late", "% late", "average", "worst", "minutes"):
            table.add_column(title, justify="right")
        table.add_column("", style="yellow", no_wrap=True)
        for one in airports[:AIRPORTS_SHOWN]:
            table.add_row(*_cells(one), self._bar(one.minutes, most=airports[0].minutes))
        arrivals = sum(one.arrivals for one in airports)
        shown = f"{min(AIRPORTS_SHOWN, len(airports))} of {len(airports)} airports, {arrivals:,} arrivals in all."
        self._print("", "[bold]The board of delays[/] [dim]in minutes; late from 15 on[/]", "")
        self._print(Padding(table, (0, 0, 0, INDENT)))
        self._indented(shown, style="dim")
        if missing:
            self._indented(f"{counted(missing, 'arrival')} missing here: in the ledger.", style="red")

    def end(self, *, flights: int, events: int, mails: int, seconds: float) -> None:
        parts = [counted(flights, "flight"), counted(events, "event"), counted(mails, "mail"), f"{seconds:.1f} s"]
        self._print("", f"[bold green]{', '.join(parts)}.[/]")

    def next_commands(self, commands: Sequence[tuple[str, str]]) -> None:
        """Print commands with what each does, each on one line for copying."""
        self._print("", "[bold]Try next[/]")
        room = max(len(command) for command, _ in commands)
        beside = room + max(len(remark) for _, remark in commands) + 6 <= self._console.width
        for command, remark in commands:
            line = f"  [cyan]{_escaped(command)}[/]"
            gap = " " * (room - len(command)) if beside else "\n     "
            said = f"{gap}  [dim]# {_escaped(remark)}[/]" if remark else ""
            self._console.print(f"{line}{said}", soft_wrap=True)

    def following(self, flights: Iterable[Flight]) -> Iterator[Flight]:
        """Pass the flights on, with a bar of progress where a person watches."""
        if not self._progress:
            yield from flights
            return
        from rich.console import Console
        from rich.progress import track

        yield from track(
            flights,
            "Appending flights",
            total=FLIGHTS,
            console=Console(stderr=True),
            transient=True,
        )

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Show that something goes on, where a person watches."""
        if not self._progress:
            yield
            return
        from rich.console import Console

        with Console(stderr=True).status(what):
            yield

    def _bar(self, minutes: int, *, most: int) -> str:
        cell = "\N{FULL BLOCK}" if self._console.encoding.startswith("utf") else "#"
        room = BAR_CELLS if self._console.width < COLUMNS_MAX else 2 * BAR_CELLS
        return cell * max(1, round(room * minutes / max(1, most)))

    def _head(self, verb: str, what: str, seconds: float | None = None) -> None:
        self._step += 1
        took = f" [dim]{seconds:.1f} s[/]" if seconds is not None else ""
        self._print("", f"[bold cyan]{self._step}  {verb}[/] {what}{took}")

    def _lines(self, rows: Sequence[Sequence[str]], *, right: int) -> None:
        """Print rows in columns, one of which stands on the right."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = [
                cell.rjust(width) if place == right else cell.ljust(width)
                for place, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            self._indented("  ".join(cells).rstrip())

    def _indented(self, text: str, *, style: str = "") -> None:
        from rich.padding import Padding
        from rich.text import Text

        if self._console.is_terminal:
            self._print(Padding(Text(text, style=style), (0, 0, 0, INDENT), expand=False))
        else:
            self._console.print(Text(" " * INDENT + text), soft_wrap=True)

    def _print(self, *lines: "RenderableType") -> None:
        for line in lines:
            self._console.print(line)


def _cells(one: Airport) -> tuple[str, ...]:
    share = one.late / one.arrivals
    color = "red" if round(share, 2) >= MUCH else "default"
    return (
        one.airport,
        f"{one.arrivals:,}",
        f"{one.late:,}",
        f"[{color}]{share:.0%}[/]",
        f"{one.average:.1f}",
        f"{one.worst:,}",
        f"{one.minutes:,}",
    )


def program(name: str, *, below: Path | None = None) -> str:
    """Write how to call a program of this environment: by its name where that finds it, else by its path.

    The path is relative where the program is `below` a folder from which it is called.
    """
    found = shutil.which(name)
    own = Path(sys.executable).parent / name
    if found is not None and Path(found).parent == own.parent:
        return name
    return shlex.quote(str(own.relative_to(below) if below is not None and own.is_relative_to(below) else own))


def _console(*, quiet: bool) -> "Console":
    from rich.console import Console

    class Patient(Console):
        """Goes on in silence when nobody reads any more."""

        def on_broken_pipe(self) -> None:
            self.quiet = True
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)

    console = Patient(quiet=quiet, highlight=False)
    console.width = min(console.width, COLUMNS_MAX)
    return console


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)

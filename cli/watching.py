"""`status --watch`: a screen that is kept up to date, or a document at a time for programs.

A database that stops answering does not end it: that is when it is looked at. Signals, and on a terminal the key q, end
it between two looks, and the terminal is left as it was.
"""

import os
import select
import sys
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from eventlog.cli.following import Ending, ending_gently
from eventlog.cli.output import Format, fits, printable, record, rich_table, say, show
from eventlog.cli.settings import Settings
from eventlog.cli.status_table import by_urgency, held_back_line, log_line, status_table, what_next
from eventlog.clock import SystemClock, utc_now
from eventlog.database import Database
from eventlog.errors import DatabaseError, UsageError
from eventlog.subscribers.rates import Looks
from eventlog.subscribers.status import Status, SubscriberStatus

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINES_BESIDE = 2
"""Of the screen: what stands below the rows and the hints, at the most."""

LINES_BEFORE_HINTS = 10
"""So many lines are for the rows before anything is said beside them."""

_LOOK_SECONDS = 0.1
"""How soon a key, a signal or another size of the window is noticed."""

_ESCAPE = b"\x1b"


class _Seen(msgspec.Struct, kw_only=True):
    """What the last look has brought, and what went wrong since, if anything."""

    status: Status | None = None
    trouble: str | None = None
    at: str = ""


def watch(databases: Sequence[Database], settings: Settings, *, seconds: float) -> None:
    """Look every so many seconds until somebody ends it. Raises `KeyboardInterrupt` for ^C, and `UsageError`."""
    looks = Looks(databases)
    on_screen = settings.output is Format.TABLE
    if settings.output is Format.JSON or (on_screen and not _has_screen()):
        raise UsageError(
            "--watch goes on without an end: here it is neither on a terminal nor a document at a time",
            remedy="say --output jsonl, which prints one line of JSON each time; or leave --watch out",
        )
    with ending_gently() as ending:
        if on_screen:
            _on_screen(looks, ending, seconds)
        else:
            _in_lines(looks, ending, seconds)
    if ending.interrupted:
        raise KeyboardInterrupt


def _has_screen() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _in_lines(looks: Looks, ending: Ending, seconds: float) -> None:
    said: str | None = None
    while not ending.is_set():
        try:
            found = looks.look()
        except DatabaseError as error:
            if said is None:
                say(f"{error}\n  waiting for it")
            said = str(error)
        else:
            said = None
            document = {"at": utc_now(), **msgspec.structs.asdict(found)}
            show(msgspec.json.encode(document).decode())
            sys.stdout.flush()
        ending.wait_for(seconds)


def _on_screen(looks: Looks, ending: Ending, seconds: float) -> None:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    seen = _Seen()
    with _keys() as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while not ending.is_set():
            _look(looks, seen)
            if _shown_for(seconds, seen, live, ending, keys):
                return


def _look(looks: Looks, seen: _Seen) -> None:
    try:
        seen.status, seen.trouble = looks.look(), None
    except DatabaseError as error:
        seen.trouble = str(error)
    seen.at = f"{utc_now():%H:%M:%S}"


def _shown_for(seconds: float, seen: _Seen, live: "Live", ending: Ending, keys: "Keys") -> bool:
    """Show what was seen until it is time to look again; return whether somebody wants to leave."""
    clock = SystemClock()
    ends = clock.monotonic() + seconds
    drawn = None
    while not ending.is_set() and (left := ends - clock.monotonic()) > 0:
        size = live.console.size
        if size != drawn:
            live.update(_screen(seen, live.console, interval=seconds), refresh=True)
            drawn = size
        if keys.quit_within(min(_LOOK_SECONDS, left), ending):
            return True
    return False


def _screen(seen: _Seen, console: "Console", *, interval: float) -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if seen.status is not None:
        parts.append(Text(log_line(seen.status), style="bold"))
        parts += [Text(printable(held_back_line(one)), style="yellow") for one in seen.status.held_back_by[:3]]
        hints = _hints(seen.status, console.width, most=max(0, console.height - LINES_BEFORE_HINTS) // 2)
        room = console.height - LINES_BESIDE - len(parts) - len(hints)
        parts.append(_fitting(seen.status, console, room))
        parts += [Text(line, style="yellow") for line in hints]
    if seen.trouble is not None:
        parts.append(Text(printable(seen.trouble), style="bold red"))
    parts.append(Text(f"{seen.at} UTC, every {interval:g} s; q leaves", style="dim"))
    return Group(*parts)


def _hints(found: Status, width: int, *, most: int) -> list[str]:
    """What is to be done about those that need somebody, in lines: the most urgent first, as far as there is room."""
    told = [what_next(one) for one in by_urgency(found.subscribers)]
    hints = [textwrap.wrap(printable(one), width) for one in told if one is not None]
    lines: list[str] = []
    for shown, hint in enumerate(hints):
        if len(lines) + len(hint) > most:
            return [*lines, f"and {len(hints) - shown} more need somebody"] if lines else []
        lines += hint
    return lines


def _fitting(found: Status, console: "Console", room: int) -> "RenderableType":
    """As many subscribers as there is room for, in a table if it is wide enough, and how many there are beside them."""
    count = len(found.subscribers)
    shown = max(1, min(count, room))
    while True:
        ordered = found.subscribers if shown == count else by_urgency(found.subscribers)
        table = status_table(ordered[:shown], width=console.width, rated=True)
        if not fits(table.columns, table.rows, console.width):
            return _records(by_urgency(found.subscribers), console.width, room)
        drawn = rich_table(table.columns, table.rows, caption=_left_out(count - shown))
        if shown == 1 or len(console.render_lines(drawn)) <= room:
            return drawn
        shown -= 1


def _records(subscribers: Sequence[SubscriberStatus], width: int, room: int) -> "RenderableType":
    """Row under row, where a table would be cut off: as `status` does it there."""
    from rich.text import Text

    table = status_table(subscribers, width=width, rated=True)
    lines: list[str] = []
    for shown, row in enumerate(table.rows):
        lines_of_row = ["", *record(table.columns, [printable(cell) for cell in row], width)]
        if lines and len(lines) + len(lines_of_row) >= room:
            return Text("\n".join([*lines, "", _left_out(len(subscribers) - shown) or ""]))
        lines += lines_of_row[: max(2, room - 2)]
    return Text("\n".join([*lines, ""]))


def _left_out(count: int) -> str | None:
    return f"and {count} more: the window is too small for them" if count else None


class Keys:
    """What is typed while the screen is up; nothing where stdin is no terminal."""

    def __init__(self, file: int | None) -> None:
        self._file = file

    def quit_within(self, seconds: float, ending: Ending) -> bool:
        """Wait so long for q, Escape, or the end of the terminal; an arrow key begins with Escape, and is none."""
        if self._file is None:
            ending.wait_for(seconds)
            return False
        ready, _, _ = select.select([self._file], [], [], seconds)
        typed = os.read(self._file, 64) if ready else b"-"
        return typed in (_ESCAPE, b"") or b"q" in typed.lower()


@contextmanager
def _keys() -> Iterator[Keys]:
    """Have keys come one by one and unseen while the block runs; the terminal is left as it was."""
    try:
        import termios
        import tty
    except ImportError:  # a system without terminals of this kind: ^C is left
        yield Keys(None)
        return
    if not sys.stdin.isatty():
        yield Keys(None)
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    try:
        tty.setcbreak(file)
        yield Keys(file)
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)

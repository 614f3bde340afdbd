"""`status --watch`: a screen that is kept up to date, or a document at a time for programs.

A database that stops answering does not end it: that is when it is looked at. Signals, and on a terminal the key q, end
it between two looks, and the terminal is left as it was.
"""

import os
import select
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import msgspec

from eventlog.cli.following import Ending, ending_gently
from eventlog.cli.output import Format, printable, rich_table, say, show
from eventlog.cli.settings import Settings
from eventlog.cli.status_table import by_urgency, held_back_line, log_line, status_table
from eventlog.clock import SystemClock, utc_now
from eventlog.database import Database
from eventlog.errors import DatabaseError, UsageError
from eventlog.subscribers.rates import Looks
from eventlog.subscribers.status import Status

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

LINES_BESIDE = 6
"""Of the screen: what stands above and below the rows, at the most, but for those who hold the mark back."""

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
        parts.append(_fitting(seen.status, console.width, console.height - LINES_BESIDE - len(parts)))
    if seen.trouble is not None:
        parts.append(Text(printable(seen.trouble), style="bold red"))
    parts.append(Text(f"{seen.at} UTC, every {interval:g} s; q leaves", style="dim"))
    return Group(*parts)


def _fitting(found: Status, width: int, room: int) -> "RenderableType":
    """A table of as many subscribers as there is room for, and how many there are beside them."""
    shown = found.subscribers if len(found.subscribers) <= room else by_urgency(found.subscribers)[: max(1, room)]
    table, left_out = status_table(shown, width=width, rated=True), len(found.subscribers) - len(shown)
    caption = f"and {left_out} more: the window is too small for them" if left_out else None
    return rich_table(table.columns, table.rows, caption=caption)


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

"""Showing what a command is about to do, and asking for it.

Without a terminal to ask on, only `--yes` is consent. The plan is data where nothing else follows (`--dry-run`), and
talk where the deed follows it.
"""

import re
import sys

import click

from eventlog.cli.exits import Exit
from eventlog.cli.output import counted, moment, number, say, show
from eventlog.cli.settings import Settings
from eventlog.database import Database
from eventlog.errors import RefusedError
from eventlog.subscribers.control import Move, Undone

TYPES_SHOWN = 10
NO_WORKER = "no worker is live"


def ask(question: str, *, yes: bool, dry_run_offered: bool) -> None:
    """Return if the deed is wanted; raise `RefusedError`, or leave with that code, if not."""
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise RefusedError(
            "this wants consent, and there is no terminal to ask on: nothing was changed",
            remedy="add --yes" + (", or --dry-run to see the plan only" if dry_run_offered else ""),
        )
    if not click.confirm(question, default=False, err=True):
        say("Nothing was changed.")
        raise click.exceptions.Exit(Exit.REFUSED)


def show_plan(move: Move, *, dry_run: bool) -> None:
    """Show what a move would do, to a person."""
    line = show if dry_run else say
    line(move_line(move))
    for text in _plan_lines(move):
        line(f"  {text}")


def show_done(deed: str, move: Move) -> None:
    """Tell a person what was done, and how it is taken back."""
    show(f"{deed} {move_line(move)}")
    show(f"  undo: {move.undo or 'none, tables that were emptied are only filled again'}")


def show_undone(undone: Undone) -> None:
    """Tell a person what was taken back, and how to go there again."""
    show(f"Undone {undone_line(undone)}")
    if undone.undo is not None:
        show(f"  undo: {undone.undo}")


def move_line(move: Move) -> str:
    """Write both ends of a move, and what is delivered next."""
    ends = f"{number(move.from_position)} -> {number(move.to_position)}"
    which = f" (the least of {counted(len(move.partitions), 'partition')})" if _apart(move) else ""
    return f"{move.subscriber}: checkpoint {ends}{which}, next event {number(move.next_event)}"


def undone_line(undone: Undone) -> str:
    """Write where the checkpoint of an undone rewind goes, and what comes back with it."""
    ends = f"{number(undone.from_position)} -> {number(undone.to_position)}"
    back = f", {counted(undone.restored, 'failure')} back in the ledger" if undone.restored else ""
    return f"{undone.subscriber}: checkpoint {ends}, next event {number(undone.to_position + 1)}{back}"


def reaching(undo: str | None, subscriber: str, database: Database, settings: Settings) -> str | None:
    """Have a command that takes something back find a subscriber whose rows are in another database than the log.

    The app tells where they are; numbers of operations are the log's own, so the subscriber is named instead.
    """
    if undo is None or database.follows is None:
        return undo
    return f"{re.sub(r'^eventlog undo [0-9]+$', f'eventlog undo {subscriber}', undo)} --app {settings.app}"


def _plan_lines(move: Move) -> list[str]:
    again = f", {about(move)}{number(move.already_handled)} of them handled before" if move.already_handled else ""
    will = "will be delivered" if move.goes_back else "will be passed over"
    lines = [f"{about(move)}{counted(move.events, 'event')} {will}{again}"]
    lines += [f"  {number(count):>9}  {name}" for name, count in _largest(move.by_type)]
    if len(move.by_type) > TYPES_SHOWN:
        lines.append(f"             and {counted(len(move.by_type) - TYPES_SHOWN, 'type')} more")
    if move.estimated:
        lines.append("  estimated from a sample; types with few events may be missing")
    if move.first_recorded_at is not None:
        lines.append(f"recorded {moment(move.first_recorded_at)} to {moment(move.last_recorded_at)}")
    if move.superseded:
        lines.append(f"{counted(move.superseded, 'open failure')} superseded: those events come again")
    if move.emptied:
        lines.append(f"emptied and filled again: {', '.join(move.emptied)}")
    lines.append(
        f"{counted(len(move.workers), 'worker')} live: {', '.join(move.workers)}" if move.workers else NO_WORKER
    )
    return lines


def about(move: Move) -> str:
    """Say how exact the counts of a move are."""
    return "about " if move.estimated else "at most " if _apart(move) else ""


def _apart(move: Move) -> bool:
    """Whether the partitions do not all go the same way."""
    return len({(one.from_position, one.to_position) for one in move.partitions}) > 1


def _largest(by_type: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(by_type.items(), key=lambda one: (-one[1], one[0]))[:TYPES_SHOWN]

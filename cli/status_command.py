"""`status`: how far everything is, and what failed; once, or again and again."""

import click

from eventlog.cli.opening import opened_databases
from eventlog.cli.options import shared_options
from eventlog.cli.output import Format, is_terminal, say, show, show_items, show_json, show_table, table_width
from eventlog.cli.settings import read_settings
from eventlog.cli.status_table import held_back_line, log_line, status_table, what_next
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.status import Status, read_status_of

WATCH_SECONDS = 2.0


@click.command()
@click.option(
    "--watch",
    "interval",
    metavar="[SECONDS]",
    is_flag=False,
    flag_value=WATCH_SECONDS,
    type=click.FloatRange(min=0.1),
    help="Look again and again; 2 seconds apart if not said otherwise. q or ^C ends it.",
)
@shared_options
def status(interval: float | None) -> None:
    """Show how far everything is, and what failed.

    Lag counts the events between a subscriber's checkpoint and the high-water mark, below which nothing can appear any
    more; age tells for how long the oldest of them has been there. A transaction that has appended and stays open holds
    that mark back, and is named. With --app, projections whose rows are in another database are shown, too.

    --watch is a screen that is kept up to date; with --output jsonl, a document at a time. It tells how many events a
    second are appended and got done with, measured over the last seconds: nothing is stored that a single look could
    tell it from.

    \b
      eventlog status
      eventlog status --watch
      eventlog status --output json | jq '.subscribers[] | select(.lag > 1000)'
    """
    settings = read_settings()
    with opened_databases(settings) as databases:
        if interval is not None:
            from eventlog.cli.watching import watch

            watch(databases, settings, seconds=interval)
            return
        found = read_status_of(databases)
    if settings.output is Format.JSONL:
        show_items("subscribers", found.subscribers, settings.output)
    elif settings.json:
        show_json(found)
    else:
        _show(found)


def _show(found: Status) -> None:
    show(log_line(found))
    for holder in found.held_back_by:
        say(held_back_line(holder))
    if not found.subscribers:
        say("No subscriber is registered yet; `eventlog register --app module:app` registers yours.")
        return
    table = status_table(found.subscribers, width=table_width() if is_terminal() else None, rated=False)
    show_table(table.columns, table.rows)
    _say_what_next(found)


def _say_what_next(found: Status) -> None:
    for one in found.subscribers:
        if (line := what_next(one)) is not None:
            say(line)
    halted = any(one.state == "halted" for one in found.subscribers)
    if not halted and any(EntryState.PARKED in one.failures for one in found.subscribers):
        say("`eventlog failures` lists what is parked, `eventlog retry` makes it due again")

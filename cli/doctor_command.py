"""`doctor`: what is wrong with the log, and what to do about it."""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import chain

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.opening import database_errors, load_app, named_log, refuse_missing_file
from eventlog.cli.options import shared_options
from eventlog.cli.output import Format, counted, is_terminal, printable, say, show, show_items, show_json, width
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import check_schema, shown
from eventlog.doctor import Finding, FindingStatus, examine
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, schema_state
from eventlog.subscribers.app import App

_MARKS = {FindingStatus.OK: "ok", FindingStatus.NOTE: "note", FindingStatus.WRONG: "WRONG"}
_CHECK_WIDTH = 15


@click.command()
@click.option(
    "--listen-url",
    metavar="URL",
    envvar="EVENTLOG_LISTEN_URL",
    show_envvar=True,
    help="The way that workers listen by, if it is another one; the app's, if it says one.",
)
@click.option("--quick-check", is_flag=True, help="Read all of a SQLite file through, which takes its time.")
@shared_options
def doctor(listen_url: str | None, quick_check: bool) -> int:
    """Examine the log: what is wrong with it, and what to do.

    Tables, indexes, triggers and functions against what the revisions make; positions and checkpoints; transactions
    that stay open; on PostgreSQL whether it takes writes, poolers, notifications (one is sent, to itself), the clock,
    the role's rights; on SQLite the file and its journal; with --app also in the other databases of its subscribers.
    Nothing is changed. Exit code 4 when something is wrong, 5 when there is no log.

    \b
      eventlog doctor
      eventlog doctor -o json | jq '.findings[] | select(.status == "wrong")'
    """
    settings = read_settings()
    log = named_log(settings)
    app = None if settings.app is None else load_app(settings)
    way = listen_url or (app.listen_url if app is not None else None)
    with database_errors(log):
        _refuse_missing(log)
        here = examine(log.database, listen_url=way, quick_check=quick_check)
        found = list(_shown(chain(here, _elsewhere(app, quick_check=quick_check)), settings))
    wrong = sum(one.status is FindingStatus.WRONG for one in found)
    if settings.output is Format.JSONL:
        show_items("findings", found, settings.output)
    elif settings.json:
        show_json({"ok": not wrong, "findings": found})
    else:
        say("Nothing is wrong." if not wrong else f"{counted(wrong, 'thing')} wrong.")
    return Exit.CHECK_FAILED if wrong else Exit.OK


def _refuse_missing(log: EventLog) -> None:
    """Without a log there is nothing to examine; one of another release is examined."""
    refuse_missing_file(log)
    with log.database.reader() as connection:
        if schema_state(connection, schema=log.database.schema) is SchemaState.MISSING:
            check_schema(log.database, connection)


def _elsewhere(app: App | None, *, quick_check: bool) -> Iterator[Finding]:
    """What is found in the other databases that an app's subscribers have their rows in."""
    for home in app.homes[1:] if app is not None else ():
        for one in examine(home, quick_check=quick_check):
            yield msgspec.structs.replace(one, said=f"in {shown(home)}: {one.said}")
        home.engine.dispose()


def _shown(findings: Iterable[Finding], settings: Settings) -> Iterator[Finding]:
    """Show each one as it is found: some take a moment."""
    for one in findings:
        if not settings.json:
            for line in _lines(one):
                show(line)
            sys.stdout.flush()
        yield one


def _lines(one: Finding) -> Iterator[str]:
    begin = f"{_MARKS[one.status]:<6}{one.check:<{_CHECK_WIDTH}} "
    wide = max(60, width()) if is_terminal() else 10_000
    rest = " " * len(begin)
    yield from textwrap.wrap(printable(one.said), wide, initial_indent=begin, subsequent_indent=rest)
    if one.remedy:
        yield from textwrap.wrap(
            printable(one.remedy), wide, initial_indent=f"{rest}-> ", subsequent_indent=f"{rest}   "
        )

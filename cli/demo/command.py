"""The command `demo`: the whole of it on a week of real flights."""

import os
import shlex
from pathlib import Path

import click
from sqlalchemy import make_url

from eventlog.cli.demo.deeds import COUNTS, refuse_used
from eventlog.cli.demo.screen import Screen, program
from eventlog.cli.demo.story import play
from eventlog.cli.demo.workspace import APP_FILE, bug_line
from eventlog.cli.opening import database_errors
from eventlog.cli.options import flags, shared_options
from eventlog.cli.output import show_json
from eventlog.cli.settings import read_settings
from eventlog.errors import UsageError
from eventlog.log import EventLog
from eventlog.shown_urls import shown_url


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@shared_options
def demo(folder: Path | None) -> None:
    """See it all on a week of real flights out of New York.

    Appends 6,099 flights as events, delivers them to three subscribers, finds 18 failures of one bug, fixes it, retries
    and rewinds: in a temporary folder, or in the database --url names.

    With DIR, the application and its database stay there with the bug still in, for you to fix.

    \b
      eventlog demo
      eventlog demo flights && cd flights && eventlog status
    """
    settings = read_settings()
    _refuse_settings()
    url = _empty_database(flags().get("url"))
    screen = Screen(quiet=settings.json)
    document = play(screen, folder=folder, url=url)
    if settings.json:
        show_json(document)
    else:
        screen.next_commands(_in_the_folder(folder) if folder is not None else _from_here(url))


def _refuse_settings() -> None:
    for name in ("app", "schema"):
        if name in flags():
            raise UsageError(
                f"--{name} is of no use here: the demo brings its own app, whose log is called 'eventlog'",
                remedy=f"leave --{name} out",
            )


def _empty_database(url: str | None) -> str | None:
    """Return the URL as it holds from every folder. Raises `RefusedError` for a database that is in use."""
    if url is None:
        return None
    log = EventLog(url)
    with database_errors(log):
        refuse_used(log)
    file = log.engine.url.database if log.engine.url.get_backend_name() == "sqlite" else None
    return url if file is None or file.startswith("file:") else f"sqlite:///{Path(file).absolute()}"


def _in_the_folder(folder: Path) -> list[tuple[str, str]]:
    eventlog = program("eventlog")
    set_here = [name for name in ("EVENTLOG_URL", "EVENTLOG_APP", "EVENTLOG_SCHEMA") if os.environ.get(name)]
    unset = [(f"unset {' '.join(set_here)}", "they go before the settings of the folder")] if set_here else []
    return [
        (f"cd {shlex.quote(str(folder))}", ""),
        *unset,
        (f"{eventlog} status", "where everything stands"),
        (f"{eventlog} failures", "18 arrivals missing from the board"),
        (f"${{EDITOR:-nano}} {APP_FILE}", f"line {bug_line(folder / APP_FILE)}: `arrival.delay or 0`"),
        (f"{eventlog} retry", "make the failures due"),
        (f"{eventlog} run --drain", "and deliver them"),
        (f"{program('python')} {APP_FILE}", "the board, healed"),
        (f"{eventlog} rewind {COUNTS} --to-start", "empties it; the next run fills it"),
        (f"{eventlog} run --drain", ""),
    ]


def _from_here(url: str | None) -> list[tuple[str, str]]:
    eventlog = program("eventlog", below=Path.cwd())
    keep = (f"{eventlog} demo flights", "keep it in flights/, bug included")
    if url is None:
        return [keep, (f"{eventlog} demo --url postgresql://...", "in an empty database")]
    named = f"--url {shlex.quote(shown_url(make_url(url)))}"
    return [
        (f"{eventlog} status {named}", "where everything stands"),
        (f"{eventlog} read --type flight.cancelled {named}", "what did not fly"),
        keep,
    ]

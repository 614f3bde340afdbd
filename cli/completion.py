"""Completion in a shell: the script that asks for it, and the names of subscribers, which are asked of the log.

Whoever presses the tabulator is in the middle of something: what does not answer within a second is no answer, and
nothing is ever said about it.
"""

import io
import os
import threading
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from eventlog.cli.options import FLAGS, shared_options
from eventlog.cli.output import show

if TYPE_CHECKING:
    from eventlog.cli.settings import Settings
    from eventlog.log import EventLog

NAMES_MAX = 500
CONNECT_SECONDS = 1
ANSWER_SECONDS = 1.0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@shared_options
def completion(shell: str) -> None:
    """Print the script that completes `eventlog` in a shell.

    Commands, options and the names of subscribers. Put it where the shell reads it at its start:

    \b
      eventlog completion bash >> ~/.bashrc
      eventlog completion zsh >> ~/.zshrc
      eventlog completion fish > ~/.config/fish/completions/eventlog.fish
    """
    found = get_completion_class(shell)
    assert found is not None
    script = found(click.Group(), {}, "eventlog", "_EVENTLOG_COMPLETE")
    show(script.source_template % script.source_vars())


def subscriber_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the registered subscribers whose names begin so; none when anything goes wrong."""
    return _names(_registered, context, incomplete)


def declared_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the subscribers that the app declares whose names begin so; without an app, those that are registered."""
    return _names(_declared, context, incomplete)


def _names(
    known: Callable[["Settings"], Iterable[str]], context: click.Context, incomplete: str
) -> list[CompletionItem]:
    with suppress(Exception, SystemExit), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        from eventlog.cli.settings import read_file, settle

        named, values = read_file(Path.cwd())
        settings = settle(context.meta.get(FLAGS, {}), os.environ, values, file_name=named)
        return [CompletionItem(name) for name in known(settings) if name.startswith(incomplete)]
    return []


def _declared(settings: "Settings") -> Iterable[str]:
    from eventlog.cli.opening import load_app

    return _registered(settings) if settings.app is None else sorted(load_app(settings).subscribers)


def _registered(settings: "Settings") -> Iterable[str]:
    """Ask for a second: a server that was reached may be silent for longer than any time-out of connecting."""
    from eventlog.cli.opening import named_log, refuse_missing_file

    log = named_log(settings)
    refuse_missing_file(log)
    names: list[str] = []

    def ask() -> None:
        with suppress(Exception):
            names.extend(_read(log))

    asking = threading.Thread(target=ask, name="eventlog-completion", daemon=True)
    asking.start()
    asking.join(ANSWER_SECONDS)
    return list(names)


def _read(log: "EventLog") -> Iterable[str]:
    from sqlalchemy import select

    from eventlog.log import EventLog

    url = log.engine.url
    if url.get_backend_name() == "postgresql":
        hurried = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
        log = EventLog(hurried, schema=log.database.schema)
    table = log.database.tables.subscribers
    with log.database.reader() as connection:
        names = connection.scalars(select(table.c.name).order_by(table.c.name).limit(NAMES_MAX)).all()
    log.engine.dispose()
    return names

"""Completion in a shell: the script that asks for it, and the names of subscribers, which are asked of the log.

Whoever presses the tabulator is in the middle of something: what does not answer within a second is no answer, and
nothing is ever said about it.
"""

import io
import os
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, get_completion_class

from eventlog.cli.options import FLAGS, shared_options
from eventlog.cli.output import show

NAMES_MAX = 500
CONNECT_SECONDS = 1


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
    with suppress(Exception), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        return [CompletionItem(name) for name in _registered(context.meta.get(FLAGS, {}), incomplete)]
    return []


def _registered(given: dict[str, Any], incomplete: str) -> list[str]:
    from sqlalchemy import select

    from eventlog.cli.opening import named_log, refuse_missing_file
    from eventlog.cli.settings import read_file, settle
    from eventlog.log import EventLog

    named, values = read_file(Path.cwd())
    log = named_log(settle(given, os.environ, values, file_name=named))
    refuse_missing_file(log)
    url = log.engine.url
    if url.get_backend_name() == "postgresql":
        hurried = url.update_query_dict({"connect_timeout": str(CONNECT_SECONDS)})
        log = EventLog(hurried, schema=log.database.schema)
    table = log.database.tables.subscribers
    with log.database.reader() as connection:
        names = connection.scalars(select(table.c.name).order_by(table.c.name).limit(NAMES_MAX)).all()
    log.engine.dispose()
    return [name for name in names if name.startswith(incomplete)]

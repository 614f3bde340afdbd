"""The options every command takes, before its name or after it.

`eventlog --output json status` and `eventlog status --output json` are the same. What is written last wins; what was
not written at all is settled later, from the environment and the settings files (`settings.py`), so that an
environment variable never overrules a flag given on the other side of the command's name.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from eventlog.cli.output import Format
from eventlog.cli.parsing import GROUPED

C = TypeVar("C", bound=Callable[..., Any])

FLAGS = "eventlog.flags"
"""Under which a context keeps the shared options that were written."""


class Position(click.IntRange):
    """A position as it is typed or copied from one of our tables: 1234 or 1,234."""

    name = "position"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        plain: Any = value.replace(",", "") if isinstance(value, str) and GROUPED.fullmatch(value) else value
        return super().convert(plain, param, ctx)


def subscriber_argument(name: str = "subscriber", **options: Any) -> Callable[[C], C]:
    """Add an argument that names a subscriber, and is completed by those that are registered."""
    return click.argument(name, shell_complete=_subscriber_names, **options)


def limit_option(default: int, *, help: str = "At most so many.") -> Callable[[C], C]:  # noqa: A002 - as click has it
    """Add the option of how many are shown."""
    kind = click.IntRange(min=1)
    return click.option("-n", "--limit", metavar="COUNT", type=kind, default=default, show_default=True, help=help)


def shared_options(command: C) -> C:
    """Add the shared options to a command; its function is called as before, and asks `settings()` for them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def flags() -> dict[str, Any]:
    """Return the shared options that were written on the command line."""
    found: dict[str, Any] = click.get_current_context().meta.setdefault(FLAGS, {})
    return found


def declared_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    """Complete the names of subscribers that an app declares: for what runs or registers them."""
    from eventlog.cli.completion import declared_names as names

    return names(context, parameter, incomplete)


def _subscriber_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> Any:
    from eventlog.cli.completion import subscriber_names

    return subscriber_names(context, parameter, incomplete)


def _keep(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        context.meta.setdefault(FLAGS, {})[parameter.name] = value


_OPTIONS = (
    click.option(
        "--url",
        metavar="URL",
        expose_value=False,
        callback=_keep,
        help="The log's database: postgresql://... or sqlite:///file.db.  [env: EVENTLOG_URL]",
    ),
    click.option(
        "--app",
        metavar="MODULE:ATTRIBUTE",
        expose_value=False,
        callback=_keep,
        help="Where your App is, or a function that makes it.  [env: EVENTLOG_APP]",
    ),
    click.option(
        "--schema",
        metavar="NAME",
        expose_value=False,
        callback=_keep,
        help="The name of the log within the database.  [env: EVENTLOG_SCHEMA]",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Choice([one.value for one in Format]),
        expose_value=False,
        callback=_keep,
        help="Tables to read, or JSON for programs.  [env: EVENTLOG_OUTPUT]",
    ),
    click.option(
        "-v", "--verbose", is_flag=True, expose_value=False, callback=_keep, help="Say more, and tracebacks in full."
    ),
)

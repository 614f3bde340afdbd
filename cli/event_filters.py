"""The options by which `read` and `export` narrow the log down, and the filters they stand for."""

from collections.abc import Callable
from typing import Any, TypedDict, TypeVar

import click

from eventlog.cli.options import Position
from eventlog.cli.parsing import pairs
from eventlog.cli.parsing import since as moment_of
from eventlog.errors import UsageError
from eventlog.reading import Filters

C = TypeVar("C", bound=Callable[..., Any])


class FilterOptions(TypedDict):
    """What was given on the command line."""

    types: tuple[str, ...]
    stream: str | None
    stream_prefix: str | None
    tags: tuple[str, ...]
    since: str | None
    before: str | None
    where: tuple[str, ...]


def filter_options(command: C) -> C:
    """Add the options that narrow events down."""
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def range_options(command: C) -> C:
    """Add the options that say between which positions."""
    for option in reversed(_RANGE):
        command = option(command)
    return command


def filters(given: FilterOptions) -> Filters:
    """Make filters of the options. Raises `UsageError`."""
    since, before = given["since"], given["before"]
    return Filters(
        types=given["types"],
        stream=given["stream"],
        stream_prefix=given["stream_prefix"],
        tags=given["tags"],
        since=None if since is None else moment_of(since),
        before=None if before is None else moment_of(before),
        where=pairs(given["where"], option="--where"),
    )


def begin(after: int | None, from_position: int | None) -> int | None:
    """Return the position after which to begin; None where nobody has said it. Raises `UsageError`."""
    if after is not None and from_position is not None:
        raise UsageError("--after and --from both say where to begin", remedy="give one; --from 5 is --after 4")
    return from_position - 1 if from_position is not None else after


_RANGE = (
    click.option("--after", metavar="POSITION", type=Position(min=0), help="Only events after this position."),
    click.option(
        "--from", "from_position", metavar="POSITION", type=Position(min=1), help="Only events from this position on."
    ),
    click.option(
        "--until", metavar="POSITION", type=Position(min=0), help="Only events up to this position, and with it."
    ),
)

_FILTERS = (
    click.option(
        "-t", "--type", "types", metavar="PATTERN", multiple=True, help="Only these types: flight.*, flight.**"
    ),
    click.option("-s", "--stream", help="Only events of this stream."),
    click.option("--stream-prefix", metavar="TEXT", help="Only events of streams whose name begins so."),
    click.option(
        "--tag", "tags", metavar="TAG", multiple=True, help="Only events that carry this tag; given twice, both."
    ),
    click.option("--since", metavar="TIME", help="Only events recorded then or later: 2h, or an ISO time."),
    click.option("--before", metavar="TIME", help="Only events recorded before then."),
    click.option(
        "--where",
        metavar="PATH=TEXT|PATH:=JSON",
        multiple=True,
        help="Only events with this in their data: customer=ada, total:=19.5, lines.0.sku:=7; given twice, both.",
    ),
)

"""Where a move is to go: the options that say it, and what they mean once a database can be asked."""

from collections.abc import Callable

import click
import msgspec
from sqlalchemy import Connection

from eventlog.cli.options import Position
from eventlog.cli.output import moment, number, say
from eventlog.cli.parsing import since as parse_since
from eventlog.cli.settings import Settings
from eventlog.database import Database
from eventlog.errors import UsageError
from eventlog.subscribers import control
from eventlog.subscribers.registration import SubscriberRow

Resolver = Callable[[Database], control.Resolve]
"""What was typed, still to be asked of a database."""

BACK_BY_MAX = 100_000

from_option = click.option(
    "--from", "from_position", metavar="POSITION", type=Position(min=1), help="The position to be delivered next."
)
since_option = click.option(
    "--since", metavar="TIME", help="To the first event recorded since: 2h, 3d, 2026-01-31T09:30+01:00."
)
to_start_option = click.option("--to-start", is_flag=True, help="To where it began.")
to_end_option = click.option("--to-end", is_flag=True, help="To the high-water mark: what is there is passed over.")
by_option = click.option(
    "--by",
    metavar="COUNT",
    type=click.IntRange(min=1, max=BACK_BY_MAX),
    help="To before the last so many events of its types.",
)
to_failure_option = click.option("--to-failure", is_flag=True, help="To just before the first open failure.")


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The places a move may be given; one of them has to be."""

    to_start: bool = False
    from_position: int | None = None
    since: str | None = None
    by: int | None = None
    to_failure: bool = False
    to_end: bool = False


def resolver(target: Target, deed: str, *, settings: Settings) -> Resolver:
    """Read where to; nothing has been asked of the database yet. Raises `UsageError`."""
    if sum(bool(value) for value in msgspec.structs.astuple(target)) != 1:
        raise UsageError(
            f"{deed} wants one place to go to", remedy="say one of --from POSITION, --since TIME and those of --help"
        )
    if target.from_position is not None:
        after = control.after_position(target.from_position - 1)
        return lambda _database: after
    if target.by is not None:
        count = target.by
        return lambda database: control.back_by(database, count)
    if target.to_failure:
        return control.to_failure
    if target.to_end:
        return control.high_water_mark
    if target.since is None:
        return lambda _database: control.to_start
    return _since(target.since, settings)


def _since(text: str, settings: Settings) -> Resolver:
    """Resolve a time, and say once what it is in UTC and where in the log."""
    begin = parse_since(text)
    said = settings.json

    def resolve_in(database: Database) -> control.Resolve:
        inner = control.since(database, begin)

        def resolve(connection: Connection, row: SubscriberRow) -> int:
            nonlocal said
            after = inner(connection, row)
            if not said:
                say(f"Since {moment(begin)}: from position {number(after + 1)} on")
                said = True
            return after

        return resolve

    return resolve_in

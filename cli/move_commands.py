"""`rewind`, `advance`, `seek` and `undo`: moving a subscriber's checkpoint, and taking that back."""

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypeVar

import click
import msgspec

from eventlog.cli.opening import opened_database
from eventlog.cli.options import Position, shared_options
from eventlog.cli.output import moment, say, show, show_json
from eventlog.cli.parsing import since as parse_since
from eventlog.cli.plan import ask, show_done, show_plan, undone_line
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import Database
from eventlog.errors import RefusedError, UsageError
from eventlog.projections.rebuild import owns_tables, rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.control.moves import Resolve
from eventlog.subscribers.registration import read_subscriber

C = TypeVar("C", bound=Callable[..., Any])

Resolver = Callable[[Database], Resolve]
"""What was typed, still to be asked of a database."""


class Deed(Protocol):
    """A move or a rebuild, all settled but whether it is done or only planned."""

    def __call__(self, *, dry_run: bool) -> control.Move: ...


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The places a move may be given; one of them has to be."""

    to_start: bool = False
    from_position: int | None = None
    since: str | None = None
    to_failure: bool = False
    to_end: bool = False


def _shared(command: C) -> C:
    """The options of every move, but for where to."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return shared_options(command)


_OPTIONS = (
    click.option("--reason", help="Why, for the record."),
    click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing."),
    click.option("-y", "--yes", is_flag=True, help="Do it unasked."),
)

_from = click.option(
    "--from", "from_position", metavar="POSITION", type=Position(min=1), help="The position to be delivered next."
)
_since = click.option(
    "--since", metavar="TIME", help="To the first event recorded since: 2h, 3d, 2026-01-31T09:30+01:00."
)
_resend = click.option("--resend", is_flag=True, help="Events that were handled before shall be handled again.")
_to_start = click.option("--to-start", is_flag=True, help="To where it began.")
_to_end = click.option("--to-end", is_flag=True, help="To the high-water mark: what is there is passed over.")


@click.command()
@click.argument("subscriber")
@click.option("--to-start", is_flag=True, help="To where it began; a projection's tables are emptied first.")
@_from
@_since
@click.option("--to-failure", is_flag=True, help="To just before the first open failure.")
@_resend
@_shared
def rewind(
    *,
    subscriber: str,
    to_start: bool,
    from_position: int | None,
    since: str | None,
    to_failure: bool,
    resend: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Move a subscriber back, so that events are delivered again.

    Workers may run meanwhile. It never passes anything over. Open failures above the new checkpoint are superseded,
    because their events come again. The plan is shown first. A time without an offset is the local one.

    \b
      eventlog rewind board --to-start
      eventlog rewind mail --from 900 --dry-run
      eventlog rewind mail --since 2h --resend --reason "the server lost them"
    """
    settings = read_settings()
    target = Target(to_start=to_start, from_position=from_position, since=since, to_failure=to_failure)
    resolver = _resolver(target, "a rewind", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = _rewind_deed(database, subscriber, resolver, to_start=to_start, resend=resend, reason=reason)
        _carry_out(deed, settings, resend=resend, dry_run=dry_run, yes=yes)


@click.command()
@click.argument("subscriber")
@_from
@_since
@_to_end
@_shared
def advance(
    *,
    subscriber: str,
    from_position: int | None,
    since: str | None,
    to_end: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Move a subscriber forward: what lies between is not delivered to it.

    Never back, and never past the high-water mark. Its failures stay what they are.

    \b
      eventlog advance mail --from 1200 --reason "the campaign was called off"
      eventlog advance mail --to-end
    """
    settings = read_settings()
    target = Target(from_position=from_position, since=since, to_end=to_end)
    resolver = _resolver(target, "an advance", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = partial(control.advance, database, subscriber, resolver(database), reason=reason)
        _carry_out(deed, settings, resend=True, dry_run=dry_run, yes=yes)


@click.command()
@click.argument("subscriber")
@_to_start
@_from
@_since
@_to_end
@_resend
@_shared
def seek(
    *,
    subscriber: str,
    to_start: bool,
    from_position: int | None,
    since: str | None,
    to_end: bool,
    resend: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> None:
    """Move a subscriber to a place, whichever way that is.

    Back it is a rewind, forward an advance; with several partitions it may be the one for some, and the other for
    others.

    \b
      eventlog seek mail --from 1200 --dry-run
    """
    settings = read_settings()
    target = Target(to_start=to_start, from_position=from_position, since=since, to_end=to_end)
    resolver = _resolver(target, "a seek", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = partial(control.seek, database, subscriber, resolver(database), resend=resend, reason=reason)
        _carry_out(deed, settings, resend=resend, dry_run=dry_run, yes=yes)


@click.command()
@click.argument("move", metavar="OPERATION|SUBSCRIBER")
@_shared
def undo(move: str, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Take a rewind, an advance or a seek back.

    Give the number that it printed, or a subscriber's name for its last one. The checkpoint and the failures are then
    as they were before. What has been delivered again meanwhile stays delivered. A rewind that emptied tables cannot be
    undone; it only has to be waited for.

    \b
      eventlog undo 7
      eventlog undo mail
    """
    settings = read_settings()
    with opened_database(settings, None if move.isdecimal() else move) as database:
        operation = int(move) if move.isdecimal() else control.last_move(database, move)
        undone = control.undo(database, operation, dry_run=True)
        if not settings.json:
            (show if dry_run else say)(undone_line(undone))
        if not dry_run:
            ask(f"Undo operation {operation}?", yes=yes, dry_run_offered=True)
            undone = control.undo(database, operation, reason=reason)
    if settings.json:
        show_json(_undone_document(undone, dry_run=dry_run))
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"Undone {undone_line(undone)}")


def _resolver(target: Target, deed: str, *, settings: Settings) -> Resolver:
    """Read where to; nothing has been asked of the database yet."""
    given = (target.to_start, target.from_position is not None, target.since is not None)
    if sum((*given, target.to_failure, target.to_end)) != 1:
        raise UsageError(
            f"{deed} wants one place to go to", remedy="say one of --from POSITION, --since TIME and those of --help"
        )
    if target.from_position is not None:
        after = control.after_position(target.from_position - 1)
        return lambda _database: after
    if target.to_failure:
        return control.to_failure
    if target.to_end:
        return control.high_water_mark
    if target.since is None:
        return lambda _database: control.to_start
    begin = parse_since(target.since)
    if not settings.json:
        say(f"Since {moment(begin)}")
    return lambda database: control.since(database, begin)


def _rewind_deed(
    database: Database, name: str, resolver: Resolver, *, to_start: bool, resend: bool, reason: str | None
) -> Deed:
    with database.reader() as connection:
        row = read_subscriber(connection, database, name)
    if to_start and owns_tables(row):
        return partial(rebuild_in_place, database, name, reason=reason)
    return partial(control.rewind, database, name, resolver(database), resend=resend, reason=reason)


def _carry_out(deed: Deed, settings: Settings, *, resend: bool, dry_run: bool, yes: bool) -> None:
    """Show the plan, ask, do it, and tell."""
    move = deed(dry_run=True)
    if not settings.json:
        show_plan(move, dry_run=dry_run)
    if move.needs_resend and not resend:
        _say_refused(control.not_twice(move), dry_run=dry_run)
    if not dry_run:
        ask(_question(move), yes=yes, dry_run_offered=True)
        move = deed(dry_run=False)
    if settings.json:
        show_json(_as_document(move, dry_run=dry_run))
    elif dry_run:
        say("Nothing was changed.")
    else:
        done = {"advance": "Advanced", "seek": "Moved"}.get(move.action, "Rewound")
        show_done(done, move)


def _say_refused(refusal: RefusedError, *, dry_run: bool) -> None:
    """Say before anybody is asked what the move itself would say afterwards: that it wants --resend."""
    if not dry_run:
        raise refusal
    say(f"It would be refused as it is: {refusal}\n  {refusal.remedy}")


def _question(plan: control.Move) -> str:
    if plan.emptied:
        return f"Empty {', '.join(plan.emptied)} and rewind {plan.subscriber}?"
    verb = {"advance": "Advance", "seek": "Move"}.get(plan.action, "Rewind")
    return f"{verb} {plan.subscriber}?"


def _undone_document(undone: control.Undone, *, dry_run: bool) -> dict[str, object]:
    return {
        "subscriber": undone.subscriber,
        "from": undone.from_position,
        "to": undone.to_position,
        "next_event": undone.to_position + 1,
        "restored": undone.restored,
        "operation": undone.operation,
        "dry_run": dry_run,
    }


def _as_document(move: control.Move, *, dry_run: bool) -> dict[str, object]:
    values = msgspec.structs.asdict(move)
    ends = {"from": values.pop("from_position"), "to": values.pop("to_position")}
    moves = [{"partition": one.partition, "from": one.from_position, "to": one.to_position} for one in move.partitions]
    return {"subscriber": move.subscriber, **ends, **values, "partitions": moves, "dry_run": dry_run}

"""`rewind` and `undo`: moving a subscriber's checkpoint back, and taking that back."""

from collections.abc import Callable
from functools import partial
from typing import Protocol

import click
import msgspec

from eventlog.cli.opening import opened_log
from eventlog.cli.options import Position, shared_options
from eventlog.cli.output import moment, say, show, show_json
from eventlog.cli.parsing import since as parse_since
from eventlog.cli.plan import ask, show_done, show_plan, undone_line
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import Database
from eventlog.errors import RefusedError, UsageError
from eventlog.projections.rebuild import owns_tables, rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.registration import read_subscriber

Resolver = Callable[[Database], control.Resolve]
"""What was typed, still to be asked of a database."""


class Deed(Protocol):
    """A rewind or a rebuild, all settled but whether it is done or only planned."""

    def __call__(self, *, dry_run: bool) -> control.Move: ...


@click.command()
@click.argument("subscriber")
@click.option("--to-start", is_flag=True, help="To where it began; a projection's tables are emptied first.")
@click.option(
    "--from", "from_position", metavar="POSITION", type=Position(min=1), help="The position to be delivered next."
)
@click.option("--since", metavar="TIME", help="To the first event recorded since: 2h, 3d, 2026-01-31T09:30+01:00.")
@click.option("--resend", is_flag=True, help="Events that were handled before shall be handled again.")
@click.option("--reason", help="Why, for the record.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do it unasked.")
@shared_options
def rewind(
    *,
    subscriber: str,
    to_start: bool,
    from_position: int | None,
    since: str | None,
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
    resolver = _resolver(to_start, from_position, since, settings=settings)
    with opened_log(settings) as log:
        deed = _deed(log.database, subscriber, resolver, to_start=to_start, resend=resend, reason=reason)
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
        show_done("Rewound", move)


@click.command()
@click.argument("operation", type=click.IntRange(min=1))
@click.option("--reason", help="Why, for the record.")
@click.option("--dry-run", is_flag=True, help="Show what would come back, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do it unasked.")
@shared_options
def undo(operation: int, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Take a rewind back.

    OPERATION is the number the rewind printed. The checkpoint and the failures are then as they were before. What has
    been delivered again meanwhile stays delivered. A rewind that emptied tables cannot be undone; it only has to be
    waited for.

    \b
      eventlog undo 7
    """
    settings = read_settings()
    with opened_log(settings) as log:
        undone = control.undo(log.database, operation, dry_run=True)
        if not settings.json:
            (show if dry_run else say)(undone_line(undone))
        if not dry_run:
            ask(f"Undo operation {operation}?", yes=yes, dry_run_offered=True)
            undone = control.undo(log.database, operation, reason=reason)
    if settings.json:
        show_json(_undone_document(undone, dry_run=dry_run))
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"Undone {undone_line(undone)}")


def _resolver(to_start: bool, from_position: int | None, since: str | None, *, settings: Settings) -> Resolver:
    """Read where to; nothing has been asked of the database yet."""
    if sum((to_start, from_position is not None, since is not None)) != 1:
        raise UsageError(
            "a rewind wants one place to go to", remedy="say one of --to-start, --from POSITION and --since TIME"
        )
    if from_position is not None:
        after = control.after_position(from_position - 1)
        return lambda _database: after
    if since is None:
        return lambda _database: control.to_start
    begin = parse_since(since)
    if not settings.json:
        say(f"Since {moment(begin)}")
    return lambda database: control.since(database, begin)


def _deed(
    database: Database, name: str, resolver: Resolver, *, to_start: bool, resend: bool, reason: str | None
) -> Deed:
    with database.reader() as connection:
        row = read_subscriber(connection, database, name)
    if to_start and owns_tables(row):
        return partial(rebuild_in_place, database, name, reason=reason)
    return partial(control.rewind, database, name, resolver(database), resend=resend, reason=reason)


def _say_refused(refusal: RefusedError, *, dry_run: bool) -> None:
    """Say before anybody is asked what the rewind itself would say afterwards: that it wants --resend."""
    if not dry_run:
        raise refusal
    say(f"It would be refused as it is: {refusal}\n  {refusal.remedy}")


def _question(plan: control.Move) -> str:
    if plan.emptied:
        return f"Empty {', '.join(plan.emptied)} and rewind {plan.subscriber}?"
    return f"Rewind {plan.subscriber}?"


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
    return {"subscriber": move.subscriber, "from": values.pop("from_position"), "to": values.pop("to_position")} | {
        **values,
        "dry_run": dry_run,
    }

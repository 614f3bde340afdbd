"""`rewind`, `advance`, `seek` and `undo`: moving a subscriber's checkpoint, and taking that back."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, TypedDict, TypeVar, Unpack

import click
import msgspec

from eventlog.cli.catching_up import wait_until_caught_up
from eventlog.cli.move_targets import (
    Resolver,
    Target,
    by_option,
    from_option,
    resolver,
    since_option,
    to_end_option,
    to_failure_option,
    to_start_option,
)
from eventlog.cli.opening import opened_database
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import say, show, show_json
from eventlog.cli.plan import ask, reaching, show_done, show_plan, show_undone, undone_line
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import Database
from eventlog.errors import RefusedError
from eventlog.subscribers import control
from eventlog.subscribers.registration import read_subscriber

C = TypeVar("C", bound=Callable[..., Any])


class Deed(Protocol):
    """A move or a rebuild, all settled but whether it is done or only planned."""

    def __call__(self, *, dry_run: bool) -> control.Move: ...


class MoveOptions(TypedDict):
    """How a move is to be made, whichever it is."""

    reason: str | None
    dry_run: bool
    yes: bool
    wait: bool
    timeout: float | None


def _shared(command: C) -> C:
    """The options of every move, but for where to."""
    for option in reversed((*_OPTIONS, *_WAITING)):
        command = option(command)
    return shared_options(command)


_OPTIONS = (
    click.option("--reason", help="Why, for the record."),
    click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing."),
    click.option("-y", "--yes", is_flag=True, help="Do it unasked."),
)

_WAITING = (
    click.option("--wait", is_flag=True, help="Return when it has caught up; workers have to run."),
    click.option(
        "--timeout",
        metavar="SECONDS",
        type=click.FloatRange(min=0),
        help="With --wait: for how long at most.  [default: as long as it takes]",
    ),
)

_resend = click.option("--resend", is_flag=True, help="Events that were handled before shall be handled again.")


@click.command()
@subscriber_argument()
@click.option("--to-start", is_flag=True, help="To where it began; a projection's tables are emptied first.")
@from_option
@since_option
@by_option
@to_failure_option
@_resend
@_shared
def rewind(
    *,
    subscriber: str,
    to_start: bool,
    from_position: int | None,
    since: str | None,
    by: int | None,
    to_failure: bool,
    resend: bool,
    **how: Unpack[MoveOptions],
) -> None:
    """Move a subscriber back, so that events are delivered again.

    Workers may run meanwhile. It never passes anything over. Open failures above the new checkpoint are superseded,
    because their events come again. The plan is shown first. A time without an offset is the local one.

    \b
      eventlog rewind board --to-start
      eventlog rewind mail --from 900 --dry-run
      eventlog rewind mail --since 2h --resend --reason "the server lost them"
      eventlog rewind mail --by 10 --resend --yes --wait
    """
    settings = read_settings()
    target = Target(to_start=to_start, from_position=from_position, since=since, by=by, to_failure=to_failure)
    to = resolver(target, "a rewind", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = _rewind_deed(database, subscriber, to, to_start=to_start, resend=resend, reason=how["reason"])
        _carry_out(deed, database, settings, resend=resend, how=how)


@click.command()
@subscriber_argument()
@from_option
@since_option
@to_end_option
@_shared
def advance(
    *,
    subscriber: str,
    from_position: int | None,
    since: str | None,
    to_end: bool,
    **how: Unpack[MoveOptions],
) -> None:
    """Move a subscriber forward: what lies between is not delivered to it.

    Never back, and never past the high-water mark. Its failures stay what they are.

    \b
      eventlog advance mail --from 1200 --reason "the campaign was called off"
      eventlog advance mail --to-end
    """
    settings = read_settings()
    target = Target(from_position=from_position, since=since, to_end=to_end)
    to = resolver(target, "an advance", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = partial(control.advance, database, subscriber, to(database), reason=how["reason"])
        _carry_out(deed, database, settings, resend=True, how=how)


@click.command()
@subscriber_argument()
@to_start_option
@from_option
@since_option
@to_end_option
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
    **how: Unpack[MoveOptions],
) -> None:
    """Move a subscriber to a place, whichever way that is.

    Back it is a rewind, forward an advance; with several partitions it may be the one for some, and the other for
    others.

    \b
      eventlog seek mail --from 1200 --dry-run
    """
    settings = read_settings()
    target = Target(to_start=to_start, from_position=from_position, since=since, to_end=to_end)
    to = resolver(target, "a seek", settings=settings)
    with opened_database(settings, subscriber) as database:
        deed = partial(control.seek, database, subscriber, to(database), resend=resend, reason=how["reason"])
        _carry_out(deed, database, settings, resend=resend, how=how)


@click.command()
@subscriber_argument("move", metavar="OPERATION|SUBSCRIBER")
@_shared
def undo(*, move: str, **how: Unpack[MoveOptions]) -> None:
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
            (show if how["dry_run"] else say)(undone_line(undone))
        if not how["dry_run"]:
            ask(f"Undo operation {operation}?", yes=how["yes"], dry_run_offered=True)
            undone = control.undo(database, operation, reason=how["reason"])
            again = reaching(undone.undo, undone.subscriber, database, settings)
            undone = msgspec.structs.replace(undone, undo=again)
        if settings.json:
            show_json(_undone_document(undone, dry_run=how["dry_run"]))
        elif how["dry_run"]:
            say("Nothing was changed.")
        else:
            show_undone(undone)
        _wait(undone.subscriber, database, how)


def _rewind_deed(
    database: Database, name: str, to: Resolver, *, to_start: bool, resend: bool, reason: str | None
) -> Deed:
    if to_start:
        from eventlog.projections.rebuild import owns_tables, rebuild_in_place  # with all of projections

        with database.reader() as connection:
            row = read_subscriber(connection, database, name)
        if owns_tables(row):
            return partial(rebuild_in_place, database, name, reason=reason)
    return partial(control.rewind, database, name, to(database), resend=resend, reason=reason)


def _carry_out(deed: Deed, database: Database, settings: Settings, *, resend: bool, how: MoveOptions) -> None:
    """Show the plan, ask, do it, and tell."""
    dry_run = how["dry_run"]
    move = deed(dry_run=True)
    if not settings.json:
        show_plan(move, dry_run=dry_run)
    if move.needs_resend and not resend:
        _say_refused(control.not_twice(move), dry_run=dry_run)
    if not dry_run:
        ask(_question(move), yes=how["yes"], dry_run_offered=True)
        move = deed(dry_run=False)
        move = msgspec.structs.replace(move, undo=reaching(move.undo, move.subscriber, database, settings))
    if settings.json:
        show_json(_as_document(move, dry_run=dry_run))
    elif dry_run:
        say("Nothing was changed.")
    else:
        done = {"advance": "Advanced", "seek": "Moved"}.get(move.action, "Rewound")
        show_done(done, move)
    _wait(move.subscriber, database, how)


def _wait(subscriber: str, database: Database, how: MoveOptions) -> None:
    if how["wait"] and not how["dry_run"]:
        sys.stdout.flush()
        wait_until_caught_up(database, subscriber, timeout_seconds=how["timeout"])


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
        "undo": undone.undo,
        "dry_run": dry_run,
    }


def _as_document(move: control.Move, *, dry_run: bool) -> dict[str, object]:
    values = msgspec.structs.asdict(move)
    ends = {"from": values.pop("from_position"), "to": values.pop("to_position")}
    moves = [{"partition": one.partition, "from": one.from_position, "to": one.to_position} for one in move.partitions]
    return {"subscriber": move.subscriber, **ends, **values, "partitions": moves, "dry_run": dry_run}

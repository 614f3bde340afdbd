"""`failures`, `retry`, `skip`: the ledger, entry by entry."""

from collections.abc import Sequence
from functools import partial

import click
import msgspec

from eventlog.cli.opening import opened_database
from eventlog.cli.options import Position, shared_options
from eventlog.cli.output import Column, counted, number, say, show, show_items, show_json, show_table, until
from eventlog.cli.plan import ask
from eventlog.cli.settings import Settings, read_settings
from eventlog.errors import UsageError
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers import control
from eventlog.subscribers.ledger import Entry, EntryState
from eventlog.subscribers.status import read_failures

FAILURES_SHOWN = 1_000
ENTRIES_NAMED = 20

position = Position(min=1)

_error = click.option(
    "--error", metavar="TEXT", help="Only failures with this fingerprint, or with this in the error's type or message."
)
_type = click.option("--type", "event_type", metavar="PATTERN", help="Only failures of these types of events.")


@click.command()
@click.argument("subscriber", required=False)
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in EntryState]),
    multiple=True,
    help="Only failures that stand so; those that are open otherwise.",
)
@click.option("--all", "every", is_flag=True, help="Closed ones as well.")
@click.option(
    "-n",
    "--limit",
    metavar="COUNT",
    type=click.IntRange(min=1),
    default=FAILURES_SHOWN,
    show_default=True,
    help="At most so many.",
)
@shared_options
def failures(subscriber: str | None, states: tuple[str, ...], every: bool, limit: int) -> None:
    """List the events whose handler failed.

    Of one subscriber, or of all; those that are open, unless others are asked for.

    \b
      eventlog failures
      eventlog failures mail --state parked --output json
    """
    settings = read_settings()
    wanted = () if every else (states or OPEN_STATES)
    with opened_database(settings, subscriber) as database:
        found = read_failures(database, subscriber=subscriber, states=wanted, limit=limit + 1)
    if settings.json:
        show_items("failures", map(_as_document, found[:limit]), settings.output)
    else:
        _show_failures(found[:limit])
    if len(found) > limit:
        say(f"There are more than {number(limit)}; --limit shows more of them.")


@click.command()
@click.argument("subscriber", required=False)
@click.argument("positions", metavar="[POSITION]...", type=position, nargs=-1)
@_error
@_type
@click.option("--dry-run", is_flag=True, help="Show which they are, and change nothing.")
@click.option("--reason", help="Why, for the record.")
@shared_options
def retry(
    *,
    subscriber: str | None,
    positions: tuple[int, ...],
    error: str | None,
    event_type: str | None,
    dry_run: bool,
    reason: str | None,
) -> None:
    """Make failures due now; a worker runs them.

    Those at POSITION, all open ones of SUBSCRIBER, or all there are. What waits behind an earlier failure of its key is
    left alone: it follows by itself. Nothing is run here: `eventlog run` does that, as it does with every failure whose
    time has come.

    \b
      eventlog retry
      eventlog retry mail 4711 4712
      eventlog retry mail --error ConnectionError --type "order.*"
    """
    settings = read_settings()
    _check_choice(positions, error, event_type)
    with opened_database(settings, subscriber) as database:
        done = control.retry(
            database, subscriber, positions, error=error, event_type=event_type, reason=reason, dry_run=dry_run
        )
    _show_changed(done, settings, what="due now", dry_run=dry_run)
    if done.operation is not None and not settings.json:
        say("A worker tries them again: `eventlog run --drain`, unless one is running.")


@click.command()
@click.argument("subscriber")
@click.argument("positions", metavar="[POSITION]...", type=position, nargs=-1)
@_error
@_type
@click.option("--reason", required=True, help="Why, for the record.")
@click.option("--dry-run", is_flag=True, help="Show which they are, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do it unasked.")
@shared_options
def skip(
    *,
    subscriber: str,
    positions: tuple[int, ...],
    error: str | None,
    event_type: str | None,
    reason: str,
    dry_run: bool,
    yes: bool,
) -> None:
    """Give failures up, with a reason.

    Those at POSITION, or the open ones with an error or of a type. The events are not tried again, and what waits
    behind them goes on. A rewind delivers them nevertheless.

    \b
      eventlog skip mail 4711 --reason "the address is gone"
      eventlog skip mail --error AddressError --reason "the addresses are gone"
    """
    settings = read_settings()
    _check_choice(positions, error, event_type)
    with opened_database(settings, subscriber) as database:
        skip_them = partial(
            control.skip, database, subscriber, positions, error=error, event_type=event_type, reason=reason
        )
        plan = skip_them(dry_run=True)
        if dry_run:
            _show_changed(plan, settings, what="skipped", dry_run=True)
            return
        if not settings.json:
            _name(plan.entries)
        ask(f"Give up {counted(len(plan.entries), 'failure')} of {subscriber}?", yes=yes, dry_run_offered=True)
        done = skip_them()
    _show_changed(done, settings, what="skipped", dry_run=False)


def _check_choice(positions: tuple[int, ...], error: str | None, event_type: str | None) -> None:
    if positions and (error is not None or event_type is not None):
        raise UsageError(
            "failures are named by their positions, or by their error and type", remedy="leave one of the two out"
        )


def _show_failures(found: Sequence[Entry]) -> None:
    if not found:
        say("No failures.")
        return
    columns = [
        Column(title="subscriber"),
        Column(title="position", right=True),
        Column(title="state"),
        Column(title="attempts", right=True),
        Column(title="next", right=True),
        Column(title="error", wraps=True),
    ]
    show_table(columns, [_as_row(entry) for entry in found])
    kinds = len({entry.fingerprint for entry in found})
    say(f"{counted(len(found), 'failure')} of {counted(kinds, 'kind')}.")
    if any(entry.open for entry in found):
        say("`eventlog retry` makes open ones due again; `eventlog skip` gives them up.")


def _as_row(entry: Entry) -> tuple[str, ...]:
    numbers = number(entry.position), entry.state, number(entry.attempts), until(entry.next_attempt_at)
    return (entry.subscriber, *numbers, _problem(entry))


def _problem(entry: Entry) -> str:
    return f"{entry.error_type}: {entry.message}" if entry.message else entry.error_type


def _as_document(entry: Entry) -> dict[str, object]:
    internal = ("partition", "round", "revision", "redelivery")
    return {name: value for name, value in msgspec.structs.asdict(entry).items() if name not in internal}


def _show_changed(done: control.Changed, settings: Settings, *, what: str, dry_run: bool) -> None:
    changed = 0 if dry_run else len(done.entries)
    if settings.json:
        places = [{"subscriber": entry.subscriber, "position": entry.position} for entry in done.entries]
        show_json({"changed": changed, "dry_run": dry_run, "failures": places, "operation": done.operation})
        return
    if dry_run:
        _name(done.entries)
        show(f"{counted(len(done.entries), 'failure')} would be {what}; nothing was changed.")
    elif not done.entries:
        show("There is no open failure; nothing was changed.")
    else:
        show(f"{counted(changed, 'failure')} {what}.")
        if done.more:
            say("There are more: do it once more for the others.")


def _name(entries: Sequence[Entry]) -> None:
    for entry in entries[:ENTRIES_NAMED]:
        say(f"  {entry.subscriber} {number(entry.position)}: {entry.state}, {_problem(entry)[:100]}")
    if len(entries) > ENTRIES_NAMED:
        say(f"  and {number(len(entries) - ENTRIES_NAMED)} more")

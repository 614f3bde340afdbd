"""`failures`, `retry`, `skip`: the ledger, entry by entry."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import click
import msgspec

from eventlog.cli.opening import opened_database, opened_databases
from eventlog.cli.options import Position, limit_option, shared_options, subscriber_argument
from eventlog.cli.output import Column, counted, moment, number, say, show, show_items, show_json, show_table, until
from eventlog.cli.plan import ask
from eventlog.cli.settings import Settings, read_settings
from eventlog.errors import UsageError
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers import control
from eventlog.subscribers.control.ledger import ENTRIES_MAX
from eventlog.subscribers.control.replay_failures import ReplayFailure
from eventlog.subscribers.failed import ErrorGroup, Sought, count_entries, read_entries, read_errors, read_waited_for
from eventlog.subscribers.ledger import Entry, EntryState
from eventlog.subscribers.problems import BLOCKED

FAILURES_SHOWN = 1_000
ENTRIES_NAMED = 20
KINDS_NAMED = 10
FOLLOW = "They follow by themselves, in order, when what they wait behind is handled or skipped."

position = Position(min=1)

_error = click.option(
    "--error", metavar="TEXT", help="Only failures with this fingerprint, or with this in the error's type or message."
)
_type = click.option("--type", "event_type", metavar="PATTERN", help="Only failures of these types of events.")
_limit = click.option(
    "-n",
    "--limit",
    metavar="COUNT",
    type=click.IntRange(min=1, max=ENTRIES_MAX),
    default=ENTRIES_MAX,
    show_default=True,
    help="At most so many.",
)


@click.command()
@subscriber_argument(required=False)
@click.option(
    "--state",
    "states",
    type=click.Choice([str(state) for state in EntryState]),
    multiple=True,
    help="Only failures that stand so; those that are open otherwise.",
)
@click.option("--all", "every", is_flag=True, help="Closed ones as well.")
@_error
@_type
@click.option(
    "--group-by",
    type=click.Choice(["error"]),
    help="Count them by what went wrong, the most frequent first.",
)
@limit_option(FAILURES_SHOWN)
@shared_options
def failures(
    *,
    subscriber: str | None,
    states: tuple[str, ...],
    every: bool,
    error: str | None,
    event_type: str | None,
    group_by: str | None,
    limit: int,
) -> None:
    """List the events whose handler failed.

    Of one subscriber, or of all; those that are open, unless others are asked for. With --app, those of projections
    whose rows are in another database as well. `eventlog failure` shows one in full.

    \b
      eventlog failures
      eventlog failures --group-by error
      eventlog failures mail --state parked --type "order.*" --output json
    """
    settings = read_settings()
    wanted = () if every else (states or OPEN_STATES)
    sought = Sought(subscriber=subscriber, states=tuple(wanted), error=error, event_type=event_type)
    with opened_databases(settings, subscriber) as databases:
        if group_by is not None:
            errors = [group for one in databases for group in read_errors(one, sought, limit=limit + 1)]
            errors.sort(key=lambda group: (group.fingerprint == BLOCKED.fingerprint, -group.count))
            _show_errors(errors[:limit], settings, retriable=set(wanted) <= set(OPEN_STATES) and not every)
            if len(errors) > limit:
                say(f"There are more than {number(limit)}; --limit shows more of them.")
        else:
            found = [entry for one in databases for entry in read_entries(one, sought, limit=limit + 1)]
            shown = found[:limit]
            count = sum(count_entries(one, sought) for one in databases) if len(found) > limit else len(found)
            waited_for = {key: at for one in databases for key, at in read_waited_for(one, shown).items()}
            _show_failures(shown, settings, count=count, waited_for=waited_for)


@click.command()
@subscriber_argument(required=False)
@click.argument("positions", metavar="[POSITION]...", type=position, nargs=-1)
@click.option("--all", "every", is_flag=True, help="All that are open: what happens anyway where nothing is named.")
@_error
@_type
@_limit
@click.option("--dry-run", is_flag=True, help="Show which they are, and change nothing.")
@click.option("--reason", help="Why, for the record.")
@shared_options
def retry(
    *,
    subscriber: str | None,
    positions: tuple[int, ...],
    every: bool,
    error: str | None,
    event_type: str | None,
    limit: int,
    dry_run: bool,
    reason: str | None,
) -> None:
    """Make failures due now; a worker runs them.

    Those at POSITION, all open ones of SUBSCRIBER, or all there are; with --app, those of projections whose rows are in
    another database as well. What waits behind an earlier failure of its key is left alone: it follows by itself.
    Nothing is run here: `eventlog run` does that, as it does with every failure whose time has come.

    \b
      eventlog retry
      eventlog retry mail 4711 4712
      eventlog retry mail --error ConnectionError --type "order.*" --limit 10
    """
    settings = read_settings()
    _check_choice(positions, error, event_type)
    if every and (positions or error is not None or event_type is not None):
        raise UsageError("--all means every open failure", remedy="leave it out where some of them are named")
    done = control.Changed(entries=(), operation=None)
    with opened_databases(settings, subscriber) as databases:
        for database in databases:
            more = control.retry(
                database,
                subscriber,
                positions,
                error=error,
                event_type=event_type,
                limit=limit - len(done.entries),
                reason=reason,
                dry_run=dry_run,
            )
            done = done.and_then(more)
    _show_changed(done, settings, what="due now", dry_run=dry_run)
    if done.operation is not None and not settings.json:
        say("A worker tries them again: `eventlog run --drain`, unless one is running.")


@click.command()
@subscriber_argument()
@click.argument("positions", metavar="[POSITION]...", type=position, nargs=-1)
@_error
@_type
@_limit
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
    limit: int,
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
            control.skip,
            database,
            subscriber,
            positions,
            error=error,
            event_type=event_type,
            limit=limit,
            reason=reason,
        )
        plan = skip_them(dry_run=True)
        if dry_run:
            _show_changed(plan, settings, what="skipped", dry_run=True)
            return
        if not settings.json:
            _show_plan(plan, say)
        ask(f"Give up {counted(len(plan.entries), 'failure')} of {subscriber}?", yes=yes, dry_run_offered=True)
        done = skip_them()
    _show_changed(done, settings, what="skipped", dry_run=False)


def _check_choice(positions: tuple[int, ...], error: str | None, event_type: str | None) -> None:
    if positions and (error is not None or event_type is not None):
        raise UsageError(
            "failures are named by their positions, or by their error and type", remedy="leave one of the two out"
        )


def _show_failures(
    found: Sequence[Entry], settings: Settings, *, count: int, waited_for: Mapping[tuple[str, str], int]
) -> None:
    if settings.json:
        show_items("failures", map(entry_document, found), settings.output)
        if count > len(found):
            say(_part(len(found), count))
        return
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
    show_table(columns, [_as_row(entry, waited_for.get((entry.subscriber, entry.key))) for entry in found])
    kinds = len({entry.fingerprint for entry in found})
    whole = f"{counted(count, 'failure')} of {counted(kinds, 'kind')}."
    say(whole if count == len(found) else _part(len(found), count))
    if any(entry.open and entry.state is not EntryState.BLOCKED for entry in found):
        say("`eventlog retry` makes open ones due again; `eventlog skip` gives them up.")
    elif any(entry.open for entry in found):
        say(FOLLOW)


def _part(shown: int, count: int) -> str:
    return f"{number(shown)} of {counted(count, 'failure')}; --limit shows more of them."


def _show_errors(found: Sequence[ErrorGroup], settings: Settings, *, retriable: bool) -> None:
    """`retriable` is whether all that is counted is open."""
    if settings.json:
        show_items("errors", found, settings.output)
        return
    if not found:
        say("No failures.")
        return
    columns = [
        Column(title="subscriber"),
        Column(title="count", right=True),
        Column(title="first"),
        Column(title="last"),
        Column(title="example", right=True),
        Column(title="fingerprint"),
        Column(title="error", wraps=True),
    ]
    show_table(columns, [_error_row(one) for one in found])
    example = found[0]
    say(f"`eventlog failure {example.subscriber} {example.position}` shows one in full.")
    if example.fingerprint == BLOCKED.fingerprint:
        say(FOLLOW)
    elif retriable:
        say(f"`eventlog retry {example.subscriber} --error {example.fingerprint}` makes all of that kind due.")


def _error_row(one: ErrorGroup) -> tuple[str, ...]:
    times = moment(one.first_failed_at), moment(one.last_failed_at)
    return one.subscriber, number(one.count), *times, number(one.position), one.fingerprint, problem(one)


def _as_row(entry: Entry, waits_for: int | None) -> tuple[str, ...]:
    numbers = number(entry.position), entry.state, number(entry.attempts), until(entry.next_attempt_at)
    return (entry.subscriber, *numbers, entry_problem(entry, waits_for))


def entry_problem(entry: Entry, waits_for: int | None) -> str:
    """Write what went wrong with an entry on one line, or what it waits for, or had waited for."""
    if entry.fingerprint != BLOCKED.fingerprint:
        return problem(entry)
    if entry.state is not EntryState.BLOCKED:
        return "waited behind an earlier failure of its key"
    return problem(entry) if waits_for is None else f"{BLOCKED.error_type}: waits behind event {number(waits_for)}"


def problem(failed: Entry | ErrorGroup | ReplayFailure) -> str:
    """Write what went wrong on one line."""
    return f"{failed.error_type}: {failed.message}" if failed.message else failed.error_type


def entry_document(entry: Entry) -> dict[str, object]:
    """Make the document of an entry, without what only workers need."""
    internal = ("partition", "round", "revision", "redelivery")
    return {name: value for name, value in msgspec.structs.asdict(entry).items() if name not in internal}


def _show_changed(done: control.Changed, settings: Settings, *, what: str, dry_run: bool) -> None:
    changed = 0 if dry_run else len(done.entries)
    if settings.json:
        places = [{"subscriber": entry.subscriber, "position": entry.position} for entry in done.entries]
        document = {"changed": changed, "dry_run": dry_run, "failures": places, "operation": done.operation}
        show_json({**document, "more": done.more})
        return
    if dry_run:
        _show_plan(done, show)
        show(f"{counted(len(done.entries), 'failure')} would be {what}; nothing was changed.")
    elif not done.entries:
        show("There is no open failure; nothing was changed.")
    else:
        show(f"{counted(changed, 'failure')} {what}.")
    if done.more:
        say("There are more: do it once more for the others.")


def _show_plan(plan: control.Changed, line: Callable[[str], None]) -> None:
    """Count the entries by what went wrong where there are several kinds, and name the first."""
    kinds = Counter((entry.subscriber, entry.fingerprint) for entry in plan.entries)
    if len(kinds) > 1:
        examples = {(entry.subscriber, entry.fingerprint): entry for entry in reversed(plan.entries)}
        for kind, count in kinds.most_common(KINDS_NAMED):
            line(f"  {number(count):>9}  {kind[0]} {problem(examples[kind])[:100]}")
    for entry in plan.entries[:ENTRIES_NAMED]:
        line(f"  {entry.subscriber} {number(entry.position)}: {entry.state}, {problem(entry)[:100]}")
    if len(plan.entries) > ENTRIES_NAMED:
        line(f"  and {number(len(plan.entries) - ENTRIES_NAMED)} more")

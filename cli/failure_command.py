"""`failure`: one event that a subscriber failed at: the event, every attempt, and where the last one failed."""

from collections.abc import Sequence

import click
import msgspec

from eventlog.cli.event_output import recorded
from eventlog.cli.ledger_commands import entry_document, entry_problem, position
from eventlog.cli.opening import opened_database
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import Column, is_terminal, moment, number, printable, say, show, show_json, show_table, until
from eventlog.cli.settings import read_settings
from eventlog.cli.show_command import event_lines
from eventlog.subscribers.failed import AttemptRow, FailureInFull, read_failure
from eventlog.subscribers.ledger import Entry


@click.command()
@subscriber_argument()
@click.argument("at", metavar="POSITION", type=position)
@shared_options
def failure(subscriber: str, at: int) -> None:
    """Show one failure in full: the event, every attempt, the traceback.

    \b
      eventlog failure mail 4711
      eventlog failure mail 4711 --output json | jq -r '.attempts[0].traceback'
    """
    settings = read_settings()
    with opened_database(settings, subscriber) as database:
        found = read_failure(database, subscriber, at)
    if settings.json:
        show_json(_as_document(found))
        return
    _show_entry(found.entry, found.waits_for)
    show()
    if found.event is None:
        say("The event is in another database; --app names it.")
    else:
        for line in event_lines(found.event):
            show(line)
    _show_attempts(found.attempts)
    if found.waits_for is not None:
        say(f"It waits behind event {number(found.waits_for)} of its key, and follows by itself:")
        say(f"`eventlog failure {subscriber} {found.waits_for}` shows that one, `eventlog retry` makes it due again.")
    elif found.entry.open:
        say(f"`eventlog retry {subscriber} {at}` makes it due again; `eventlog skip` gives it up.")


def _show_entry(entry: Entry, waits_for: int | None) -> None:
    fields = {
        "failure": f"{entry.subscriber} {number(entry.position)}",
        "state": entry.state if entry.next_attempt_at is None else f"{entry.state}, {until(entry.next_attempt_at)}",
        "attempts": number(entry.attempts),
        "failed": f"{moment(entry.first_failed_at)} to {moment(entry.last_failed_at)}",
        "key": entry.key,
        "handler": entry.handler or "-",
        "error": entry_problem(entry, waits_for),
        "kind": entry.fingerprint,
    }
    if entry.reason is not None:
        fields["reason"] = entry.reason
    for name, value in fields.items():
        show(f"{name:<10}{printable(value)}")


def _show_attempts(attempts: Sequence[AttemptRow]) -> None:
    if not attempts:
        return
    columns = [
        Column(title="attempt", right=True),
        Column(title="at"),
        Column(title="outcome"),
        Column(title="took", right=True),
        Column(title="worker", wraps=True),
        Column(title="error", wraps=True),
    ]
    if not is_terminal():
        show()
    show_table(columns, [_row(one) for one in reversed(attempts)])
    last = next((one.traceback for one in attempts if one.traceback), None)
    if last is not None:
        show()
        for line in last.splitlines():
            show(printable(line))


def _row(one: AttemptRow) -> tuple[str, ...]:
    counted = f"{one.attempt}" if one.round == 0 else f"{one.attempt} (round {one.round + 1})"
    took = f"{one.duration_seconds * 1_000:,.0f} ms"
    return counted, moment(one.at), one.outcome, took, one.worker, one.error_type or ""


def _as_document(found: FailureInFull) -> dict[str, object]:
    return {
        "failure": entry_document(found.entry),
        "event": None if found.event is None else recorded(found.event),
        "attempts": [msgspec.structs.asdict(one) for one in found.attempts],
        "waits_for": found.waits_for,
    }

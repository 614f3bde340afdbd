"""`status`, `subscribers`, `register`: who reads the log, and how far everybody is."""

import click
import msgspec

from eventlog.cli.opening import load_app, opened_app, opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import Column, Format, moment, number, say, show, show_items, show_json, show_table
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import Holder, translated
from eventlog.log import EventLog
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.registration import Registration, SubscriberRow, read_subscriber
from eventlog.subscribers.registration import register as register_one
from eventlog.subscribers.status import Status, SubscriberStatus, read_status

STATES_SHOWN = (EntryState.PARKED, EntryState.RETRYING, EntryState.BLOCKED, EntryState.SKIPPED, EntryState.RESOLVED)
"""The order in which failures are counted up; superseded ones come again by themselves and are left out."""


@click.command()
@shared_options
def status() -> None:
    """Show how far everything is, and what failed.

    Lag counts the events between a subscriber's checkpoint and the high-water mark, below which nothing can appear any
    more. A transaction that has appended and stays open holds that mark back, and is named. With --app, projections
    whose rows are in another database are shown, too.

    \b
      eventlog status
      eventlog status --output json | jq '.subscribers[] | select(.lag > 1000)'
    """
    settings = read_settings()
    with opened_log(settings) as log:
        found = read_status(log.database)
        found = msgspec.structs.replace(found, subscribers=(*found.subscribers, *_elsewhere(settings)))
    if settings.output is Format.JSONL:
        show_items("subscribers", found.subscribers, settings.output)
    elif settings.json:
        show_json(found)
    else:
        _show_status(found)


@click.command()
@shared_options
def subscribers() -> None:
    """List the registered subscribers.

    With where they began, how events are delivered to them, and which types they take.

    \b
      eventlog subscribers
    """
    settings = read_settings()
    with opened_log(settings) as log:
        rows = _registered(log)
    if settings.json:
        show_items("subscribers", map(_as_document, rows), settings.output)
        return
    if not rows:
        say("No subscriber is registered yet; `eventlog register --app module:app` registers yours.")
        return
    titles = ("subscriber", "kind", "delivery", "on failure")
    columns = [*(Column(title=title) for title in titles), Column(title="types", wraps=True)]
    show_table(columns, [_as_row(row) for row in rows])


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--drop-types", is_flag=True, help="Take over what the app declares, also where it is less than before.")
@shared_options
def register(names: tuple[str, ...], drop_types: bool) -> None:
    """Register the subscribers of an app.

    All of them, or those named. The first time this fixes where a subscriber begins, and makes the tables of
    projections. `eventlog run` does it for what is not registered. Code that handles fewer types than what is
    registered is taken for an old release and refused, unless --drop-types says that it is the new one.

    \b
      eventlog register --app shop:app
      eventlog register mail --app shop:app --drop-types
    """
    settings = read_settings()
    with opened_app(settings) as app:
        done = {
            one.name: register_one(app.home_of(one), one, consent_to_change=drop_types) for one in app.chosen(names)
        }
    if settings.json:
        show_json({"subscribers": done})
        return
    for name, outcome in done.items():
        show(f"{name}: {outcome}")
        if outcome is Registration.OUTDATED:
            say(f"  its workers make the new version beside the live one; `eventlog rebuild {name}` does it here")
    if not done:
        say("The app declares no subscribers.")


def _elsewhere(settings: Settings) -> list[SubscriberStatus]:
    """The subscribers whose rows are in other databases than the log's, as the app declares them."""
    if settings.app is None:
        return []
    found: list[SubscriberStatus] = []
    for home in load_app(settings).homes[1:]:
        with translated(home):
            found += [one for one in read_status(home).subscribers if one.log is not None]
        home.engine.dispose()
    return found


def _show_status(found: Status) -> None:
    show(f"Head {number(found.head)}, high-water mark {number(found.high_water_mark)}")
    for holder in found.held_back_by:
        say(_held_back(holder))
    if not found.subscribers:
        say("No subscriber is registered yet; `eventlog register --app module:app` registers yours.")
        return
    columns = [
        Column(title="subscriber"),
        Column(title="kind"),
        Column(title="state"),
        Column(title="checkpoint", right=True),
        Column(title="lag", right=True),
        Column(title="failures", wraps=True),
        Column(title="owner", wraps=True),
    ]
    show_table(columns, [_status_row(one) for one in found.subscribers])
    _say_what_next(found)


def _status_row(one: SubscriberStatus) -> tuple[str, ...]:
    failures = ", ".join(f"{number(one.failures[state])} {state}" for state in STATES_SHOWN if state in one.failures)
    lag = "?" if one.lag is None else f"{'' if one.lag_exact else '~'}{number(one.lag)}"
    return (one.name, one.kind, one.state, number(one.checkpoint), lag, failures or "-", one.owner or "-")


def _held_back(holder: Holder) -> str:
    who = f"pid {holder.pid} ({holder.application or 'no application name'}, user {holder.user})"
    since = f", open since {moment(holder.since)}" if holder.since is not None else ""
    return f"The high-water mark is held back at {number(holder.position)} by {who}{since}"


def _say_what_next(found: Status) -> None:
    halted = [one.name for one in found.subscribers if one.state == "halted"]
    for name in halted:
        say(f"{name} is halted at a failure: `eventlog failures {name}` shows it, `eventlog retry {name}` tries again")
    for one in found.subscribers:
        if one.state == "outage":
            say(
                f"{one.name}: {one.outage_handler} has failed at everything since {moment(one.outage_since)}; it is"
                f" tried again and again, and `eventlog retry {one.name}` tries at once"
            )
    if not halted and any(EntryState.PARKED in one.failures for one in found.subscribers):
        say("`eventlog failures` lists what is parked, `eventlog retry` makes it due again")


def _registered(log: EventLog) -> list[SubscriberRow]:
    with log.database.reader() as connection:
        names = [one.name for one in read_status(log.database).subscribers]
        return [read_subscriber(connection, log.database, name) for name in names]


def _as_document(row: SubscriberRow) -> dict[str, object]:
    declared = row.declaration
    return {
        "name": row.name,
        "kind": row.kind,
        "state": row.state,
        "start": row.start,
        "start_position": row.start_position,
        "delivery": declared.delivery,
        "on_failure": declared.on_failure,
        "types": declared.patterns,
        "tables": declared.tables,
        "idempotent": declared.idempotent,
    }


def _as_row(row: SubscriberRow) -> tuple[str, ...]:
    declared = row.declaration
    return (row.name, row.kind, declared.delivery, declared.on_failure, ", ".join(declared.patterns))

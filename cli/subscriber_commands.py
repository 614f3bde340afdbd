"""`subscribers`, `register`: who reads the log, and what they declare."""

import click

from eventlog.cli.opening import opened_app, opened_databases
from eventlog.cli.options import declared_names, shared_options
from eventlog.cli.output import Column, say, show, show_items, show_json, show_table
from eventlog.cli.settings import read_settings
from eventlog.database import Database, initialise, translated
from eventlog.subscribers.beginnings import other_beginning, read_beginning
from eventlog.subscribers.registration import Registration, SubscriberRow, read_subscriber
from eventlog.subscribers.registration import register as register_one
from eventlog.subscribers.status import read_status


@click.command()
@shared_options
def subscribers() -> None:
    """List the registered subscribers.

    With where they began, how events are delivered to them, and which types they take. With --app, projections whose
    rows are in another database are listed, too.

    \b
      eventlog subscribers
    """
    settings = read_settings()
    with opened_databases(settings) as databases:
        rows = [row for one in databases for row in _registered(one)]
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
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=declared_names)
@click.option("--drop-types", is_flag=True, help="Take over what the app declares, also where it is less than before.")
@shared_options
def register(names: tuple[str, ...], drop_types: bool) -> None:
    """Register the subscribers of an app.

    All of them, or those named. The first time this fixes where a subscriber begins, tells how many events lie ahead of
    it, and makes the tables of projections. `eventlog run` does it for what is not registered. Code that handles fewer
    types than what is registered is taken for an old release and refused, unless --drop-types says that it is the new
    one.

    \b
      eventlog register --app shop:app
      eventlog register mail --app shop:app --drop-types
    """
    settings = read_settings()
    with opened_app(settings) as app:
        for home in app.homes[1:]:
            initialise(home)
        chosen = {one.name: one for one in app.chosen(names)}
        done = {name: register_one(app.home_of(one), one, consent_to_change=drop_types) for name, one in chosen.items()}
        created = [chosen[name] for name, outcome in done.items() if outcome is Registration.CREATED]
        begin = {one.name: read_beginning(app.home_of(one), one) for one in created}
    if settings.json:
        show_json({"subscribers": done, "beginnings": begin})
        return
    for name, outcome in done.items():
        show(f"{name}: {outcome}, {begin[name].said}" if name in begin else f"{name}: {outcome}")
        if name in begin and (other := other_beginning(chosen[name], begin[name])) is not None:
            say(f"  {other}")
        if outcome is Registration.OUTDATED:
            say(f"  its workers make the new version beside the live one; `eventlog rebuild {name}` does it here")
    if not done:
        say("The app declares no subscribers.")


def _registered(database: Database) -> list[SubscriberRow]:
    """Read those of a log; of a database elsewhere, those that follow ours."""
    found = read_status(database).subscribers
    names = [one.name for one in found if database.follows is None or one.log is not None]
    with translated(database), database.reader() as connection:
        return [read_subscriber(connection, database, name) for name in names]


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

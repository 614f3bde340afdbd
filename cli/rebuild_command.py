"""`rebuild` and `rebuilds`: a projection made anew, beside the live one or in place."""

import signal

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.opening import opened_app, opened_database, opened_databases
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import Column, moment, number, say, show, show_items, show_json, show_table
from eventlog.cli.plan import ask, reaching, show_done, show_plan
from eventlog.cli.progress import shown_progress
from eventlog.cli.settings import Settings, read_settings
from eventlog.cli.stopping import signals_stop
from eventlog.database import Database
from eventlog.errors import UsageError
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers.app import App
from eventlog.subscribers.control.exchange import Standing, drop_kept, go_back
from eventlog.subscribers.control.rebuilds import (
    Rebuild,
    RebuildState,
    begin_rebuild,
    cancel_rebuild,
    read_rebuilds,
)
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.rebuilding import run_rebuild, waits_at


@click.command()
@subscriber_argument()
@click.option("--in-place", is_flag=True, help="Empty the live tables and fill them again, instead of making others.")
@click.option("--keep", is_flag=True, help="Keep the tables of before, for --back.")
@click.option("--background", is_flag=True, help="Only begin it; the running workers make it.")
@click.option("--cancel", is_flag=True, help="Give up the one that runs. The live tables stay as they are.")
@click.option("--back", is_flag=True, help="Bring back the tables that were kept.")
@click.option("--drop-kept", is_flag=True, help="Drop the tables that were kept.")
@click.option("--reason", help="Why, for the record.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do it unasked.")
@shared_options
def rebuild(
    *,
    subscriber: str,
    in_place: bool,
    keep: bool,
    background: bool,
    cancel: bool,
    back: bool,
    drop_kept: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Make a projection anew from the log.

    Beside the live one: other tables are filled from the log while the live ones serve and are kept up to date; when
    they have caught up, their names are exchanged, and no reader sees anything in between. It goes on where it was when
    it is run again, and running workers of the same code take part. --in-place empties the live tables instead.

    \b
      eventlog rebuild board --app shop:app
      eventlog rebuild board --app shop:app --keep --reason "added twice"
      eventlog rebuild board --back
    """
    settings = read_settings()
    if sum((in_place, background or keep, cancel, back, drop_kept)) > 1:
        raise UsageError("these options mean different things", remedy="say one; --keep and --background go together")
    if cancel or back or drop_kept:
        with opened_database(settings, subscriber) as database:
            if cancel:
                return _cancel(database, subscriber, settings, reason=reason, dry_run=dry_run, yes=yes)
            if back:
                return _go_back(database, subscriber, settings, reason=reason, dry_run=dry_run, yes=yes)
            return _drop_kept(database, subscriber, settings, reason=reason, dry_run=dry_run, yes=yes)
    with opened_app(settings) as app:
        declared = app.chosen([subscriber])[0]
        if in_place:
            return _in_place(app, declared, settings, reason=reason, dry_run=dry_run, yes=yes)
        return _beside(
            app, declared, settings, keep=keep, background=background, reason=reason, dry_run=dry_run, yes=yes
        )


@click.command()
@subscriber_argument(required=False)
@shared_options
def rebuilds(subscriber: str | None) -> None:
    """List the rebuilds, the latest first.

    With --app, those of projections whose rows are in another database as well: database by database, since operations
    are numbered in each.

    \b
      eventlog rebuilds board
    """
    settings = read_settings()
    with opened_databases(settings, subscriber) as databases:
        found = [rebuild for one in databases for rebuild in read_rebuilds(one, subscriber=subscriber)]
    if settings.json:
        show_items("rebuilds", map(_as_document, found), settings.output)
        return
    if not found:
        say("Nothing has been rebuilt beside the live one.")
        return
    columns = [
        Column(title="operation", right=True),
        Column(title="subscriber"),
        Column(title="version", right=True),
        Column(title="state"),
        Column(title="kept"),
        Column(title="ended"),
    ]
    show_table(columns, [_as_row(one) for one in found])


def _beside(
    app: App,
    declared: Subscriber,
    settings: Settings,
    *,
    keep: bool,
    background: bool,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    database = app.home_of(declared)
    planned = begin_rebuild(database, declared, keep=keep, dry_run=True)
    _show_plan(planned, declared, settings, dry_run=dry_run)
    if dry_run:
        return Exit.OK
    if not planned.operation:
        ask(f"Rebuild {declared.name}?", yes=yes, dry_run_offered=True)
    begun = begin_rebuild(database, declared, keep=keep, reason=reason)
    if background:
        return _tell(
            database, begun, settings, f"Rebuild {begun.operation} of {declared.name} is begun; workers make it"
        )
    return _run(app, declared, begun, settings)


def _show_plan(planned: Rebuild, declared: Subscriber, settings: Settings, *, dry_run: bool) -> None:
    if settings.json:
        if dry_run:
            show_json({**_as_document(planned), "dry_run": True})
        return
    line = show if dry_run else say
    if planned.operation:
        kept = ", and the tables of before are kept" if planned.keep else ""
        line(f"Rebuild {planned.operation} of {declared.name} runs already; it goes on{kept}")
    else:
        tables = ", ".join(declared.table_names)
        line(f"{tables} made anew at version {declared.version}, beside what is there, and then exchanged")
    if dry_run:
        say("Nothing was changed.")


def _run(app: App, declared: Subscriber, begun: Rebuild, settings: Settings) -> int:
    runtime = app.runtime_for(declared)
    total = app.log.high_water_mark()
    with signals_stop(runtime) as stopped_by, shown_progress(total) as progress:

        def told(standing: Standing) -> None:
            progress.reached(standing.shadow)

        done = run_rebuild(runtime, declared, begun, told=told)
    if done.state is RebuildState.DONE:
        return _tell(
            runtime.database, done, settings, f"{declared.name} is made anew, and in use at version {done.version}"
        )
    if done.state is RebuildState.CANCELLED:
        return _tell(runtime.database, done, settings, f"Rebuild {done.operation} was cancelled", exit_code=Exit.FAILED)
    left = f"Rebuild {done.operation} is not through; run this again"
    if signal.SIGINT in stopped_by:
        return _tell(runtime.database, done, settings, left, exit_code=Exit.INTERRUPTED)
    waiting = waits_at(runtime.database, declared, done)
    if waiting is not None:
        failures, retry = (
            reaching(f"eventlog {what} {done.shadow}", done.shadow, runtime.database, settings)
            for what in ("failures", "retry")
        )
        say(
            f"It waits at event {number(waiting)}, and the live tables serve on."
            f" `{failures}` shows why; deploy what mends it, `{retry}`, and run this again."
        )
    return _tell(runtime.database, done, settings, left, exit_code=Exit.FAILED)


def _in_place(
    app: App, declared: Subscriber, settings: Settings, *, reason: str | None, dry_run: bool, yes: bool
) -> int:
    database = app.home_of(declared)
    move = rebuild_in_place(database, declared.name, declared=declared, dry_run=True)
    if not settings.json:
        show_plan(move, dry_run=dry_run)
    if not dry_run:
        ask(f"Empty {', '.join(move.emptied)}, and fill them again?", yes=yes, dry_run_offered=True)
        move = rebuild_in_place(database, declared.name, declared=declared, reason=reason)
    if settings.json:
        show_json({"subscriber": move.subscriber, "emptied": move.emptied, "events": move.events, "dry_run": dry_run})
    elif dry_run:
        say("Nothing was changed.")
    else:
        show_done("Emptied", move)
    return Exit.OK


def _cancel(database: Database, name: str, settings: Settings, *, reason: str | None, dry_run: bool, yes: bool) -> int:
    planned = cancel_rebuild(database, name, dry_run=True)
    if dry_run:
        text = f"Rebuild {planned.operation} of {name} would be cancelled, and its tables dropped; nothing was changed."
        return _tell(database, planned, settings, text)
    ask(f"Cancel the rebuild of {name}?", yes=yes, dry_run_offered=True)
    done = cancel_rebuild(database, name, reason=reason)
    return _tell(database, done, settings, f"Rebuild {done.operation} of {name} is cancelled, its tables are dropped")


def _go_back(database: Database, name: str, settings: Settings, *, reason: str | None, dry_run: bool, yes: bool) -> int:
    planned = go_back(database, name, dry_run=True)
    say(
        f"{name}: version {planned.from_version} -> {planned.to_version}, checkpoint {number(planned.checkpoint)};"
        f" the tables of version {planned.from_version} are dropped"
    )
    if not dry_run:
        ask(f"Go back to version {planned.to_version}?", yes=yes, dry_run_offered=True)
        planned = go_back(database, name, reason=reason)
    if settings.json:
        show_json({**msgspec.structs.asdict(planned), "dry_run": dry_run})
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"{name} is at version {planned.to_version} again; code of that version brings it up to date")
    return Exit.OK


def _drop_kept(
    database: Database, name: str, settings: Settings, *, reason: str | None, dry_run: bool, yes: bool
) -> int:
    tables = drop_kept(database, name, dry_run=True)
    if not dry_run:
        ask(f"Drop what is kept of {name}, {', '.join(tables)}?", yes=yes, dry_run_offered=True)
        tables = drop_kept(database, name, reason=reason)
    if settings.json:
        show_json({"subscriber": name, "dropped": tables, "dry_run": dry_run})
    elif dry_run:
        show(f"{', '.join(tables)} would be dropped; nothing was changed.")
    else:
        show(f"Dropped {', '.join(tables)}")
    return Exit.OK


def _tell(database: Database, done: Rebuild, settings: Settings, text: str, *, exit_code: Exit = Exit.OK) -> int:
    if settings.json:
        show_json(_as_document(done))
    else:
        (show if exit_code is Exit.OK else say)(text)
        if done.kept is not None:
            back = f"eventlog rebuild {done.subscriber} --back"
            show(f"  undo: {reaching(back, done.subscriber, database, settings)}")
    return exit_code


def _as_document(one: Rebuild) -> dict[str, object]:
    values = msgspec.structs.asdict(one)
    del values["shape"]
    return values


def _as_row(one: Rebuild) -> tuple[str, ...]:
    return (
        str(one.operation),
        one.subscriber,
        str(one.version),
        one.state,
        "-" if one.kept is None else "yes",
        "-" if one.ended_at is None else moment(one.ended_at),
    )

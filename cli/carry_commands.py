"""`export` and `import`: a log, or a part of it, as lines of JSON, and back."""

from collections.abc import Callable, Iterator
from typing import Unpack

import click
import msgspec

from eventlog.carried import event_line
from eventlog.cli.carried_files import PIPE, Lines, reading, writing
from eventlog.cli.event_filters import FilterOptions, begin, filter_options, filters, range_options
from eventlog.cli.opening import opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import counted, number, say, show, show_json
from eventlog.cli.plan import ask
from eventlog.cli.progress import Progress, shown_progress
from eventlog.cli.settings import Settings, read_settings
from eventlog.cloudevents import cloud_event
from eventlog.errors import EventLogError, UsageError
from eventlog.events import StoredEvent
from eventlog.importing import Imported, Importing, Positions
from eventlog.log import EventLog

POSITIONS_SHOWN = 20_000
BYTES_SHOWN = 8_388_608
"""From how much on there is time to look at progress."""


@click.command()
@click.argument("file", default=PIPE)
@range_options
@filter_options
@click.option(
    "--format",
    "form",
    type=click.Choice(["events", "cloudevents"]),
    default="events",
    show_default=True,
    help="What a line is: an event as `eventlog import` reads it, or a CloudEvent 1.0.",
)
@click.option("--source", metavar="URI", help="The source of CloudEvents.  [default: / and the log's name]")
@click.option("--overwrite", is_flag=True, help="Write the file even if it is there already.")
@shared_options
def export(
    *,
    file: str,
    after: int | None,
    from_position: int | None,
    until: int | None,
    form: str,
    source: str | None,
    overwrite: bool,
    **given: Unpack[FilterOptions],
) -> None:
    """Write events to a file, one a line, as JSON.

    All that is recorded, or what the options leave of it, up to the high-water mark. Without FILE, or as -, they go to
    stdout. A name that ends in .zst makes a zstd archive (rewindlog[zstd]). The file appears when it is whole.

    \b
      eventlog export shop.jsonl.zst
      eventlog export --type 'order.*' --since 30d orders.jsonl
      eventlog export --format cloudevents --source https://shop.example
    """
    settings = read_settings()
    if source is not None and form != "cloudevents":
        raise UsageError("--source is an attribute of CloudEvents", remedy="say --format cloudevents as well")
    beginning = begin(after, from_position) or 0
    narrowed = filters(given)
    with opened_log(settings) as log, writing(file, overwrite=overwrite) as write:
        mark = log.high_water_mark()
        end = mark if until is None else min(until, mark)
        events = log.read_stored(after=beginning, until=end, **narrowed)
        total = None if file == PIPE or settings.json else end - beginning
        with shown_progress(total, what="positions", from_on=POSITIONS_SHOWN) as progress:
            written = _written(events, _as_lines(log, form, source), write, progress, after=beginning)
    _show_exported(written, settings, file=file, form=form)


@click.command("import")
@click.argument("file")
@click.option("--new-positions", is_flag=True, help="Give the events new positions also where they could be kept.")
@click.option("--new-versions", is_flag=True, help="Number the events within their streams as they come.")
@click.option("--dry-run", is_flag=True, help="Read the file and compare it with the log, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Import into a log that is not empty unasked.")
@shared_options
def import_events(*, file: str, new_positions: bool, new_versions: bool, dry_run: bool, yes: bool) -> None:
    """Import events that `eventlog export` has written.

    Events that are here already, by their ids, are passed by; so an import that was cut off goes on when it is run
    again. An empty log gets them at the positions they had, while nothing else may append; everywhere else they get new
    ones. Each batch is read back before it is committed. A line that is broken is named, and nothing of its batch is
    imported. - reads stdin.

    \b
      eventlog import shop.jsonl.zst --url postgresql://shop@db/shop
      eventlog export -s order-42 | eventlog import - --url sqlite:///lab.db
    """
    settings = read_settings()
    with opened_log(settings) as log, reading(file) as lines:
        importing = Importing(log.database, lines, new_positions=new_positions, new_versions=new_versions)
        if not settings.json:
            _say_positions(importing)
        total = None if settings.json else lines.size
        if dry_run:
            _follow(importing.dry_run(), lines, total)
        else:
            if not importing.into_empty and importing.positions is Positions.NEW:
                ask("Add the events to a log that is not empty?", yes=yes, dry_run_offered=True)
            _import(importing, lines, total)
    _show_imported(importing, settings, dry_run=dry_run)


def _written(
    events: Iterator[StoredEvent],
    as_line: Callable[[StoredEvent], bytes],
    write: Callable[[bytes], None],
    progress: Progress,
    *,
    after: int,
) -> Imported:
    count, first, last = 0, None, None
    for event in events:
        write(as_line(event))
        count, last = count + 1, event.position
        first = last if first is None else first
        if count % 1_000 == 0:
            progress.reached(last - after)
    return Imported(read=count, first=first, last=last)


def _as_lines(log: EventLog, form: str, source: str | None) -> Callable[[StoredEvent], bytes]:
    if form == "events":
        return event_line
    named = source or f"/{log.database.schema}"
    return lambda event: cloud_event(event, source=named)


def _show_exported(written: Imported, settings: Settings, *, file: str, form: str) -> None:
    if file != PIPE and settings.json:
        ends = {"first": written.first, "last": written.last}
        show_json({"file": file, "format": form, "events": written.read, **ends})
        return
    span = f", positions {_span(written)}" if written.read else ""
    (say if file == PIPE else show)(f"Exported {counted(written.read, 'event')}{span}")


def _say_positions(importing: Importing) -> None:
    if importing.positions is Positions.KEPT:
        say("Positions are kept." if importing.into_empty else "Positions are kept: an import of this file goes on.")
    elif not importing.into_empty:
        say("The log is not empty: events get new positions.")


def _import(importing: Importing, lines: Lines, total: int | None) -> None:
    try:
        _follow(importing.run(), lines, total)
    except EventLogError as error:
        error.remedy += _until_then(importing)
        raise
    except KeyboardInterrupt:
        say(f"Left unfinished{_until_then(importing)}")
        raise


def _until_then(importing: Importing) -> str:
    done = importing.done
    if not done.read:
        return ""
    known = f", {number(done.known)} were here already" if done.known else ""
    return f"; {counted(done.imported, 'event')} imported until then{known}: the same command goes on there"


def _follow(batches: Iterator[Imported], lines: Lines, total: int | None) -> None:
    with shown_progress(total, what="bytes", from_on=BYTES_SHOWN) as progress:
        for _ in batches:
            progress.reached(lines.bytes_read)


def _show_imported(importing: Importing, settings: Settings, *, dry_run: bool) -> None:
    done = importing.done
    if settings.json:
        show_json({**msgspec.structs.asdict(done), "positions": importing.positions, "dry_run": dry_run})
        return
    known = f", {number(done.known)} were here already" if done.known else ""
    if dry_run:
        show(f"{counted(done.imported, 'event')} would be imported{known}; nothing was changed.")
        return
    kept = "kept" if importing.positions is Positions.KEPT else "new"
    span = f"; {kept} positions {_span(done)}" if done.imported else ""
    show(f"Imported {counted(done.imported, 'event')}{known}{span}")
    if done.imported:
        say("Each was read back: ids, versions and positions are as they should be.")


def _span(done: Imported) -> str:
    return f"{number(done.first or 0)} to {number(done.last or 0)}"

"""`init`, `append`, `read`: the log itself, without any subscriber. One event in full is in `show_command.py`."""

import sys
from collections.abc import Iterable
from typing import Any, Unpack

import click

from eventlog.cli.event_filters import FilterOptions, begin, filter_options, filters, range_options
from eventlog.cli.event_output import json_line, table_lines
from eventlog.cli.following import follow
from eventlog.cli.opening import database_errors, load_app, named_log, opened_log
from eventlog.cli.options import Position, shared_options
from eventlog.cli.output import Column, counted, number, say, show, show_items, show_json, show_table
from eventlog.cli.parsing import event_id, expected_version, json_lines, json_value, pairs
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import initialise
from eventlog.errors import UsageError
from eventlog.events import Event, Recorded, StoredEvent
from eventlog.limits import BATCH_EVENTS_MAX
from eventlog.query import Query
from eventlog.schema.migrate import SchemaState
from eventlog.shown_urls import shown_url


@click.command()
@shared_options
def init() -> None:
    """Create the tables of the log, or upgrade them.

    Safe to run at every deployment, and from several machines at once.

    \b
      eventlog init --url postgresql://shop@db/shop
    """
    settings = read_settings()
    log = named_log(settings)
    with database_errors(log):
        found = initialise(log.database)
    done = {SchemaState.MISSING: "created", SchemaState.OLDER: "upgraded"}.get(found, "unchanged")
    place = shown_url(log.engine.url)
    if settings.json:
        show_json({"tables": done, "url": place, "schema": log.database.schema})
        return
    said = {"created": "Created the tables of", "upgraded": "Upgraded the tables of"}.get(done, "Nothing to do for")
    show(f"{said} the log {log.database.schema!r} in {place}")


@click.command()
@click.argument("type_name", metavar="TYPE")
@click.option("-s", "--stream", required=True, help="The stream the event belongs to.")
@click.option("-d", "pairs_given", metavar="KEY=TEXT|KEY:=JSON", multiple=True, help="One field of the data.")
@click.option("--data", metavar="JSON", help="The data as JSON; - reads one event a line from stdin.")
@click.option("--expected", default="any", show_default=True, help="The stream's version, 'none' or 'any'.")
@click.option("--id", "id_given", metavar="UUID", help="The event's id; appending it again changes nothing.")
@click.option("--metadata", metavar="KEY=TEXT|KEY:=JSON", multiple=True, help="One field of the metadata.")
@click.option("--tag", "tags", metavar="TAG", multiple=True, help="A tag of the event; may be given several times.")
@click.option(
    "--unless-tag",
    "unless_tags",
    metavar="TAG",
    multiple=True,
    help="Refuse if an event with this tag (and every other one given so) is recorded.",
)
@click.option(
    "--unless-type", "unless_types", metavar="PATTERN", multiple=True, help="Refuse only because of events of a type."
)
@click.option(
    "--unless-after",
    metavar="POSITION",
    type=Position(min=0),
    help="Refuse only because of events after this position.",
)
@click.option("--type-version", metavar="VERSION", type=click.IntRange(min=1), help="The version of the data's form.")
@shared_options
def append(
    *,
    type_name: str,
    stream: str,
    pairs_given: tuple[str, ...],
    data: str | None,
    expected: str,
    id_given: str | None,
    metadata: tuple[str, ...],
    tags: tuple[str, ...],
    unless_tags: tuple[str, ...],
    unless_types: tuple[str, ...],
    unless_after: int | None,
    type_version: int | None,
) -> None:
    """Append events to a stream.

    All of them are recorded, or none. The id of an event makes it safe to append it again. A condition (--unless-tag)
    makes it the only one of its kind, or refuses it when the log has moved on since you looked. The data has the form
    of the version that the app declares for the type, of version 1 without an app, or of the one --type-version names.

    \b
      eventlog append order.placed -s order-42 -d customer=ada -d total:=19.5
      eventlog append order.paid -s order-42 --expected 1 --data '{"by": "card"}'
      jq -c '.[]' rows.json | eventlog append row.read -s import --data -
      eventlog append seat.taken -s seat-7 --tag seat:7 --unless-tag seat:7
    """
    settings = read_settings()
    version = expected_version(expected)
    with_id = event_id(id_given)
    about = pairs(metadata, option="--metadata")
    values = _data(pairs_given, data)
    if with_id is not None and len(values) != 1:
        raise UsageError(f"--id is given for {len(values)} events", remedy="append one event with an id at a time")
    if type_version is None and settings.app is not None:
        load_app(settings)  # which declares the version
    events = [Event(value, type=type_name, id=with_id, type_version=type_version) for value in values]
    unless = _condition(unless_tags, unless_types, unless_after)
    with opened_log(settings) as log:
        recorded = log.append(*events, stream=stream, expected=version, metadata=about, tags=tags, unless=unless)
    _show_appended(recorded, settings)


@click.command()
@range_options
@filter_options
@click.option("--backwards", is_flag=True, help="The last ones first.")
@click.option("-n", "--limit", metavar="COUNT", type=click.IntRange(min=0), help="At most so many events.")
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with events as they come, until ^C.")
@shared_options
def read(
    *,
    after: int | None,
    from_position: int | None,
    until: int | None,
    backwards: bool,
    limit: int | None,
    follows: bool,
    **given: Unpack[FilterOptions],
) -> None:
    """Read events in the order of the log.

    They are shown as they were recorded, in JSON one event a line. No event is decoded as a class, so the ones your
    code cannot read are shown as well.

    --follow shows the last events that are there, and then each one as it comes. There, -n is how many to begin with:
    10, or all of them where --after, --from or --since says where to begin.

    \b
      eventlog read --type 'order.*' --limit 20
      eventlog read --stream order-42 --output jsonl | jq .data
      eventlog read --tag customer:ada --since 2h --backwards
      eventlog read --type order.placed --where customer=ada --where total:=19.5
      eventlog read --follow --from 4711 --output jsonl
    """
    beginning = begin(after, from_position)
    settings = read_settings()
    narrowed = filters(given)
    if follows:
        _refuse_an_end(until=until, before=given["before"], backwards=backwards)
        with opened_log(settings) as log:
            follow(log, after=beginning, last=limit, as_json=settings.json, **narrowed)
        return
    with opened_log(settings) as log:
        # Undecoded on purpose: what is stored is shown, whatever classes an app has declared in this process.
        events = log.read_stored(after=beginning or 0, until=until, limit=limit, backwards=backwards, **narrowed)
        if settings.json:
            for event in events:
                show(json_line(event))
        else:
            _show_events(events)


def _condition(tags: tuple[str, ...], types: tuple[str, ...], after: int | None) -> tuple[Query, ...]:
    if tags:
        return (Query(tags=tags, types=types, after=after or 0),)
    if types or after is not None:
        raise UsageError(
            "a condition names no tag", remedy="give --unless-tag as well: conditions are looked up by tags"
        )
    return ()


def _refuse_an_end(*, until: int | None, before: str | None, backwards: bool) -> None:
    given = {"--until": until is not None, "--before": before is not None, "--backwards": backwards}
    for option in (name for name, there in given.items() if there):
        raise UsageError(f"--follow and {option} contradict each other", remedy="following goes on, and has no end")


def _data(pairs_given: tuple[str, ...], data: str | None) -> list[Any]:
    if data is None:
        return [pairs(pairs_given, option="-d")]
    if pairs_given:
        raise UsageError("-d and --data both give the data", remedy="use one of them")
    if data != "-":
        return [json_value(data, what="--data")]
    if sys.stdin.isatty():
        say("Reading one JSON value a line; end with ^D.")
    return json_lines(sys.stdin.buffer, limit=BATCH_EVENTS_MAX)


def _show_appended(recorded: list[Recorded[Any]], settings: Settings) -> None:
    if settings.json:
        places = [
            {"position": one.position, "id": one.id, "stream": one.stream, "version": one.version} for one in recorded
        ]
        show_items("events", places, settings.output)
        return
    columns = [Column(title="position", right=True), Column(title="stream"), Column(title="version", right=True)]
    rows = [(number(one.position), one.stream, number(one.version), str(one.id)) for one in recorded]
    show_table([*columns, Column(title="id")], rows)
    say(f"Recorded {counted(len(recorded), 'event')}.")


def _show_events(events: Iterable[StoredEvent]) -> None:
    count = 0
    for line in table_lines(events):
        show(line)
        count += 1
    if count == 1:
        say("No events.")

"""`streams` and `stats`: what the log is made of, and how large it is."""

import click

from eventlog.cli.opening import opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import (
    Column,
    Format,
    counted,
    moment,
    number,
    say,
    show,
    show_items,
    show_json,
    show_table,
)
from eventlog.cli.settings import read_settings
from eventlog.log_stats import LogStats, read_stats
from eventlog.stream_census import LOOKED_THROUGH, STREAMS_MAX, StreamRow, Streams, recent_streams

STREAMS_SHOWN = 100
RELATIONS_SHOWN = 12


@click.command()
@click.option("--prefix", metavar="TEXT", help="Only streams whose name begins so.")
@click.option(
    "-n",
    "--limit",
    metavar="COUNT",
    type=click.IntRange(min=1, max=STREAMS_MAX),
    default=STREAMS_SHOWN,
    show_default=True,
    help="At most so many.",
)
@click.option(
    "--look-through",
    metavar="COUNT",
    type=click.IntRange(min=1),
    default=LOOKED_THROUGH,
    show_default=True,
    help="How many of the last events are looked through for their streams.",
)
@shared_options
def streams(prefix: str | None, limit: int, look_through: int) -> None:
    """List the streams of the last events, the newest first.

    With the version each is at, and its first and its last event. A log may have very many streams, so the last events
    are looked through, and it is said when there were more.

    \b
      eventlog streams
      eventlog streams --prefix order- --limit 20
      eventlog streams --look-through 1000000 --output jsonl
    """
    settings = read_settings()
    with opened_log(settings) as log:
        found = recent_streams(log, prefix=prefix, limit=limit, look_through=look_through)
    if settings.output is Format.JSONL:
        show_items("streams", found.streams, settings.output)
    elif settings.json:
        show_json(found)
    else:
        _show_streams(found)
    _say_incomplete(found, limit)


@click.command()
@shared_options
def stats() -> None:
    """Show how large the log is, and how fast it grows.

    Events, streams and types, what tables and indexes take on disk, bytes per event, events per day. What an exact
    count would read the whole log for is estimated from a sample, and marked with `about`.

    \b
      eventlog stats
      eventlog stats --output json | jq .growth.bytes_per_day
    """
    settings = read_settings()
    with opened_log(settings) as log:
        found = read_stats(log)
    if settings.json:
        show_json(found)
        return
    for name, value in _lines(found).items():
        show(f"{name:<14}{value}")
    _show_relations(found)


def _show_streams(found: Streams) -> None:
    if not found.streams:
        say("No streams.")
        return
    columns = [
        Column(title="stream", wraps=True),
        Column(title="version", right=True),
        Column(title="first", right=True),
        Column(title="last", right=True),
        Column(title="recorded"),
    ]
    show_table(columns, [_row(one) for one in found.streams])


def _row(one: StreamRow) -> tuple[str, ...]:
    first = "-" if one.first is None else number(one.first)
    return one.stream, number(one.version), first, number(one.last), moment(one.last_recorded_at)


def _say_incomplete(found: Streams, limit: int) -> None:
    if found.more:
        say(f"There are more than {number(limit)}; --limit shows more of them.")
    if not found.complete:
        say(
            f"The last {counted(found.looked_through, 'event')} were looked through, and there are more:"
            " --look-through finds streams that have had none since."
        )


def _lines(found: LogStats) -> dict[str, str]:
    growth = found.growth
    lines = {
        "events": f"{_about(found.events, exact=found.events_exact)}, up to position {number(found.high_water_mark)}",
        "streams": _about(found.streams, exact=found.streams_exact),
        "types": number(found.types) if found.types_exact else f"at least {number(found.types)}",
    }
    if found.first_recorded_at is not None:
        lines["recorded"] = f"{moment(found.first_recorded_at)} to {moment(found.last_recorded_at)}"
    of = "" if found.size_exact else ", with whatever else is in it"
    lines["size"] = f"{_bytes(found.size_bytes)}{of}"
    if found.bytes_per_event is not None:
        exact = found.events_exact and found.size_exact
        lines["per event"] = f"{_about(found.bytes_per_event, exact=exact)} bytes, indexes included"
    lines["last day"] = f"{_about(growth.events_last_day, exact=growth.exact)} events"
    weight = "" if growth.bytes_per_day is None else f", {_bytes(growth.bytes_per_day)}"
    lines["per day"] = f"{_about(growth.events_per_day, exact=growth.exact)} events{weight}, on the average of a week"
    return lines


def _show_relations(found: LogStats) -> None:
    if not found.relations:
        say("Tables are not told apart in a file of this size: that would read it from end to end.")
        return
    show()
    columns = [Column(title="table or index", wraps=True), Column(title="of"), Column(title="size", right=True)]
    rows = [
        (one.name, "" if one.kind == "table" else one.of, _bytes(one.bytes))
        for one in found.relations[:RELATIONS_SHOWN]
    ]
    show_table(columns, rows)
    if len(found.relations) > RELATIONS_SHOWN:
        say(f"and {number(len(found.relations) - RELATIONS_SHOWN)} smaller ones")


def _about(value: int, *, exact: bool) -> str:
    return number(value) if exact else f"about {number(value)}"


def _bytes(value: int) -> str:
    """Write a size for people."""
    size, unit = float(value), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1_024:
            break
        size, unit = size / 1_024, larger
    return f"{value:,} bytes" if unit == "bytes" else f"{size:,.1f} {unit}"

"""`show`: one event in full, and what belongs to it.

Nothing is decoded as a class: what is stored is shown.
"""

from collections.abc import Iterator, Sequence

import click
import msgspec

from eventlog.cli.event_output import recorded
from eventlog.cli.opening import opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import (
    Column,
    counted,
    is_terminal,
    moment,
    number,
    printable,
    say,
    show,
    show_json,
    show_table,
    until,
)
from eventlog.cli.parsing import event_place
from eventlog.cli.settings import read_settings
from eventlog.events import StoredEvent
from eventlog.lineage import LOOKED_THROUGH, Lineage, Related, lineage
from eventlog.subscribers.ledger import Entry
from eventlog.subscribers.status import read_failures_at


@click.command("show")
@click.argument("place", metavar="POSITION|ID")
@click.option(
    "--look-through",
    metavar="COUNT",
    type=click.IntRange(min=0),
    default=LOOKED_THROUGH,
    show_default=True,
    help="How many events before and after it are looked through for what belongs to it.",
)
@shared_options
def show_event(place: str, look_through: int) -> None:
    """Show one event in full, and what belongs to it.

    The events beside it in its stream; the one that caused it, those it caused, and the others of its correlation, as
    far as metadata tells (causation_id, correlation_id); and the subscribers that have it in their failure ledger.

    \b
      eventlog show 4711
      eventlog show 4711 --output json | jq .effects
    """
    settings = read_settings()
    wanted = event_place(place)
    with opened_log(settings) as log:
        event = log.get_stored(wanted)
        near = lineage(log.database, event, look_through=look_through)
        ledger = read_failures_at(log.database, event.position)
    if settings.json:
        _show_document(event, near, ledger)
        return
    for line in event_lines(event):
        show(line)
    _show_related(near)
    _show_ledger(ledger)
    if not near.complete:
        say(
            f"{number(look_through)} events on either side were looked through, and there are more:"
            " --look-through finds what belongs to it and is farther away."
        )


def event_lines(event: StoredEvent) -> Iterator[str]:
    """Write an event in full, field by field."""
    fields = {
        "position": number(event.position),
        "type": event.type if event.type_version == 1 else f"{event.type}, version {event.type_version}",
        "stream": f"{event.stream}, version {number(event.version)}",
        "recorded": moment(event.recorded_at),
        "id": str(event.id),
        "tags": "  ".join(event.tags) or "-",
    }
    for name, value in fields.items():
        yield f"{name:<10}{printable(value)}"
    yield from _json_lines("metadata", event.metadata)
    yield from _json_lines("data", event.data)


def _json_lines(name: str, text: str) -> Iterator[str]:
    """Write JSON under each other, key for key and number for number as it is stored."""
    try:
        first, *others = msgspec.json.format(text.encode(), indent=2).decode().splitlines()
    except msgspec.DecodeError:
        first, others = text, []
    yield f"{name:<10}{printable(first)}"
    for line in others:
        yield f"{'':<10}{printable(line)}"


def _show_related(near: Lineage) -> None:
    rows = list(_related_rows(near))
    if not rows:
        return
    names = Column(title="stream", wraps=True), Column(title="type", wraps=True)
    _show_below([Column(title="related"), Column(title="position", right=True), *names], rows)
    for what, related in (("effect", near.effects), ("event", near.correlated)):
        if related.count > len(related.events):
            of = "" if what == "effect" else " of its correlation"
            show(f"{counted(related.count, what)}{of} in all; the first {number(len(related.events))} are named.")


def _related_rows(near: Lineage) -> Iterator[tuple[str, ...]]:
    """Each relation in its order. Of its correlation only those are named that are nothing nearer."""
    nearer = {one.position for one in near.effects.events} | ({near.cause.position} if near.cause else set())
    if near.cause is not None:
        yield _row("cause", near.cause)
    elif near.causation_id is not None:
        yield "cause", "-", f"{near.causation_id} is not in this log", ""
    yield from (_row("effect", one) for one in near.effects.events)
    yield from (_row("correlated", one) for one in near.correlated.events if one.position not in nearer)
    if near.previous is not None:
        yield _row("previous in stream", near.previous)
    if near.next is not None:
        yield _row("next in stream", near.next)


def _row(relation: str, event: StoredEvent) -> tuple[str, ...]:
    return relation, number(event.position), event.stream, event.type


def _show_ledger(ledger: list[Entry]) -> None:
    if not ledger:
        return
    columns = [
        Column(title="subscriber"),
        Column(title="state"),
        Column(title="attempts", right=True),
        Column(title="next", right=True),
        Column(title="error", wraps=True),
    ]
    _show_below(columns, [_entry_row(entry) for entry in ledger])


def _show_below(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> None:
    """Show a table after something else; on a terminal it brings an empty line of its own."""
    if not is_terminal():
        show()
    show_table(columns, rows)


def _entry_row(entry: Entry) -> tuple[str, ...]:
    error = f"{entry.error_type}: {entry.message}" if entry.message else entry.error_type
    return entry.subscriber, entry.state, number(entry.attempts), until(entry.next_attempt_at), error


def _show_document(event: StoredEvent, near: Lineage, ledger: list[Entry]) -> None:
    show_json(
        {
            "event": recorded(event),
            "cause": _place(near.cause),
            "effects": _places(near.effects),
            "correlated": _places(near.correlated),
            "previous": _place(near.previous),
            "next": _place(near.next),
            "complete": near.complete,
            "ledger": [_entry_document(entry) for entry in ledger],
        }
    )


def _places(related: Related) -> dict[str, object]:
    return {"count": related.count, "events": [_place(one) for one in related.events]}


def _place(event: StoredEvent | None) -> dict[str, object] | None:
    if event is None:
        return None
    return {
        "position": event.position,
        "id": event.id,
        "stream": event.stream,
        "version": event.version,
        "type": event.type,
        "recorded_at": event.recorded_at,
    }


def _entry_document(entry: Entry) -> dict[str, object]:
    names = ("subscriber", "state", "attempts", "next_attempt_at", "error_type", "message", "reason")
    return {name: getattr(entry, name) for name in names}

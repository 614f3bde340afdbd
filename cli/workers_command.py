"""`workers`: who runs handlers, and which partitions each of them has."""

from collections import Counter

import click
import msgspec
from sqlalchemy import select

from eventlog.cli.opening import opened_log
from eventlog.cli.options import shared_options
from eventlog.cli.output import Column, moment, number, say, show_items, show_table
from eventlog.cli.settings import read_settings
from eventlog.database import translated
from eventlog.log import EventLog
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.fleet import WorkerRow, read_workers


@click.command()
@shared_options
def workers() -> None:
    """List the workers, and the partitions each of them has.

    A worker that stops in order is taken off the list. One that died stays on it for an hour, as dead; its partitions
    go to others as soon as its leases have run out.

    \b
      eventlog workers
    """
    settings = read_settings()
    with opened_log(settings) as log:
        rows, held = _read(log)
    if settings.json:
        show_items("workers", (_as_document(row, held[row.owner]) for row in rows), settings.output)
        return
    if not rows:
        say("No worker runs; `eventlog run --app module:app` is one.")
        return
    titles = ("worker", "process", "state", "since", "partitions")
    columns = [*(Column(title=title) for title in titles), Column(title="subscribers", wraps=True)]
    show_table(columns, [_as_row(row, held[row.owner]) for row in rows])


def _read(log: EventLog) -> tuple[list[WorkerRow], Counter[str]]:
    table = log.database.tables.checkpoints
    with translated(log.database), log.database.reader() as connection:
        owners = connection.scalars(
            select(table.c.owner).where(table.c.owner.is_not(None), table.c.expires_at > database_now())
        )
        held = Counter(str(owner) for owner in owners)
        return read_workers(connection, log.database, alive_only=False), held


def _as_document(row: WorkerRow, held: int) -> dict[str, object]:
    values = msgspec.structs.asdict(row)
    return {**values, "partitions": held, "state": _state(row)}


def _as_row(row: WorkerRow, held: int) -> tuple[str, ...]:
    runs = ", ".join(row.subscribers)
    return (row.owner, str(row.process), _state(row), moment(row.started_at), number(held), runs)


def _state(row: WorkerRow) -> str:
    return "alive" if row.alive else "dead"

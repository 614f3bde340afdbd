"""`operations`: what was done to subscribers, by whom, why, and how it is taken back."""

import click

from eventlog.cli.opening import opened_databases
from eventlog.cli.options import limit_option, shared_options, subscriber_argument
from eventlog.cli.output import Column, moment, say, show_items, show_table
from eventlog.cli.settings import read_settings
from eventlog.database import Database, translated
from eventlog.subscribers.operations import OperationRow, read_operations
from eventlog.subscribers.registration import read_subscriber

OPERATIONS_SHOWN = 20


@click.command()
@subscriber_argument(required=False)
@limit_option(OPERATIONS_SHOWN)
@shared_options
def operations(subscriber: str | None, limit: int) -> None:
    """List what was done to subscribers, by whom and why.

    The latest first, of all or of one, also of one that has been removed; with the command that takes each back. As
    JSON, each with what stood before and after it.

    \b
      eventlog operations mail
      eventlog operations --limit 100 -o jsonl
    """
    settings = read_settings()
    with opened_databases(settings) as databases:
        found = [one for database in databases for one in read_operations(database, subscriber=subscriber, limit=limit)]
        if subscriber is not None and not found:
            _refuse_unknown(databases[0], subscriber)
    found = sorted(found, key=lambda one: one.at, reverse=True)[:limit]
    if settings.json:
        show_items("operations", found, settings.output)
        return
    if not found:
        say("Nothing has been done yet.")
        return
    columns = [
        Column(title="operation", right=True),
        Column(title="at"),
        Column(title="subscriber"),
        Column(title="action"),
        Column(title="by"),
        Column(title="reason", wraps=True),
        Column(title="undo", wraps=True),
    ]
    show_table(columns, [_as_row(one) for one in found])


def _refuse_unknown(database: Database, subscriber: str) -> None:
    with translated(database), database.reader() as connection:
        read_subscriber(connection, database, subscriber)


def _as_row(one: OperationRow) -> tuple[str, ...]:
    what = str(one.operation), moment(one.at), one.subscriber, one.action, one.actor
    return (*what, one.reason or "-", one.undo or "-")

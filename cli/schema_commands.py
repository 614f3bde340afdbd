"""`schema current` and `schema sql`: at which revision a log is, and what brings it to another."""

from dataclasses import dataclass

import click
from sqlalchemy import Connection

from eventlog.cli.exits import Exit
from eventlog.cli.opening import database_errors, named_log, refuse_missing_file
from eventlog.cli.options import shared_options
from eventlog.cli.output import Column, say, show, show_json, show_table
from eventlog.cli.settings import read_settings
from eventlog.errors import UsageError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, current_revision, known_revisions, schema_state

_EXITS = {
    SchemaState.CURRENT: Exit.OK,
    SchemaState.OLDER: Exit.CHECK_FAILED,
    SchemaState.NEWER: Exit.CHECK_FAILED,
    SchemaState.MISSING: Exit.DATABASE,
}
_REMEDIES = {
    SchemaState.MISSING: "run `eventlog init` to make it",
    SchemaState.OLDER: "run `eventlog init` to upgrade it",
    SchemaState.NEWER: "upgrade rewindlog here; an older release must not write into newer tables",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """How the tables of a log stand to this code. Both revisions are names; None where there is no log."""

    schema: str
    database: str | None
    code: str
    state: SchemaState


@click.group()
@shared_options
def schema() -> None:
    """Tell or write down at which revision the tables are.

    `eventlog init` makes and upgrades them.

    \b
      eventlog schema current
      eventlog schema sql --dialect postgresql
    """


@schema.command()
@shared_options
def current() -> int:
    """Show the revision of the tables, and the one this release knows.

    Exit code 0 when they are the same, 4 when the tables are older or newer, 5 when there is no log.

    \b
      eventlog schema current
    """
    settings = read_settings()
    log = named_log(settings)
    with database_errors(log):
        refuse_missing_file(log)
        with log.database.reader() as connection:
            found = _found(log, connection)
    if settings.json:
        show_json(found)
    else:
        titles = [Column(title=title) for title in ("log", "database", "code", "state")]
        show_table(titles, [(found.schema, found.database or "-", found.code, found.state)])
        if remedy := _REMEDIES.get(found.state):
            say(remedy)
    return _EXITS[found.state]


@schema.command()
@click.option("--from", "after", metavar="REVISION", help="Where the log is; nothing is made yet if left out.")
@click.option("--to", "until", metavar="REVISION", help="Where it is to be; the newest if left out.")
@click.option(
    "--dialect", type=click.Choice(["postgresql", "sqlite"]), help="The kind of database; else that of the URL."
)
@shared_options
def sql(*, after: str | None, until: str | None, dialect: str | None) -> None:
    """Print the SQL that makes or upgrades the tables.

    For applying it by hand: it is one transaction, and leaves what `eventlog init` would. No database is asked.

    \b
      eventlog schema sql --dialect postgresql | psql -v ON_ERROR_STOP=1 shop
      eventlog schema sql --dialect postgresql --from eventlog_0001
    """
    from eventlog.schema.migrate_sql import upgrade_sql

    log = named_log(read_settings())
    try:
        script = upgrade_sql(
            dialect=dialect or log.engine.dialect.name, schema=log.database.schema, after=after, until=until
        )
    except ValueError as error:
        raise UsageError(str(error), remedy="`eventlog schema current` shows where the log is") from error
    show(script.rstrip("\n"))


def _found(log: EventLog, connection: Connection) -> Found:
    schema = log.database.schema
    return Found(
        schema=schema,
        database=current_revision(connection, schema=schema),
        code=known_revisions()[-1],
        state=schema_state(connection, schema=schema),
    )

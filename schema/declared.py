"""The tables of a log as SQLAlchemy can know them: with their defaults, constraints and indexes.

`tables.py` has what our code needs to name; this adds what a comparison with the database finds beside it. Only the
revisions make and change the tables, which are more than can be declared: triggers and functions keep the log safe. A
test compares what stands here with what the revisions have made.
"""

from typing import Any, NoReturn

import sqlalchemy as sa
from sqlalchemy import Column, MetaData, Table
from sqlalchemy.sql.schema import SchemaItem

from eventlog.schema.tables import DEFAULT_SCHEMA, OPEN_STATES, Tables, tables
from eventlog.schema.timestamps import database_now
from eventlog.schema.version import version_table

EPOCHS = "epochs"
"""A sequence on PostgreSQL, a table on SQLite."""

_COUNTERS = {("events", "position"): True, ("attempts", "id"): False, ("operations", "id"): False}
"""The columns that number the rows, and whether a number of one's own is refused."""
_DEFAULTS = {
    ("events", "type_version"): "1",
    ("events", "metadata"): "'{}'::json",
    ("subscribers", "state"): "'running'::text",
    ("failures", "round"): "0",
    ("failures", "revision"): "0",
}
"""As PostgreSQL tells them; SQLite has no casts."""
_FILLED_WITH_NOW = {
    ("events", "recorded_at"),
    ("subscribers", "registered_at"),
    ("failures", "first_failed_at"),
    ("failures", "last_failed_at"),
    ("attempts", "at"),
    ("operations", "at"),
    ("receipts", "at"),
    ("workers", "started_at"),
    ("rebuilds", "started_at"),
    ("snapshots", "at"),
}


def declare_log(metadata: MetaData, *, dialect: str, schema: str = DEFAULT_SCHEMA) -> Tables:
    """Add the tables of the log to a service's metadata, so that its own tables can refer to events.

    Returns their names as our code has them. With them in the metadata autogenerate finds no difference to what the
    revisions have made, whatever it is told to compare. They are not for making tables: `create_all` is refused where
    there is no log yet, since it would make one without its triggers. For a log in PostgreSQL's own schema `public` use
    the filters instead: what SQLAlchemy finds there has no schema, and is never the same.
    """
    log = tables(dialect=dialect, schema=schema)
    declared = [_declared(table, metadata, log, dialect=dialect) for table in log.metadata.tables.values()]
    declared.append(version_table(log, metadata))
    if dialect == "sqlite":
        declared.append(Table(log.sql_name(EPOCHS), metadata, Column("value", sa.Integer(), nullable=False)))
    for table in declared:
        sa.event.listen(table, "before_create", _refuse_to_create)
    return log


def _declared(table: Table, metadata: MetaData, log: Tables, *, dialect: str) -> Table:
    name = table.name.removeprefix(log.prefix)
    columns = [_column(column, name, dialect=dialect) for column in table.columns]
    return Table(table.name, metadata, *columns, *_extras(name, log), schema=log.schema)


def _column(column: Column[Any], table: str, *, dialect: str) -> Column[Any]:
    place = (table, column.name)
    if place in _COUNTERS:
        if dialect == "sqlite":
            return Column(column.name, sa.Integer(), primary_key=True)
        return Column(column.name, column.type, sa.Identity(always=_COUNTERS[place], cache=1), primary_key=True)
    default = _default(place, dialect=dialect)
    return Column(
        column.name,
        column.type,
        primary_key=column.primary_key,
        nullable=column.nullable,
        autoincrement=False,
        server_default=default,
    )


def _default(place: tuple[str, str], *, dialect: str) -> Any:
    if place in _FILLED_WITH_NOW:
        return database_now()
    if place in _DEFAULTS:
        text = _DEFAULTS[place]
        return sa.text(text.partition("::")[0] if dialect == "sqlite" else text)
    return None


def _extras(table: str, log: Tables) -> list[SchemaItem]:
    """The constraints and indexes of a table, but for its primary key."""
    label = log.prefix
    match table:
        case "events":
            return [
                sa.UniqueConstraint("id", name=f"{label}events_id"),
                sa.UniqueConstraint("stream", "version", name=f"{label}events_stream_version"),
                sa.Index(f"{label}events_type", "type", "position"),
            ]
        case "checkpoints":
            return [_of_subscriber(log, "checkpoints_subscriber")]
        case "failures":
            still_open = sa.text(f"state in ({', '.join(repr(state) for state in OPEN_STATES)})")
            return [
                _of_subscriber(log, "failures_subscriber"),
                sa.Index(
                    f"{label}failures_open",
                    "subscriber",
                    "partition",
                    "position",
                    postgresql_where=still_open,
                    sqlite_where=still_open,
                ),
                sa.Index(
                    f"{label}failures_key_open",
                    "subscriber",
                    "partition",
                    "key",
                    "position",
                    postgresql_where=still_open,
                    sqlite_where=still_open,
                ),
            ]
        case "attempts":
            return [sa.Index(f"{label}attempts_entry", "subscriber", "position")]
        case "operations":
            return [sa.Index(f"{label}operations_subscriber", "subscriber", "id")]
        case "floors" | "receipts":
            return [_of_subscriber(log, f"{table}_subscriber")]
        case "replays" | "rebuilds":
            return [
                _of_subscriber(log, f"{table}_of"),
                sa.Index(f"{label}{table}_subscriber", "subscriber", "operation"),
            ]
        case _:
            return []


def _of_subscriber(log: Tables, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["subscriber"],
        [f"{log.sql_name('subscribers')}.name"],
        name=f"{log.prefix}{name}",
        ondelete="CASCADE",
        onupdate="CASCADE",
    )


def _refuse_to_create(target: Table, _connection: Any, **_options: Any) -> NoReturn:
    raise sa.exc.InvalidRequestError(
        f"{target.name} belongs to the event log: run `eventlog init` (or `log.init()`) before create_all, which would"
        " make it without the triggers that keep the log safe"
    )

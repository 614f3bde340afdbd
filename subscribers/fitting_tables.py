"""Whether tables that are there already can be those of a projection: made by a migration, say, or left over.

What is held against the declaration is what makes a statement fail or come out otherwise: columns that are not there or
of another kind, one that may not be null and gets no value, another key. Whatever a database may show in another way
than it was declared is left out: lengths, widths, types that SQLAlchemy does not know, and on SQLite, where a column
takes what it is given, whatever is neither a whole number, nor a floating one, nor text. Handlers find the rest.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, Dialect, Table, inspect, select
from sqlalchemy.exc import SQLAlchemyError

from eventlog.subscribers.owned_tables import missing

_KINDS = {
    "smallint": "whole number",
    "integer": "whole number",
    "int": "whole number",
    "bigint": "whole number",
    "smallserial": "whole number",
    "serial": "whole number",
    "bigserial": "whole number",
    "real": "floating number",
    "float": "floating number",
    "double": "floating number",
    "double precision": "floating number",
    "text": "text",
    "clob": "text",
    "char": "text",
    "nchar": "text",
    "varchar": "text",
    "nvarchar": "text",
    "character varying": "text",
}
"""By the word for a type; what a column of one kind is given, one of another kind keeps as something else."""

_KINDS_ON_POSTGRESQL = {
    **_KINDS,
    "numeric": "exact number",
    "decimal": "exact number",
    "boolean": "boolean",
    "bytea": "bytes",
    "date": "date",
    "time": "time",
    "time without time zone": "time",
    "time with time zone": "time with time zone",
    "timestamp": "moment without time zone",
    "timestamp without time zone": "moment without time zone",
    "timestamp with time zone": "moment",
    "interval": "interval",
    "uuid": "uuid",
    "json": "json",
    "jsonb": "json",
}


def misfits(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Say in what tables that are there differ from those declared, so that a projection could not write them."""
    absent = missing(connection, tables)
    return [said for one in tables if str(one.fullname) not in absent for said in _misfits(connection, one)]


def filled(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Name the tables that hold rows."""
    return [str(one.fullname) for one in tables if connection.execute(select(1).select_from(one).limit(1)).first()]


def _misfits(connection: Connection, table: Table) -> list[str]:
    there = {one["name"]: one for one in inspect(connection).get_columns(table.name, schema=table.schema)}
    declared = {column.name for column in table.columns}
    said = [_misfit(column, there.get(column.name), connection.dialect) for column in table.columns]
    said += [
        f"{name} is not declared, may not be null and has no default"
        for name, one in there.items()
        if name not in declared and _asks_for_a_value(connection, table, one)
    ]
    said.append(_other_key(connection, table))
    return [f"{table.fullname}: {one}" for one in said if one is not None]


def _misfit(column: Column[Any], there: Mapping[str, Any] | None, dialect: Dialect) -> str | None:
    if there is None:
        return f"no column {column.name}"
    now, before = _word(column.type, dialect), _word(there["type"], dialect)
    kinds = _KINDS if dialect.name == "sqlite" else _KINDS_ON_POSTGRESQL
    kind, other = kinds.get(now), kinds.get(before)
    if kind is not None and other is not None and kind != other:
        return f"{column.name} is {before}, declared is {now}"
    if column.nullable and not there["nullable"]:
        return f"{column.name} may not be null, declared is that it may"
    return None


def _word(kind: Any, dialect: Dialect) -> str:
    """A type as a statement says it, without its length."""
    try:
        said = str(kind.compile(dialect=dialect)).lower()
    except SQLAlchemyError:
        return ""
    before, bracket, after = said.partition("(")
    return before.strip() + after.partition(")")[2] if bracket else said


def _asks_for_a_value(connection: Connection, table: Table, there: Mapping[str, Any]) -> bool:
    if there["nullable"] or there.get("default") is not None or there.get("identity") or there.get("computed"):
        return False
    counts_by_itself = connection.dialect.name == "sqlite" and _key_of(connection, table) == {there["name"]}
    return not counts_by_itself


def _other_key(connection: Connection, table: Table) -> str | None:
    """A key that is declared keeps rows apart, and a statement may name it; any unique one of its columns will do."""
    declared = {column.name for column in table.primary_key}
    found = _key_of(connection, table)
    if not declared or found == declared or (not found and declared in _unique(connection, table)):
        return None
    return f"{_said(found)}, declared is ({', '.join(sorted(declared))})"


def _key_of(connection: Connection, table: Table) -> set[str]:
    return set(inspect(connection).get_pk_constraint(table.name, schema=table.schema)["constrained_columns"])


def _unique(connection: Connection, table: Table) -> list[set[str]]:
    looked_at = inspect(connection)
    constraints = looked_at.get_unique_constraints(table.name, schema=table.schema)
    indexes = looked_at.get_indexes(table.name, schema=table.schema)
    whole = [one for one in indexes if one["unique"] and not _is_partial(one.get("dialect_options", {}))]
    named = [one["column_names"] for one in constraints] + [one["column_names"] for one in whole]
    return [{name for name in names if name} for names in named]


def _is_partial(options: Mapping[str, Any]) -> bool:
    return any(name.endswith("_where") for name in options)


def _said(key: set[str]) -> str:
    return f"the key is ({', '.join(sorted(key))})" if key else "there is no key"

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

from eventlog.errors import RefusedError
from eventlog.subscribers.declaration import Subscriber
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


def misfit(connection: Connection, subscriber: Subscriber) -> RefusedError | None:
    """Make the error for tables that were there before and cannot be written as code declares them."""
    found = misfits(connection, subscriber.tables)
    if not found:
        return None
    return RefusedError(
        f"projection {subscriber.name!r} cannot write the tables that are there: {'; '.join(found)}",
        remedy="change them, or the declaration; or name other tables; or, if nothing of them is needed, `drop table"
        f" {', '.join(subscriber.table_names)}`: they are made as declared",
    )


def rows_before(connection: Connection, subscriber: Subscriber) -> RefusedError | None:
    """Make the error for tables that hold rows before anything was applied: after a removal, say, or out of a backup.

    One that begins now may be meant to go on with rows that somebody has put there.
    """
    found = [] if subscriber.start == "now" else _filled(connection, subscriber.tables)
    if not found:
        return None
    return RefusedError(
        f"table {', '.join(found)} of projection {subscriber.name!r} holds rows already, and every event would be"
        " applied on top of them",
        remedy=f"empty it, and it is filled from the log: {', '.join(f'`delete from {one}`' for one in found)};"
        ' if its rows are to stay and be gone on with, declare start="now"',
    )


def misfits(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Say in what tables that are there differ from those declared, so that a projection could not write them."""
    absent = missing(connection, tables)
    return [said for one in tables if str(one.fullname) not in absent for said in _misfits(connection, one)]


def _filled(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Name the tables that hold rows."""
    return [str(one.fullname) for one in tables if connection.execute(select(1).select_from(one).limit(1)).first()]


class _Found:
    """A table as the database has it. Names are as it tells them apart: SQLite does not mind capitals."""

    def __init__(self, connection: Connection, table: Table) -> None:
        self._looked_at = inspect(connection)
        self._is_sqlite = connection.dialect.name == "sqlite"
        self._schema = table.schema
        names = self._looked_at.get_table_names(schema=table.schema) if self._is_sqlite else ()
        self._name = next((one for one in names if self.told(one) == self.told(table.name)), table.name)
        columns = self._looked_at.get_columns(self._name, schema=self._schema)
        self.columns: Mapping[str, Mapping[str, Any]] = {self.told(one["name"]): dict(one) for one in columns}
        key = self._looked_at.get_pk_constraint(self._name, schema=self._schema)
        self.key = {self.told(name) for name in key["constrained_columns"]}

    def told(self, name: str) -> str:
        return name.lower() if self._is_sqlite else name

    def has_unique(self, names: set[str]) -> bool:
        """Tell whether rows of the same values in these columns cannot be, by whatever constraint or index."""
        constraints = self._looked_at.get_unique_constraints(self._name, schema=self._schema)
        indexes = self._looked_at.get_indexes(self._name, schema=self._schema)
        whole = [one for one in indexes if one["unique"] and not _is_partial(one.get("dialect_options", {}))]
        named = [one["column_names"] for one in constraints] + [one["column_names"] for one in whole]
        return names in [{self.told(name) for name in one if name} for one in named]

    def asks_for(self, name: str) -> bool:
        """Tell whether a statement that does not name a column fails."""
        one = self.columns[name]
        if one["nullable"] or one.get("default") is not None or one.get("identity") or one.get("computed"):
            return False
        counts_by_itself = self._is_sqlite and self.key == {name}
        return not counts_by_itself


def _misfits(connection: Connection, table: Table) -> list[str]:
    found = _Found(connection, table)
    declared = {found.told(column.name) for column in table.columns}
    said = [_misfit(one, found.columns.get(found.told(one.name)), connection.dialect) for one in table.columns]
    said += [
        f"{name} is not declared, may not be null and has no default"
        for name in found.columns
        if name not in declared and found.asks_for(name)
    ]
    said.append(_other_key(found, {found.told(column.name) for column in table.primary_key}))
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


def _other_key(found: _Found, declared: set[str]) -> str | None:
    """A key that is declared keeps rows apart, and a statement may name it; any unique one of its columns will do."""
    if not declared or found.key == declared or (not found.key and found.has_unique(declared)):
        return None
    there = f"the key is ({', '.join(sorted(found.key))})" if found.key else "there is no key"
    return f"{there}, declared is ({', '.join(sorted(declared))})"


def _is_partial(options: Mapping[str, Any]) -> bool:
    return any(name.endswith("_where") for name in options)

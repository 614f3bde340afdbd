"""The tables a projection owns: made for it, held against what code declares, and made a second time for a shadow.

A table's shape is its columns with their types, and its key; and what their values are, where a view says more than the
column's type does: one column of JSON is like any other. It is kept with the subscriber when it is registered, so that
code which declares another one is noticed when it starts, and not by the first statement that fails.
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Dialect, Index, MetaData, Table, inspect
from sqlalchemy import table as named_table
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable, DropIndex
from sqlalchemy.sql.expression import TableClause

from eventlog.errors import DamagedRowError, DeclarationError
from eventlog.subscribers.renaming import TableNames, is_word, tables_renamed

IDENTIFIER_MAX = 63
"""Letters of a name that PostgreSQL tells apart."""

TABLE_NAME_MAX = IDENTIFIER_MAX - len("__r1234567890")

VALUES = "eventlog.values"
"""In a column's `info`: `Values`, where its type does not tell what its values are."""


class Values(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the values of a column are: of what kind, and one of which, where it is one of some."""

    kind: str
    one_of: tuple[str | int, ...] = ()

    def takes(self, before: "Values") -> bool:
        """Tell whether everything that was kept before can be read now."""
        return self == before or (self.kind == before.kind and set(self.one_of) >= set(before.one_of) > set())


class TableShape(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Columns as `name type`, those that may not be null marked, and the key last; and what their values are."""

    columns: list[str]
    values: dict[str, Values] = {}


Shape = dict[str, TableShape]
"""By the table's full name."""

_read_shape = msgspec.json.Decoder(Shape).decode


def shape_of(tables: Sequence[Table], dialect: Dialect) -> str | None:
    """Write down the shape of tables as they would be on a database; None for no tables."""
    if not tables:
        return None
    shape: Shape = {str(table.fullname): _table_shape(table, dialect) for table in tables}
    return msgspec.json.encode(shape, order="sorted").decode()


def shape_in_database(connection: Connection, tables: Sequence[Table]) -> str | None:
    """Read the shape that the tables of these names have. Tables that do not exist are left out."""
    found = MetaData()
    there = [one for one in tables if inspect(connection).has_table(one.name, schema=one.schema)]
    try:
        read = [Table(one.name, found, schema=one.schema, autoload_with=connection) for one in there]
    except SQLAlchemyError:
        return None
    return shape_of(read, connection.dialect)


def has_columns(shape: str | None, other: str | None) -> bool:
    """Tell whether two shapes have the same columns, whatever is known of their values."""
    return _columns(shape) == _columns(other)


def takes_values(declared: str | None, stored: str | None) -> bool:
    """Tell whether what is kept in columns of a shape can be read by code that declares another with the same ones.

    It can where an enum or a literal has gained a value.
    """
    now, before = _shape(declared), _shape(stored)
    pairs = [(now[name].values.get(one), kept) for name in before for one, kept in before[name].values.items()]
    return all(values is not None and values.takes(kept) for values, kept in pairs)


def differences(stored: str | None, declared: str | None) -> str:
    """Say in which columns two shapes differ."""
    before, now = _shape(stored), _shape(declared)
    said = [f"no table {name} any more" for name in before.keys() - now.keys()]
    said += [f"a new table {name}" for name in now.keys() - before.keys()]
    for name in sorted(before.keys() & now.keys()):
        gone = [line for line in before[name].columns if line not in now[name].columns]
        new = [line for line in now[name].columns if line not in before[name].columns]
        said += [f"{name} without {', '.join(gone)}"] if gone else []
        said += [f"{name} with {', '.join(new)}"] if new else []
        said += [] if gone or new else _other_values(name, before[name].values, now[name].values)
    return "; ".join(sorted(said)) or "columns in another order"


def create_tables(connection: Connection, tables: Sequence[Table]) -> None:
    """Make the tables that are not there yet."""
    for table in tables:
        table.create(connection, checkfirst=True)


def lacking_indexes(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Name the indexes that are declared, and of whose columns the database has none."""
    found = []
    for table in (one for one in tables if one.indexes):
        there = {tuple(one["column_names"]) for one in inspect(connection).get_indexes(table.name, schema=table.schema)}
        found += [str(index.name) for index in table.indexes if _plain_columns(index) not in (None, *there)]
    return found


def create_lacking_indexes(connection: Connection, tables: Sequence[Table]) -> None:
    """Make the indexes that are declared and not there; one of that name and other columns makes room."""
    lacking = set(lacking_indexes(connection, tables))
    for table in tables:
        there = {one["name"] for one in inspect(connection).get_indexes(table.name, schema=table.schema)}
        for index in (one for one in table.indexes if str(one.name) in lacking):
            if index.name in there:
                connection.execute(DropIndex(index))
            connection.execute(CreateIndex(index))


def missing(connection: Connection, tables: Sequence[Table]) -> list[str]:
    """Name the tables that are not there."""
    return [str(one.fullname) for one in tables if not inspect(connection).has_table(one.name, schema=one.schema)]


def missing_names(connection: Connection, fullnames: Sequence[str]) -> list[str]:
    """Name the tables, given by their full names, that are not there."""
    named = [clause(one) for one in fullnames]
    return [str(one.fullname) for one in named if not inspect(connection).has_table(one.name, schema=one.schema)]


def beside(tables: Sequence[Table], suffix: str) -> dict[tuple[str | None, str], str]:
    """Choose names for a second set of tables, and for whatever of them needs a name of its own in the database.

    Raises `DeclarationError` where a column, or a word of SQL, is called like a table: in the text of a statement they
    look the same.
    """
    names = {}
    for table in tables:
        if len(table.name) > TABLE_NAME_MAX:
            raise DeclarationError(
                f"the name of table {table.fullname} is too long to have another table beside it",
                remedy=f"rebuild it in place (--in-place), or give it at most {TABLE_NAME_MAX} letters",
            )
        if is_word(table.name):
            raise DeclarationError(
                f"table {table.fullname} is called like a word of SQL: statements cannot be made to name another",
                remedy="rebuild it in place (--in-place), or name it otherwise",
            )
        for name in (table.name, *_named_things(table)):
            names[table.schema, name] = with_suffix(name, suffix)
    taken = {name for _, name in names}
    for table in tables:
        for column in table.columns:
            if column.name in taken:
                raise DeclarationError(
                    f"column {table.fullname}.{column.name} is called like a table or an index of the projection",
                    remedy="rebuild it in place (--in-place), or rename the column",
                )
    return names


def with_suffix(name: str, suffix: str) -> str:
    """Add to a name, and shorten it where it would be too long."""
    return name[: IDENTIFIER_MAX - len(suffix)] + suffix


def create_beside(connection: Connection, tables: Sequence[Table], names: TableNames) -> None:
    """Make a second set of the tables, with their constraints and indexes, by the same statements."""
    with tables_renamed(connection, names):
        for table in _in_order(tables):
            connection.execute(CreateTable(table))
            for index in table.indexes:
                connection.execute(CreateIndex(index))


def clause(fullname: str) -> TableClause:
    """Name a table in a statement by its full name."""
    schema, _, name = fullname.rpartition(".")
    return named_table(name, schema=schema or None)


def _table_shape(table: Table, dialect: Dialect) -> TableShape:
    columns = [f"{one.name} {_type(one.type, dialect)}{'' if one.nullable else ' not null'}" for one in table.columns]
    key = f"key ({', '.join(column.name for column in table.primary_key)})"
    return TableShape(
        columns=[*columns, key],
        values={one.name: one.info[VALUES] for one in table.columns if VALUES in one.info},
    )


def _shape(text: str | None) -> Shape:
    try:
        return _read_shape(text or "{}")
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise DamagedRowError(
            f"the shape that a projection's tables were registered with cannot be read: {error}; it is {text!r:.200}",
            remedy="it was changed by hand, or registered by a build before the first release: `eventlog rebuild NAME"
            " --app module:app` makes the projection anew",
        ) from error


def _columns(shape: str | None) -> dict[str, list[str]]:
    return {name: table.columns for name, table in _shape(shape).items()}


def _other_values(table: str, before: dict[str, Values], now: dict[str, Values]) -> list[str]:
    others = [name for name in now if name in before and now[name] != before[name]]
    return [f"{table} with other values in {', '.join(others)}"] if others else []


def _plain_columns(index: Index) -> tuple[str, ...] | None:
    """The columns of an index, None for one of expressions: databases show these otherwise."""
    names = [getattr(one, "name", None) for one in index.expressions]
    return None if None in names else tuple(str(name) for name in names)


def _type(kind: Any, dialect: Dialect) -> str:
    try:
        return str(kind.compile(dialect=dialect)).lower()
    except SQLAlchemyError:
        return type(kind).__name__.lower()


def _named_things(table: Table) -> list[str]:
    """Indexes and constraints that are given a name: no other table may have one of that name."""
    named = [index.name for index in table.indexes] + [constraint.name for constraint in table.constraints]
    return [str(name) for name in named if isinstance(name, str)]


def _in_order(tables: Sequence[Table]) -> list[Table]:
    """Tables that others refer to come first."""
    order = {table: place for place, table in enumerate(tables[0].metadata.sorted_tables)} if tables else {}
    return sorted(tables, key=lambda table: order.get(table, len(order)))

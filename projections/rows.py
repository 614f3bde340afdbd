"""Reading and writing rows of a view in bulk: one statement for all of a batch, whatever their number.

PostgreSQL takes arrays, a column each; SQLite takes keys as one JSON array and rows one by one to a prepared statement.
So the text of a statement depends on the table only. Statements are run through SQLAlchemy's connection, and name the
table plainly: a rebuild beside the live one has them name another.
"""

import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from sqlalchemy import Connection, Table
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.projections.columns import Convert, RowField

R = TypeVar("R", bound=msgspec.Struct)

Key = tuple[Any, ...]


class Statements(Protocol):
    """How one database reads and writes many rows; keys and rows are tuples of what the columns hold."""

    def read(self, connection: Connection, keys: Sequence[Key]) -> Iterable[Sequence[Any]]:
        """Read the rows of these keys; keys without a row are left out."""
        ...

    def write(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows, or bring those of the same key to them."""
        ...

    def delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        """Delete the rows of these keys."""
        ...


@dataclass(frozen=True, slots=True)
class _Codec:
    """Converts tuples, with as little work as the columns allow. A place is one that needs a conversion."""

    places: tuple[tuple[int, Convert], ...]

    def run(self, values: Sequence[Any]) -> Sequence[Any]:
        if not self.places:
            return values
        converted = list(values)
        for place, convert in self.places:
            if converted[place] is not None:
                converted[place] = convert(converted[place])
        return tuple(converted)


class Rows(Generic[R]):
    """The rows of one view's table, as Structs by their keys."""

    def __init__(self, row: type[R], table: Table, fields: Sequence[RowField], key: Sequence[str]) -> None:
        self._row = row
        self._names = tuple(field.name for field in fields)
        parameters = inspect.signature(row).parameters.values()
        self._by_place = all(one.kind is one.POSITIONAL_OR_KEYWORD for one in parameters)
        self._key_places = tuple(self._names.index(name) for name in key)
        key_fields = [fields[place] for place in self._key_places]
        self._statements: dict[str, Statements] = {
            "postgresql": _Postgres(table, fields, key_fields),
            "sqlite": _Sqlite(table, fields, key_fields),
        }
        self._codecs = {name: _Codecs(name, fields, key_fields) for name in self._statements}
        self._held = tuple(
            (place, field.kind) for place, field in enumerate(fields) if _is_held(field, is_key=field.name in key)
        )
        self._inexact = tuple(
            (place, field.kind.exactly) for place, field in enumerate(fields) if field.kind.exactly is not None
        )
        self.mutable = any(field.kind.mutable for field in fields)
        """Whether a row can be changed in place though it is frozen."""

    def read(self, connection: Connection, keys: Collection[Key]) -> dict[Key, R]:
        """Read the rows of these keys: one statement."""
        name = connection.dialect.name
        codecs = self._codecs[name]
        found = self._statements[name].read(connection, [tuple(codecs.key_in.run(key)) for key in keys])
        rows: dict[Key, R] = {}
        for written in found:
            values = codecs.out.run(written)
            rows[tuple([values[place] for place in self._key_places])] = self._make(values)
        return rows

    def write(self, connection: Connection, rows: Sequence[R]) -> None:
        """Insert rows, or bring those of the same key to them: one statement. Raises `TypeError` for other values."""
        name = connection.dialect.name
        convert = self._codecs[name].row_in.run
        values = [self.values(row) for row in rows]
        for place, kind in self._held:
            if not kind.takes([one[place] for one in values]):
                raise TypeError(f"{self._names[place]} is not of its type")
        self._statements[name].write(connection, [convert(one) for one in values])

    def delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        """Delete the rows of these keys: one statement."""
        name = connection.dialect.name
        convert = self._codecs[name].key_in.run
        self._statements[name].delete(connection, [tuple(convert(key)) for key in keys])

    def values(self, row: R) -> tuple[Any, ...]:
        """Return the values of a row, in the order of its fields."""
        return msgspec.structs.astuple(row)

    def exactly(self, row: R) -> tuple[Any, ...]:
        """Return what tells a row from another one that is equal, and would be written differently: 1 from True."""
        values = self.values(row)
        return (*map(type, values), *[convert(values[place]) for place, convert in self._inexact])

    def _make(self, values: Sequence[Any]) -> R:
        if self._by_place:
            return self._row(*values)
        return self._row(**dict(zip(self._names, values, strict=True)))


def _is_held(field: RowField, *, is_key: bool) -> bool:
    """Whether a field's values are looked at before they are written. Those of keys have been, but for literals."""
    return field.kind.is_literal or (bool(field.kind.classes) and not is_key)


class _Codecs:
    """What goes in and out of one database."""

    def __init__(self, dialect: str, fields: Sequence[RowField], key: Sequence[RowField]) -> None:
        into, out = ("to_postgres", "from_postgres") if dialect == "postgresql" else ("to_sqlite", "from_sqlite")
        self.row_in = _codec(fields, into)
        self.key_in = _codec(key, into)
        self.out = _codec(fields, out)


def _codec(fields: Sequence[RowField], which: str) -> _Codec:
    found = ((place, getattr(field.kind, which)) for place, field in enumerate(fields))
    return _Codec(tuple((place, convert) for place, convert in found if convert is not None))


class _Postgres:
    def __init__(self, table: Table, fields: Sequence[RowField], key: Sequence[RowField]) -> None:
        quote = postgresql.dialect().identifier_preparer  # type: ignore[no-untyped-call]
        name = quote.format_table(table).replace("%", "%%")
        self._fields, self._key = fields, key
        columns = [quote.quote(field.name) for field in fields]
        keys = [quote.quote(field.name) for field in key]
        given = ", ".join(f"given_{place}" for place in range(len(key)))
        matches = " and ".join(f"stored.{one} = given.given_{place}" for place, one in enumerate(keys))
        read = ", ".join(_readable(field, f"stored.{one}") for field, one in zip(fields, columns, strict=True))
        self._read = f"select {read} from unnest({_arrays(key)}) as given ({given}) join {name} as stored on {matches}"
        rest = [one for one in columns if one not in keys]
        update = ", ".join(f"{one} = excluded.{one}" for one in rest)
        self._write = (
            f"insert into {name} ({', '.join(columns)})"
            f" select {', '.join(f'given_{place}{_cast(field)}' for place, field in enumerate(fields))}"
            f" from unnest({_arrays(fields)}) as given ({', '.join(f'given_{place}' for place in range(len(fields)))})"
            f" on conflict ({', '.join(keys)}) do {f'update set {update}' if rest else 'nothing'}"
        )
        self._delete = f"delete from {name} as stored using unnest({_arrays(key)}) as given ({given}) where {matches}"

    def read(self, connection: Connection, keys: Sequence[Key]) -> Iterable[Sequence[Any]]:
        return connection.exec_driver_sql(self._read, _by_column(keys)).all()

    def write(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        connection.exec_driver_sql(self._write, _by_column(rows))

    def delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        connection.exec_driver_sql(self._delete, _by_column(keys))


def _by_column(rows: Sequence[Sequence[Any]]) -> Mapping[str, list[Any]]:
    return {f"given_{place}": list(column) for place, column in enumerate(zip(*rows, strict=True))}


def _arrays(fields: Sequence[RowField]) -> str:
    return ", ".join(f"%(given_{place})s::{_array_type(field)}[]" for place, field in enumerate(fields))


def _array_type(field: RowField) -> str:
    return "text" if field.kind.postgres == "jsonb" else field.kind.postgres


def _cast(field: RowField) -> str:
    return "::jsonb" if field.kind.postgres == "jsonb" else ""


def _readable(field: RowField, column: str) -> str:
    return f"{column}::text" if field.kind.postgres == "jsonb" else column


class _Sqlite:
    def __init__(self, table: Table, fields: Sequence[RowField], key: Sequence[RowField]) -> None:
        quote = sqlite.dialect().identifier_preparer
        name = quote.format_table(table)
        columns = [quote.quote(field.name) for field in fields]
        keys = [quote.quote(field.name) for field in key]
        given = [f"json_extract(given.value, '$[{place}]')" for place in range(len(key))]
        matches = " and ".join(f"stored.{one} = {value}" for one, value in zip(keys, given, strict=True))
        # A cross join is not reordered: the rows are looked up by their keys, one after the other.
        self._read = (
            f"select {', '.join(f'stored.{one}' for one in columns)}"
            f" from json_each(?) as given cross join {name} as stored on {matches}"
        )
        rest = [one for one in columns if one not in keys]
        update = ", ".join(f"{one} = excluded.{one}" for one in rest)
        self._write = (
            f"insert into {name} ({', '.join(columns)}) values ({', '.join('?' for _ in columns)})"
            f" on conflict ({', '.join(keys)}) do {f'update set {update}' if rest else 'nothing'}"
        )
        self._delete = (
            f"delete from {name} where ({', '.join(keys)}) in (select {', '.join(given)} from json_each(?) as given)"
        )

    def read(self, connection: Connection, keys: Sequence[Key]) -> Iterable[Sequence[Any]]:
        return connection.exec_driver_sql(self._read, (_as_json(keys),)).all()

    def write(self, connection: Connection, rows: Sequence[Sequence[Any]]) -> None:
        connection.exec_driver_sql(self._write, [tuple(row) for row in rows])

    def delete(self, connection: Connection, keys: Sequence[Key]) -> None:
        connection.exec_driver_sql(self._delete, (_as_json(keys),))


def _as_json(keys: Sequence[Key]) -> str:
    return msgspec.json.encode(keys).decode()

"""For the env.py of a service: how autogenerate and `alembic check` come to leave the tables of the log alone.

They do not look at them (`LogTables`), or they know them in full (`declare_log`, for a service whose own tables refer
to events). Nothing here needs Alembic.
"""

from collections.abc import Mapping

from sqlalchemy import Connection, Table
from sqlalchemy.sql.schema import SchemaItem

from eventlog.schema.declared import EPOCHS, declare_log
from eventlog.schema.tables import DEFAULT_SCHEMA, tables
from eventlog.schema.version import VERSION_TABLE

__all__ = ["LogTables", "declare_log"]


class LogTables:
    """The tables of one log in one database, as filters for `context.configure` in an env.py.

        log = LogTables(connection)
        context.configure(connection=connection, ..., include_name=log.include_name)

    `include_name` suffices. A service that has the log's tables in its own metadata, without `declare_log`, needs
    `include_object` as well. Who has filters already calls both: `return log.include_name(*given) and ...`.
    """

    def __init__(self, connection: Connection, *, schema: str = DEFAULT_SCHEMA) -> None:
        log = tables(dialect=connection.dialect.name, schema=schema)
        own_names = {f"{log.prefix}{name}" for name in (VERSION_TABLE, EPOCHS)}
        self._names = own_names.union(table.name for table in log.metadata.tables.values())
        is_default = log.schema in (None, connection.dialect.default_schema_name)
        self._whole_schema = None if is_default else log.schema
        self._places = {log.schema, None} if is_default else {log.schema}

    def include_name(self, name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        """Tell autogenerate whether to look at something it found in the database."""
        if type_ == "schema":
            return name is None or name != self._whole_schema
        table = name if type_ == "table" else parent_names.get("table_name")
        return not self._is_ours(table, parent_names.get("schema_name"))

    def include_object(
        self, thing: SchemaItem, name: str | None, type_: str, reflected: bool, compare_to: SchemaItem | None
    ) -> bool:
        """Tell autogenerate whether to compare something, found in the database or declared by the service."""
        table = thing if isinstance(thing, Table) else getattr(thing, "table", None)
        return not (isinstance(table, Table) and self._is_ours(table.name, table.schema))

    def _is_ours(self, table: str | None, schema: str | None) -> bool:
        return schema in self._places and (self._whole_schema is not None or table in self._names)

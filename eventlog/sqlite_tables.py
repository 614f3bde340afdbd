"""What a SQLite file says about a table, where another one is to take its name.

A view or trigger is renamed with the table that it mentions, and would keep the old one; so would a foreign key. They
are found here, and the exchange is then refused. There are no rights to carry over.
"""

import re
from collections.abc import Sequence

from sqlalchemy import Connection, text
from sqlalchemy.sql.expression import TableClause

_SCHEMA = text("select type, name, tbl_name, sql from sqlite_master where sql is not null")


def holding_on(connection: Connection, names: Sequence[TableClause]) -> list[str]:
    """Name what would go on with the old tables, or be lost with them, if others took their names."""
    mine = {str(one.name).lower() for one in names}
    found = []
    for row in connection.execute(_SCHEMA).all():
        if row.type in ("view", "trigger") and any(re.search(rf"\b{re.escape(one)}\b", row.sql, re.I) for one in mine):
            found.append(f"{row.type} {row.name}")
        elif row.type == "table" and row.name.lower() not in mine and _refers(connection, row.name, mine):
            found.append(f"foreign key of {row.name}")
    return sorted(found)


def rename_table(connection: Connection, name: TableClause, to: str) -> None:
    """Rename a table. Its indexes keep their names: SQLite has no way to give them others."""
    quote = connection.dialect.identifier_preparer.quote
    connection.exec_driver_sql(f"alter table {quote(str(name.name))} rename to {quote(to)}")


def _refers(connection: Connection, table: str, mine: set[str]) -> bool:
    keys = connection.execute(text('select "table" from pragma_foreign_key_list(:name)'), {"name": table})
    return any(str(key[0]).lower() in mine for key in keys)

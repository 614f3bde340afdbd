"""What a SQLite file says about its tables: how large they are, and who refers to one whose name another is to take.

A view or trigger is renamed with the table that it mentions, and would keep the old one; so would a foreign key. They
are found here, and the exchange is then refused. There are no rights to carry over.
"""

import re
from collections.abc import Collection, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.sql.expression import TableClause

from eventlog.database import Relation, Sizes

SIZED_BYTES_MAX = 268_435_456
"""Up to which size of a file its tables are told apart: it is read for that from end to end."""

_SIZES = text(
    """
    select s.name, coalesce(m.type, 'table') as kind, coalesce(m.tbl_name, s.name) as of, s.pgsize as bytes
    from dbstat as s left join sqlite_master as m on m.name = s.name
    where s.aggregate = true
    order by bytes desc, s.name
    """
)
_SCHEMA = text("select type, name, tbl_name, sql from sqlite_master where sql is not null")


def sizes(connection: Connection, tables: Collection[str]) -> Sizes:
    """Read what the file takes and, if it is not too large to be read for that, each table and index of the log."""
    pages, page_bytes = (int(connection.scalar(text(f"pragma {one}")) or 0) for one in ("page_count", "page_size"))
    whole = pages * page_bytes
    try:
        found = connection.execute(_SIZES).all() if whole <= SIZED_BYTES_MAX else []
    except DBAPIError as error:
        if "dbstat" not in str(error.orig):
            raise
        found = []
    mine = (one for one in found if one.of in tables)
    relations = tuple(Relation(name=one.name, kind=one.kind, of=one.of, bytes=one.bytes) for one in mine)
    return Sizes(database_bytes=whole, relations=relations)


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

"""Inserts that may meet a row which is there already: `on conflict`, which SQLAlchemy has for each database apart.

Its dialects are imported by the first such insert. Commands that only look do not pay for both of them.
"""

from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql, sqlite


def insert_into(connection: Connection, table: Table) -> "postgresql.Insert | sqlite.Insert":
    """Begin an insert that can say `on_conflict_do_nothing` and `on_conflict_do_update`, in the words of a database."""
    if connection.dialect.name == "sqlite":
        from sqlalchemy.dialects import sqlite

        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql

    return postgresql.insert(table)

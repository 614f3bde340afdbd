"""Changing stored rows by hand, as nobody should: behind the back of triggers and checks.

`damaged` shows a log to whatever reads it as it would be after such a change, and takes the change back. `tampering` is
for what has to last: other connections see it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, text

from eventlog.database import Database

TABLES = ("events", "event_tags", "attempts", "operations")
"""Those whose rows are never changed."""


@contextmanager
def damaged(database: Database, monkeypatch: pytest.MonkeyPatch, *statements: str) -> Iterator[Connection]:
    """Let everybody who reads through `database` see what the statements have done, until the block ends.

    `{table}` in them stands for a table of the log.
    """
    with database.engine.connect() as connection:
        lay_bare(connection, database)
        run(connection, database, *statements)

        @contextmanager
        def shown() -> Iterator[Connection]:
            yield connection

        with monkeypatch.context() as patched:
            for name in ("reader", "transaction"):
                patched.setattr(database, name, shown)
            yield connection
        connection.rollback()
        if database.engine.dialect.name == "sqlite":
            connection.exec_driver_sql("pragma ignore_check_constraints = off")


@contextmanager
def tampering(database: Database) -> Iterator[Connection]:
    """Lend a connection that nothing is refused to, and commit; the triggers are in place again afterwards."""
    sqlite = database.engine.dialect.name == "sqlite"
    with database.engine.connect() as connection:
        triggers = lay_bare(connection, database)
        yield connection
        for statement in triggers:
            connection.exec_driver_sql(statement)
        connection.commit()
        if sqlite:
            connection.exec_driver_sql("pragma ignore_check_constraints = off")
            connection.exec_driver_sql("pragma foreign_keys = on")


def run(connection: Connection, database: Database, *statements: str) -> None:
    """Run statements that name tables as `{events}`."""
    names = {name: database.tables.sql_name(name) for name in vars_of(database)}
    for statement in statements:
        sql = statement.replace(":", "\\:")
        for name, stands_for in names.items():
            sql = sql.replace(f"{{{name}}}", stands_for)
        connection.execute(text(sql))


def vars_of(database: Database) -> list[str]:
    """The names of the log's tables, as `Tables` has them."""
    return [name for name in type(database.tables).__dataclass_fields__ if name not in ("schema", "prefix", "metadata")]


def lay_bare(connection: Connection, database: Database) -> list[str]:
    """Put the triggers and checks out of the way; return the statements that bring the triggers back."""
    if database.engine.dialect.name == "sqlite":
        for pragma in ("ignore_check_constraints = on", "foreign_keys = off"):
            connection.exec_driver_sql(f"pragma {pragma}")
        rows: list[Any] = list(
            connection.execute(text("select name, sql from sqlite_master where type = 'trigger'")).all()
        )
        for name, _ in rows:
            connection.exec_driver_sql(f"drop trigger {name}")
        return [str(sql) for _, sql in rows]
    names = [database.tables.sql_name(one) for one in TABLES]
    question = text(
        "select tgrelid::regclass::text, tgname from pg_trigger"
        " where not tgisinternal and tgrelid = any (cast(:names as regclass[]))"
    )
    found = connection.execute(question, {"names": names}).all()
    for name in names:
        connection.exec_driver_sql(f"alter table {name} disable trigger user")
    return [f"alter table {table} enable always trigger {trigger}" for table, trigger in found]

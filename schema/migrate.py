"""Brings the tables of a log to the revision this code knows, and tells at which one they are.

All changes of one upgrade are one transaction on both databases: a killed upgrade leaves nothing behind, and of two at
once the second waits and finds the work done. Alembic is imported only here and in the revisions, when it is used.
"""

from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from sqlalchemy import Column, Connection, Engine, MetaData, Table, Text, func, inspect, select

from eventlog.schema.tables import DEFAULT_SCHEMA, Tables, tables

TRIES_MAX = 5
"""How often the switch to write-ahead logging is tried while others write."""
VERSION_TABLE = "schema_version"
_MIGRATIONS = Path(__file__).parent / "migrations"
_ONE_UPGRADE_AT_A_TIME = 0x6576656E746C6F67
"""Key of the advisory lock that upgrades take on PostgreSQL: "eventlog" in ASCII."""


class SchemaState(StrEnum):
    """How the tables in a database stand to this code."""

    MISSING = "missing"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


class NewerSchemaError(Exception):
    """The tables were made by a later release than this code."""


@lru_cache
def known_revisions() -> tuple[str, ...]:
    """Return the revisions this code can make, oldest first."""
    return tuple(sorted("_".join(file.stem.split("_")[:2]) for file in _MIGRATIONS.glob("versions/eventlog_*.py")))


def current_revision(connection: Connection, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Return the revision of the tables in this database, None where there are none. Costs two small queries."""
    log = tables(dialect=connection.dialect.name, schema=schema)
    if not inspect(connection).has_table(f"{log.prefix}{VERSION_TABLE}", schema=log.schema):
        return None
    version = _version_table(log)
    revision: str | None = connection.scalar(select(version.c.version_num))
    return revision


def schema_state(connection: Connection, *, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """Compare the tables in this database with the revision this code knows. Costs two or three small queries.

    A role that may not read the revision (one that may only append) is taken to know what it does: `CURRENT`.
    """
    log = tables(dialect=connection.dialect.name, schema=schema)
    if not inspect(connection).has_table(f"{log.prefix}{VERSION_TABLE}", schema=log.schema):
        return SchemaState.MISSING
    if not _may_read_revision(connection, log):
        return SchemaState.CURRENT
    revision = current_revision(connection, schema=schema)
    if revision is None:
        return SchemaState.MISSING
    if revision == known_revisions()[-1]:
        return SchemaState.CURRENT
    return SchemaState.OLDER if revision in known_revisions() else SchemaState.NEWER


def upgrade(engine: Engine, *, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """Create the tables of the log `schema`, or bring them to the newest revision, in one transaction.

    Returns the state that was found. Raises `NewerSchemaError` when a later release has been here, and a database
    error when the role may not create tables. Safe to run twice, and at the same time.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            _let_readers_and_a_writer_in(connection)
    with engine.connect() as connection, connection.begin():
        _wait_for_other_upgrades(connection)
        state = schema_state(connection, schema=schema)
        if state is SchemaState.NEWER:
            raise NewerSchemaError(f"{current_revision(connection, schema=schema)} > {known_revisions()[-1]}")
        if state is not SchemaState.CURRENT:
            _run_revisions(connection, tables(dialect=engine.dialect.name, schema=schema))
    return state


def _may_read_revision(connection: Connection, log: Tables) -> bool:
    if connection.dialect.name == "sqlite":
        return True
    question = select(func.has_table_privilege(log.sql_name(VERSION_TABLE), "select"))
    return bool(connection.scalar(question))


def _let_readers_and_a_writer_in(connection: Connection) -> None:
    """Switch a SQLite file to write-ahead logging. It stays so, and cannot be done within a transaction."""
    driver = connection.connection.driver_connection
    assert driver is not None
    for patience in reversed(range(TRIES_MAX)):
        try:
            driver.execute("pragma journal_mode = wal")
        except driver.OperationalError:
            if not patience:
                raise
            # The switch does not wait for a writer, a transaction does.
            driver.execute("begin immediate")
            driver.execute("commit")
        else:
            return


def _wait_for_other_upgrades(connection: Connection) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"select pg_advisory_xact_lock({_ONE_UPGRADE_AT_A_TIME})")
        return
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction:
        connection.exec_driver_sql("begin immediate")


def _run_revisions(connection: Connection, log: Tables) -> None:
    from alembic import command
    from alembic.config import Config

    if log.schema:
        connection.exec_driver_sql(f"create schema if not exists {log.schema}")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes.update(
        connection=connection,
        tables=log,
        version_table=f"{log.prefix}{VERSION_TABLE}",
        version_table_schema=log.schema,
    )
    command.upgrade(config, "head")


def _version_table(log: Tables) -> Table:
    return Table(f"{log.prefix}{VERSION_TABLE}", MetaData(schema=log.schema), Column("version_num", Text))

"""Brings the tables of a log to the revision this code knows, and tells at which one they are.

All changes of one upgrade are one transaction on both databases: a killed upgrade leaves nothing behind, and of two at
once the second waits and finds the work done. The revisions do the same in a service's own Alembic tree, see
`target.py`; here they are run without one. Alembic is imported only where it is used.
"""

import threading
from enum import StrEnum

from sqlalchemy import Connection, Engine

from eventlog.schema.revisions import known_revisions, locked_by, readable_under, revisions_after
from eventlog.schema.table_locks import LOCK_TRIES_MAX, lock_tables
from eventlog.schema.tables import DEFAULT_SCHEMA, Tables, tables
from eventlog.schema.version import has_version_table, may_read_revision, only_upgrade, read_revision

__all__ = ["NewerSchemaError", "SchemaState", "current_revision", "known_revisions", "schema_state", "upgrade"]

TRIES_MAX = 5
"""How often the switch to write-ahead logging is tried while others write."""
ALEMBIC_ONE_AT_A_TIME = threading.Lock()
"""Alembic hands the running revision its database in a variable of the process."""


class SchemaState(StrEnum):
    """How the tables in a database stand to this code."""

    MISSING = "missing"
    OLDER = "older"
    CURRENT = "current"
    NEWER = "newer"


class NewerSchemaError(Exception):
    """The tables were made by a later release than this code."""


def current_revision(connection: Connection, *, schema: str = DEFAULT_SCHEMA) -> str | None:
    """Return the revision of the tables in this database, None where there are none. Costs two small queries."""
    return read_revision(connection, tables(dialect=connection.dialect.name, schema=schema))


def schema_state(connection: Connection, *, schema: str = DEFAULT_SCHEMA) -> SchemaState:
    """Compare the tables in this database with the revision this code knows. Costs two or three small queries.

    A role that may not read the revision (one that may only append) is taken to know what it does: `CURRENT`.
    """
    log = tables(dialect=connection.dialect.name, schema=schema)
    if not has_version_table(connection, log):
        return SchemaState.MISSING
    if not may_read_revision(connection, log):
        return SchemaState.CURRENT
    revision = read_revision(connection, log)
    if revision is None:
        return SchemaState.MISSING
    if revision == known_revisions()[-1]:
        return SchemaState.CURRENT
    return SchemaState.OLDER if revision in known_revisions() else SchemaState.NEWER


def upgrade(
    engine: Engine,
    *,
    schema: str = DEFAULT_SCHEMA,
    until: str | None = None,
    lock_tries_max: int = LOCK_TRIES_MAX,
) -> SchemaState:
    """Create the tables of the log `schema`, or bring them to the newest revision (or `until`), in one transaction.

    Returns the state that was found. Raises `NewerSchemaError` when a later release has been here, `SchemaBusyError`
    when somebody does not let go of the tables for half a minute, and a database error when the role may not create
    tables. Safe to run twice, at the same time, and while others append and read: they wait for moments.
    """
    with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            _let_readers_and_a_writer_in(connection)
    with engine.connect() as connection, connection.begin():
        only_upgrade(connection)
        state = schema_state(connection, schema=schema)
        if state is SchemaState.NEWER:
            raise NewerSchemaError(f"{current_revision(connection, schema=schema)} > {known_revisions()[-1]}")
        if state is not SchemaState.CURRENT:
            log = tables(dialect=engine.dialect.name, schema=schema)
            coming = revisions_after(read_revision(connection, log), until=until)
            if state is SchemaState.OLDER:
                lock_tables(
                    connection,
                    log,
                    locked_by(*coming),
                    readable=readable_under(*coming),
                    tries_max=lock_tries_max,
                )
            _run(connection, log, coming)
    return state


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


def _run(connection: Connection, log: Tables, revisions: tuple[str, ...]) -> None:
    from eventlog.schema.migrate_steps import run_revisions

    with ALEMBIC_ONE_AT_A_TIME:
        run_revisions(connection, log, revisions)

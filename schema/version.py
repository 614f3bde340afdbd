"""The row that says at which revision the tables of a log are: `schema_version`, beside the tables themselves.

It is the only answer our code asks for. Revisions alone write it, in the transaction that changes the tables, whoever
runs them: `eventlog init`, a service's own Alembic tree, or somebody with a file of SQL. So there may be several who
upgrade a log, and there is one truth about it. Whoever is about to change a log holds `only_upgrade` first.
"""

from sqlalchemy import Column, Connection, MetaData, PrimaryKeyConstraint, String, Table, func, inspect, select, text
from sqlalchemy.exc import DBAPIError

from eventlog.schema.tables import Tables

VERSION_TABLE = "schema_version"
OTHER_UPGRADE_SECONDS_MAX = 60
"""How long an upgrade waits for another one in the same database."""
UPGRADE_KEY = 0x6576656E746C6F67
"""Key of the advisory lock that upgrades take on PostgreSQL: "eventlog" in ASCII."""
LOCK_NOT_AVAILABLE = "55P03"


class SchemaBusyError(Exception):
    """The tables, or the right to change them, stayed with somebody else; the message says with whom."""


def version_table(log: Tables, metadata: MetaData) -> Table:
    """Define the table that holds the revision."""
    name = f"{log.prefix}{VERSION_TABLE}"
    return Table(
        name,
        metadata,
        Column("version_num", String(32), nullable=False),
        PrimaryKeyConstraint("version_num", name=f"{name}_pkc"),
        schema=log.schema,
    )


def has_version_table(connection: Connection, log: Tables) -> bool:
    """Tell whether there is a log. Costs one small query."""
    return inspect(connection).has_table(f"{log.prefix}{VERSION_TABLE}", schema=log.schema)


def read_revision(connection: Connection, log: Tables) -> str | None:
    """Return the revision of the tables, None where there are none. Costs two small queries."""
    if not has_version_table(connection, log):
        return None
    revision: str | None = connection.scalar(select(version_table(log, MetaData()).c.version_num))
    return revision


def may_read_revision(connection: Connection, log: Tables) -> bool:
    """Tell whether the role of this connection may read the row."""
    if connection.dialect.name == "sqlite":
        return True
    question = select(func.has_table_privilege(log.sql_name(VERSION_TABLE), "select"))
    return bool(connection.scalar(question))


def only_upgrade(connection: Connection) -> None:
    """Let nobody else upgrade a log in this database until the transaction ends; wait for whoever does.

    On SQLite this begins the transaction, where the driver left that for later: its changes of tables would otherwise
    be committed one by one. Raises `SchemaBusyError`, and leaves the transaction usable.
    """
    if connection.dialect.name == "postgresql":
        _take_upgrade_lock(connection)
        return
    driver = connection.connection.driver_connection
    if driver is not None and not driver.in_transaction:
        _begin_among_writers(connection)


def is_lock_timeout(error: DBAPIError) -> bool:
    """Tell whether a lock was waited for in vain; psycopg and asyncpg both name the state so."""
    return getattr(error.orig, "sqlstate", None) == LOCK_NOT_AVAILABLE


def set_lock_timeout(connection: Connection, value: str) -> str:
    """Set for how long this transaction waits for a lock; return what it was."""
    before: str = connection.exec_driver_sql("select current_setting('lock_timeout')").scalar_one()
    connection.execute(select(func.set_config("lock_timeout", value, True)))  # noqa: FBT003
    return before


def _begin_among_writers(connection: Connection) -> None:
    """SQLite gives the file to whoever asks at the right moment; among busy writers that may take its time."""
    before = connection.exec_driver_sql("pragma busy_timeout").scalar_one()
    connection.exec_driver_sql(f"pragma busy_timeout = {OTHER_UPGRADE_SECONDS_MAX * 1000}")
    try:
        connection.exec_driver_sql("begin immediate")
    finally:
        connection.exec_driver_sql(f"pragma busy_timeout = {before}")


def _take_upgrade_lock(connection: Connection) -> None:
    before = set_lock_timeout(connection, f"{OTHER_UPGRADE_SECONDS_MAX}s")
    try:
        with connection.begin_nested():
            connection.exec_driver_sql(f"select pg_advisory_xact_lock({UPGRADE_KEY})")
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        raise SchemaBusyError(
            f"another upgrade in this database was waited for {OTHER_UPGRADE_SECONDS_MAX} s: {_upgrading(connection)}"
        ) from error
    set_lock_timeout(connection, before)


def _upgrading(connection: Connection) -> str:
    question = (
        "select coalesce(string_agg(format('pid %s (%s)', l.pid, coalesce(nullif(a.application_name, ''), a.usename)),"
        " ', '), 'it has just ended') from pg_locks as l left join pg_stat_activity as a using (pid)"
        " where l.locktype = 'advisory' and l.granted and l.objsubid = 1"
        " and l.database = (select oid from pg_database where datname = current_database())"
        f" and l.classid = {UPGRADE_KEY >> 32} and l.objid = {UPGRADE_KEY & 0xFFFFFFFF}"
    )
    told: str = connection.execute(text(question)).scalar_one()
    return told

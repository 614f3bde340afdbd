"""Getting the tables of a log to itself, for an upgrade that alters them while a service appends and reads.

A lock that keeps everybody out has to wait for every transaction that has touched the table, and everybody else waits
behind it: one forgotten transaction, and all appends stand still. So an upgrade asks for a moment, lets the queue go,
and asks again, a stated number of times; then it names who did not let go.

The moment is shorter than PostgreSQL's `deadlock_timeout`, and nothing else is locked before it: a service that waits
for an upgrade is never told that it has met a deadlock. Tables that exist are locked before the first change, all of
them, and always in the same order. On SQLite the transaction itself keeps other writers out.
"""

from collections.abc import Collection, Sequence
from itertools import groupby

from sqlalchemy import Connection, inspect, text
from sqlalchemy.exc import DBAPIError

from eventlog.schema.tables import Tables
from eventlog.schema.version import SchemaBusyError, is_lock_timeout, set_lock_timeout

LOCK_TRIES_MAX = 20
LOCK_WAIT_SECONDS = 0.5
"""For how long others may stand behind one try, all tables together; below any sensible `deadlock_timeout`."""
PAUSE_SECONDS = 1
"""Between two tries: what was waiting gets its turn."""

_HOLDERS = r"""
select format(
    'pid %s (%s, %s%s)', l.pid, coalesce(nullif(a.application_name, ''), a.usename, 'unknown'), a.state,
    coalesce(to_char(a.xact_start at time zone 'utc', '", in a transaction since "YYYY-MM-DD"T"HH24\:MI\:SS"Z"'), '')
)
from pg_locks as l left join pg_stat_activity as a using (pid)
where l.granted and l.pid <> pg_backend_pid() and l.relation = any(cast(:names as regclass[]))
  and l.database = (select oid from pg_database where datname = current_database())
group by l.pid, a.application_name, a.usename, a.state, a.xact_start
order by a.xact_start nulls last
limit 5
"""


def lock_tables(
    connection: Connection,
    log: Tables,
    names: Collection[str],
    *,
    readable: Collection[str] = (),
    tries_max: int = LOCK_TRIES_MAX,
) -> None:
    """Keep everybody else out of these tables until the transaction ends; out of the readable ones, writers only.

    Takes half a minute when it is in vain. Raises `SchemaBusyError`, and leaves the transaction usable.
    """
    if connection.dialect.name != "postgresql" or not names:
        return
    existing = set(names).intersection(inspect(connection).get_table_names(schema=log.schema))
    sql_names = _in_order(log, existing)
    before = set_lock_timeout(connection, f"{round(LOCK_WAIT_SECONDS * 1000 / len(sql_names))}ms")
    for tries in range(1, tries_max + 1):
        if _locked(connection, lock_statements(log, existing, readable=readable)):
            set_lock_timeout(connection, before)
            return
        if tries < tries_max:
            connection.exec_driver_sql(f"select pg_sleep({PAUSE_SECONDS})")
    holders = connection.scalars(text(_HOLDERS), {"names": sql_names}).all()
    raise SchemaBusyError(
        f"{', '.join(sql_names)} stayed in use in {tries_max} tries of {LOCK_WAIT_SECONDS:g} s:"
        f" {', '.join(holders) or 'whoever it was has just ended'}"
    )


def lock_statements(log: Tables, names: Collection[str], *, readable: Collection[str] = ()) -> list[str]:
    """Write the SQL that locks these tables, in their order."""
    shared = {log.sql_name(name) for name in readable}
    return [
        f"lock table {', '.join(group)} in {'share' if is_readable else 'access exclusive'} mode"
        for is_readable, group in groupby(_in_order(log, names), key=shared.__contains__)
    ]


def _in_order(log: Tables, names: Collection[str]) -> list[str]:
    """Return the names as SQL has them, in the order in which our own transactions lock: that of their definition."""
    order = [table.name for table in log.metadata.tables.values()]
    return [log.sql_name(name) for name in sorted(names, key=order.index)]


def _locked(connection: Connection, statements: Sequence[str]) -> bool:
    try:
        with connection.begin_nested():
            for statement in statements:
                connection.exec_driver_sql(statement)
    except DBAPIError as error:
        if not is_lock_timeout(error):
            raise
        return False
    return True

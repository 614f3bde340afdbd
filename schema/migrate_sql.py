"""The revisions as SQL, for those who have a database administrator apply it.

The same statements that an upgrade executes, in one transaction, with the row of `schema_version`: a log made by hand
is no different from one made by `eventlog init`. Nothing is asked of a database, so the text depends on its arguments
alone. Upgrades of PostgreSQL check where they begin, and wait for locks no longer than an upgrade would.
"""

from eventlog.schema.migrate import ALEMBIC_ONE_AT_A_TIME
from eventlog.schema.revisions import known_revisions, revisions_after
from eventlog.schema.table_locks import LOCK_WAIT_SECONDS
from eventlog.schema.tables import DEFAULT_SCHEMA, tables


def upgrade_sql(
    *, dialect: str, schema: str = DEFAULT_SCHEMA, after: str | None = None, until: str | None = None
) -> str:
    """Write the SQL that brings a log from the revision `after` (None: from nothing) to `until` (None: the newest).

    A comment is all when they are the same. Raises `ValueError` for a revision this code does not know, and for a way
    that leads down.
    """
    from eventlog.schema.migrate_steps import written_down

    for given in (after, until):
        if given is not None and given not in known_revisions():
            raise ValueError(f"no revision {given!r} is known, known are {', '.join(known_revisions())}")
    target = until or known_revisions()[-1]
    if after is not None and after > target:
        raise ValueError(f"{after} comes after {target}, and there is no way down: it would drop recorded events")
    title = f"-- The log {schema!r} on {dialect}, from {after or 'nothing'} to {target}.\n"
    revisions = revisions_after(after, until=target)
    if not revisions:
        return title
    with ALEMBIC_ONE_AT_A_TIME:
        body = written_down(tables(dialect=dialect, schema=schema), revisions)
    return f"{title}\n{_opening(dialect, fresh=after is None)}\n\n{body}commit;\n"


def _opening(dialect: str, *, fresh: bool) -> str:
    if dialect == "sqlite":
        # Stays with the file, and cannot be set within a transaction.
        return "pragma journal_mode = wal;\n\nbegin immediate;" if fresh else "begin immediate;"
    return "begin;" if fresh else f"begin;\n\nset local lock_timeout = '{round(LOCK_WAIT_SECONDS * 1000)}ms';"

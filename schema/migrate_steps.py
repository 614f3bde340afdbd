"""Runs revisions outside any Alembic tree: against a connection, or written down as SQL."""

import io
from collections.abc import Sequence
from typing import Any

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.schema.revisions import revision_module
from eventlog.schema.tables import Tables
from eventlog.schema.target import TABLES_OPTION


def run_revisions(connection: Connection, log: Tables, revisions: Sequence[str]) -> None:
    """Run revisions in the connection's transaction; one thread at a time, as Alembic demands."""
    _run(MigrationContext.configure(connection=connection, opts={TABLES_OPTION: log}), revisions)


def written_down(log: Tables, revisions: Sequence[str]) -> str:
    """Return the statements of revisions; one thread at a time, as Alembic demands."""
    buffer = io.StringIO()
    options: dict[str, Any] = {TABLES_OPTION: log, "as_sql": True, "output_buffer": buffer}
    # Neither driver's placeholders: they would double every percent sign.
    kind: Any = postgresql.dialect if log.schema else sqlite.dialect
    dialect = kind(paramstyle="named")
    _run(MigrationContext.configure(dialect=dialect, opts=options), revisions)
    return buffer.getvalue()


def _run(context: MigrationContext, revisions: Sequence[str]) -> None:
    with Operations.context(context):
        for revision in revisions:
            revision_module(revision).upgrade()

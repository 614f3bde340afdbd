"""What a revision needs to know of the place it is applied to, and the one way in which it is applied.

Imported by the revisions alone. They run under `eventlog init`, in a service's own Alembic tree, or are written down as
SQL, and each does the same every time: nobody else upgrades meanwhile, what is done already is passed by, the tables it
alters are locked with care, and the log's own `schema_version` is written in the same transaction. So several may take
turns at upgrading a log, and a database always knows at which revision its log is.

In a service's tree the log is called what the option `eventlog_schema` in its alembic.ini says, else `eventlog`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import sqlalchemy as sa
from alembic import op
from alembic.runtime.migration import MigrationContext
from alembic.util import CommandError

from eventlog.schema.revisions import known_revisions, locked_by, readable_under, revisions_after
from eventlog.schema.table_locks import lock_statements, lock_tables
from eventlog.schema.tables import DEFAULT_SCHEMA, Tables, tables
from eventlog.schema.version import (
    UPGRADE_KEY,
    VERSION_TABLE,
    SchemaBusyError,
    only_upgrade,
    read_revision,
    version_table,
)

SCHEMA_OPTION = "eventlog_schema"
TABLES_OPTION = "eventlog_tables"
"""Under which our own code hands the names over; a service has the other one."""
_SQL_FILES = Path(__file__).parent
_BETWEEN_STATEMENTS = re.compile(r";\n\n(?=\S)")
_GUARD = """
do $$
begin
    perform pg_advisory_xact_lock({key});
    if not exists (select from {version} where version_num = '{before}') then
        raise exception '{version} does not say {before}, after which these changes come';
    end if;
end
$$
"""


@dataclass(frozen=True, slots=True)
class Target:
    """One log in one database, seen by a revision."""

    dialect: str
    tables: Tables

    @property
    def schema(self) -> str | None:
        return self.tables.schema

    def table(self, name: str) -> str:
        """Name a table where the schema is given beside it."""
        return f"{self.tables.prefix}{name}"

    def name(self, name: str) -> str:
        """Name a table, sequence or function in SQL text."""
        return self.tables.sql_name(name)

    def label(self, name: str) -> str:
        """Name an index or a constraint."""
        return f"{self.tables.prefix}{name}"

    def counter(self, name: str, *, always: bool = False) -> sa.Column[int]:
        """Make the primary key that numbers the rows; the sequence is not cached, so numbers rise with time.

        `always` refuses an INSERT that names a number of its own.
        """
        if self.dialect == "sqlite":
            return sa.Column(name, sa.Integer(), primary_key=True)
        return sa.Column(name, sa.BigInteger(), sa.Identity(always=always, cache=1), primary_key=True)

    def run(self, *files: str) -> None:
        """Execute SQL files of this dialect, statement by statement."""
        folder = "postgres" if self.dialect == "postgresql" else self.dialect
        for file in files:
            text = (_SQL_FILES / folder / f"{file}.sql").read_text(encoding="utf-8")
            text = text.replace("{schema}", self.tables.schema or "").replace("{prefix}", self.tables.prefix)
            for statement in _BETWEEN_STATEMENTS.split(text.strip().removesuffix(";")):
                op.execute(sa.text(re.sub(r"(?<!:):(?=\w)", r"\:", statement)))


def bring_to(revision: str, change: Callable[[Target], None]) -> None:
    """Bring the log to `revision` by `change`, if it is not there yet.

    Raises Alembic's `CommandError`, whose text its command line prints, when the log is not at the revision before.
    """
    context = op.get_context()
    log = target(context)
    if context.as_sql:
        _write_down(revision, change, log)
        return
    connection = op.get_bind()
    try:
        only_upgrade(connection)
        found = read_revision(connection, log.tables)
        if found is not None and found >= revision:
            return
        _refuse_gap(revision, found, log)
        if found is not None and TABLES_OPTION not in context.opts:
            # How far an Alembic tree goes is not known here; our own code has locked what it needs before.
            coming = revisions_after(found)
            lock_tables(connection, log.tables, locked_by(*coming), readable=readable_under(*coming))
    except SchemaBusyError as error:
        raise CommandError(f"{error}. Let them end, and upgrade again.") from error
    if found is None and log.schema is not None and not sa.inspect(connection).has_schema(log.schema):
        op.execute(f"create schema {log.schema}")
    change(log)
    _record(revision, log)


def refuse_downgrade() -> NoReturn:
    """Stand in for every revision's `downgrade`."""
    raise CommandError(
        "the branch 'eventlog' has no way down: that would drop recorded events. Name your own branch instead, as in"
        " `alembic downgrade BRANCH@base`; who wants to be rid of a log drops its tables by hand"
    )


def target(context: MigrationContext | None = None) -> Target:
    """Return the log the running revision is applied to."""
    context = context or op.get_context()
    dialect = context.dialect.name
    given = context.opts.get(TABLES_OPTION)
    if isinstance(given, Tables):
        return Target(dialect=dialect, tables=given)
    try:
        return Target(dialect=dialect, tables=tables(dialect=dialect, schema=_schema_option(context)))
    except ValueError as error:
        raise CommandError(f"{SCHEMA_OPTION} in the Alembic configuration: {error}") from error


def _schema_option(context: MigrationContext) -> str:
    config = context.config
    if config is None:
        return DEFAULT_SCHEMA
    # Since Alembic 1.16 pyproject.toml is read, too, by another method.
    read = getattr(config, "get_alembic_option", config.get_main_option)
    return read(SCHEMA_OPTION) or DEFAULT_SCHEMA


def _refuse_gap(revision: str, found: str | None, log: Target) -> None:
    before = _before(revision)
    if found != before:
        raise CommandError(
            f"{log.name(VERSION_TABLE)} says {found or 'nothing'}, and {revision} comes after {before or 'nothing'}:"
            f" was {SCHEMA_OPTION} changed, or the database stamped by hand? `eventlog init` brings a log up by itself"
        )


def _write_down(revision: str, change: Callable[[Target], None], log: Target) -> None:
    """Nobody can be asked while SQL is written for later; on PostgreSQL the script asks, on SQLite it cannot."""
    before = _before(revision)
    if log.dialect == "postgresql":
        if before is None:
            op.execute(f"create schema if not exists {log.schema}")
        else:
            op.execute(_GUARD.format(key=UPGRADE_KEY, version=log.name(VERSION_TABLE), before=before))
            for statement in lock_statements(log.tables, locked_by(revision), readable=readable_under(revision)):
                op.execute(statement)
    change(log)
    _record(revision, log)


def _record(revision: str, log: Target) -> None:
    if _before(revision) is None:
        op.execute(sa.schema.CreateTable(version_table(log.tables, sa.MetaData())))
        op.execute(f"insert into {log.name(VERSION_TABLE)} (version_num) values ('{revision}')")
    else:
        op.execute(f"update {log.name(VERSION_TABLE)} set version_num = '{revision}'")


def _before(revision: str) -> str | None:
    place = known_revisions().index(revision)
    return known_revisions()[place - 1] if place else None

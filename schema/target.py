"""What a revision needs to know of the place it is applied to: the dialect, and the names of the log's tables there.

Imported by the revisions alone. In a service's own Alembic tree nobody hands us the names, and the log is called
`eventlog`.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from alembic import op

from eventlog.schema.tables import Tables, tables

_SQL_FILES = Path(__file__).parent
_BETWEEN_STATEMENTS = re.compile(r";\n\n(?=\S)")


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


def target() -> Target:
    """Return the log the running revision is applied to."""
    context = op.get_context()
    dialect = context.dialect.name
    options = context.config.attributes if context.config is not None else {}
    given = options.get("tables")
    return Target(dialect=dialect, tables=given if isinstance(given, Tables) else tables(dialect=dialect))

"""A service with an Alembic tree of its own, ours a branch of it, for tests that run Alembic's command line on it."""

import dataclasses
import os
import subprocess
from pathlib import Path
from typing import Self

import alembic

from tests import warm_python

CONFIGURATION = """
[alembic]
script_location = %(here)s/migrations
prepend_sys_path = .
path_separator = newline
version_locations =
    %(here)s/migrations/versions
    eventlog.schema.migrations:versions
"""

MODELS = """
import os
import sys

import sqlalchemy
from sqlalchemy import Engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from eventlog.schema.table_locks import lock_tables


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)


if "ONE_TRY" in os.environ:
    lock_tables.__kwdefaults__["tries_max"] = 1

if words := os.environ.get("STOP_AT"):

    @event.listens_for(Engine, "after_cursor_execute")
    def stop_here(_connection, _cursor, statement, *_rest):
        if words in statement.lower():
            print("reached", flush=True)
            sys.stdin.read()
"""

ENVIRONMENT = """
import os

import sqlalchemy
from alembic import context

from eventlog.schema.autogenerate import LogTables
from shop import Base

url = os.environ["SHOP_URL"]
options = {"transaction_per_migration": True} if "PER_MIGRATION" in os.environ else {}


def upgrade(connection):
    log = LogTables(connection, schema=context.config.get_alembic_option("eventlog_schema") or "eventlog")
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=log.include_name,
        include_schemas=True,
        **options,
    )
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    context.configure(url=url, literal_binds=True, dialect_opts={"paramstyle": "named"})
    with context.begin_transaction():
        context.run_migrations()
else:
    ENTRY
"""

SYNC = "with sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool).connect() as connection: upgrade(connection)"

ASYNC = """
    import asyncio

    from sqlalchemy.ext.asyncio import create_async_engine

    async def main():
        engine = create_async_engine(url.replace("sqlite:", "sqlite+aiosqlite:"), poolclass=sqlalchemy.NullPool)
        async with engine.connect() as connection:
            await connection.run_sync(upgrade)
        await engine.dispose()

    asyncio.run(main())
"""

ORDERS = """
import sqlalchemy
from alembic import op

revision = "shop_0001"
down_revision = None
branch_labels = ("shop",)


def upgrade():
    op.create_table("orders", sqlalchemy.Column("number", sqlalchemy.Integer(), primary_key=True))


def downgrade():
    op.drop_table("orders")
"""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What Alembic's command line left. It prints refusals on stdout."""

    code: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """The folder of a service, and its database."""

    folder: Path
    url: str

    @classmethod
    def make(cls, folder: Path, url: str, *, is_async: bool = False) -> Self:
        (folder / "migrations" / "versions").mkdir(parents=True)
        template = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
        (folder / "migrations" / "script.py.mako").write_text(template.read_text())
        (folder / "migrations" / "env.py").write_text(ENVIRONMENT.replace("ENTRY", ASYNC if is_async else SYNC))
        (folder / "migrations" / "versions" / "shop_0001_orders.py").write_text(ORDERS)
        (folder / "alembic.ini").write_text(CONFIGURATION)
        (folder / "shop.py").write_text(MODELS)
        return cls(folder=folder, url=url)

    def revision(self, name: str, text: str) -> None:
        """Write a revision of the service."""
        (self.folder / "migrations" / "versions" / f"{name}.py").write_text(text)

    def alembic(self, *words: str, **environment: str) -> Done:
        """Run Alembic; whether it must succeed is for the caller to say."""
        with self.started(*words, **environment) as process:
            out, err = process.communicate(timeout=60)
        return Done(code=process.returncode, out=out, err=err)

    def upgrade(self, *words: str, **environment: str) -> None:
        """Upgrade to all heads, or to what is named; it must succeed."""
        done = self.alembic("upgrade", *(words or ["heads"]), **environment)
        assert done.code == 0, done.out + done.err

    def started(self, *words: str, **environment: str) -> "subprocess.Popen[str]":
        return warm_python.started(
            *("-W", "error", "-m", "alembic", *words),
            cwd=self.folder,
            env=os.environ | {"SHOP_URL": self.url} | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

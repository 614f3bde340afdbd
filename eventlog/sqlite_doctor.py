"""What is examined of a log in a SQLite file beside its tables: the file, its folder, its write-ahead log."""

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, text

from eventlog.database import Database
from eventlog.doctor import Examined, Finding, ok, wrong

WAL_BYTES_MAX = 64 * 1024 * 1024
"""How long the write-ahead log may be before somebody is taken to keep it from being merged."""

PROBLEMS_SHOWN = 5


def examinations(database: Database, *, quick_check: bool) -> list[Examined]:
    """Name what is to be examined."""
    content = [Examined(name="content", make=_content)] if quick_check else []
    return [
        Examined(name="file", make=lambda connection: _file(connection, database)),
        Examined(name="journal", make=_journal),
        Examined(name="write-ahead log", make=lambda _connection: _write_ahead_log(database)),
        *content,
    ]


def _file(connection: Connection, database: Database) -> Iterator[Finding]:
    """Whether it can be written: asked of SQLite, and of the folder, where it makes files beside it."""
    path = _path(database)
    trouble = _write_trouble(connection, database.tables.sql_name("epochs"))
    if trouble is not None:
        yield wrong(
            "file", f"{path} cannot be written: {trouble}", remedy="give the user of the service write access to it"
        )
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        yield wrong(
            "file",
            f"the folder {path.parent} cannot be written, and SQLite makes files beside the log in it",
            remedy="give the user of the service write access to the folder",
        )
    elif trouble is None:
        yield ok("file", f"{path} and its folder can be written; SQLite {sqlite3.sqlite_version}")


def _write_trouble(connection: Connection, epochs: str) -> str | None:
    """Begin to write, and change nothing: a file that may only be read gives the lock without a word."""
    driver = connection.connection.driver_connection
    assert driver is not None
    if driver.in_transaction:
        driver.rollback()
    try:
        driver.execute("begin immediate")
        driver.execute(f"update {epochs} set value = value where false")
    except sqlite3.Error as error:
        return str(error)
    finally:
        if driver.in_transaction:
            driver.execute("rollback")
    return None


def _journal(connection: Connection) -> Iterator[Finding]:
    mode = connection.scalar(text("pragma journal_mode"))
    if mode == "wal":
        yield ok("journal", "write-ahead logging: readers and a writer do not wait for each other")
    else:
        yield wrong(
            "journal",
            f"the journal mode is {mode}: whoever reads keeps writers waiting",
            remedy="run `eventlog init` while nobody else has the file open",
        )


def _write_ahead_log(database: Database) -> Iterator[Finding]:
    path = _path(database)
    file = path.with_name(f"{path.name}-wal")
    size = file.stat().st_size if file.exists() else 0
    if size <= WAL_BYTES_MAX:
        yield ok("write-ahead log", f"{_mebibytes(size)} waiting to be merged")
    else:
        yield wrong(
            "write-ahead log",
            f"{_mebibytes(size)} waiting to be merged: somebody reads without an end, or merging is switched off",
            remedy="end what has the file open for long, then: pragma wal_checkpoint(truncate);",
        )


def _content(connection: Connection) -> Iterator[Finding]:
    """Reads all of the file."""
    problems = [str(row[0]) for row in connection.execute(text("pragma quick_check"))]
    if problems == ["ok"]:
        yield ok("content", "the file is whole")
        return
    more = f", and {len(problems) - PROBLEMS_SHOWN} more" if len(problems) > PROBLEMS_SHOWN else ""
    yield wrong(
        "content",
        f"the file is damaged: {'; '.join(problems[:PROBLEMS_SHOWN])}{more}",
        remedy="stop everything, keep a copy of the file, and restore a backup; or `.recover` in the sqlite3 shell",
    )


def _path(database: Database) -> Path:
    """The file, also where it is named by a `file:` URI."""
    name = database.engine.url.database or ""
    return Path(name.removeprefix("file:").partition("?")[0]).absolute()


def _mebibytes(size: int) -> str:
    return f"{size / 1024 / 1024:.1f} MiB"

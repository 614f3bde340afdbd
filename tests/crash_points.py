"""Points at which a process can be killed: before each statement it sends, before and after each of its commits.

No code of the project knows of them. `watch` has every connection that SQLAlchemy makes from then on be one of a class
of ours, of `sqlite3` or of `psycopg`, which counts what passes through it, also what goes past SQLAlchemy on the
driver's own cursors. A process counts its points in one run; killed at the first, the second and so on it has been
killed at every boundary between two statements that there is.

A point is named by what it stands before: `before update checkpoints`, `before commit`, `after commit`. A statement
that commits by itself is followed by `after update checkpoints`. Handlers of the tests add points of their own.
"""

import os
import re
import signal
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import pq
from sqlalchemy import Dialect, Engine, event

_FIRST_WORD = re.compile(r"(?:\s|--[^\n]*\n|/\*.*?\*/|;)*(\w+)", re.DOTALL)
_WHERE = {
    "insert": r"\binto\s+",
    "update": r"\bupdate\s+(?:only\s+)?",
    "delete": r"\bfrom\s+",
    "select": r"\bfrom\s+|\bselect\s+(?=[\w.]+\()",
    "with": r"\b(?:insert\s+into|update|delete\s+from)\s+",
    "create": r"\bcreate\s+(?:or\s+replace\s+)?(?:unique\s+)?(?=\w)",
    "drop": r"\bdrop\s+(?=\w)",
    "alter": r"\balter\s+(?=\w)",
    "lock": r"\btable\s+",
    "truncate": r"\btruncate\s+(?:table\s+)?",
    "pragma": r"\bpragma\s+",
}
"""Where the name of what a statement is about stands in it, by its first word."""

_WRITES = frozenset({"insert", "update", "delete", "with"})

Name = str


class Points:
    """Counts the points that a process comes to; with `kill_at` it ends at that one as by SIGKILL.

    `after_commit` is called after each commit, when nobody is to be killed.
    """

    def __init__(self, *, kill_at: int | None = None, after_commit: Callable[[], None] | None = None) -> None:
        self.passed: list[Name] = []
        self._kill_at = kill_at
        self._after_commit = after_commit
        self._lock = threading.Lock()
        self._rests = threading.local()

    def here(self, name: Name) -> None:
        """Be at a point."""
        if getattr(self._rests, "now", False):
            return
        with self._lock:
            self.passed.append(name)
            if len(self.passed) == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
                signal.pause()

    def committed(self, name: Name) -> None:
        """Be at a point at which something has been committed."""
        self.here(name)
        if self._after_commit is not None and not getattr(self._rests, "now", False):
            self._rests.now = True
            try:
                self._after_commit()
            finally:
                self._rests.now = False


_points: Points | None = None


def watch(points: Points) -> None:
    """Count at every connection that is made from now on. Once in a process; call it before an engine connects."""
    global _points  # noqa: PLW0603 - classes that the drivers make instances of find it nowhere else
    assert _points is None, "this process is watched already"
    _points = points

    @event.listens_for(Engine, "do_connect")
    def connect(dialect: Dialect, _record: object, arguments: list[Any], options: dict[str, Any]) -> object:
        if dialect.name == "sqlite":
            return sqlite3.connect(*arguments, **options, factory=WatchedSqlite)
        return WatchedPostgres.connect(*arguments, **options)


def named(statement: object) -> Name:
    """Name a statement by its first word and the table, or whatever else, that it is about."""
    text = statement.decode() if isinstance(statement, bytes) else str(statement)
    found = _FIRST_WORD.match(text)
    verb = found.group(1).lower() if found else "?"
    about = re.search(
        f'(?:{_WHERE.get(verb, "(?!)")})"?([\\w.]+(?:\\s+(?:if\\s+\\w+\\s+)*"?[\\w.]+)?)', text, re.IGNORECASE
    )
    if about is None:
        return verb
    words = about.group(1).replace('"', "").replace("eventlog.", "").split()
    return f"{verb} {' '.join(words if verb in ('create', 'drop', 'alter') else words[:1])}".lower()


def _before(statement: object) -> None:
    assert _points is not None
    _points.here(f"before {named(statement)}")


def _after(statement: object, *, commits_alone: bool) -> None:
    assert _points is not None
    name = named(statement)
    if commits_alone and name.split()[0] in _WRITES:
        _points.committed(f"after {name}")
    elif name == "commit":
        _points.committed("after commit")


def _committing(commit: Callable[[], None], *, within_transaction: bool) -> None:
    assert _points is not None
    if not within_transaction:
        commit()
        return
    _points.here("before commit")
    commit()
    _points.committed("after commit")


class WatchedSqliteCursor(sqlite3.Cursor):
    """Comes to a point before each statement, and after one that commits by itself."""

    def execute(self, sql: str, *parameters: Any) -> "WatchedSqliteCursor":
        _before(sql)
        alone = not self.connection.in_transaction
        super().execute(sql, *parameters)
        _after(sql, commits_alone=alone and not self.connection.in_transaction)
        return self

    def executemany(self, sql: str, parameters: Any) -> "WatchedSqliteCursor":
        _before(sql)
        super().executemany(sql, parameters)
        return self


class WatchedSqlite(sqlite3.Connection):
    """A connection whose statements and commits are points."""

    def cursor(self, factory: Any = WatchedSqliteCursor) -> Any:
        return super().cursor(factory)

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        cursor: sqlite3.Cursor = self.cursor()
        return cursor.execute(*arguments)

    def commit(self) -> None:
        _committing(super().commit, within_transaction=self.in_transaction)


class WatchedPostgresCursor(psycopg.Cursor[Any]):
    """Comes to a point before each statement, and after one that commits by itself."""

    def execute(self, query: Any, *arguments: Any, **options: Any) -> "WatchedPostgresCursor":
        _before(query)
        super().execute(query, *arguments, **options)
        _after(query, commits_alone=self.connection.autocommit)
        return self

    def executemany(self, query: Any, *arguments: Any, **options: Any) -> None:
        _before(query)
        super().executemany(query, *arguments, **options)

    def copy(self, statement: Any, *arguments: Any, **options: Any) -> Any:
        _before(statement)
        return super().copy(statement, *arguments, **options)


class WatchedPostgres(psycopg.Connection[Any]):
    """A connection whose statements and commits are points."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.cursor_factory = WatchedPostgresCursor

    def commit(self) -> None:
        open_now = self.pgconn.transaction_status == pq.TransactionStatus.INTRANS
        _committing(super().commit, within_transaction=open_now)

"""Whether the transaction that a caller hands over is in the log's own database.

Another one may have a log as well, and would take the events without a word; nobody looks for them there. So each
engine that transactions come from is asked once where it leads, unless its address is that of the log's own.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from weakref import WeakSet

from sqlalchemy import URL, Connection, Pool

from eventlog.database import Database
from eventlog.errors import UnsafeTransactionError
from eventlog.shown_urls import shown_url


class Whereabouts:
    """Knows the engines whose transactions are in a log's database. `lend` lends a connection to the log."""

    def __init__(self, database: Database, lend: Callable[[], AbstractContextManager[Connection]]) -> None:
        self._database = database
        self._lend = lend
        self._known: WeakSet[Pool] = WeakSet()

    def check(self, connection: Connection) -> None:
        """Raise `UnsafeTransactionError` for a transaction in another database. Two queries, once for an engine."""
        engine, own = connection.engine, self._database.engine
        if engine.pool is own.pool or engine.pool in self._known:
            return
        if _address(engine.url) != _address(own.url) and not self._is_there(connection):
            raise UnsafeTransactionError(
                f"the transaction is in {shown_url(engine.url)}, and the log in {shown_url(own.url)}:"
                " nobody would find the events",
                remedy="hand over a Session or Connection of the log's database, or open the log where that one is",
            )
        self._known.add(engine.pool)

    def _is_there(self, connection: Connection) -> bool:
        found = self._database.whereabouts(connection)
        with self._lend() as own:
            return found == self._database.whereabouts(own)


def _address(url: URL) -> object:
    if url.get_backend_name() == "sqlite":
        return Path(url.database).resolve() if url.database else url.database
    return url.host, url.port, url.database, url.query.get("host"), url.query.get("port")

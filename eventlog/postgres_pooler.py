"""A pooler in transaction mode (PgBouncer and its like) between the log and PostgreSQL: noticed, and got along with.

Such a pooler lends a server connection for one transaction. What belongs to the session is then on some other
connection, or on somebody else's. The log needs nothing of a session; but psycopg prepares a statement when it is run
for the sixth time, under a name that the next server connection does not know, or knows from another client. That makes
a lone append faster by two thirds, so it is left out only where a pooler is noticed.

How one is noticed: a server greets a connection with the number of its process. A pooler greets with a number of its
own making, while the process that answers a query has its own.
"""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import psycopg

Driver = psycopg.Connection[Any] | psycopg.AsyncConnection[Any]


class Pooler:
    """Whether a pooler stands before one server. Asked once, of the first connection; costs a round trip then."""

    def __init__(self) -> None:
        self._noticed: bool | None = None

    @property
    def is_noticed(self) -> bool:
        """Whether one has been noticed so far."""
        return bool(self._noticed)

    def is_before(self, connection: Any) -> bool:
        """`connection` is the driver's, or SQLAlchemy's around it: only that one runs a coroutine's without waiting."""
        if self._noticed is None:
            driver = driver_of(connection)
            with without_prepared_statements(driver), closing(connection.cursor()) as cursor:
                cursor.execute("select pg_backend_pid()")
                self._noticed = cursor.fetchone()[0] != driver.info.backend_pid
        return self._noticed

    def prepare_nothing_on(self, driver: psycopg.Connection[Any]) -> None:
        """Call for each new connection of an engine of ours: leaves it without a transaction."""
        try:
            if self.is_before(driver):
                driver.prepare_threshold = None
        finally:
            driver.rollback()


@contextmanager
def without_prepared_statements(driver: Driver) -> Iterator[None]:
    """Prepare nothing within the block; the connection may be of somebody else's engine, who gets it back as it was."""
    threshold = driver.prepare_threshold
    driver.prepare_threshold = None
    try:
        yield
    finally:
        driver.prepare_threshold = threshold


def driver_of(connection: Any) -> Driver:
    """Return the driver's own connection."""
    driver = getattr(connection, "driver_connection", connection)
    assert isinstance(driver, psycopg.Connection | psycopg.AsyncConnection)
    return driver

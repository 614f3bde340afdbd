"""The connections of a log on PostgreSQL: how they are made, when they are given up, and how many have been lost.

A network that is gone without a word must be found out: the system's own time-outs are two hours, or a quarter of one.
A server that takes no writes is no place to stay: whoever connects anew may come to the primary. And what was read over
a connection that is lost may have been lost with it, so it is counted how often that happens.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, PoolProxiedConnection, create_engine, event, make_url
from sqlalchemy.engine import URL
from sqlalchemy.exc import ArgumentError, DBAPIError

from eventlog.engines import once_of
from eventlog.errors import UsageError
from eventlog.postgres_doorbell import (
    KEEPALIVE_IDLE_SECONDS,
    KEEPALIVE_INTERVAL_SECONDS,
    KEEPALIVE_TRIES_MAX,
    UNACKNOWLEDGED_SECONDS_MAX,
)
from eventlog.postgres_pooler import Pooler

_DEFAULTS = {
    "application_name": "eventlog",
    "connect_timeout": 5,
    "tcp_user_timeout": UNACKNOWLEDGED_SECONDS_MAX * 1000,
    "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
    "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
    "keepalives_count": KEEPALIVE_TRIES_MAX,
}
"""Of the connections of engines made here, unless the URL says otherwise: those of the doorbell's connection."""

_READ_ONLY = "25006"
_STANDBY = "55000"


class Losses:
    """Counts the connections of an engine that were lost."""

    def __init__(self, engine: Engine) -> None:
        self.count = 0
        event.listen(engine, "invalidate", self._on_invalidate)

    def _on_invalidate(self, *_what: object) -> None:
        self.count += 1


def losses_of(engine: Engine) -> Losses:
    """Return what counts the losses of an engine; made with the first log on it, shared by all others."""
    return once_of(engine, Losses, name="eventlog_losses")


def engine_for(url_or_engine: str | URL | Engine, pooler: Pooler) -> Engine:
    """Make an engine, or check that one can be used. Raises `UsageError`."""
    if isinstance(url_or_engine, Engine):
        if url_or_engine.dialect.driver != "psycopg":
            raise UsageError(
                f"the engine uses {url_or_engine.dialect.driver}, which this log does not speak",
                remedy="create it with postgresql+psycopg:// (psycopg 3)",
            )
        return url_or_engine
    url = _parsed(url_or_engine)
    if url.drivername not in ("postgres", "postgresql", "postgresql+psycopg", "postgresql+psycopg_async"):
        raise UsageError(f"{url.drivername} is not spoken here", remedy="use postgresql:// (psycopg 3)")
    engine = create_engine(
        url.set(drivername="postgresql+psycopg"),
        connect_args={name: value for name, value in _DEFAULTS.items() if name not in url.query},
        pool_use_lifo=True,
    )
    event.listen(engine, "connect", lambda driver, _record: pooler.prepare_nothing_on(driver))
    return engine


def _parsed(url: str | URL) -> URL:
    try:
        return make_url(url)
    except (ValueError, ArgumentError):
        # The parser quotes what it could not read, and that may be a part of a password.
        raise UsageError(
            "a URL to listen by is none", remedy="give one like postgresql://user@host/database; write @ as %40"
        ) from None


def is_standby(error: BaseException | None) -> bool:
    """Tell whether a server has said that it takes no writes, or that it is no place to read a high-water mark."""
    if not isinstance(error, psycopg.Error):
        return False
    return error.sqlstate == _READ_ONLY or (error.sqlstate == _STANDBY and "standby" in str(error))


@contextmanager
def leaving_standbys(connection: Connection | PoolProxiedConnection) -> Iterator[None]:
    """Give a connection up when the server says within the block that it takes no writes."""
    try:
        yield
    except DBAPIError as error:
        is_there = connection.is_valid if isinstance(connection, PoolProxiedConnection) else not connection.invalidated
        if is_standby(error.orig) and is_there:
            connection.invalidate(error)
        raise

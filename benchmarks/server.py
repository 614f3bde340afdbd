"""The server that is measured, and empty databases on it.

It is PostgreSQL as it is shipped: fsync and synchronous_commit on, small buffers. Where it lives is where TMPDIR lies,
which should be a disk: in memory nothing is durable, and every commit is fast.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import psycopg
import sqlalchemy

from tests.postgres_server import server_of_the_wheel

SETTINGS = {"max_connections": "200"}
"""All else is as shipped."""


def bench_server() -> AbstractContextManager[str]:
    """Run a server of its own, and give the URL of its superuser."""
    return server_of_the_wheel(SETTINGS, on_disk=True)


@contextmanager
def empty_database(server: str, name: str, *, template: str = "template1") -> Iterator[str]:
    """Lend an empty database, or a copy of another; it is dropped afterwards, whoever is still connected."""
    base = sqlalchemy.make_url(server).set(drivername="postgresql")
    with psycopg.connect(base.render_as_string(hide_password=False), autocommit=True) as connection:
        connection.execute(f"create database {name} template {template}".encode())
        try:
            yield base.set(database=name).render_as_string(hide_password=False)
        finally:
            connection.execute(f"drop database {name} with (force)".encode())

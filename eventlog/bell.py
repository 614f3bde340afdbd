"""What a database gives to those who sleep beside its log: a look at it, a bell that appends ring, and the way to ring.

A bell is one connection of its own, used by one thread. It is *out* while somebody sleeps, and only then is it rung for
an append; operations on subscribers ring it always. On PostgreSQL it is a LISTEN and an advisory lock
(`postgres_doorbell.py`), on SQLite a watch on the file (`sqlite_doorbell.py`). Who sleeps beside it, and what has to be
looked at before, is `doorbell.py`.
"""

from typing import Protocol

import msgspec
from sqlalchemy import Connection, text

from eventlog.errors import DatabaseError
from eventlog.schema.tables import Tables


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be seen of a log at one moment.

    `in_flight` is whether an append is on its way; its positions may not even be allocated yet. `session` is the
    connection that told it, see `Database.session`.
    """

    head: int
    high_water_mark: int
    in_flight: bool
    session: object = None


class SilentBellError(DatabaseError):
    """The connection is there, and no notification comes through it."""

    code = "silent_bell"


class Bell(Protocol):
    """One connection that hears of appends and operations. Not for several threads at once, but for `nudge`.

    Every method raises `DatabaseError` when the connection is gone; the bell is then no longer out.
    """

    def put_out(self) -> bool:
        """Have appends ring from now on; return whether they do. Never waits for anybody."""
        ...

    def take_in(self) -> None:
        """Have appends ring no more."""
        ...

    def listen(self, seconds: float) -> bool:
        """Wait until it rings, `nudge` is called or the time is over; return whether it rang."""
        ...

    def nudge(self) -> None:
        """End `listen`, or the next one. From any thread."""
        ...

    def close(self) -> None:
        """Give the connection up. Never raises."""
        ...


def ring(connection: Connection, tables: Tables) -> None:
    """Wake every sleeper when the caller's transaction commits. On SQLite a commit does that by itself."""
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"select {tables.sql_name('ring')}()"))

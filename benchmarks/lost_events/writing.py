"""What all writers share: who they are, what they have a connection to, and how an error is read."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import psycopg
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError, PendingRollbackError

from benchmarks.lost_events.audit import Journal
from benchmarks.lost_events.shapes import Shape

WRITER_NAME = "lost-writer"
"""How the connections of writers begin to call themselves; who is so called may be ended at any time."""

READER_NAME = "lost-reader"
EVENT_TYPE = "race.run"
NAMED = "(id, stream, version, type, data)"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event before it is written. There is nothing in it: what counts is that it arrives."""

    id: UUID
    stream: str


Append = Callable[[Sequence[NewEvent], Connection | None], None]
"""Appends as the log's makers mean it: in the transaction of a connection, or in one of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hand:
    """What one writer writes with. `session` commits when it is told to; `observer` at every statement."""

    append: Append
    session: Engine
    observer: Engine
    schema: str | None
    """Where `events` and `append` are; None where there are no schemas."""

    @property
    def events(self) -> str:
        return "events" if self.schema is None else f"{self.schema}.events"


def insert(hand: Hand, connection: Connection, event: NewEvent, *, version: int) -> None:
    """Append by a plain INSERT, which names all that an event must have."""
    statement = f"insert into {hand.events} {NAMED} values (:id, :stream, :version, :type, '{{}}')"
    values = {"id": str(event.id), "stream": event.stream, "version": version, "type": EVENT_TYPE}
    connection.execute(text(statement), values)


class Writer(Protocol):
    """Writes until told to stop; journals what, counts its shapes, and notes what should not have happened."""

    journal: Journal
    done: Counter[Shape]
    failures: list[Exception]

    def run(self, stop: threading.Event) -> None: ...


def sqlstate(error: BaseException | None) -> str | None:
    """Find the code of PostgreSQL in an error, or in what it was raised from."""
    while error is not None:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if found := getattr(cause, "sqlstate", None):
            return str(found)
        error = error.__cause__
    return None


def was_rolled_back(error: BaseException) -> bool:
    """Tell whether an error says that its transaction is undone: it could not be serialized, or met a deadlock.

    So does one that there were too many prepared transactions for.
    """
    return (sqlstate(error) or "").startswith(("40", "53400"))


def lost_connection(error: BaseException) -> bool:
    """Tell whether the connection is gone, so that nobody knows whether its last statement was carried out."""
    state = sqlstate(error)
    if state is not None:
        return state.startswith(("08", "57P"))
    chain: BaseException | None = error
    while chain is not None:
        # Without a code an operational error is one of the driver, which has no connection any more. The last is what
        # SQLAlchemy says when a transaction or a savepoint ends whose connection went away under it.
        cause = chain.orig if isinstance(chain, DBAPIError) else chain
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError | PendingRollbackError):
            return True
        chain = chain.__cause__ or chain.__context__
    return False

"""Receipts: what a subscriber has done already, for effects whose partner cannot drop a repeat by itself.

A receipt is written when the block of `once` ends without an error: in transactional delivery together with the
checkpoint, else in a transaction of its own, at once. Between the effect and its receipt a crash can still come; what
must be closed entirely needs a partner that knows the idempotency key. A receipt is no lock either: two calls that run
at the same time may both be the first.
"""

import asyncio
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from datetime import datetime

from sqlalchemy import Connection, delete, func, select

from eventlog.database import Database, translated
from eventlog.errors import UsageError
from eventlog.schema.inserts import insert_into

KEY_CHARACTERS_MAX = 500


class Once(AbstractContextManager[bool], AbstractAsyncContextManager[bool]):
    """One step of a handler, with `with` or `async with`: lends whether this subscriber has no receipt for it yet."""

    def __init__(
        self, database: Database, *, subscriber: str, key: str, position: int, connection: Connection | None
    ) -> None:
        self._database = database
        self._subscriber = subscriber
        self._key = _checked(key)
        self._position = position
        self._connection = connection
        self._is_first = False

    def __enter__(self) -> bool:
        table = self._database.tables.receipts
        question = select(table.c.position).where(table.c.subscriber == self._subscriber, table.c.key == self._key)
        if self._connection is not None:
            self._is_first = self._connection.execute(question).one_or_none() is None
        else:
            with translated(self._database), self._database.reader() as connection:
                self._is_first = connection.execute(question).one_or_none() is None
        return self._is_first

    def __exit__(self, kind: object, *_error: object) -> None:
        if kind is not None or not self._is_first:
            return
        if self._connection is not None:
            self._write(self._connection)
            return
        with translated(self._database), self._database.transaction() as connection:
            self._write(connection)

    async def __aenter__(self) -> bool:
        return self.__enter__() if self._connection is not None else await asyncio.to_thread(self.__enter__)

    async def __aexit__(self, kind: object, *error: object) -> None:
        if self._connection is not None:
            self.__exit__(kind, *error)
        else:
            await asyncio.to_thread(self.__exit__, kind, *error)

    def _write(self, connection: Connection) -> None:
        statement = insert_into(connection, self._database.tables.receipts).values(
            subscriber=self._subscriber, key=self._key, position=self._position
        )
        connection.execute(statement.on_conflict_do_nothing())


def forget_receipts(
    database: Database, subscriber: str, *, keys: Sequence[str] = (), before: datetime | None = None
) -> int:
    """Delete receipts of a subscriber, these or those written before a moment; return how many.

    What they stood for is done again when its event is delivered again. Raises `UsageError` when neither is given.
    """
    if not keys and before is None:
        raise UsageError("which receipts is not said", remedy="give keys=[...], or before=, a time with its offset")
    table = database.tables.receipts
    gone = delete(table).where(table.c.subscriber == subscriber)
    if keys:
        gone = gone.where(table.c.key.in_(list(keys)))
    if before is not None:
        gone = gone.where(table.c.at < before)
    with translated(database), database.transaction() as connection:
        return connection.execute(gone).rowcount


def count_receipts(database: Database, subscriber: str) -> int:
    """Count the receipts of a subscriber."""
    table = database.tables.receipts
    with translated(database), database.reader() as connection:
        counted = select(func.count()).select_from(table).where(table.c.subscriber == subscriber)
        return connection.scalar(counted) or 0


def _checked(key: object) -> str:
    if isinstance(key, str) and 1 <= len(key) <= KEY_CHARACTERS_MAX and "\0" not in key:
        return key
    raise UsageError(
        f"{str(key)[:80]!r} cannot be the key of a receipt",
        remedy=f"give a text of 1 to {KEY_CHARACTERS_MAX} characters: the event's id, an order's number and the step",
    )

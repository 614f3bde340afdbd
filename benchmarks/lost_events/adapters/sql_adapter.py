"""A log with a table to which anybody may write, and readers that poll: what adapters for those have in common."""

import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ClassVar
from uuid import UUID

from sqlalchemy import create_engine, text

from benchmarks.lost_events.adapters.adapter import Adapter, named
from benchmarks.lost_events.shapes import POSTGRES, SQLITE, Shape
from benchmarks.lost_events.sql_writer import PREPARED_PREFIX, SqlWriter
from benchmarks.lost_events.trap import Trap
from benchmarks.lost_events.writing import WRITER_NAME, Append, Hand, Writer
from eventlog.sqlite import prepare

_LEFT_BEHIND = text(
    "select gid from pg_prepared_xacts where database = current_database() and starts_with(gid, :prefix)"
)


class SqlAdapter(Adapter):
    """`schema` is where the table `events` and the function `append` are, on PostgreSQL."""

    schema: ClassVar[str] = "eventlog"

    @property
    def shapes(self) -> frozenset[Shape]:
        return POSTGRES if self.is_postgres else SQLITE

    @property
    def events(self) -> str:
        return f"{self.schema}.events" if self.is_postgres else "events"

    @abstractmethod
    def appender(self, url: str) -> AbstractContextManager[Append]:
        """Lend the way to append that the log's makers advise."""

    def writers(
        self, count: int, *, seed: int, shapes: frozenset[Shape], was_read: Callable[[UUID], bool]
    ) -> list[Writer]:
        found: list[Writer] = [
            SqlWriter(
                hand=self.hand,
                number=number,
                name=f"{WRITER_NAME}-{number}",
                random=random.Random(f"{seed} {number}"),
                shapes=shapes,
            )
            for number in range(count)
        ]
        if Shape.INTERLEAVED in shapes:
            drawn = random.Random(f"{seed} trap")
            found.append(Trap(hand=self.hand, name=f"{WRITER_NAME}-trap", random=drawn, was_read=was_read))
        return found

    @contextmanager
    def hand(self, name: str) -> Iterator[Hand]:
        """Lend a writer of this name what it writes with."""
        url = named(self.url, name)
        session = create_engine(url, connect_args=self.connect_args)
        if not self.is_postgres:
            prepare(session)
        observer = session.execution_options(isolation_level="AUTOCOMMIT")
        try:
            with self.appender(url) as append:
                schema = self.schema if self.is_postgres else None
                yield Hand(append=append, session=session, observer=observer, schema=schema)
        finally:
            session.dispose()

    def recorded(self) -> dict[UUID, int]:
        with self.observer() as engine, engine.connect() as connection:
            rows = connection.execute(text(f"select id, position from {self.events}")).all()
        return {UUID(str(row.id)): int(row.position) for row in rows}

    def finish(self) -> None:
        if not self.is_postgres:
            return
        with self.observer() as engine, engine.connect() as connection:
            for number, (name,) in enumerate(connection.execute(_LEFT_BEHIND, {"prefix": PREPARED_PREFIX}).all()):
                connection.execute(text(f"{('commit', 'rollback')[number % 2]} prepared '{name}'"))

"""Two readers that are known to lose events. A run that does not catch them has not looked hard enough.

The table is what this project's would be without its guard, so that the same writers do the same things to it.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

from sqlalchemy import Connection, create_engine, text

from benchmarks.lost_events.adapters.adapter import Promise, See, named
from benchmarks.lost_events.adapters.sql_adapter import SqlAdapter
from benchmarks.lost_events.audit import Delivery
from benchmarks.lost_events.writing import EVENT_TYPE, READER_NAME, Append, NewEvent

_TABLES = """
create schema lost;
create table lost.events (
    position bigint generated always as identity primary key,
    id uuid not null unique,
    stream text not null,
    version bigint,
    type text not null,
    data json not null,
    written_by xid8 not null default pg_current_xact_id()
);
create function lost.append(stream text, type text, data json, id uuid) returns void language sql as
    'insert into lost.events (id, stream, type, data) values (id, stream, type, data)';
"""
_INSERT = text("insert into lost.events (id, stream, type, data) values (:id, :stream, :type, '{}')")
PAGE = 1000
POLL_SECONDS = 0.001


class NaiveCursor(SqlAdapter):
    """Goes on after the highest position it has seen."""

    name = "naive-cursor"
    about = "`where position > cursor`"
    promise = Promise.LOSES
    schema = "lost"
    condition: ClassVar[str] = "true"

    def create(self) -> None:
        with self.observer() as engine, engine.connect() as connection:
            connection.exec_driver_sql(_TABLES)

    @contextmanager
    def appender(self, url: str) -> Iterator[Append]:
        engine = create_engine(url)

        def append(events: Sequence[NewEvent], connection: Connection | None) -> None:
            if connection is None:
                with engine.begin() as own:
                    append(events, own)
                return
            rows = [{"id": one.id, "stream": one.stream, "type": EVENT_TYPE} for one in events]
            connection.execute(_INSERT, rows)

        try:
            yield append
        finally:
            engine.dispose()

    def follow(self, see: See, stop: threading.Event) -> None:
        page = text(
            f"select position, id, stream from lost.events where position > :after and {self.condition}"
            f" order by position limit {PAGE}"
        )
        engine = create_engine(named(self.url, READER_NAME), isolation_level="AUTOCOMMIT")
        after = 0
        with engine.connect() as connection:
            while not stop.wait(POLL_SECONDS):
                for row in connection.execute(page, {"after": after}):
                    see(Delivery(id=row.id, position=row.position, stream=row.stream))
                    after = row.position
        engine.dispose()


class XminCursor(NaiveCursor):
    """Shows what no open transaction could come before, and all the same goes on after the highest position."""

    name = "xmin-cursor"
    about = "the same, and only what is older than every open transaction (`pg_snapshot_xmin`)"
    condition = "written_by < pg_snapshot_xmin(pg_current_snapshot())"


CONTROLS = (NaiveCursor, XminCursor)

"""`eventsource-py`, by its store and the global feed that its subscriptions read.

Its maker speaks of "the feed's no-skip guard": rows are shown when they are older than every open transaction, and the
feed goes on after the last position.
"""

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsource import (
    DomainEvent,
    ExpectedVersion,
    FeedReadOptions,
    PostgreSQLEventStore,
    StreamId,
    create_async_engine,
    register_event,
)
from eventsource.adapters.sql.schemas import get_schema
from eventsource.domain.exceptions import EventSourceError
from sqlalchemy import make_url, text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.lost_events.adapters.adapter import See
from benchmarks.lost_events.adapters.call_adapter import Call, CallAdapter
from benchmarks.lost_events.audit import Delivery
from benchmarks.lost_events.writing import READER_NAME, NewEvent

CATEGORY = "Race"
PAGE = 500


@register_event
class RaceRun(DomainEvent):  # type: ignore[misc]  # without annotations here
    """An event of a race."""

    aggregate_type: str = CATEGORY


class EventsourcePy(CallAdapter):
    """`append`, and `read_all` from the last position on."""

    name = "eventsource-py"
    about = "its PostgreSQL store, `read_all(from_position)` in a loop"
    packages = ("eventsource-py",)
    uncertain = (SQLAlchemyError, EventSourceError, OSError)

    def create(self) -> None:
        with self.observer() as engine, engine.connect() as connection:
            connection.exec_driver_sql(get_schema("events"))

    @contextmanager
    def caller(self, name: str) -> Iterator[Call]:
        with asyncio.Runner() as runner, self._store(name, runner) as store:

            async def append(events: Sequence[NewEvent]) -> None:
                stream = uuid5(NAMESPACE_OID, events[0].stream)
                made = [RaceRun(event_id=one.id, aggregate_id=stream) for one in events]
                await store.append(StreamId(stream, CATEGORY), made, ExpectedVersion.any_())

            yield lambda events: runner.run(append(events))

    def follow(self, see: See, stop: threading.Event) -> None:
        with asyncio.Runner() as runner, self._store(READER_NAME, runner) as store:

            async def read() -> None:
                last = None
                while not stop.is_set():
                    async for one in store.read_all(last, FeedReadOptions(limit=PAGE)):
                        last = one.position
                        stream = str(one.stream_id.aggregate_id)
                        see(Delivery(id=one.event.event_id, position=int(last.key[0]), stream=stream))
                    await asyncio.sleep(0.001)

            runner.run(read())

    def recorded(self) -> dict[UUID, int]:
        with self.observer() as engine, engine.connect() as connection:
            rows = connection.execute(text("select event_id, global_position from events")).all()
        return {UUID(str(one)): int(position) for one, position in rows}

    @contextmanager
    def _store(self, name: str, runner: asyncio.Runner) -> Iterator["PostgreSQLEventStore"]:
        url = make_url(self.url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False)
        settings = {"server_settings": {"application_name": name}}
        engine = create_async_engine(url, connect_args=settings)
        try:
            yield PostgreSQLEventStore(engine)
        finally:
            runner.run(engine.dispose())

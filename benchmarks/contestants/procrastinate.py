"""`procrastinate`: each event is a job, deferred by its synchronous connector, run by its asynchronous worker.

Many events of one call are one `batch_defer`, in one statement. The task is a coroutine, since plain functions cost a
thread each. JSON is msgspec's, by the connector's own setting. Finished jobs are kept, as shipped, which is also what
comes nearest to a log. A worker fetches jobs one by one; what its documentation offers for speed is to run several at a
time, with connections to go with it, so that one is acknowledged while the next is fetched (`benchmarks/tuning.py`).

A queue has no read model. In W5 the task writes the board itself, at least once; the worker then runs one job at a
time, because the last value needs them in order. In W1t the job is deferred on the Session's own connection.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from typing import Any, ClassVar

import msgspec
import procrastinate
import psycopg
from procrastinate import PsycopgConnector, SyncPsycopgConnector
from sqlalchemy.orm import Session

from benchmarks.contestants.contestant import APPENDS, CATCHES_UP, FLOWS, Append, Contestant, Handle
from benchmarks.contestants.rows import ORDERS, engine_of, metadata
from benchmarks.flights import CLASSES, Arrived, FlightEvent, type_of

TASK = "take"
UPSERT = """
insert into board values (%s, 1, %s)
on conflict (carrier) do update set arrived = board.arrived + 1, last = excluded.last
"""


class Procrastinate(Contestant):
    """One queue, one task, arguments as JSON."""

    name = "procrastinate"
    workloads = APPENDS | CATCHES_UP | FLOWS | {"W1t", "W6"}
    packages = ("procrastinate", "psycopg", "msgspec")
    bulk_events = 20_000
    catch_up_events = 5_000
    flow_events = 1_000
    concurrency: ClassVar[int] = 10

    def create(self) -> None:
        with self._deferring() as app:
            app.schema_manager.apply_schema()
        engine = engine_of(self.url)
        metadata.create_all(engine)
        engine.dispose()

    @contextmanager
    def appender(self) -> Iterator[Append]:
        with self._deferring() as app:
            task = app.tasks[TASK]

            def append(events: Sequence[FlightEvent]) -> None:
                if len(events) == 1:
                    task.defer(**arguments_of(events[0]))
                else:
                    task.batch_defer(*map(arguments_of, events))

            yield append

    @contextmanager
    def appender_with_row(self) -> Iterator[Append]:
        engine = engine_of(self.url)
        with self._deferring() as app:
            task = app.tasks[TASK]

            def append(events: Sequence[FlightEvent]) -> None:
                with Session(engine) as session, session.begin():
                    session.execute(ORDERS.insert(), {"note": events[0].flight})
                    connection = session.connection().connection.driver_connection
                    task.configure(connection=connection).defer(**arguments_of(events[0]))

            yield append
        engine.dispose()

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        async def run() -> None:
            async with self._working(handle) as app:
                worker = asyncio.create_task(_run(app, concurrency=self.concurrency, wait=True))
                await asyncio.sleep(1)
                ready()
                await asyncio.to_thread(stop.wait)
                worker.cancel()

        asyncio.run(run())

    def catch_up(self, events: int, handle: Handle) -> None:
        async def run() -> None:
            async with self._working(handle) as app:
                await _run(app, concurrency=self.concurrency, wait=False)

        asyncio.run(run())

    def project(self, events: int) -> None:
        async def run() -> None:
            async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:

                async def arrive(type: str, data: Any) -> None:  # noqa: A002
                    event = msgspec.convert(data, CLASSES[type])
                    if isinstance(event, Arrived):
                        await connection.execute(UPSERT, [event.carrier, event.minutes])

                async with self._app(arrive, PsycopgConnector, size=2).open_async() as app:
                    await _run(app, concurrency=1, wait=False)

        asyncio.run(run())

    def _working(self, handle: Handle) -> Any:
        async def take(type: str, data: Any) -> None:  # noqa: A002
            handle(msgspec.convert(data, CLASSES[type]))

        return self._app(take, PsycopgConnector, size=self.concurrency + 1).open_async()

    def _deferring(self) -> Any:
        def take(type: str, data: Any) -> None:  # noqa: A002
            raise NotImplementedError

        return self._app(take, SyncPsycopgConnector, size=1).open()

    def _app(self, task: Callable[..., Any], connector: Any, *, size: int) -> procrastinate.App:
        app = procrastinate.App(
            connector=connector(
                conninfo=self.url,
                min_size=size,
                max_size=size,
                json_dumps=lambda value: msgspec.json.encode(value).decode(),
                json_loads=msgspec.json.decode,
            )
        )
        app.task(name=TASK, queue="flights")(task)
        return app


def arguments_of(event: FlightEvent) -> dict[str, Any]:
    """Write an event as a job's arguments; msgspec makes JSON of the Struct itself."""
    return {"type": type_of(event), "data": event}


async def _run(app: Any, *, concurrency: int, wait: bool) -> None:
    await app.run_worker_async(queues=["flights"], concurrency=concurrency, wait=wait, install_signal_handlers=False)


CONTESTANT = Procrastinate

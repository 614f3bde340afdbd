"""`pgqueuer`: each event is a job, enqueued and taken by asyncpg under uvloop, which it names as its fastest driver.

Durability as shipped ("durable"), its autovacuum settings applied, as its checklist asks. Many events of one call are
one `enqueue` of lists. The types are its entry points. A worker fetches so many jobs at a time and acknowledges as
many: from 100 on it hardly matters how many, 10 (as shipped) is a third as fast (`python -m benchmarks.tuning`).

A queue has no read model. In W5 the entry point writes the board itself, at least once, a job at a time on one
connection, because the last value needs them in order. It wants its connection in autocommit, so there is no W1t.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from threading import Event as Flag
from typing import Any, ClassVar

import asyncpg
import msgspec
import uvloop
from pgqueuer import PgQueuer
from pgqueuer.db import AsyncpgDriver
from pgqueuer.queries import Queries
from pgqueuer.types import QueueExecutionMode

from benchmarks.contestants.contestant import APPENDS, CATCHES_UP, FLOWS, Append, Contestant, Handle
from benchmarks.flights import DECODERS, Arrived, FlightEvent, type_of

UPSERT = """
insert into board values ($1, 1, $2)
on conflict (carrier) do update set arrived = board.arrived + 1, last = excluded.last
"""
Take = Callable[[FlightEvent], Coroutine[Any, Any, None]]


class Pgqueuer(Contestant):
    """One entry point for each type, payloads as JSON."""

    name = "pgqueuer"
    workloads = APPENDS | CATCHES_UP | FLOWS | {"W6"}
    packages = ("pgqueuer", "asyncpg", "uvloop", "msgspec")
    catch_up_events = 50_000
    flow_events = 20_000
    batch: ClassVar[int] = 500

    def create(self) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            queries = Queries(AsyncpgDriver(connection))
            await queries.install()
            await queries.optimize_autovacuum()
            await connection.execute("create table board (carrier text primary key, arrived bigint, last bigint)")
            await connection.close()

        uvloop.run(run())

    @contextmanager
    def appender(self) -> Iterator[Append]:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            connection = runner.run(_connect(self.url))
            queries = Queries(AsyncpgDriver(connection))

            def append(events: Sequence[FlightEvent]) -> None:
                if len(events) == 1:
                    runner.run(queries.enqueue(type_of(events[0]), msgspec.json.encode(events[0])))
                    return
                payloads = [msgspec.json.encode(event) for event in events]
                runner.run(queries.enqueue([type_of(event) for event in events], payloads, [0] * len(events)))

            yield append
            runner.run(connection.close())

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        async def run() -> None:
            async with asyncpg.create_pool(self.url, min_size=2, max_size=4) as pool:
                worker = _worker(PgQueuer.from_asyncpg_pool(pool), _taking(handle))
                running = asyncio.create_task(worker.run(batch_size=self.batch, dequeue_timeout=timedelta(seconds=30)))
                await asyncio.sleep(1)
                ready()
                await asyncio.to_thread(stop.wait)
                worker.shutdown.set()
                await running

        uvloop.run(run())

    def catch_up(self, events: int, handle: Handle) -> None:
        uvloop.run(self._drain(_taking(handle)))

    def project(self, events: int) -> None:
        async def run() -> None:
            connection = await asyncpg.connect(self.url)
            in_turn = asyncio.Lock()

            async def take(event: FlightEvent) -> None:
                if isinstance(event, Arrived):
                    async with in_turn:
                        await connection.execute(UPSERT, event.carrier, event.minutes)

            await self._drain(take)
            await connection.close()

        uvloop.run(run())

    async def _drain(self, take: Take) -> None:
        async with asyncpg.create_pool(self.url, min_size=2, max_size=4) as pool:
            worker = _worker(PgQueuer.from_asyncpg_pool(pool), take)
            await worker.run(batch_size=self.batch, mode=QueueExecutionMode.drain)


def _worker(worker: PgQueuer, take: Take) -> PgQueuer:
    for name, decode in DECODERS.items():

        async def run(job: Any, decode: Callable[[bytes], FlightEvent] = decode) -> None:
            await take(decode(job.payload))

        worker.entrypoint(name)(run)
    return worker


def _taking(handle: Handle) -> Take:
    async def take(event: FlightEvent) -> None:
        handle(event)

    return take


async def _connect(url: str) -> Any:
    return await asyncpg.connect(url)


CONTESTANT = Pgqueuer

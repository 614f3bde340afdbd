"""A worker for as long as an ASGI application lives: FastAPI, Starlette, Litestar and what else knows lifespans.

Starting and stopping take place in other threads, so the event loop is never held up. A worker that ends by itself says
so in the log when it happens, and the application is told when it shuts down.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from eventlog.subscribers.worker import Worker, Workers

Lifespan = Callable[[object], AbstractAsyncContextManager[None]]


def lifespan_of(make_worker: Callable[[], Worker | Workers]) -> Lifespan:
    """Make the lifespan of an application: a worker is made and started at its startup, and stopped at its shutdown."""

    @asynccontextmanager
    async def lifespan(_application: object) -> AsyncIterator[None]:
        worker = await asyncio.to_thread(make_worker)
        worker.start()
        try:
            yield
        finally:
            await asyncio.to_thread(worker.stop)

    return lifespan

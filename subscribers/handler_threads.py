"""Where handlers run that do not run in the thread that takes the turn: coroutines, and several functions at a time.

An application has one event loop, in a thread of its own, started by the first coroutine and running until the process
ends: what a service keeps between calls (an HTTP client, a pool) always meets the same loop. Functions of a subscriber
with `concurrency=` get threads of a pool.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

THREADS_MAX = 1_000
"""Of all subscribers of an application together; a thread is only made when none is free."""


class HandlerThreads:
    """One event loop and one pool, each made when it is first needed. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pool: ThreadPoolExecutor | None = None

    def start(self, coroutine: Coroutine[Any, Any, None]) -> "Future[None]":
        """Begin a coroutine in the event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._running_loop())

    def submit(self, call: Callable[[], None]) -> "Future[None]":
        """Begin a function in a thread of the pool."""
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(max_workers=THREADS_MAX, thread_name_prefix="eventlog-handler")
            return self._pool.submit(call)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="eventlog-loop", daemon=True).start()
            return self._loop

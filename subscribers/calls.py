"""Calling a handler: decoding, the context, the middleware around it, the time limit, and what counts as its failure.

A call is for one event or, for a handler of lists, for several. First deliveries, retries and replays all come through
here, so a repaired handler or a new upcaster heals what failed before. Whatever a handler raises is its failure, also
`SystemExit`, but for what says that we are being stopped ourselves.

A coroutine over its time limit is cancelled, and has failed. A plain function cannot be interrupted: it is reported
once, its lease is kept, and what it does in the end counts.
"""

import asyncio
import logging
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection

from eventlog.errors import LeaseLostError, UsageError
from eventlog.subscribers.call_events import CallEvents
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.routing import Handler
from eventlog.subscribers.runtime import Around, Runtime

logger = logging.getLogger("eventlog.worker")

NOT_A_FAILURE = (LeaseLostError, KeyboardInterrupt, GeneratorExit)
"""What may come out of a handler's call without being its failure. `sys.exit()` in a handler is one."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One call that is to be made. `key_suffix` and `replay` are set where it belongs to a replay."""

    handler: Handler
    items: Sequence[FeedItem]
    attempt: int
    redelivery: bool
    epoch: int
    connection: Connection | None = None
    key_suffix: str = ""
    replay: int | None = None


class HandlerTimeoutError(Exception):
    """A coroutine was cancelled because its time was over."""


class Caller:
    """Makes the calls of one subscriber. `key_name` is what its idempotency keys begin with."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber) -> None:
        self.key_name: str | None = None
        self._runtime = runtime
        self._subscriber = subscriber
        self._surrounded = bool(runtime.around) or subscriber.timeout_seconds is not None
        """Whether there is anything around a call: seldom, and it would cost most of what we add to one."""

    def handler_of(self, item: FeedItem) -> Handler:
        """Return the handler of an event. Raises `UsageError` when there is none any more."""
        handler = self._subscriber.routes.find(item.type)
        if handler is None:
            raise UsageError(
                f"no handler of {self._subscriber.name!r} takes {item.type} any more",
                remedy="deploy code that handles it, or skip the entry",
            )
        return handler

    def may_call_alone(self, handler: Handler) -> bool:
        """Tell whether a call of a handler is a call of its function with one event, and nothing around it."""
        return handler.takes_one_alone and not self._surrounded

    def call(self, call: Call) -> None:
        """Make a call and wait for its end; raises what decoding or the handler raises."""
        if call.handler.is_coroutine:
            self._wait(self.begin(call))
            return
        events = CallEvents(call.items)
        context = self._context(call, events)
        if not self._surrounded:
            call.handler.call(events, context)
            return
        with self._watched(call), _within(self._runtime.around, context) as outcome, outcome:
            call.handler.call(events, context)

    def begin(self, call: Call) -> "Future[None]":
        """Begin a call in the event loop, or in a thread of the pool; the future raises what `call` would."""
        if call.handler.is_coroutine:
            return self._runtime.handler_threads.start(self._awaited(call))
        return self._runtime.handler_threads.submit(lambda: self.call(call))

    async def _awaited(self, call: Call) -> None:
        events = CallEvents(call.items)
        context = self._context(call, events)
        with self._watched(call), _within(self._runtime.around, context) as outcome, outcome:
            await self._within_time(call.handler.call_awaited(events, context))

    async def _within_time(self, coroutine: Coroutine[Any, Any, None]) -> None:
        seconds = self._subscriber.timeout_seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                await coroutine
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise HandlerTimeoutError(f"cancelled after its time limit of {seconds:g} s") from error

    def _wait(self, future: "Future[None]") -> None:
        try:
            future.result()
        except BaseException:
            future.cancel()
            raise

    def _context(self, call: Call, events: CallEvents) -> Context:
        return Context(
            events=events,
            subscriber=self._subscriber.name,
            attempt=call.attempt,
            redelivery=call.redelivery,
            epoch=call.epoch,
            connection=call.connection,
            log=self._runtime.log,
            database=self._runtime.database,
            stop=self._runtime.stop,
            key_name=self.key_name,
            key_suffix=call.key_suffix,
            replay=call.replay,
        )

    @contextmanager
    def _watched(self, call: Call) -> Iterator[None]:
        if self._subscriber.timeout_seconds is None:
            yield
            return
        name, position = self._subscriber.name, call.items[-1].position
        with self._runtime.running_calls.noted(
            f"{name}: {call.handler.name} at event {position}",
            limit_seconds=self._subscriber.timeout_seconds,
            about={
                "subscriber": name,
                "epoch": call.epoch,
                "position": position,
                "attempt": call.attempt,
                "handler": call.handler.name,
            },
        ):
            yield


class _Outcome:
    """Remembers what a handler raised, so that no middleware can make a failure silent by swallowing it."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        self.error = error


@contextmanager
def _within(around: Sequence[Around], context: Context) -> Iterator[_Outcome]:
    """Run a block within the generators, the first declared outermost; the block's failure counts whatever they do."""
    outcome = _Outcome()
    with ExitStack() as stack:
        for one in around:
            stack.enter_context(contextmanager(one)(context))
        yield outcome
    if outcome.error is not None:
        raise outcome.error

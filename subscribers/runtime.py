"""What the partitions of one worker share: the log, the feed, the clock, who they are, and what runs for them."""

import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from eventlog.clock import Clock, SystemClock
from eventlog.database import Database
from eventlog.ids import new_id
from eventlog.log import EventLog
from eventlog.subscribers.context import Context
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.handler_threads import HandlerThreads
from eventlog.subscribers.operations import actor
from eventlog.subscribers.running_calls import RunningCalls

LEASE_SECONDS = 15.0

Around = Callable[[Context], Iterator[None]]
"""A generator function that yields once: what runs around every handler."""


def new_owner() -> str:
    """Name a process start: random, so that no two are ever taken for each other, and readable for an operator."""
    return f"{actor()}/{new_id().hex[-12:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One worker's surroundings. `draw` gives the random numbers of the back-off, from 0 to 1.

    `handler_threads` belong to the application and outlive the worker. `home` is the database of the subscribers' rows,
    where that is not the log's.
    """

    log: EventLog
    feed: Feed
    home: Database | None = None
    owner: str = field(default_factory=new_owner)
    lease_seconds: float = LEASE_SECONDS
    clock: Clock = field(default_factory=SystemClock)
    stop: threading.Event = field(default_factory=threading.Event)
    draw: Callable[[], float] = random.random
    around: tuple[Around, ...] = ()
    handler_threads: HandlerThreads = field(default_factory=HandlerThreads)
    running_calls: RunningCalls = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "running_calls", RunningCalls(self.clock))

    @property
    def database(self) -> Database:
        """Where the subscribers' rows are: with the log, or elsewhere."""
        return self.home or self.log.database

    @property
    def is_elsewhere(self) -> bool:
        """Whether the subscribers' rows are in another database than the log."""
        return self.home is not None

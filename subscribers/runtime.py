"""What the partitions of one worker share: the log, the feed, the clock, and who they are."""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from eventlog.clock import Clock, SystemClock
from eventlog.database import Database
from eventlog.ids import new_id
from eventlog.log import EventLog
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.operations import actor

LEASE_SECONDS = 15.0


def new_owner() -> str:
    """Name a process start: random, so that no two are ever taken for each other, and readable for an operator."""
    return f"{actor()}/{new_id().hex[-12:]}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One worker's surroundings. `draw` gives the random numbers of the back-off, from 0 to 1."""

    log: EventLog
    feed: Feed
    owner: str = field(default_factory=new_owner)
    lease_seconds: float = LEASE_SECONDS
    clock: Clock = field(default_factory=SystemClock)
    stop: threading.Event = field(default_factory=threading.Event)
    draw: Callable[[], float] = random.random

    @property
    def database(self) -> Database:
        return self.log.database

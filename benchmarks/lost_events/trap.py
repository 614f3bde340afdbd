"""The interleaving that load alone may not bring about, made on purpose.

    first     append a           append c, commit
    second             append b                    ...wait until c was read...   commit

Whoever trusts positions alone goes on after c, and never comes back for b. So does whoever hides what transactions
younger than the oldest open one have written, and then goes on after the last position he saw: the first transaction is
the older one, c is shown, and b is below it.
"""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy import Connection

from benchmarks.lost_events.audit import Journal, Outcome
from benchmarks.lost_events.shapes import Shape
from benchmarks.lost_events.writing import Hand, NewEvent, insert, lost_connection
from eventlog.ids import new_id

WAIT_SECONDS_MAX = 0.3
"""So long the second one waits for the reader to take the bait."""

PAUSE_SECONDS_MAX = 0.4
POLL_SECONDS = 0.005


@dataclass(slots=True, kw_only=True)
class Trap:
    """Two writers who take turns. `was_read` tells whether the reader has got an event."""

    hand: Callable[[str], AbstractContextManager[Hand]]
    name: str
    random: random.Random
    was_read: Callable[[UUID], bool]
    journal: Journal = field(default_factory=Journal)
    done: Counter[Shape] = field(default_factory=Counter)
    failures: list[Exception] = field(default_factory=list)
    bitten: int = 0
    """How often the reader has taken the bait; one that is right never does."""
    _version: int = 0

    def run(self, stop: threading.Event) -> None:
        try:
            with self.hand(self.name) as hand:
                while not stop.is_set():
                    self._spring(hand)
                    stop.wait(self.random.uniform(0, PAUSE_SECONDS_MAX))
        except Exception as error:
            self.failures.append(error)

    def _spring(self, hand: Hand) -> None:
        try:
            with hand.session.connect() as first, hand.session.connect() as second:
                mine = [self._insert(hand, first)]
                others = [self._insert(hand, second)]
                mine.append(self._insert(hand, first))
                first.commit()
                self.journal.settle(mine, Outcome.COMMITTED)
                self._wait_for(mine[-1])
                second.commit()
                self.journal.settle(others, Outcome.COMMITTED)
                self.done[Shape.INTERLEAVED] += 1
        except Exception as error:
            if not lost_connection(error):
                raise

    def _insert(self, hand: Hand, connection: Connection) -> UUID:
        self._version += 1
        one = new_id()
        self.journal.intend([one])
        insert(hand, connection, NewEvent(id=one, stream=self.name), version=self._version)
        return one

    def _wait_for(self, one: UUID) -> None:
        ends = time.monotonic() + WAIT_SECONDS_MAX
        while time.monotonic() < ends:
            if self.was_read(one):
                self.bitten += 1
                return
            time.sleep(POLL_SECONDS)

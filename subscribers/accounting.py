"""Accounts for every position from where a subscriber began to its checkpoints, from what is stored.

Nothing is stored of an event that was handled, so `handled` is what is left: an event of its types that is in no entry
of the ledger, was passed over by nobody, and is not above `handled_through`, the highest position that was ever handed
to its handlers. What is left above that was handed to nobody: it is `unaccounted`, and lost.

The log is gone through in stretches of positions. Where it suffices to know how many events of each type there are, the
database counts them; where each event has to be looked at, because partitions stand apart or an operator had something
passed over, they are read. No more than a stretch is ever held.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec
from sqlalchemy import Connection, func, select

from eventlog.database import Database
from eventlog.patterns import covers
from eventlog.query import PageQuery
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.keys import STREAM, KeyRule, partition_of
from eventlog.subscribers.ledger import EntryState, batched
from eventlog.subscribers.passed_over import History
from eventlog.subscribers.registration import SubscriberRow

STRETCH_POSITIONS = 50_000
EVENTS_READ_AT_ONCE = 500
POSITIONS_NAMED = 5


class Outcome(StrEnum):
    """What came of an event."""

    HANDLED = "handled"
    RESOLVED = "resolved"
    RETRYING = "retrying"
    PARKED = "parked"
    BLOCKED = "blocked"
    SKIPPED = "skipped"
    PASSED_OVER = "passed_over"
    FILTERED_OUT = "filtered_out"
    OTHER_PARTITION = "other_partition"
    UNACCOUNTED = "unaccounted"


_OUTCOMES = frozenset(map(str, Outcome))


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one partition stands."""

    partition: int
    position: int
    in_hand: int
    handled_through: int
    epoch: int


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """What came of the events after < position <= until: the counts, and `unused` positions, add up to until - after.

    Of one partition where `partition` says so, else of all. `unaccounted_at` are the first of those that are.
    """

    partition: int | None
    after: int
    until: int
    unused: int
    handled: int
    resolved: int
    retrying: int
    parked: int
    blocked: int
    skipped: int
    passed_over: int
    filtered_out: int
    other_partition: int
    unaccounted: int
    unaccounted_at: tuple[int, ...]

    @property
    def adds_up(self) -> bool:
        counts: list[int] = [getattr(self, one) for one in Outcome]
        return self.until - self.after == self.unused + sum(counts)


class _Event(msgspec.Struct, frozen=True, kw_only=True):
    """What an account wants to know of an event; `item` is all of it, where its key is in its data."""

    position: int
    stream: str
    type: str
    item: FeedItem | None = None


class _Tally:
    """An account that is being drawn up."""

    def __init__(self, *, partition: int | None, after: int, until: int) -> None:
        self.partition, self.after, self.until = partition, after, until
        self.counts: Counter[str] = Counter()
        self.unaccounted: list[int] = []

    def add(self, outcome: str, position: int) -> None:
        self.counts[outcome] += 1
        if outcome == Outcome.UNACCOUNTED and len(self.unaccounted) < POSITIONS_NAMED:
            self.unaccounted.append(position)

    def account(self) -> Account:
        counts = {str(one): self.counts[one] for one in Outcome}
        return Account(
            partition=self.partition,
            after=self.after,
            until=self.until,
            unused=self.until - self.after - self.counts.total(),
            unaccounted_at=tuple(self.unaccounted),
            **counts,
        )


class Accounting:
    """The accounts of one subscriber. `key` reads an event's key, None where only its app could tell it."""

    def __init__(
        self,
        connection: Connection,
        database: Database,
        *,
        log: Database,
        there: Connection,
        row: SubscriberRow,
        places: Sequence[Place],
        history: History,
        key: KeyRule | None,
    ) -> None:
        self._connection, self._failures = connection, database.tables.failures
        self._log, self._there, self._events = log, there, log.tables.events
        self._row, self._places, self._history = row, places, history
        self._key = key
        self._least = min(one.position for one in places)
        self._wanted: dict[str, bool] = {}

    def draw_up(self, *, head: int, reached: Callable[[int], None]) -> tuple[Account, ...]:
        """Account for what all partitions have come to, and for what each has beyond that.

        Beyond it, nothing can be told where the key is not known. `reached` is told each position that is gone through.
        """
        after = min(self._row.start_position, self._least)
        common = _Tally(partition=None, after=after, until=min(self._least, head))
        beyond = [
            _Tally(partition=one.partition, after=self._least, until=min(one.position, head))
            for one in self._places
            if self._least < one.position and self._least < head and self._knows_partitions
        ]
        end = max([common.until, *(one.until for one in beyond)])
        for start, until in self._stretches(after, common.until):
            self._go_through(common, start, until)
            reached(until - after)
        for start, until in self._stretches(common.until, end):
            for tally in beyond:
                self._go_through(tally, start, min(until, tally.until))
            reached(until - after)
        return tuple(one.account() for one in (common, *beyond))

    @property
    def _knows_partitions(self) -> bool:
        return self._row.declaration.partitions == 1 or self._key is not None

    def _stretches(self, after: int, end: int) -> Iterator[tuple[int, int]]:
        """Cut positions into stretches, each of which begins before an event."""
        events = self._events
        while after < end:
            question = select(func.min(events.c.position)).where(events.c.position > after, events.c.position <= end)
            first = self._there.scalar(question)
            if first is None:
                return
            until = min(end, first - 1 + STRETCH_POSITIONS)
            yield first - 1, until
            after = until

    def _go_through(self, tally: _Tally, after: int, until: int) -> None:
        if until <= after:
            return
        states = self._states(after, until)
        if tally.partition is None and self._can_be_counted(after, until):
            self._count(tally, states, after, until)
            return
        for event in self._read(after, until):
            tally.add(self._outcome(tally, states, event), event.position)

    def _can_be_counted(self, after: int, until: int) -> bool:
        """Where every event was handed out, and nobody had any passed over, its type and the ledger say everything."""
        passed_over = any(one.after < until and one.until > after for one in self._history.spans)
        return not passed_over and until <= min(one.handled_through for one in self._places)

    def _states(self, after: int, until: int) -> dict[int, str]:
        table = self._failures
        question = select(table.c.position, table.c.state).where(
            table.c.subscriber == self._row.name,
            table.c.position > after,
            table.c.position <= until,
            table.c.state != EntryState.SUPERSEDED,
        )
        return {row.position: row.state for row in self._connection.execute(question)}

    def _count(self, tally: _Tally, states: dict[int, str], after: int, until: int) -> None:
        events = self._events
        by_type = select(events.c.type, func.count()).where(events.c.position > after, events.c.position <= until)
        for event_type, count in self._there.execute(by_type.group_by(events.c.type)):
            tally.counts[Outcome.HANDLED if self._wants(event_type) else Outcome.FILTERED_OUT] += count
        for some in batched(sorted(states), EVENTS_READ_AT_ONCE):
            there = select(events.c.position, events.c.type).where(events.c.position.in_(some))
            for position, event_type in self._there.execute(there):
                if self._wants(event_type) and states[position] in _OUTCOMES:
                    tally.counts[Outcome.HANDLED] -= 1
                    tally.add(states[position], position)

    def _read(self, after: int, until: int) -> Iterator[_Event]:
        """Read the events of a stretch; whole, where the key is in their data."""
        if self._key is None or self._key.name == STREAM or self._row.declaration.partitions == 1:
            events = self._events
            question = select(events.c.position, events.c.stream, events.c.type)
            within = question.where(events.c.position > after, events.c.position <= until)
            for position, stream, event_type in self._there.execute(within):
                yield _Event(position=position, stream=stream, type=event_type)
            return
        while after < until:
            page = self._log.page(self._there, PageQuery(after=after, until=until, limit=EVENTS_READ_AT_ONCE))
            for stored in page:
                yield _Event(position=stored.position, stream=stored.stream, type=stored.type, item=FeedItem(stored))
            after = page[-1].position if page else until

    def _outcome(self, tally: _Tally, states: dict[int, str], event: _Event) -> str:
        position = event.position
        if not self._wants(event.type):
            return Outcome.FILTERED_OUT
        key = self._key.of(event.item) if event.item is not None and self._key is not None else event.stream
        owner = partition_of(key, partitions=len(self._places)) if self._knows_partitions else None
        if tally.partition is not None and owner != tally.partition:
            return Outcome.OTHER_PARTITION
        if states.get(position) in _OUTCOMES:
            return states[position]
        if self._was_passed_over(position, key):
            return Outcome.PASSED_OVER
        # Whose it is may not be known; then it suffices that any of them was handed so much.
        handed = [one.handled_through for one in self._places if owner in (None, one.partition)]
        if position <= max(handed):
            return Outcome.HANDLED
        return Outcome.FILTERED_OUT if self._came_before_its_type(position, event.type) else Outcome.UNACCOUNTED

    def _was_passed_over(self, position: int, key: str) -> bool:
        if self._knows_partitions:
            return self._history.passed_over(position, key)
        return any(one.after < position <= one.until for one in self._history.spans)

    def _wants(self, event_type: str) -> bool:
        found = self._wanted.get(event_type)
        if found is None:
            found = any(covers(pattern, event_type) for pattern in self._row.declaration.patterns)
            self._wanted[event_type] = found
        return found

    def _came_before_its_type(self, position: int, event_type: str) -> bool:
        """Whether a subscriber may not have had the type yet when it passed the event."""
        mine = [one for one in self._row.declaration.patterns if covers(one, event_type)]
        return all(self._history.may_precede(position, one) for one in mine)

"""What the partitions of one worker have to do now, and when it is time to look again.

A partition is ready when the log goes on after its checkpoint, when a retry is due, or when its lease can be had and it
is this worker's share. The first is known from the high-water mark alone. The others stand in the tables, and are
looked up for all partitions at once: five queries, before the worker sleeps and once a second while it is busy. They
are made once, since SQLAlchemy takes several times as long to make one as a database to answer it. Times are the
database's; what is kept here is how many seconds were left at the look.

A partition that has been given its turn and did nothing is not ready again for the same reason: halted, it waits at the
same event until the mark moves, the doorbell rings (an operator may have skipped the event), or some seconds are over.
Refused, it is asked again when the doorbell rings or after half a minute; with an entry due that it cannot come to yet,
a second later. One that is paused, gone, or somebody else's share is to leave.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Select, func, select

from eventlog.bell import Look
from eventlog.schema.tables import Tables
from eventlog.schema.timestamps import database_now
from eventlog.subscribers.due import due_at, first_of_its_key
from eventlog.subscribers.fleet import Place, WorkerRow, living_workers, shares, workers_of
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.rebuilding import Rebuilds
from eventlog.subscribers.registration import may_run
from eventlog.subscribers.replaying import Replays
from eventlog.subscribers.results import Delivered
from eventlog.subscribers.runtime import Runtime

LOOK_SECONDS = 1.0
"""How often the tables are looked at while the worker is busy, and how soon what came to nothing is tried again."""

SETTLED_SECONDS = 5.0
"""How long a partition that did nothing behind a mark that stands still is left alone."""

REFUSED_SECONDS = 30.0
"""How long the code is not offered a subscriber that it may not run, unless the doorbell rings."""

ELSEWHERE_SECONDS = 1.0
"""How long a worker sleeps whose subscribers are in another database: the log's bell tells nothing of that one."""

REST_SECONDS_MAX = 5.0
"""How long a partition is left alone at the most whose turns the database fails, while the others go on."""

SLEEP_SECONDS_MIN = 0.005
SLEEP_SECONDS_MAX = 3600.0


@dataclass(slots=True, kw_only=True)
class _Place:
    """What is known of one partition. Moments are on the monotonic clock."""

    partition: Partition
    running: bool = False
    settled: tuple[int, int] | None = None
    """How often the mark had moved, and the doorbell rung, when a turn began that found nothing to do."""
    settled_until: float = 0.0
    called: bool = False
    """Whether the tables gave it something to do: a lease to take, an entry that is due."""
    called_again_at: float = 0.0
    next_at: float = 0.0
    """When the tables will give it something to do, if nobody changes them."""
    leaves: bool = False
    """Whether its lease is to be let go."""
    refused_until: float = 0.0
    refused_at_rings: int = -1
    refused_as: tuple[str, int | None, str | None] | None = None
    declared: tuple[str, int | None, str | None] | None = None
    """How the subscriber is registered: what the code was refused for, and what stands there now."""
    rest_seconds: float = 0.0
    rests_until: float = 0.0
    """After turns that the database has failed: how long, longer each time, and until when it is left alone."""
    free_since: float | None = None
    """Since when it has been seen free, while it was somebody else's share."""


class Agenda:
    """Knows which partitions are ready. Used by the worker's own thread alone."""

    def __init__(self, runtime: Runtime, partitions: Sequence[Partition]) -> None:
        subscribers = {one.subscriber.name: one.subscriber for one in partitions}
        self.replays = Replays(runtime, subscribers)
        self.rebuilds = Rebuilds(runtime, subscribers)
        self._runtime = runtime
        self._by_partition = {id(partition): _Place(partition=partition) for partition in partitions}
        self._places = tuple(self._by_partition.values())
        self._questions = _Questions(runtime.database.tables, self._names())
        self._not_ours: frozenset[str] = frozenset()
        """Subscribers that are registered in another way than the code declares them."""
        self._look_at = 0.0

    @property
    def partitions(self) -> list[Partition]:
        """Those of the worker's subscribers, and of the shadows that it runs."""
        return [place.partition for place in self._places]

    @property
    def all_running(self) -> bool:
        return all(place.running for place in self._places)

    @property
    def any_running(self) -> bool:
        return any(place.running for place in self._places)

    def ready(self) -> list[Partition]:
        """Name the partitions that have something to do, as far as is known."""
        return [place.partition for place in self._places if self._is_ready(place)]

    def leaving(self) -> list[Partition]:
        """Name the partitions whose lease is to be let go."""
        return [one.partition for one in self._places if one.leaves and one.partition.lease.held and not one.running]

    def runnable(self) -> set[str]:
        """Name the subscribers that the code may run, as far as is known."""
        refused = {one.partition.subscriber.name for one in self._places if one.partition.refusal is not None}
        return {one.partition.subscriber.name for one in self._places} - refused - self._not_ours

    def began(self, partition: Partition) -> None:
        """Note that a partition has been given a turn."""
        place = self._place(partition)
        place.running = True
        place.settled = self._seen()
        place.settled_until = self._runtime.clock.monotonic() + SETTLED_SECONDS

    def ended(self, partition: Partition, done: Delivered | None) -> None:
        """Note what a turn did; None for one that failed."""
        place = self._place(partition)
        place.running = False
        place.rest_seconds = 0.0 if done is not None else min(REST_SECONDS_MAX, max(0.1, place.rest_seconds * 2))
        place.rests_until = self._runtime.clock.monotonic() + place.rest_seconds
        if done is None or done.moved:
            place.settled = None
        if done is not None and not done.moved and place.called:
            place.called_again_at = self._runtime.clock.monotonic() + LOOK_SECONDS
        if partition.refusal is not None:
            place.refused_until = self._runtime.clock.monotonic() + REFUSED_SECONDS
            place.refused_at_rings = self._runtime.log.doorbell.rings
            place.refused_as = place.declared
        elif place.called or not partition.lease.held:
            self._look_at = 0.0
        place.called = False
        place.leaves = place.leaves and partition.lease.held

    def forget(self) -> None:
        """Know nothing any more, and rely on no lease: the database has failed.

        A turn that runs is left alone: it finds out by itself at its fence, or has not even noticed.
        """
        self._look_at = 0.0
        for place in self._places:
            if not place.running:
                place.partition.lease.forget()
            place.called, place.settled = False, None

    def allowance(self, look: Look) -> float:
        """Tell for how long the worker may sleep, 0 when there is something to do. Looks at everything."""
        self._runtime.feed.saw(look)
        if self._anything_to_do():
            return 0.0
        self.look_at_tables()
        if self._anything_to_do():
            return 0.0
        left = self._seconds_left()
        return min(left, ELSEWHERE_SECONDS) if self._runtime.is_elsewhere else left

    def _anything_to_do(self) -> bool:
        return bool(self.ready() or self.leaving() or self.replays.next() or self.rebuilds.next())

    def look_at_tables_if_due(self) -> None:
        if self._runtime.clock.monotonic() >= self._look_at:
            self.look_at_tables()

    def look_at_tables(self) -> None:
        """Look up leases, moved checkpoints, due entries, the other workers, replays and rebuilds: five queries."""
        known = {id(place): place.partition.lease.epoch for place in self._places if place.partition.lease.held}
        with self._runtime.database.reader() as connection:
            self.rebuilds.look(connection)
            self._take_up_shadows()
            questions = self._questions
            checkpoints = {(row.subscriber, row.partition): row for row in connection.execute(questions.checkpoints)}
            entries = {(row.subscriber, row.partition): row for row in connection.execute(questions.due_entries)}
            workers = workers_of(connection.execute(questions.workers))
            self.replays.look(connection)
        now = self._runtime.clock.monotonic()
        self._look_at = now + LOOK_SECONDS
        self._not_ours = self._registered_otherwise(checkpoints.values())
        share = self._shares(workers, checkpoints.values())
        for place in self._places:
            lease = place.partition.lease
            key = (lease.subscriber, lease.partition)
            row = checkpoints.get(key)
            mine = share.get(key, self._runtime.owner) == self._runtime.owner
            place.declared = None if row is None else (row.declaration, row.version, row.shape)
            place.leaves = lease.held and (row is None or row.state != "running" or not mine)
            if place.running:
                continue
            if known.get(id(place)) == lease.epoch and (row is None or row.epoch != lease.epoch):
                # An operator has moved its checkpoint; the heartbeat would notice later. A lease that was taken after
                # we asked has an epoch we have not seen yet, and is left alone.
                lease.forget()
                place.leaves = False
            if lease.held:
                entry = entries.get(key)
                seconds = SLEEP_SECONDS_MAX if entry is None else _seconds(entry.now, entry.next_attempt_at)
            else:
                seconds = self._until_offered(place, row, mine=mine)
            place.called = seconds <= 0 and not place.leaves
            place.next_at = now + (0.0 if place.leaves else seconds)

    def rebuild_ended(self, done: Delivered | None) -> None:
        """Note that a rebuild was tried to be taken into use; if it was, everything else stands otherwise now."""
        self.rebuilds.ended()
        if done is None or done.moved:
            self._look_at = 0.0

    def _take_up_shadows(self) -> None:
        shadows = {id(partition): partition for partition in self.rebuilds.partitions}
        for key, place in list(self._by_partition.items()):
            if place.partition.subscriber.is_shadow and key not in shadows and not place.running:
                place.partition.lease.forget()
                del self._by_partition[key]
        for key, partition in shadows.items():
            self._by_partition.setdefault(key, _Place(partition=partition))
        self._places = tuple(self._by_partition.values())
        if (names := self._names()) != self._questions.names:
            self._questions = _Questions(self._runtime.database.tables, names)

    def _registered_otherwise(self, rows: Iterable[Any]) -> frozenset[str]:
        declared = {place.partition.subscriber.name: place.partition.subscriber for place in self._places}
        database = self._runtime.database
        return frozenset(row.subscriber for row in rows if not may_run(row, declared[row.subscriber], database))

    def _shares(self, workers: Sequence[WorkerRow], rows: Iterable[Any]) -> dict[tuple[str, int], str]:
        """Who ought to have what. A worker that is alone has everything, and computes nothing."""
        if len(workers) < 2:
            return {}
        able = {one.owner: one.subscribers for one in workers}
        places = [
            Place(subscriber=row.subscriber, partition=row.partition, owner=_living_owner(row))
            for row in rows
            if row.state == "running"
        ]
        return shares(able, places)

    def _until_offered(self, place: _Place, row: Any | None, *, mine: bool) -> float:
        """How long until this worker may try to take a lease that it has not."""
        now = self._runtime.clock.monotonic()
        as_refused = (place.refused_at_rings, place.refused_as) == (self._runtime.log.doorbell.rings, place.declared)
        if place.partition.refusal is not None and as_refused:
            return max(0.0, place.refused_until - now)
        if row is None or row.state != "running":
            return SLEEP_SECONDS_MAX
        seconds = self._until_free(row)
        if mine or seconds > 0:
            place.free_since = None
            return seconds
        # It is free, and somebody else's who is alive. Should that one not take it, we do.
        place.free_since = now if place.free_since is None else place.free_since
        return max(0.0, place.free_since + self._runtime.lease_seconds - now)

    def _is_ready(self, place: _Place) -> bool:
        now = self._runtime.clock.monotonic()
        if place.running or place.leaves or now < place.rests_until:
            return False
        if place.called and now >= place.called_again_at:
            return True
        writes_at = place.partition.writes_at
        if writes_at is not None and now >= writes_at:
            return True
        return self._is_behind(place) and (place.settled != self._seen() or now >= place.settled_until)

    def _is_behind(self, place: _Place) -> bool:
        return place.partition.lease.held and place.partition.reached < self._runtime.feed.mark

    def _seen(self) -> tuple[int, int]:
        return self._runtime.feed.moves, self._runtime.log.doorbell.rings

    def _seconds_left(self) -> float:
        """How long until the first of what the tables announce, or until a partition that is settled is asked again."""
        idle = [place for place in self._places if not place.running]
        moments = [max(place.next_at, place.called_again_at, place.rests_until) for place in idle]
        moments += [place.settled_until for place in idle if self._is_behind(place)]
        moments += [one for place in idle if (one := place.partition.writes_at) is not None]
        moments += [one] if (one := self.rebuilds.try_at) is not None else []
        left = min(moments, default=math.inf) - self._runtime.clock.monotonic()
        return min(SLEEP_SECONDS_MAX, max(SLEEP_SECONDS_MIN, left))

    def _until_free(self, row: Any) -> float:
        if row.owner is None or row.owner == self._runtime.owner or row.expires_at is None:
            return 0.0
        return _seconds(row.now, row.expires_at)

    def _names(self) -> frozenset[str]:
        return frozenset(place.partition.subscriber.name for place in self._places)

    def _place(self, partition: Partition) -> _Place:
        return self._by_partition[id(partition)]


class _Questions:
    """What is asked of the tables at each look."""

    def __init__(self, tables: Tables, names: Collection[str]) -> None:
        self.names = names
        self.checkpoints = _checkpoints_of(tables, sorted(names))
        self.due_entries = _due_entries_of(tables, sorted(names))
        self.workers = living_workers(tables)


def _checkpoints_of(tables: Tables, names: Sequence[str]) -> Select[Any]:
    subscribers, checkpoints = tables.subscribers, tables.checkpoints
    return (
        select(
            checkpoints.c.subscriber,
            checkpoints.c.partition,
            checkpoints.c.epoch,
            checkpoints.c.owner,
            checkpoints.c.expires_at,
            subscribers.c.state,
            subscribers.c.declaration,
            subscribers.c.version,
            subscribers.c.shape,
            database_now().label("now"),
        )
        .join(subscribers, subscribers.c.name == checkpoints.c.subscriber)
        .where(checkpoints.c.subscriber.in_(names))
    )


def _due_entries_of(tables: Tables, names: Sequence[str]) -> Select[Any]:
    """The time of the next attempt, by partition."""
    failures = tables.failures
    return (
        select(
            failures.c.subscriber,
            failures.c.partition,
            func.min(due_at(failures)).label("next_attempt_at"),
            database_now().label("now"),
        )
        .where(
            failures.c.subscriber.in_(names),
            failures.c.state.in_((EntryState.RETRYING, EntryState.BLOCKED)),
            due_at(failures).is_not(None),
            first_of_its_key(failures),
        )
        .group_by(failures.c.subscriber, failures.c.partition)
    )


def _living_owner(row: Any) -> str | None:
    return row.owner if row.owner is not None and row.expires_at is not None and row.expires_at > row.now else None


def _seconds(now: datetime, then: datetime) -> float:
    return (then - now).total_seconds()

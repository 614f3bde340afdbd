"""A worker's part in rebuilds beside the live projection (P11): running the shadow, and taking it into use.

A shadow is delivered to like any subscriber, by partitions of its own, so a worker that dies costs it nothing: another
one, or the next start, goes on at its checkpoint. Only code that declares the version and the columns that are being
made may run it. When it is near, the live one is held, and the names are exchanged; see `control/exchange.py`.

Whatever becomes of the shadow, the live one serves: it is held only while the shadow comes nearer, not while that waits
at a failure or in an outage, and whoever ends lets go of it.
"""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from sqlalchemy import Connection, Row, exists, false, func, or_, select

from eventlog.database import Database
from eventlog.errors import DeclarationError, NotFoundError, PermissionDeniedError, RefusedError
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.control.exchange import (
    Standing,
    exchange,
    hold_live,
    let_go_of_live,
    read_standing,
)
from eventlog.subscribers.control.rebuilds import (
    Rebuild,
    RebuildState,
    begin_rebuild,
    read_rebuild,
    rebuild_from,
    shadow_of,
    was_tried,
)
from eventlog.subscribers.declaration import OnFailure, Subscriber
from eventlog.subscribers.heartbeat import Heartbeat
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.results import Delivered
from eventlog.subscribers.runtime import Runtime

logger = logging.getLogger("eventlog.worker")

CLOSE_POSITIONS = 1_000
"""So near to the live one a shadow catches up within moments, and the live one may be held for it."""

TRY_SECONDS = 0.25
"""How often it is asked whether a shadow has caught up."""

READERS_SECONDS = 5.0
"""How long readers who did not let go of the tables are left alone."""

STILL_SECONDS = 3.0
"""So long the live one is held for a shadow that comes no nearer."""

ALONE_SECONDS = 15.0
"""How long the live one is left alone when it was held in vain."""

BEGIN_SECONDS = 30.0
"""How soon it is tried again to begin what was refused."""

POLL_SECONDS = 0.05


class Finishing:
    """Takes one rebuild into use as soon as it can. One thread at a time may call `turn`."""

    def __init__(self, runtime: Runtime, subscriber: Subscriber, rebuild: Rebuild) -> None:
        self.rebuild = rebuild
        self.try_at = 0.0
        """When it is to be asked again, on the monotonic clock."""
        self._runtime = runtime
        self._subscriber = subscriber
        self._held_until = 0.0
        self._moved_to = -1
        """How far the shadow has come since the live one is held for it; `_moved_at` is when it came there."""
        self._moved_at = 0.0
        self._said: str | None = None

    def turn(self) -> Delivered:
        """Look how near the shadow is, and do what that asks for; `moved` is whether the names were exchanged."""
        self.try_at = self._runtime.clock.monotonic() + TRY_SECONDS
        try:
            return Delivered(moved=self._try())
        except NotFoundError as error:
            self._say(logger.info, str(error))
        except (RefusedError, PermissionDeniedError) as error:
            self._leave_readers_alone(error)
        return Delivered()

    def _try(self) -> bool:
        database = self._runtime.database
        with database.reader() as connection:
            standing = read_standing(connection, database, self.rebuild)
            waits = _waits(connection, database, self._subscriber, self.rebuild)
        if standing.shadow + CLOSE_POSITIONS < standing.live:
            return False
        if standing.caught_up and exchange(database, self._subscriber, self.rebuild):
            self._held_until = 0.0
            self._say(logger.info, "in use")
            return True
        if waits:
            self.let_go()
        else:
            self._hold(standing)
        return False

    def let_go(self) -> None:
        """Give the live one back at once, if it is held."""
        if self._held_until > 0.0:
            let_go_of_live(self._runtime.database, self.rebuild)
        self._held_until, self._moved_to = 0.0, -1

    def _hold(self, standing: Standing) -> None:
        now = self._runtime.clock.monotonic()
        if standing.shadow > self._moved_to:
            self._moved_to, self._moved_at = standing.shadow, now
        if now - self._moved_at >= STILL_SECONDS:
            self.let_go()
            self.try_at = now + ALONE_SECONDS
            return
        self.try_at = now + POLL_SECONDS
        if now >= self._held_until:
            hold_live(self._runtime.database, self.rebuild, seconds=self._runtime.lease_seconds)
            self._held_until = now + self._runtime.lease_seconds

    def _say(self, say: Callable[..., None], what: str) -> None:
        operation, name = self.rebuild.operation, self.rebuild.subscriber
        say("rebuild %d of %s: %s", operation, name, what, extra={"subscriber": name, "operation": operation})

    def _leave_readers_alone(self, error: Exception) -> None:
        self.let_go()
        self.try_at = self._runtime.clock.monotonic() + READERS_SECONDS
        if str(error) != self._said:
            self._said = str(error)
            self._say(logger.warning, f"not in use yet: {error}")


def begin_declared(database: Database, subscriber: Subscriber) -> bool:
    """Begin the version that code declares, and tell so; nothing where it was begun before, whatever came of it.

    Raises `RefusedError`.
    """
    if was_tried(database, subscriber.name, subscriber.version):
        return False
    try:
        begin_rebuild(database, subscriber, reason=f"version {subscriber.version} is declared")
    except (DeclarationError, PermissionDeniedError) as error:
        raise RefusedError(
            f"version {subscriber.version} of {subscriber.name!r} cannot be made beside the live one: {error}",
            remedy=error.remedy,
        ) from error
    return True


class Beginning:
    """Begins a higher version in a worker that runs already. One thread at a time may call `turn`.

    Something was in the way when it started: the rebuild of a version before, or what holds on to the tables.
    """

    def __init__(self, runtime: Runtime, subscriber: Subscriber) -> None:
        self.try_at: float | None = runtime.clock.monotonic()
        """When it is to be tried again, on the monotonic clock; None when there is nothing to begin any more."""
        self._runtime = runtime
        self._subscriber = subscriber
        self._said: str | None = None

    def turn(self) -> Delivered:
        """Try it; `moved` is whether a rebuild runs now."""
        self.try_at = self._runtime.clock.monotonic() + BEGIN_SECONDS
        try:
            begun = begin_declared(self._runtime.database, self._subscriber)
        except (RefusedError, NotFoundError) as error:
            if str(error) != self._said:
                self._said = str(error)
                logger.warning("%s", error, extra={"subscriber": self._subscriber.name})
            return Delivered()
        self.try_at = None
        return Delivered(moved=begun)


class Rebuilds:
    """The rebuilds that one worker takes part in, or begins. Used by the worker's own thread."""

    def __init__(self, runtime: Runtime, subscribers: Mapping[str, Subscriber]) -> None:
        self._runtime = runtime
        self._subscribers = {name: one for name, one in subscribers.items() if one.tables}
        rebuilds, registered = runtime.database.tables.rebuilds, runtime.database.tables.subscribers
        running = (rebuilds.c.subscriber == registered.c.name) & (rebuilds.c.state == RebuildState.RUNNING)
        self._question = (
            select(rebuilds, registered.c.name, registered.c.version.label("version_registered"))
            .select_from(registered.outerjoin(rebuilds, running))
            .where(registered.c.name.in_(list(self._subscribers)))
        )
        self._running: dict[int, tuple[Finishing, list[Partition]]] = {}
        self._beginning: dict[str, Beginning] = {}
        self._busy = False

    def look(self, connection: Connection) -> None:
        """Read which rebuilds this code can take part in: one query, none where no projection is declared."""
        if not self._subscribers:
            return
        rows = connection.execute(self._question).all()
        found = {row.operation: rebuild_from(row) for row in rows if row.operation is not None}
        for operation in self._running.keys() - found.keys():
            del self._running[operation]
        for operation in found.keys() - self._running.keys():
            self._take_up(found[operation])
        outdated = {row.name for row in rows if row.operation is None and self._is_outdated(row)}
        for name in self._beginning.keys() - outdated:
            del self._beginning[name]
        for name in outdated - self._beginning.keys():
            self._beginning[name] = Beginning(self._runtime, self._subscribers[name])

    @property
    def partitions(self) -> list[Partition]:
        """The partitions of the shadows."""
        return [partition for _, partitions in self._running.values() for partition in partitions]

    @property
    def try_at(self) -> float | None:
        """When to ask next whether one has caught up or can be begun; None when none is ours to ask for."""
        return min((one.try_at for one in self._ours() if one.try_at is not None), default=None)

    def next(self) -> Finishing | Beginning | None:
        """Return the one that is to be asked now."""
        if self._busy:
            return None
        now = self._runtime.clock.monotonic()
        return next((one for one in self._ours() if one.try_at is not None and one.try_at <= now), None)

    def release(self) -> None:
        """Let go of the live ones that are held: nobody takes their shadows into use now."""
        for finishing, _ in self._running.values():
            finishing.let_go()

    def began(self) -> None:
        self._busy = True

    def ended(self) -> None:
        self._busy = False

    def _ours(self) -> list[Finishing | Beginning]:
        """Who has the first partition of a shadow asks for all; anybody begins."""
        finishing = [one for one, partitions in self._running.values() if partitions[0].lease.held]
        return [*finishing, *self._beginning.values()]

    def _is_outdated(self, row: Row[Any]) -> bool:
        return self._subscribers[row.name].version > (row.version_registered or 1)

    def _take_up(self, rebuild: Rebuild) -> None:
        subscriber = self._subscribers[rebuild.subscriber]
        shape = subscriber.shape(self._runtime.database.engine.dialect)
        if (subscriber.version, shape) == (rebuild.version, rebuild.shape):
            finishing = Finishing(self._runtime, subscriber, rebuild)
            self._running[rebuild.operation] = (finishing, partitions_of(self._runtime, subscriber, rebuild))


def run_rebuild(
    runtime: Runtime,
    subscriber: Subscriber,
    rebuild: Rebuild,
    *,
    told: Callable[[Standing], None] = lambda _standing: None,
) -> Rebuild:
    """Run a rebuild in this thread until it is in use, is cancelled, waits at a failure, or the runtime's stop is set.

    Workers may take part meanwhile. `told` is told how far it is. Returns what has come of it: still running, when it
    waits or was stopped.
    """
    partitions = partitions_of(runtime, subscriber, rebuild)
    finishing = Finishing(runtime, subscriber, rebuild)
    try:
        with Heartbeat(runtime, lambda: partitions):
            while not runtime.stop.is_set():
                runtime.feed.refresh()
                moved = [partition.turn().moved for partition in partitions]
                if finishing.try_at <= runtime.clock.monotonic():
                    finishing.turn()
                    now = read_rebuild(runtime.database, rebuild.operation)
                    if now.state is not RebuildState.RUNNING or waits_at(runtime.database, subscriber, now):
                        return now
                    told(_standing(runtime.database, now))
                if not any(moved):
                    runtime.clock.wait(runtime.stop, POLL_SECONDS)
    finally:
        for partition in partitions:
            partition.release()
        finishing.let_go()
    return read_rebuild(runtime.database, rebuild.operation)


def partitions_of(runtime: Runtime, subscriber: Subscriber, rebuild: Rebuild) -> list[Partition]:
    """Make the partitions of a rebuild's shadow."""
    shadow = shadow_of(subscriber, rebuild)
    return [Partition(runtime, shadow, number) for number in range(shadow.partitions)]


def waits_at(database: Database, subscriber: Subscriber, rebuild: Rebuild) -> int | None:
    """Return the event whose failure a rebuild waits at, for an operator; None while it goes on."""
    failures = database.tables.failures
    parked = select(func.min(failures.c.position)).where(
        failures.c.subscriber == rebuild.shadow, failures.c.state == EntryState.PARKED
    )
    if subscriber.on_failure is not OnFailure.HALT:
        return None
    with database.reader() as connection:
        found: int | None = connection.scalar(parked)
    return found


def _waits(connection: Connection, database: Database, subscriber: Subscriber, rebuild: Rebuild) -> bool:
    """Tell whether the shadow stands at an event that fails, or in an outage, and so comes no nearer for a while."""
    failures, checkpoints = database.tables.failures, database.tables.checkpoints
    is_open = (failures.c.subscriber == rebuild.shadow) & failures.c.state.in_(OPEN_STATES)
    in_outage = (checkpoints.c.subscriber == rebuild.shadow) & checkpoints.c.outage_since.is_not(None)
    halted = exists().where(is_open) if subscriber.on_failure is OnFailure.HALT else false()
    return bool(connection.scalar(select(or_(halted, exists().where(in_outage)))))


def _standing(database: Database, rebuild: Rebuild) -> Standing:
    with database.reader() as connection:
        return read_standing(connection, database, rebuild)

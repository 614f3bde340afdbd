"""Deciders: commands against one stream, as pure functions with the database at the edge.

    state, command --decide--> events --append, if the stream is still as it was--> recorded
    state, event   --evolve--> state

The pattern and its words are Jérémie Chassaing's (thinkbeforecoding.com, "Functional Event Sourcing Decider"). Whoever
else appends to the stream in between makes the append a conflict; then the events that are new are folded in, and the
command is decided again, on what is true now.
"""

import asyncio
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from eventlog.clock import Clock, SystemClock
from eventlog.database import Transaction
from eventlog.errors import DeclarationError, UsageError, WrongExpectedVersionError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.projections.fold import Evolve, Folded, Step, folded
from eventlog.projections.snapshots import Snapshots, SnapshotStore

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

S = TypeVar("S")
C = TypeVar("C")

ATTEMPTS = 10
PAUSE_SECONDS_MAX = 0.05


class Decided(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """What came of a command: the events that were recorded, none where there was nothing to do, and the state now."""

    events: tuple[Recorded[Any], ...]
    state: S
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loaded(Generic[S]):
    """A stream's state; at which version the snapshot is that it was made from, and one that was passed over."""

    now: Folded[S]
    kept_version: int = 0
    passed_over: int | None = None


class Decider(Generic[S, C]):
    """How commands are decided: `decide(state, command)` returns events, `evolve(state, event)` the state that follows.

    Both are pure, and know nothing of the log. `decide` raises what it likes to refuse a command, and returns no events
    where there is nothing to do; it may be called several times for one command. `initial` is the state of a stream
    without events. `name` stands for the fold in the table of `snapshots`.
    """

    def __init__(
        self,
        name: str,
        *,
        initial: S,
        evolve: Evolve[S],
        decide: Callable[[S, C], Sequence[object]],
        snapshots: Snapshots | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.name = name
        self.initial = initial
        self.decide = decide
        self.evolve = evolve
        self._step = Step(evolve)
        self._store: SnapshotStore[S] | None = None if snapshots is None else SnapshotStore(name, snapshots)
        self._clock = clock or SystemClock()

    def load(self, log: EventLog, stream: str, *, tx: Transaction | None = None) -> Folded[S]:
        """Return the state of a stream, and its version. From a snapshot, if there is one; see `fold`."""
        return self._load(log, stream, tx).now

    def handle(
        self,
        log: EventLog,
        stream: str,
        command: C,
        *,
        tx: Transaction | None = None,
        metadata: Mapping[str, Any] | None = None,
        attempts: int = ATTEMPTS,
    ) -> Decided[S]:
        """Decide a command on the state of a stream, and append what comes of it, if nobody else has appended since.

        Otherwise it is decided again on the state as it is then, so many times at the most; then
        `WrongExpectedVersionError` is raised. With `tx` all of it is part of the caller's transaction, which sees its
        own events; in one that does not see what others commit (REPEATABLE READ) the first conflict is the last. Raises
        what `decide` raises, with nothing appended, and what `EventLog.append` raises.
        """
        if attempts < 1:
            raise UsageError(f"attempts={attempts}", remedy="give at least 1")
        loaded = self._load(log, stream, tx)
        now = loaded.now
        for attempt in range(1, attempts + 1):
            events = self._decided(now.state, command)
            if not events:
                return Decided(events=(), state=now.state, version=now.version)
            try:
                recorded = log.append(*events, stream=stream, expected=now.version or "none", tx=tx, metadata=metadata)
            except WrongExpectedVersionError:
                before, now = now, folded(log.read_stream(stream, after_version=now.version, tx=tx), now, self._step)
                if attempt == attempts or now.version == before.version:
                    raise
                self._pause(attempt)
                continue
            after = folded(recorded, now, self._step)
            self._keep(log, stream, after, loaded, tx)
            return Decided(events=tuple(recorded), state=after.state, version=after.version)
        raise AssertionError("the last attempt returns or raises")

    async def handle_async(
        self,
        log: EventLog,
        stream: str,
        command: C,
        *,
        tx: "AsyncSession | AsyncConnection | None" = None,
        metadata: Mapping[str, Any] | None = None,
        attempts: int = ATTEMPTS,
    ) -> Decided[S]:
        """Decide a command from a coroutine: `handle`, in a thread, or in the transaction of an AsyncSession."""
        handle = partial(self.handle, log, stream, command, metadata=metadata, attempts=attempts)
        if tx is None:
            return await asyncio.to_thread(handle)
        return await tx.run_sync(lambda transaction: handle(tx=transaction))

    def _load(self, log: EventLog, stream: str, tx: Transaction | None) -> _Loaded[S]:
        found = None if self._store is None else self._store.read(log, stream, tx=tx)
        kept = None if found is None else found.state
        if kept is not None:
            # Its own last event is read again: should it not be there, the snapshot is of another history.
            events = log.read_stream(stream, after_version=kept.version - 1, tx=tx)
            last = next(events, None)
            if last is not None and (last.version, str(last.id)) == (kept.version, kept.id):
                return _Loaded(now=folded(events, kept, self._step), kept_version=kept.version)
        begin = Folded(state=self.initial, version=0)
        now = folded(log.read_stream(stream, tx=tx), begin, self._step)
        return _Loaded(now=now, passed_over=None if found is None else found.version)

    def _decided(self, state: S, command: C) -> Sequence[object]:
        events: Any = self.decide(state, command)
        if isinstance(events, msgspec.Struct | Event):
            return (events,)
        if events is None or isinstance(events, str | Mapping):
            raise DeclarationError(
                f"decide of {self.name!r} returned {events!r} for {type(command).__qualname__}",
                remedy="return a list of events, an empty one where there is nothing to do",
            )
        return tuple(events)

    def _pause(self, attempt: int) -> None:
        """A little longer each time, and not all for as long: full jitter."""
        self._clock.wait(threading.Event(), random.uniform(0, min(PAUSE_SECONDS_MAX, 0.001 * 2**attempt)))

    def _keep(self, log: EventLog, stream: str, state: Folded[S], loaded: _Loaded[S], tx: Transaction | None) -> None:
        if self._store is not None and self._store.is_due(kept_version=loaded.kept_version, now=state.version):
            self._store.write(log, stream, state, replaces=loaded.passed_over, tx=tx)

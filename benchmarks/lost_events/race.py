"""One race: writers write for so long while a reader follows; at the end everybody is audited.

The reader has all the time it needs after the writers have ended: it is stopped when it has got everything that is in
the table, or when nothing has come for long.
"""

import random
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from uuid import UUID

from benchmarks.lost_events.adapters.adapter import Adapter, Promise
from benchmarks.lost_events.audit import Delivery, Journal, Outcome, Verdict, audit
from benchmarks.lost_events.killer import Killer, still_busy
from benchmarks.lost_events.shapes import Shape
from benchmarks.lost_events.writing import READER_NAME, WRITER_NAME, Writer

THREAD_SECONDS_MAX = 60.0
PATIENCE_SECONDS = 20.0
"""How long nothing has to come before a reader is believed to have got all it will ever get."""

CONTROL_PATIENCE_SECONDS = 1.0
"""The same for a control, from which nothing more is expected."""

POLL_SECONDS = 0.05


Until = Callable[[Sequence[Writer]], bool]
"""Tells whether writers have written enough."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Race:
    """What happened: the verdict, how often each shape was done, and how many connections were ended."""

    adapter: str
    promise: Promise
    seed: int
    seconds: float
    verdict: Verdict
    done: Counter[Shape]
    killed: int

    @property
    def is_as_promised(self) -> bool:
        """Whether nothing is wrong with who promises that; whether a control was caught."""
        if self.promise is Promise.LOSES:
            return bool(self.verdict.missed)
        return not self.verdict.faults

    def __str__(self) -> str:
        verdict = self.verdict
        faults = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in verdict.faults.items())
        return (
            f"{self.adapter}, seed {self.seed}: {verdict.committed:,} committed, {verdict.rolled_back:,} rolled back,"
            f" {verdict.unknown:,} looked up; {verdict.delivered:,} delivered; {faults or 'nothing is wrong'}"
        )


def run_race(
    adapter: Adapter,
    *,
    writers: int,
    seconds: float,
    seed: int,
    shapes: frozenset[Shape] | None = None,
    beside: Sequence[Writer] = (),
    until: Until | None = None,
) -> Race:
    """Let writers and a reader race on the tables of an adapter; return when all is over.

    Writers write for `seconds`, and on a slow machine longer, until `until` is true of them. `shapes` are all that the
    adapter's log can take, unless fewer are given. `beside` are more writers. Raises `RaceFailedError` when a writer,
    the reader or the race itself did not work.
    """
    wanted = adapter.shapes if shapes is None else shapes & adapter.shapes
    reader = _Reader(adapter=adapter)
    working = [*adapter.writers(writers, seed=seed, shapes=wanted, was_read=reader.has), *beside]
    with ExitStack() as stack:
        stop = threading.Event()
        stack.callback(stop.set)
        reader.start()
        stack.callback(reader.stop.set)
        threads = [_started(writer.run, stop) for writer in working]
        killer = _killer(adapter, wanted, seed, stack)
        killing = _started(killer.run, stop) if killer is not None else None
        _wait(seconds, until, working, reader)
        stop.set()
        _join([*threads, *([killing] if killing is not None else [])], seed)
        _settle(adapter)
        recorded = adapter.recorded()
        reader.wait_for(set(recorded))
        reader.stop.set()
        _join([reader.thread], seed)
    failures = [*reader.failures, *(killer.failures if killer is not None else [])]
    failures += [failure for writer in working for failure in writer.failures]
    if failures:
        raise RaceFailedError(f"{adapter.name}, seed {seed}: {failures[0]!r}") from failures[0]
    journal = Journal()
    for writer in working:
        journal |= writer.journal
    return Race(
        adapter=adapter.name,
        promise=adapter.promise,
        seed=seed,
        seconds=seconds,
        verdict=audit(journal, recorded, adapter.delivered(reader.seen), order=adapter.order),
        done=sum((writer.done for writer in working), Counter()),
        killed=killer.killed if killer is not None else 0,
    )


def enough(count: int) -> Until:
    """So many events committed, and so many rolled back, by all of them together."""

    def is_enough(writers: Sequence[Writer]) -> bool:
        return all(
            sum(len(one.journal.with_outcome(outcome)) for one in writers) >= count
            for outcome in (Outcome.COMMITTED, Outcome.ROLLED_BACK)
        )

    return is_enough


class RaceFailedError(Exception):
    """A race has no result: somebody in it failed, or hangs."""


@dataclass(slots=True, kw_only=True)
class _Reader:
    """The reader in a thread of its own, and what it has seen."""

    adapter: Adapter
    stop: threading.Event = field(default_factory=threading.Event)
    seen: list[Delivery] = field(default_factory=list)
    ids: set[UUID] = field(default_factory=set)
    failures: list[Exception] = field(default_factory=list)
    thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self.thread = _started(self._run)

    def has(self, one: UUID) -> bool:
        return one in self.ids

    def wait_for(self, wanted: set[UUID]) -> None:
        """Wait until all of them are there, or nothing has come for long."""
        patience = CONTROL_PATIENCE_SECONDS if self.adapter.promise is Promise.LOSES else PATIENCE_SECONDS
        count, since = -1, time.monotonic()
        while not wanted <= self.ids and not self.failures and time.monotonic() < since + patience:
            if len(self.seen) != count:
                count, since = len(self.seen), time.monotonic()
            time.sleep(POLL_SECONDS)

    def _run(self) -> None:
        try:
            self.adapter.follow(self._see, self.stop)
        except Exception as error:
            self.failures.append(error)

    def _see(self, delivery: Delivery) -> None:
        self.seen.append(delivery)
        self.ids.add(delivery.id)


def _started(run: object, *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=run, args=arguments, daemon=True)  # type: ignore[arg-type]  # called with them
    thread.start()
    return thread


def _killer(adapter: Adapter, shapes: frozenset[Shape], seed: int, stack: ExitStack) -> Killer | None:
    if Shape.KILLED not in shapes:
        return None
    names = [WRITER_NAME, *([READER_NAME] if adapter.reader_may_be_killed else [])]
    observer = stack.enter_context(adapter.observer())
    return Killer(observer=observer, names=names, random=random.Random(f"{seed} killer"))


def _wait(seconds: float, until: Until | None, working: Sequence[Writer], reader: _Reader) -> None:
    """Wait for the time to be over and enough to be written, or for somebody to fail."""
    began = time.monotonic()
    while not any(one.failures for one in working) and not reader.failures:
        passed = time.monotonic() - began
        if passed >= seconds and (until is None or until(working)):
            return
        if passed >= seconds + THREAD_SECONDS_MAX:
            raise RaceFailedError(f"{THREAD_SECONDS_MAX:g} s after its end there is not enough written")
        time.sleep(POLL_SECONDS)


def _join(threads: Sequence[threading.Thread], seed: int) -> None:
    for thread in threads:
        thread.join(THREAD_SECONDS_MAX)
        if thread.is_alive():
            frame = sys._current_frames().get(thread.ident or 0)
            where = "".join(traceback.format_stack(frame)) if frame is not None else "somewhere"
            raise RaceFailedError(f"seed {seed}: a thread hangs:\n{where}")


def _settle(adapter: Adapter) -> None:
    """Wait until the server has ended what writers were in the middle of, and end what they have prepared."""
    if adapter.is_postgres:
        ends = time.monotonic() + THREAD_SECONDS_MAX
        with adapter.observer() as engine:
            while still_busy(engine, WRITER_NAME):
                if time.monotonic() > ends:
                    raise RaceFailedError(f"{adapter.name}: transactions of writers have not ended")
                time.sleep(POLL_SECONDS)
    adapter.finish()

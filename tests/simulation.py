"""Seeded random schedules of the real code on SQLite, against a small model in plain Python.

    python -m tests.simulation --seed 7                      one schedule, printed step by step
    python -m tests.simulation --seed 7 --schedules 1000     that one and those after it; the ones that fail are printed

Two worlds, of which a seed draws one. In the first, two owners deliver to one subscriber: events come, handlers fail,
give up and kill, owners freeze, operators retry, skip, rewind, undo, advance, replay and change the number of
partitions. The model is a count of calls and words (`tests/test_subscribers_state_machine.py`), and holds after every
step. In the second, a view is made anew beside itself and in place, cancelled, taken into use and taken back; the model
is a fold of all events, and holds in the end (`tests/test_projections_rebuild_equals.py`). In both, a process dies
within any transaction, or right after it. At the end of each, `verify` has to find nothing.

What a step does hangs on the seed alone, so a seed is the schedule. One that fails is printed with what stood in the
tables after each of its steps.
"""

import argparse
import logging
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, Protocol

import pytest
from sqlalchemy import create_engine

from eventlog.errors import EventLogError, RefusedError
from eventlog.schema.migrate import upgrade
from eventlog.sqlite import SqliteDatabase
from eventlog.subscribers import control
from eventlog.subscribers.audit import audit_subscriber
from eventlog.subscribers.control.repartition import repartition
from eventlog.subscribers.control.replays import Range, ReplayState, cancel_replay, read_replay, start_replay
from eventlog.subscribers.replaying import Replaying
from tests.subscribers_support import Bench, runtime_of
from tests.test_projections_rebuild_equals import Added, Cleared, Counts, Run
from tests.test_subscribers_state_machine import KEYS, OWNERS, DiedError, Histories

STEPS = 25
PARTITIONS = (1, 2, 3, 5)
REPLAY_TURNS_MAX = 20

Step = tuple[str, tuple[Any, ...]]


class World(Protocol):
    """What a schedule is run on; `setup` says what was drawn for it."""

    @property
    def setup(self) -> str: ...

    def draw(self, rng: Random) -> Step:
        """Choose what happens next."""
        ...

    def do(self, step: Step) -> None:
        """Let it happen, and hold it against the model."""
        ...

    def stands(self) -> object:
        """What stands in the tables, as far as it is the same whenever the schedule is run."""
        ...

    def end(self) -> None:
        """Bring everything to its end, and hold that against the model."""
        ...


class Deaths:
    """Lets the process die in the transaction after the next so many: before it commits, or right after."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.committed = False
        open_transaction: Callable[[SqliteDatabase], Any] = SqliteDatabase.transaction

        @contextmanager
        def transaction(database: SqliteDatabase) -> Iterator[Any]:
            dies = self._dies()
            with open_transaction(database) as connection:
                yield connection
                if dies and not self.committed:
                    raise DiedError
            if dies:
                raise DiedError

        patch.setattr(SqliteDatabase, "transaction", transaction)

    def _dies(self) -> bool:
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0

    @contextmanager
    def within(self, left: int | None, *, committed: bool) -> Iterator[None]:
        """Die within the block, if it comes to so many transactions; raises `DiedError`."""
        self.left, self.committed = left, committed
        try:
            yield
        finally:
            self.left = None


class Deliveries:
    """Owners, failures, operators; the model is in `Histories`."""

    def __init__(self, url: str, rng: Random) -> None:
        self.history = Histories(url)
        self.deaths = Deaths(self.history.patch)
        self.history.declare(
            delivery=rng.choice(["transactional", "at-least-once", "at-most-once"]),
            on_failure=rng.choice(["park", "park", "halt"]),
            partitions=rng.choice(PARTITIONS[:3]),
            outage_after=rng.choice([2, 1_000]),
            moved=rng.random() < 0.5,
        )
        self.moves = self.history.moved
        # Dying within any transaction includes dying at its fence.
        self.bench, self.database = self.history.bench, self.history.bench.log.database

    @property
    def setup(self) -> str:
        one = self.history
        modes = f"{one.delivery}, {one.on_failure}, {one.partitions} partitions"
        return f"deliveries: {modes}, outage after {one.outage_after}"

    def draw(self, rng: Random) -> Step:
        owner, partition = rng.randrange(OWNERS), rng.randrange(5)
        choices: list[tuple[int, Step]] = [
            (4, ("append", (tuple(rng.randrange(KEYS) for _ in range(rng.randint(1, 5))),))),
            (4, ("decide", (rng.random(), rng.choice(["ok", "fail", "fail", "park", "skip", "later", "die"])))),
            (5, ("turn", (owner, partition))),
            (5, ("work", (owner, rng.randint(1, 4)))),
            (5, ("die", (owner, partition, rng.randrange(6), rng.random() < 0.5))),
            (1, ("freeze", (owner,))),
            (1, ("release", (owner,))),
            (1, ("retry", ())),
            (1, ("skip", (rng.random(),))),
            (1, ("replay", (rng.randint(0, 20), rng.randrange(8), rng.random() < 0.5))),
            (1, ("repartition", (rng.choice(PARTITIONS),))),
            (1, ("undo", ())),
        ]
        if self.moves:
            choices += [(2, ("rewind", (rng.randint(0, 30),))), (1, ("advance", (rng.randint(0, 30),)))]
        return rng.choices([step for _, step in choices], [weight for weight, _ in choices])[0]

    def do(self, step: Step) -> None:
        name, given = step
        getattr(self, f"_{name}")(*given)
        self.check()

    def stands(self) -> object:
        entries = {one.position: (one.partition, str(one.state), one.attempts) for one in self.bench.entries("mail")}
        return self.history.checkpoints(), entries, len(self.history.calls)

    def end(self) -> None:
        try:
            if self.history.number_at:
                self.history.everything_is_done_in_the_end()
                self.check()
                _verified(self.database, "mail")
        finally:
            self.history.patch.undo()
            self.bench.close()

    def check(self) -> None:
        one = self.history
        one.no_event_is_skipped()
        one.a_failure_is_in_the_ledger()
        one.only_the_owner_commits()
        one.nothing_is_handed_out_again_without_a_word()
        one.what_is_called_no_redelivery_is_the_first()
        one.no_event_overtakes_a_failure_of_its_key()
        one.nothing_passes_a_halt()

    def _append(self, keys: Sequence[int]) -> None:
        self.history.append(keys=list(keys))

    def _decide(self, place: float, outcome: str) -> None:
        numbers = sorted(self.history.number_at.values())
        if numbers:
            self.history.outcomes[numbers[int(place * len(numbers))]] = outcome

    def _turn(self, owner: int, partition: int) -> None:
        self.history.take_turn(owner, partition % self.history.partitions)

    def _work(self, owner: int, rounds: int) -> None:
        self.history.work(owner=owner, rounds=rounds)

    def _die(self, owner: int, partition: int, left: int, committed: bool) -> None:
        chosen = self.history.owners[owner][partition % self.history.partitions]
        chosen._runtime.feed.refresh()
        try:
            with self.deaths.within(left, committed=committed):
                chosen.turn()
        except DiedError:
            self.history.dies(owner)

    def _freeze(self, owner: int) -> None:
        if self.history.number_at:
            self.history.freeze(owner=owner)

    def _release(self, owner: int) -> None:
        self.history.release(owner=owner)

    def _skip(self, place: float) -> None:
        still_open = [one.position for one in self.bench.entries("mail") if one.open]
        if still_open:
            control.skip(self.database, "mail", [still_open[int(place * len(still_open))]], reason="enough")

    def _retry(self) -> None:
        self.history.retry()

    def _undo(self) -> None:
        self.history.undo()

    def _rewind(self, to: int) -> None:
        self.history.rewind(to=to)

    def _advance(self, to: int) -> None:
        self.history.advance(to=to)

    def _repartition(self, partitions: int) -> None:
        with suppress(RefusedError):
            repartition(self.database, "mail", partitions)
            self.history.partitions = partitions
            self.history.owners = [self.history.new_owner() for _ in range(OWNERS)]

    def _replay(self, after: int, left: int, committed: bool) -> None:
        """Whatever becomes of it, neither checkpoint nor ledger moves; undisturbed, the whole range comes again."""
        wanted = self._replayable(after)
        try:
            operation = start_replay(self.database, "mail", Range(after=after)).operation
        except EventLogError:
            return
        assert operation is not None
        before, self.history.replayed = self.stands(), []
        app = self.bench.app()
        self.history.declared(app)
        replaying = Replaying(runtime_of(app), app.subscribers["mail"], operation)
        died = False
        try:
            with self.deaths.within(left if left < 6 else None, committed=committed):
                for _ in range(REPLAY_TURNS_MAX):
                    replaying.turn()
        except DiedError:
            died = True
        assert self.stands() == before, "a replay has changed a checkpoint, or the ledger"
        if not died:
            assert self.history.replayed == wanted, "a replay has not handed out what it was to"
        if read_replay(self.database, operation).state is ReplayState.RUNNING:
            assert died
            cancel_replay(self.database, operation)

    def _replayable(self, after: int) -> list[int]:
        least = min(self.history.checkpoints().values())
        still_open = {one.position for one in self.bench.entries("mail") if one.open}
        return [at for at in sorted(self.history.number_at) if after < at <= least and at not in still_open]


class Rebuilds:
    """One view, its rebuilds and its death; the model is a fold."""

    def __init__(self, url: str, rng: Random) -> None:
        self.patch = pytest.MonkeyPatch()
        self.deaths = Deaths(self.patch)
        self.bench = Bench(url)
        self.run = Run(self.bench)
        self.first = rng.randrange(10)

    @property
    def setup(self) -> str:
        return "rebuilds of a view"

    def draw(self, rng: Random) -> Step:
        dies = (rng.randrange(12), rng.random() < 0.5) if rng.random() < 0.4 else (None, False)
        calls = rng.randrange(9) if rng.random() < 0.2 else None
        choices: list[tuple[int, Step]] = [
            (4, ("append", tuple(self._event(rng) for _ in range(rng.randint(1, 6))))),
            (4, ("live", (calls, *dies))),
            (4, ("shadow", (calls, *dies))),
            (2, ("rebuild", (rng.random() < 0.5, *dies))),
            (2, ("finish", (None, *dies))),
            *[(1, (name, (None, *dies))) for name in ("cancel", "back", "in place")],
        ]
        return rng.choices([step for _, step in choices], [weight for weight, _ in choices])[0]

    @staticmethod
    def _event(rng: Random) -> Any:
        key = rng.choice("abcd")
        return Cleared(key) if rng.random() < 0.15 else Added(key, rng.randint(-9, 9))

    def do(self, step: Step) -> None:
        name, given = step
        if name == "append":
            self.run.append(list(given))
            return
        what, left, committed = given
        before = self.bench.position(self.run.name)
        try:
            with self.deaths.within(left, committed=committed):
                self.run.do(name, what)
        except DiedError:
            self.run.app.engine.dispose()
        self.bench.expire_lease(self.run.name)
        for rebuild in self.run.running():
            self.bench.expire_lease(rebuild.shadow)
        assert len(self.run.running()) <= 1
        if name == "finish":
            assert self.bench.position(self.run.name) >= before, "what was taken into use is older than what was there"

    def stands(self) -> object:
        checkpoint = self.bench.position(self.run.name)
        with suppress(IndexError):
            shadows = [self.bench.position(one.shadow) for one in self.run.running()]
            return checkpoint, shadows, self.run.rows()
        return checkpoint

    def end(self) -> None:
        try:
            self.run.app.drain()
            assert self.run.rows() == Counts.of(self.run.events), "the view is not what its events make"
            _verified(self.run.database, self.run.name)
        finally:
            self.run.close()
            self.patch.undo()
            self.bench.close()


class Schedule:
    """One seed's schedule; `lines` are its steps, and what stood in the tables after each."""

    def __init__(self, seed: int, folder: Path, template: Path) -> None:
        self._rng = Random(seed)
        file = folder / f"{seed}.db"
        shutil.copyfile(template, file)
        self._file = file
        worlds: list[Callable[[str, Random], World]] = [Deliveries, Deliveries, Rebuilds]
        self._world = self._rng.choice(worlds)(f"sqlite:///{file}", self._rng)
        self.lines = [f"seed {seed}, {self._world.setup}"]

    def run(self, *, steps: int = STEPS) -> BaseException | None:
        """Run it to its end, and return what did not hold."""
        failed: BaseException | None = None
        try:
            for _ in range(steps):
                name, given = step = self._world.draw(self._rng)
                self.lines.append(f"  {name} {', '.join(map(str, given))}")
                self._world.do(step)
                self.lines.append(f"      {self._world.stands()}")
        except Exception as error:
            failed = error
        try:
            self._world.end()
        except Exception as error:
            failed = failed or error
        for ending in ("", "-wal", "-shm"):
            Path(f"{self._file}{ending}").unlink(missing_ok=True)
        return failed


def make_template(folder: Path) -> Path:
    """Make the file that every schedule begins with a copy of."""
    file = folder / "template.db"
    engine = create_engine(f"sqlite:///{file}")
    upgrade(engine, schema="eventlog")
    engine.dispose()
    return file


def _verified(database: Any, name: str) -> None:
    found = audit_subscriber(database, name, reached=lambda _: None).findings
    wrong = [one.said for one in found if one.status == "wrong"]
    assert not wrong, f"verify: {wrong}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run schedules, and say what came of them; 1 when one of them did not hold."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description="Random schedules, by seed.")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--schedules", type=int, default=1)
    parser.add_argument("--steps", type=int, default=STEPS)
    asked = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as name:
        template = make_template(Path(name))
        for seed in range(asked.seed, asked.seed + asked.schedules):
            schedule = Schedule(seed, Path(name), template)
            failed = schedule.run(steps=asked.steps)
            if failed is not None or asked.schedules == 1:
                sys.stdout.write("\n".join(schedule.lines) + "\n")
            if failed is not None:
                failures += 1
                sys.stdout.write("".join(traceback.format_exception(failed)[-3:]))
                sys.stdout.write(f"again: python -m tests.simulation --seed {seed}\n")
                sys.stdout.flush()
    sys.stdout.write(f"{asked.schedules} schedules, {failures} failed\n")
    return 1 if failures else 0


if __name__ == "__main__":
    logging.getLogger("eventlog").setLevel(logging.CRITICAL)
    sys.exit(main())

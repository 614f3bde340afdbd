"""Random histories of the real code against what must hold after every step; `tests/simulation.py` runs them by seed.

Two owners take turns on the partitions of one subscriber; handlers fail, give up, or end their owner; owners die within
any transaction, before or after its commit; leases run out under owners that do not notice; operators retry, skip,
rewind, undo and advance. What must hold each time:

1. no event at or below a checkpoint is neither handled, nor in the ledger, nor passed over by an operator;
2. what failed is in the ledger, unless its owner died before it could say so;
3. only the owner commits: a transactional event is applied once for each time it was to be delivered.

And: at most once, nothing is handed out again without a word; a call that says it is no redelivery is the first; no
event overtakes a failure of its key; nothing passes a halt; and when everything works again, everything is done in the
end.

`EVENTLOG_SOAK=N` in the environment runs a fifth of so many histories, and on PostgreSQL a fifth of those.
"""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import select, update

from eventlog.errors import NotFoundError, RefusedError
from eventlog.subscribers import calls, control, handing_out
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.leases import Lease
from eventlog.subscribers.outcomes import Park, RetryAfter, Skip
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent, applied_table, note, runtime_of

HISTORIES = int(os.environ.get("EVENTLOG_SOAK", "100")) // 5
STEPS = 40
OWNERS = 2
KEYS = 3
TURNS_MAX = 400

RETRY = Retry(attempts=3, first_seconds=3600)
RAISED: dict[str, Callable[[], BaseException]] = {
    "fail": BugError,
    "park": Park,
    "skip": Skip,
    "later": lambda: RetryAfter(0),
}


class DiedError(BaseException):
    """An owner has died: nothing it would have done after this happens."""


class Histories(RuleBasedStateMachine):
    """One subscriber, two owners, and a record of all that was asked and done."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.bench = Bench(url)
        self.applied = applied_table()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(handing_out, "NOT_A_FAILURE", (*calls.NOT_A_FAILURE, DiedError))
        self.outcomes: dict[int, str] = {}
        self.number_at: dict[int, int] = {}
        self.calls: list[tuple[int, bool, str]] = []
        self.replayed: list[int] = []
        self.words: Counter[int] = Counter()
        """How often an operator has had an event delivered, or tried, again."""
        self.deliveries: Counter[int] = Counter()
        """How often an event was to be delivered again, by a rewind."""
        self.passed_over: set[int] = set()
        self.overtaken: list[str] = []
        self.dies_in: int | None = None
        self.dies_after_commit = False

    @initialize(
        delivery=st.sampled_from(["transactional", "at-least-once", "at-most-once"]),
        on_failure=st.sampled_from(["park", "park", "halt"]),
        partitions=st.sampled_from([1, 1, 3]),
        outage_after=st.sampled_from([2, 1_000]),
        moved=st.booleans(),
    )
    def declare(self, delivery: str, on_failure: str, partitions: int, outage_after: int, moved: bool) -> None:
        self.moved = moved
        """Whether operators move checkpoints: what is delivered again by their word hides what is by mistake."""
        self.delivery, self.on_failure, self.partitions = delivery, on_failure, partitions
        self.outage_after = outage_after
        with self.bench.transaction() as connection:
            self.applied.create(connection)
        self.owners = [self.new_owner() for _ in range(OWNERS)]
        self.watch_fences()

    def new_owner(self) -> list[Partition]:
        app = self.bench.app()
        self.declared(app)
        app.register()
        return app.partitions(runtime_of(app, draw=lambda: 0.5))

    def declared(self, app: App) -> None:
        mail = app.subscriber(
            "mail",
            delivery=self.delivery,
            on_failure=self.on_failure,
            partitions=self.partitions,
            retry=RETRY,
            outage_after=self.outage_after,
        )

        @mail
        def handle(crate: Sent, ctx: Context) -> None:
            if ctx.replay is not None:
                self.replayed.append(ctx.event.position)
                return
            outcome = self.outcomes.get(crate.number, "ok")
            self.calls.append((ctx.event.position, ctx.redelivery, outcome))
            waiting = self.what_waits_before(ctx.event.position, ctx.event.stream)
            if self.delivery == "transactional":
                # Of a call that is rolled back, nothing is left.
                note(ctx, self.applied, f"before {waiting}" if waiting else None)
            elif waiting:
                self.overtaken.append(f"{ctx.event.position} before {waiting}")
            if outcome == "die":
                self.outcomes[crate.number] = "ok"
                raise DiedError
            if outcome in RAISED:
                raise RAISED[outcome]()

    def what_waits_before(self, position: int, stream: str) -> list[int]:
        """Asked within each call: the events of the key before this one that stand open in the ledger.

        What an operator advances past under `halt` holds nothing back.
        """
        waiting = [one.position for one in self.bench.entries("mail") if one.open and one.key == stream]
        passed = self.passed_over if self.on_failure == "halt" else ()
        return [at for at in waiting if at < position and at not in passed]

    def watch_fences(self) -> None:
        """Let an owner die within one of its transactions: before it commits, or right after."""
        fence, passed = Lease.fence, Lease.passed

        def dying_fence(lease: Lease, connection: Any, progress: Any) -> None:
            if self.dies_in is not None:
                self.dies_in -= 1
                if self.dies_in < 0 and not self.dies_after_commit:
                    raise DiedError
            fence(lease, connection, progress)

        def dying_passed(lease: Lease, progress: Any, *, since: float) -> None:
            if self.dies_in is not None and self.dies_in < 0 and self.dies_after_commit:
                raise DiedError
            passed(lease, progress, since=since)

        self.patch.setattr(Lease, "fence", dying_fence)
        self.patch.setattr(Lease, "passed", dying_passed)

    @rule(keys=st.lists(st.integers(0, KEYS - 1), min_size=1, max_size=5))
    def append(self, keys: list[int]) -> None:
        for key in keys:
            number = len(self.number_at)
            (recorded,) = self.bench.log.append(Sent(number), stream=f"key-{key}")
            self.number_at[recorded.position] = number

    @precondition(lambda self: self.number_at)
    @rule(data=st.data(), outcome=st.sampled_from(["ok", "fail", "fail", "park", "skip", "later", "die"]))
    def decide(self, data: st.DataObject, outcome: str) -> None:
        """Say what the handler will do at an event from now on."""
        number = data.draw(st.integers(0, len(self.number_at) - 1))
        self.outcomes[number] = outcome

    @rule(owner=st.integers(0, OWNERS - 1), partition=st.integers(0, 2))
    def turn(self, owner: int, partition: int) -> None:
        self.take_turn(owner, partition % self.partitions)

    @rule(owner=st.integers(0, OWNERS - 1), rounds=st.integers(1, 4))
    def work(self, owner: int, rounds: int) -> None:
        """Go round the partitions, with retries that are due between."""
        for _ in range(rounds):
            self.time_passes()
            for partition in range(self.partitions):
                self.take_turn(owner, partition)

    @rule(
        owner=st.integers(0, OWNERS - 1),
        partition=st.integers(0, 2),
        after=st.integers(0, 4),
        committed=st.booleans(),
    )
    def turn_and_die(self, owner: int, partition: int, after: int, committed: bool) -> None:
        self.dies_in, self.dies_after_commit = after, committed
        try:
            self.take_turn(owner, partition % self.partitions)
        finally:
            self.dies_in = None

    def take_turn(self, owner: int, partition: int) -> None:
        chosen = self.owners[owner][partition]
        chosen._runtime.feed.refresh()
        try:
            chosen.turn()
        except DiedError:
            self.dies(owner)

    def dies(self, owner: int) -> None:
        """Its memory is gone, and in time its leases run out."""
        name = self.owners[owner][0].lease.owner
        self.owners[owner] = self.new_owner()
        self.expire(name)

    def expire(self, name: str) -> None:
        table = self.bench.log.database.tables.checkpoints
        long_ago = datetime.fromisoformat("2001-01-01T00:00:00+00:00")
        with self.bench.transaction() as connection:
            connection.execute(update(table).where(table.c.owner == name).values(expires_at=long_ago))

    @precondition(lambda self: self.number_at)
    @rule(owner=st.integers(0, OWNERS - 1))
    def freeze(self, owner: int) -> None:
        """Its leases run out, and it does not know."""
        self.expire(self.owners[owner][0].lease.owner)

    @rule(owner=st.integers(0, OWNERS - 1))
    def release(self, owner: int) -> None:
        for partition in self.owners[owner]:
            partition.release()

    @rule()
    def time_passes(self) -> None:
        self.bench.make_due("mail")
        for partition in (one for owner in self.owners for one in owner):
            partition._probe_at = 0.0

    @rule()
    def retry(self) -> None:
        for entry in control.retry(self.bench.log.database, "mail").entries:
            self.words[entry.position] += 1

    @precondition(lambda self: any(entry.open for entry in self.bench.entries("mail")))
    @rule(data=st.data())
    def skip(self, data: st.DataObject) -> None:
        chosen = data.draw(st.sampled_from([one.position for one in self.bench.entries("mail") if one.open]))
        control.skip(self.bench.log.database, "mail", [chosen], reason="enough")

    @precondition(lambda self: self.moved)
    @rule(to=st.integers(0, 30))
    def rewind(self, to: int) -> None:
        try:
            move = control.rewind(self.bench.log.database, "mail", control.after_position(to), resend=True)
        except RefusedError:
            return
        for position in self.number_at:
            if position > move.to_position:
                self.deliveries[position] += 1
                self.words[position] += 1
                self.passed_over.discard(position)

    @precondition(lambda self: self.moved)
    @rule(to=st.integers(0, 30))
    def advance(self, to: int) -> None:
        try:
            move = control.advance(self.bench.log.database, "mail", control.after_position(to))
        except RefusedError:
            return
        for one in move.partitions:
            between = (at for at in self.number_at if one.from_position < at <= one.to_position)
            self.passed_over.update(at for at in between if self.partition(at) == one.partition)

    @rule()
    def undo(self) -> None:
        try:
            undone = control.undo(self.bench.log.database, control.last_move(self.bench.log.database, "mail"))
        except (RefusedError, NotFoundError):
            return
        for position in self.number_at:
            if position > undone.to_position:
                self.words[position] += 1
                self.deliveries[position] += 1
        # Undone, a rewind passes by what it had brought back, and an advance is passed over no more.
        self.passed_over.update(at for at in self.number_at if self.deliveries[at] and at <= self.checkpoint_of(at))

    def partition(self, position: int) -> int:
        return partition_of(self.key(position), partitions=self.partitions)

    def key(self, position: int) -> str:
        return str(self.bench.log.get(position).stream)

    def checkpoints(self) -> dict[int, int]:
        table = self.bench.log.database.tables.checkpoints
        return {row.partition: row.position for row in self.bench.rows(select(table))}

    def checkpoint_of(self, position: int) -> int:
        return self.checkpoints()[self.partition(position)]

    def handled(self) -> set[int]:
        if self.delivery == "transactional":
            return set(self.bench.applied(self.applied))
        return {position for position, _, outcome in self.calls if outcome == "ok"}

    @invariant()
    def no_event_is_skipped(self) -> None:
        if not self.number_at:
            return
        checkpoints, handled, states = self.checkpoints(), self.handled(), self.bench.states("mail")
        for position in self.number_at:
            if position > checkpoints[self.partition(position)] or position in self.passed_over | handled:
                continue
            assert states.get(position, "superseded") != "superseded", f"event {position} is lost: {states}"

    @invariant()
    def a_failure_is_in_the_ledger(self) -> None:
        for entry in self.bench.entries("mail") if self.number_at else ():
            rows = [one for one in self.bench.attempts("mail") if one.position == entry.position]
            told = [one for one in rows if one.round == entry.round]
            assert len(told) <= entry.attempts
            if entry.state == "parked":
                assert told, f"{entry.position} is parked, and no attempt tells why"

    @invariant()
    def only_the_owner_commits(self) -> None:
        if self.number_at and self.delivery == "transactional":
            for position, times in Counter(self.bench.applied(self.applied)).items():
                assert times <= 1 + self.deliveries[position], f"{position} was applied {times} times"

    @invariant()
    def nothing_is_handed_out_again_without_a_word(self) -> None:
        if self.number_at and self.delivery == "at-most-once":
            times = Counter(position for position, _, _ in self.calls)
            own = Counter(position for position, _, outcome in self.calls if outcome == "later")
            for position, count in times.items():
                assert count <= 1 + self.words[position] + own[position], f"{position} was handed out {count} times"

    @invariant()
    def what_is_called_no_redelivery_is_the_first(self) -> None:
        if self.delivery_is_counted():
            seen: set[int] = set()
            for position, redelivery, _ in self.calls:
                assert redelivery or position not in seen, f"{position} was handed out before"
                seen.add(position)

    @invariant()
    def no_event_overtakes_a_failure_of_its_key(self) -> None:
        if self.number_at:
            noted = select(self.applied.c.position, self.applied.c.note).where(self.applied.c.note.is_not(None))
            overtaken = [*self.overtaken, *(f"{one.position} {one.note}" for one in self.bench.rows(noted))]
            assert not overtaken, f"handed out, before failures that were open: {overtaken}"

    @invariant()
    def nothing_passes_a_halt(self) -> None:
        if self.number_at and self.on_failure == "halt" and not self.passed_over:
            for entry in self.bench.entries("mail"):
                past = entry.position <= self.checkpoints()[entry.partition]
                assert not (entry.open and past), f"the checkpoint has passed {entry.position}, which is {entry.state}"

    def delivery_is_counted(self) -> bool:
        return bool(self.number_at) and self.delivery != "transactional"

    def teardown(self) -> None:
        try:
            if self.number_at:
                self.everything_is_done_in_the_end()
        finally:
            self.patch.undo()
            self.bench.close()

    def everything_is_done_in_the_end(self) -> None:
        self.outcomes = dict.fromkeys(self.outcomes, "ok")
        for owner in range(OWNERS):
            self.expire(self.owners[owner][0].lease.owner)
        self.retry()
        self.owners[0] = self.new_owner()
        for _ in range(TURNS_MAX):
            self.time_passes()
            moved = [self.moves(partition) for partition in self.owners[0]]
            open_ones = [one for one in self.bench.entries("mail") if one.open]
            if not any(moved) and not open_ones:
                break
            self.retry()
        self.release(owner=0)
        assert not [one for one in self.bench.entries("mail") if one.open], "an entry is stranded"
        assert min(self.checkpoints().values()) >= max(self.number_at), "a checkpoint stands still"
        self.no_event_is_skipped()
        self.only_the_owner_commits()
        self.nothing_is_handed_out_again_without_a_word()
        self.no_event_overtakes_a_failure_of_its_key()

    def moves(self, partition: Partition) -> bool:
        partition._runtime.feed.refresh()
        return partition.turn().moved


def test_random_histories_on_sqlite_keep_the_three_sentences(sqlite_template: Path, tmp_path: Path) -> None:
    files = iter(range(10**9))

    class OnSqlite(Histories):
        def __init__(self) -> None:
            file = shutil.copyfile(sqlite_template, tmp_path / f"{next(files)}.db")
            super().__init__(f"sqlite:///{file}")

    run_histories(OnSqlite, histories=HISTORIES)


def test_random_histories_on_postgresql_keep_the_three_sentences(new_postgres_database: Callable[[], str]) -> None:
    class OnPostgres(Histories):
        def __init__(self) -> None:
            super().__init__(new_postgres_database())

    run_histories(OnPostgres, histories=max(5, HISTORIES // 5))


def run_histories(machine: type[Histories], *, histories: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=hypothesis.settings(
            max_examples=histories,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(hypothesis.HealthCheck),
        ),
    )

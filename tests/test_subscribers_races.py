"""Workers, operators and writers at once: whatever the interleaving, the totals are exact.

The random tests print their seed, and take it from `EVENTLOG_TEST_SEED` where that is set.
"""

import os
import random
import threading
from contextlib import ExitStack, suppress

import pytest
from sqlalchemy import text

from eventlog.errors import RefusedError
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Gate,
    Sent,
    applied_table,
    eventually,
    note,
)

APPLIED = applied_table()
AT_ONCE = Retry(attempts=3, first_seconds=0)
ROUNDS = 12


@pytest.fixture
def dice() -> random.Random:
    seed = os.environ.get("EVENTLOG_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"EVENTLOG_TEST_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


def board_of(app: App, *, broken: frozenset[int] = frozenset()) -> App:
    """A projection that fails once in a while at the numbers in `broken`, after it has written."""
    board = app.projection("board", tables=[APPLIED], retry=Retry(attempts=1_000, first_seconds=0))

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number in broken and random.random() < 0.5:
            raise BugError

    return app


def write(bench: Bench, dice: random.Random, sent: list[int]) -> None:
    """Append in bursts of random size, some of them in transactions that are rolled back."""
    for _ in range(ROUNDS):
        sent += bench.send(dice.randint(1, 60), first=len(sent) + 1)
        with bench.transaction() as connection:
            bench.log.append(Sent(0), tx=connection)
            connection.rollback()


def rebuild_now_and_then(app: App, dice: random.Random) -> int:
    done = 0
    for _ in range(ROUNDS):
        threading.Event().wait(dice.random() / 10)
        try:
            rebuild_in_place(app.log.database, "board")
            done += 1
        except RefusedError:
            pass  # It is at its start already, or its tables are busy.
    return done


def test_rebuilds_while_workers_and_writers_run_leave_exact_totals(bench: Bench, dice: random.Random) -> None:
    """Two workers in threads, one writer, one operator who rebuilds at random moments; some events fail at random."""
    sent: list[int] = []
    apps = [board_of(bench.app(), broken=frozenset(range(7, 1_000, 50))) for _ in range(2)]
    apps[0].register()
    with ExitStack() as stack:
        for app in apps:
            stack.enter_context(app.worker())
        writer = Background(lambda: write(bench, dice, sent))
        operator = Background(lambda: rebuild_now_and_then(bench.app(), random.Random(dice.random())))
        writer.join()
        rebuilds = operator.join()
        eventually(lambda: bench.position("board") >= sent[-1], what="everything is applied")
    assert rebuilds, "no rebuild has met the others"
    assert bench.applied(APPLIED) == sent
    assert not {"parked", "retrying"} & set(bench.states("board").values())


def test_rewinds_of_an_effect_lose_nothing_and_flag_every_repeat(bench: Bench, dice: random.Random) -> None:
    """Two workers share an effect, an operator rewinds to random places: who is called again is told so."""
    sent: list[int] = []
    calls: list[tuple[int, bool]] = []
    apps = [bench.app() for _ in range(2)]
    for app in apps:

        @app.subscriber("mail", retry=AT_ONCE)
        def send(crate: Sent, ctx: Context) -> None:
            calls.append((crate.number, ctx.redelivery))

    def rewind_now_and_then() -> None:
        operator = bench.app()
        for _ in range(ROUNDS):
            threading.Event().wait(dice.random() / 10)
            to = dice.randint(0, max(1, bench.position("mail")))
            with suppress(RefusedError):
                control.rewind(operator.log.database, "mail", control.after_position(to), resend=True)

    apps[0].register()
    with ExitStack() as stack:
        for app in apps:
            stack.enter_context(app.worker())
        write(bench, random.Random(dice.random()), sent)
        rewind_now_and_then()
        eventually(lambda: bench.position("mail") >= sent[-1], what="everything is delivered")
    seen: set[int] = set()
    repeats: list[bool] = []
    for number, flag in calls:
        repeats += [flag] if number in seen else []
        seen.add(number)
    assert seen == set(range(1, len(sent) + 1))
    assert repeats, "no rewind has met the workers"
    assert all(repeats)


def test_what_follows_a_rewind_is_delivered_after_it_even_if_the_worker_was_in_the_middle(bench: Bench) -> None:
    """The worker stands in event 3 of 5 when the checkpoint, still at 0 then, has been to 2 and is moved back to 1."""
    bench.send(2)
    app, gate = bench.app(), Gate()
    calls: list[int] = []

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if calls.count(3) == 1 and crate.number == 3:
            gate.wait()

    app.drain()
    bench.send(3, first=3)
    drain = Background(app.drain)
    gate.wait_until_reached()
    control.rewind(app.log.database, "mail", control.after_position(1), resend=True)
    gate.open()
    drain.join()
    assert calls[calls.index(3) + 1 :][-4:] == [2, 3, 4, 5]
    assert bench.position("mail") == 5


def fail_after_a_rewind(bench: Bench, *, delivery: str) -> list[int]:
    """Have a handler fail only when the checkpoint has been moved under it; return the calls."""
    bench.send(2)
    app, gate = bench.app(), Gate()
    calls: list[int] = []

    @app.subscriber("mail", delivery=delivery, retry=AT_ONCE)
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number == 4 and calls.count(4) == 1:
            gate.wait()
            raise BugError

    app.drain()
    bench.send(2, first=3)
    drain = Background(app.drain)
    gate.wait_until_reached()
    control.rewind(app.log.database, "mail", control.after_position(1), resend=True)
    gate.open()
    drain.join()
    return calls


def test_a_failure_of_before_a_rewind_does_not_come_into_the_ledger_after_it(bench: Bench) -> None:
    calls = fail_after_a_rewind(bench, delivery="at-least-once")
    assert (bench.states("mail"), list(bench.attempts("mail"))) == ({}, [])
    assert calls == [1, 2, 3, 4, 2, 3, 4]


def test_a_transaction_that_fails_after_a_rewind_does_not_come_into_the_ledger(postgres_database_url: str) -> None:
    """On SQLite a rewind waits for the handler's transaction, which has the file to itself."""
    bench = Bench(postgres_database_url)
    calls = fail_after_a_rewind(bench, delivery="transactional")
    states, attempts = bench.states("mail"), list(bench.attempts("mail"))
    bench.close()
    assert (states, attempts) == ({}, [])
    assert calls[-3:] == [2, 3, 4]


def test_undo_while_a_worker_runs_brings_everything_back(bench: Bench) -> None:
    """The worker stands in the first redelivered event while the rewind is undone."""
    sent = bench.send(5)
    app, gate = bench.app(), Gate()
    calls: list[int] = []

    @app.subscriber("mail", retry=Retry(attempts=1))
    def send(crate: Sent) -> None:
        calls.append(crate.number)
        if calls.count(2) == 2:
            gate.wait()
        if crate.number == 3:
            raise BugError

    app.drain()
    move = control.rewind(app.log.database, "mail", control.after_position(1), resend=True)
    drain = Background(app.drain)
    gate.wait_until_reached()
    assert move.operation is not None
    control.undo(app.log.database, move.operation)
    gate.open()
    drain.join()
    assert (bench.position("mail"), bench.states("mail")) == (sent[-1], {sent[2]: "parked"})
    assert calls == [1, 2, 3, 4, 5, 2, *calls[6:]]


def terminate(bench: Bench, pid: int) -> None:
    with bench.transaction() as connection:
        connection.execute(text("select pg_terminate_backend(:pid)"), {"pid": pid})


def test_a_projection_whose_backend_is_terminated_in_a_batch_recovers_with_exact_totals(
    postgres_database_url: str,
) -> None:
    """The server ends the connection within event 5, after it was written to."""
    bench = Bench(postgres_database_url)
    sent = bench.send(9)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], retry=AT_ONCE)
    terminated: list[int] = []

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 5 and not terminated:
            terminated.append(ctx.connection.scalar(text("select pg_backend_pid()")) or 0)
            terminate(bench, terminated[0])
        note(ctx, APPLIED)

    with app.worker():
        eventually(lambda: bench.position("board") == sent[-1], what="the worker recovers")
    applied, states, attempts = bench.applied(APPLIED), bench.states("board"), list(bench.attempts("board"))
    bench.close()
    assert (applied, states, attempts) == (sent, {}, [])


def test_a_retry_whose_backend_is_terminated_is_made_again_and_not_counted(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    sent = bench.send(1)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], retry=Retry(attempts=2, first_seconds=0))
    calls: list[int] = []

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        calls.append(ctx.attempt)
        if len(calls) == 1:
            raise BugError
        if len(calls) == 2:
            terminate(bench, ctx.connection.scalar(text("select pg_backend_pid()")) or 0)
        note(ctx, APPLIED)

    with app.worker():
        eventually(lambda: bench.position("board") == sent[-1], what="the worker recovers")
    applied, outcomes = bench.applied(APPLIED), [row.outcome for row in bench.attempts("board")]
    bench.close()
    assert (applied, calls, outcomes) == (sent, [1, 2, 2], ["failed", "resolved"])


def test_an_effect_all_of_whose_connections_are_terminated_repeats_at_most_its_batch(
    postgres_database_url: str,
) -> None:
    """They go while the only event is in hand: its handler has done its work, and that is no failure of it."""
    bench = Bench(postgres_database_url)
    sent = bench.send(1)
    app = bench.app()
    calls: list[bool] = []

    @app.subscriber("mail", retry=AT_ONCE)
    def send(_crate: Sent, ctx: Context) -> None:
        calls.append(ctx.redelivery)
        if len(calls) == 1:
            with bench.transaction() as connection:
                others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
                connection.execute(text(f"{others} and pid <> pg_backend_pid()"))

    with app.worker():
        # Not by a look into the database: the connection of that one would be terminated, too.
        eventually(lambda: len(calls) == 2, what="the worker recovers")
        eventually(lambda: bench.position("mail") == sent[-1], what="the event is done with")
    states = bench.states("mail")
    bench.close()
    assert (calls, states) == ([False, True], {})

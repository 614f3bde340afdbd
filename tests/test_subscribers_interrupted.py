"""A database that interrupts: lost connections, lost answers, deadlocks. They say nothing about an event."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventlog.database import Lent
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent, applied_table, eventually, note

APPLIED = applied_table()
AT_ONCE = Retry(attempts=3, first_seconds=0)

L = TypeVar("L")


def a_passing_error(app: App) -> DBAPIError:
    """Make the database say the kind of thing it says when a connection or a lock was lost."""
    postgres = app.engine.dialect.name == "postgresql"
    said = "do $$ begin raise exception sqlstate '08006'; end $$" if postgres else "begin exclusive"
    with app.log.database.transaction():
        other = app.engine.connect()
        try:
            if not postgres:
                other.execution_options(eventlog_read_only=True).exec_driver_sql("pragma busy_timeout = 1")
            other.exec_driver_sql(said)
        except DBAPIError as error:
            return error
        finally:
            other.invalidate()
            other.close()
    raise AssertionError("the database has not complained")


def lose_answers(app: App, monkeypatch: pytest.MonkeyPatch, *, every: int) -> list[int]:
    """Let every so-manieth commit succeed, and its answer be lost; return a list that counts the commits.

    Also of statements that commit by themselves: a checkpoint that moves alone is one, where the database has them.
    """
    database, error, commits = app.log.database, a_passing_error(app), [0]
    transaction, autocommit = database.transaction, database.autocommit

    @contextmanager
    def losing(lent: AbstractContextManager[L]) -> Iterator[L]:
        with lent as connection:
            yield connection
        commits[0] += 1
        if commits[0] % every == 0:
            raise error

    def committing_alone() -> AbstractContextManager[Lent] | None:
        lent = autocommit()
        return None if lent is None else losing(lent)

    monkeypatch.setattr(database, "transaction", lambda: losing(transaction()))
    monkeypatch.setattr(database, "autocommit", committing_alone)
    return commits


def wait_for(bench: Bench, name: str, position: int) -> None:
    eventually(lambda: bench.position(name) == position, what=f"{name} is up to date")


@pytest.mark.parametrize("every", [3, 5])
def test_a_commit_whose_answer_is_lost_is_not_applied_twice(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    """One event fails at first, so that the answers of retries are lost as well as those of batches."""
    sent = bench.send(3)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], retry=AT_ONCE)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number == 2 and ctx.attempt == 1:
            raise BugError

    worker = app.make_worker()
    commits = lose_answers(app, monkeypatch, every=every)
    worker.start()
    for number in range(4, 6):
        wait_for(bench, "board", sent[-1])
        sent += bench.send(1, first=number)
    wait_for(bench, "board", sent[-1])
    worker.stop()
    assert commits[0] > every
    assert bench.applied(APPLIED) == sent
    assert list(bench.states("board").values()) == ["resolved"]


@pytest.mark.parametrize("every", [3, 5])
def test_an_effect_loses_nothing_with_the_answers_and_flags_its_repeats(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, every: int
) -> None:
    sent = bench.send(3)
    app = bench.app()
    calls: dict[int, list[bool]] = {}

    @app.subscriber("mail", retry=AT_ONCE)
    def send(crate: Sent, ctx: Context) -> None:
        calls.setdefault(crate.number, []).append(ctx.redelivery)

    worker = app.make_worker()
    commits = lose_answers(app, monkeypatch, every=every)
    worker.start()
    for number in range(4, 6):
        wait_for(bench, "mail", sent[-1])
        sent += bench.send(1, first=number)
    wait_for(bench, "mail", sent[-1])
    worker.stop()
    assert commits[0] > every
    assert sorted(calls) == list(range(1, 6))
    assert all(all(flags[1:]) for flags in calls.values())
    assert bench.states("mail") == {}


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_transaction_that_the_server_ended_for_anothers_sake_is_run_again_and_no_failure(
    postgres_database_url: str, state: str
) -> None:
    bench = Bench(postgres_database_url)
    sent = bench.send(3)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], retry=AT_ONCE)
    calls: list[int] = []

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        calls.append(crate.number)
        if calls.count(2) == 1 and crate.number == 2:
            ctx.connection.execute(text(f"do $$ begin raise exception sqlstate '{state}'; end $$"))

    app.drain()
    applied, attempts = bench.applied(APPLIED), list(bench.attempts("board"))
    bench.close()
    assert (applied, attempts) == (sent, [])


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_an_event_that_costs_its_connection_every_time_ends_in_the_ledger(
    postgres_database_url: str, delivery: str
) -> None:
    """A query may be so bad that the server's process dies of it, each time it is asked."""
    bench = Bench(postgres_database_url)
    sent = bench.send(3)
    app = bench.app(lease_seconds=1.0)

    @app.subscriber("board", delivery=delivery, retry=AT_ONCE)
    def apply(crate: Sent, ctx: Context) -> None:
        with app.engine.connect() as own:
            connection = ctx.connection if delivery == "transactional" else own
            if crate.number == 2:
                connection.execute(text("select pg_terminate_backend(pg_backend_pid())"))

    with app.worker():
        eventually(lambda: bench.states("board") == {sent[1]: "parked"}, what="it is parked", seconds=20)
        eventually(lambda: bench.position("board") == sent[-1], what="the others are through")
    bench.close()

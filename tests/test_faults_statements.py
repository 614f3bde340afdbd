"""A server that says no: time-outs, deadlocks, no room, no writes, no free connection. It tells nothing of an event."""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, create_engine, insert, text, update
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from eventlog.errors import DatabaseFullError, DatabaseReadOnlyError
from eventlog.sqlite import prepare
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.fault_load import Load
from tests.log_support import Background, engine_of, note, opened, wait_until, waiting_for_locks
from tests.subscribers_support import Bench, BugError, Sent, applied_table, eventually
from tests.subscribers_support import note as apply_note

APPLIED = applied_table()
PLACES = Table("places", MetaData(), Column("id", Integer, primary_key=True), Column("crate", Integer))
AT_ONCE = Retry(attempts=2, first_seconds=0)
PATIENT = Retry(attempts=1_000, first_seconds=0.05, longest_seconds=0.05)


@pytest.fixture
def bench(postgres_database_url: str) -> Iterator[Bench]:
    bench = Bench(postgres_database_url)
    yield bench
    bench.close()


def set_by_default(url: str, setting: str) -> None:
    """Give every session that comes from now on a setting, and end those that are there."""
    with engine_of(url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        database = connection.scalar(text("select current_database()"))
        connection.execute(text(f"alter database {database} set {setting}"))
        others = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
        connection.execute(text(f"{others} and pid <> pg_backend_pid()"))


def leave_no_room(bench: Bench, table: str) -> None:
    """Have the server say, of writes to a table, what it says when a file cannot be extended."""
    says = "raise exception 'could not extend file: No space left on device' using errcode = '53100'"
    with bench.transaction() as connection:
        connection.execute(
            text(f"create function no_room() returns trigger language plpgsql as $$ begin {says}; end $$")
        )
        connection.execute(
            text(f"create trigger no_room before insert or update on {table} execute function no_room()")
        )


@contextmanager
def locked_row(url: str, name: str) -> Iterator[None]:
    """Hold the checkpoint of a subscriber, as an operator does who has left his terminal in a transaction."""
    with engine_of(url) as engine, engine.begin() as connection:
        connection.execute(text("set local statement_timeout = 0"))
        question = "select from eventlog.checkpoints where subscriber = :name for update"
        connection.execute(text(question), {"name": name})
        yield


def test_statements_of_a_worker_that_take_too_long_blame_no_event_and_disturb_no_other_subscriber(
    postgres_empty_url: str,
) -> None:
    with Load(postgres_empty_url, direct=postgres_empty_url).running() as load:
        set_by_default(postgres_empty_url, "statement_timeout = '200ms'")
        load.goes_on()
        with locked_row(postgres_empty_url, "board"):
            load.lines.said.clear()
            for _ in range(3):
                load.goes_on()
                threading.Event().wait(0.3)
            said = list(load.lines.said)
        load.goes_on()
    load.totals_are_exact(unknown_max=1)
    assert not [line for line in said if "mail" in line or "once" in line], said
    assert len(said) <= 20, said
    with opened(postgres_empty_url) as log, log.database.reader() as connection:
        assert connection.scalar(text("select count(*) from eventlog.attempts where subscriber = 'board'")) == 0


def test_a_handler_whose_statement_takes_too_long_has_failed(bench: Bench) -> None:
    sent = bench.send(3)
    bench.log.engine.dispose()
    set_by_default(bench.url, "statement_timeout = '150ms'")
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("books", delivery="transactional", retry=AT_ONCE)
    def sleep(crate: Sent, ctx: Context) -> None:
        calls.append(crate.number)
        if crate.number == 2:
            ctx.connection.execute(text("select pg_sleep(20)"))

    app.drain()
    assert bench.states("books") == {sent[1]: "parked"}
    assert [row.error_type for row in bench.attempts("books")] == ["sqlalchemy.exc.OperationalError"] * 2
    assert calls.count(2) == 3, "once in the batch, which is no attempt, and twice alone"
    assert bench.position("books") == sent[-1]


def test_a_worker_that_is_the_victim_of_a_deadlock_takes_the_turn_again(bench: Bench) -> None:
    """The handler has the first row and wants the second; somebody has the second and waits for the first."""
    sent = bench.send(1)
    app = bench.app()
    with bench.transaction() as connection:
        PLACES.create(connection)
        connection.execute(insert(PLACES), [{"id": 1}, {"id": 2}])
    bench.log.engine.dispose()
    set_by_default(bench.url, "deadlock_timeout = '50ms'")
    board = app.projection("board", tables=[APPLIED])
    calls: list[int] = []
    other: list[Background] = []

    def cross(engine_url: str) -> None:
        with engine_of(engine_url) as engine, engine.begin() as connection:
            connection.execute(text("set local deadlock_timeout = '20s'"))
            connection.execute(update(PLACES).where(PLACES.c.id == 2).values(crate=100))
            has_second.set()
            assert has_first.wait(20)
            connection.execute(update(PLACES).where(PLACES.c.id == 1).values(crate=100))

    has_first, has_second = threading.Event(), threading.Event()

    @board
    def place(crate: Sent, ctx: Context) -> None:
        calls.append(crate.number)
        apply_note(ctx, APPLIED)
        if len(calls) == 1:
            other.append(Background(lambda: cross(bench.url)))
            assert has_second.wait(20)
        ctx.connection.execute(update(PLACES).where(PLACES.c.id == 1).values(crate=crate.number))
        if len(calls) == 1:
            has_first.set()
            with engine_of(bench.url) as observer:
                wait_until(lambda: waiting_for_locks(observer), what="the other one to wait")
        ctx.connection.execute(update(PLACES).where(PLACES.c.id == 2).values(crate=crate.number))

    app.drain()
    other[0].result()
    assert (calls, bench.applied(APPLIED), list(bench.attempts("board"))) == ([1, 1], sent, [])


@pytest.mark.parametrize("retried", [False, True])
def test_an_event_whose_connection_is_gone_each_time_its_handler_is_through_ends_in_the_ledger(
    bench: Bench, retried: bool
) -> None:
    """As with a pooler, or a server, that allows a transaction less time than the handler takes."""
    sent = bench.send(3)
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("books", delivery="transactional", retry=AT_ONCE)
    def lose(crate: Sent, ctx: Context) -> None:
        if crate.number != 2:
            return
        calls.append(ctx.attempt)
        if retried and len(calls) <= 2:
            raise BugError
        pid = ctx.connection.scalar(text("select pg_backend_pid()"))
        with app.engine.connect() as other:
            other.execute(text(f"select pg_terminate_backend({pid}, 5000)"))

    with app.worker():
        eventually(lambda: bench.states("books") == {sent[1]: "parked"}, what="it is parked")
        eventually(lambda: bench.position("books") == sent[-1], what="the others are through")
    assert len(calls) <= 12


@pytest.mark.parametrize("fills", ["failures", "checkpoints", "applied"])
def test_a_server_without_room_loses_no_event_and_no_failure(
    bench: Bench, fills: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The server says what it says when a file cannot be extended; in the ledger, at a checkpoint, in a read model."""
    caplog.set_level(logging.INFO, logger="eventlog.worker")
    sent = bench.send(1)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], on_failure="park", retry=PATIENT)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 3:
            raise BugError
        apply_note(ctx, APPLIED)

    app.drain()
    leave_no_room(bench, "applied" if fills == "applied" else f"eventlog.{fills}")
    with app.worker():
        sent += bench.send(4, first=2)
        eventually(lambda: "No space left" in caplog.text, what="it has tried")
        with bench.transaction() as connection:
            connection.execute(text("drop function no_room() cascade"))
        eventually(lambda: bench.position("board") == sent[-1], what="it goes on")
        eventually(lambda: len(bench.applied(APPLIED)) == 4, what="everything is applied")
    assert bench.applied(APPLIED) == [one for one in sent if one != sent[2]]
    assert bench.states("board")[sent[2]] == "retrying"


def test_who_appends_is_told_that_there_is_no_room(bench: Bench) -> None:
    leave_no_room(bench, "eventlog.events")
    with pytest.raises(DatabaseFullError, match="No space left"):
        bench.send(1)


def test_a_server_that_takes_no_writes_is_waited_for(postgres_empty_url: str) -> None:
    """Sessions that were told so stay so: what matters is that they are left."""
    with Load(postgres_empty_url, direct=postgres_empty_url).running() as load:
        load.goes_on()
        set_by_default(postgres_empty_url, "default_transaction_read_only = on")
        eventually(lambda: load.said("read-only"), what="it is said")
        threading.Event().wait(0.5)
        with engine_of(postgres_empty_url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
            connection.execute(text("set default_transaction_read_only = off"))
            database = connection.scalar(text("select current_database()"))
            connection.execute(text(f"alter database {database} set default_transaction_read_only = off"))
        load.goes_on()
    load.totals_are_exact(unknown_max=1)
    load.said_at_most(60)


def test_who_appends_is_told_that_no_writes_are_taken(bench: Bench) -> None:
    set_by_default(bench.url, "default_transaction_read_only = on")
    with opened(bench.url) as log, pytest.raises(DatabaseReadOnlyError, match="read-only") as told:
        log.append(note("too late"))
    assert "target_session_attrs=read-write" in told.value.remedy


def test_a_pool_without_a_free_connection_ends_no_worker(database_url: str) -> None:
    bench = Bench(database_url)
    engine = create_engine(database_url, pool_size=3, max_overflow=0, pool_timeout=0.05)
    if not bench.postgres:
        prepare(engine)
    app = App(engine, lease_seconds=0.5)

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        return

    app.register()
    with app.worker():
        first = bench.send(1)
        eventually(lambda: bench.position("mail") == first[-1], what="it is at work")
        held: list[Connection] = []
        while len(held) < 3:
            with suppress(PoolTimeoutError):
                held.append(engine.connect())
        sent = bench.send(1, first=2)
        threading.Event().wait(1.0)
        for connection in held:
            connection.close()
        eventually(lambda: bench.position("mail") == sent[-1], what="it goes on")
    engine.dispose()
    bench.close()

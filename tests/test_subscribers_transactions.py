"""What a handler may do to the transaction it is called in, and what happens to it and its batch when it does more."""

import contextlib

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, create_engine, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Bench,
    Sent,
    applied_table,
    note,
)

ONCE = Retry(attempts=1)


APPLIED = applied_table()


def board_of(app: App, *, on_failure: str = "park", retry: Retry = ONCE) -> Subscriber:
    return app.projection("board", tables=[APPLIED], on_failure=on_failure, retry=retry)


@pytest.mark.parametrize("ending", ["commit", "rollback", "close"])
def test_a_handler_that_ends_its_transaction_has_failed_its_event_and_no_other(bench: Bench, ending: str) -> None:
    app = bench.app()
    sent = bench.send(5)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 3:
            getattr(ctx.connection, ending)()
        else:
            note(ctx, APPLIED)

    app.drain()
    assert bench.states("board") == {sent[2]: "parked"}
    assert bench.applied(APPLIED) == [sent[0], sent[1], sent[3], sent[4]]


@pytest.mark.parametrize("statement", ["commit", "rollback"])
def test_a_handler_that_ends_its_transaction_in_sql_and_writes_on_has_failed_its_event(
    bench: Bench, statement: str
) -> None:
    app = bench.app()
    sent = bench.send(5)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 3:
            ctx.connection.exec_driver_sql(statement)
        note(ctx, APPLIED)

    app.drain()
    assert bench.states("board") == {sent[2]: "parked"}
    assert [bench.applied(APPLIED).count(one) for one in (sent[0], sent[1], sent[3], sent[4])] == [1, 1, 1, 1]


def test_a_handler_that_writes_on_after_it_committed_has_failed_its_event(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 2:
            ctx.connection.commit()
            note(ctx, APPLIED, "in the next transaction")
        else:
            note(ctx, APPLIED)

    app.drain()
    assert bench.states("board") == {sent[1]: "parked"}
    assert bench.applied(APPLIED) == [sent[0], sent[2]]


def test_the_error_of_a_handler_that_committed_says_what_to_do(bench: Bench) -> None:
    app = bench.app()
    bench.send(1)
    board = board_of(app)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        ctx.connection.commit()

    app.drain()
    assert "transaction" in bench.entries("board")[0].message


def test_a_commit_through_the_drivers_own_connection_is_noticed(bench: Bench) -> None:
    """It cannot be refused there. The event stands alone, so that nothing of others is committed with it."""
    app = bench.app()
    sent = bench.send(1)
    board = board_of(app)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        ctx.connection.connection.commit()

    app.drain()
    assert bench.states("board") == {sent[0]: "parked"}


UNIQUE = Table("once_each", MetaData(), Column("number", Integer, primary_key=True, autoincrement=False))


def test_a_swallowed_database_error_fails_its_event_where_it_broke_the_transaction(bench: Bench) -> None:
    """PostgreSQL refuses everything after an error, SQLite goes on: there the event is handled."""
    app = bench.app()
    sent = bench.send(3)
    board = app.projection("board", tables=[APPLIED, UNIQUE], on_failure="park", retry=ONCE)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        with contextlib.suppress(IntegrityError):
            ctx.connection.execute(insert(UNIQUE).values(number=min(crate.number, 2)))

    app.drain()
    assert bench.states("board") == ({sent[2]: "parked"} if bench.postgres else {})
    assert bench.applied(APPLIED) == (sent[:2] if bench.postgres else sent)


def test_a_database_error_within_a_savepoint_of_the_handlers_own_fails_nothing(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    board = app.projection("board", tables=[APPLIED, UNIQUE], on_failure="park", retry=ONCE)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        with contextlib.suppress(IntegrityError), ctx.connection.begin_nested():
            ctx.connection.execute(insert(UNIQUE).values(number=1))

    app.drain()
    assert (bench.states("board"), bench.applied(APPLIED)) == ({}, sent)


class Base(DeclarativeBase):
    """Tables of a service's own models."""


class Shelf(Base):
    __tablename__ = "shelf"
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)


def test_a_session_used_on_after_a_swallowed_error_fails_its_event(bench: Bench) -> None:
    """The ORM raises PendingRollbackError then, which is also what a lost connection can look like."""
    app = bench.app()
    sent = bench.send(3)
    board = app.projection("board", tables=[APPLIED, Base.metadata.tables["shelf"]], on_failure="park", retry=ONCE)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        session = Session(bind=ctx.connection)
        session.add(Shelf(number=1))
        with contextlib.suppress(IntegrityError):
            session.flush()
        session.scalars(select(Shelf)).all()

    app.drain()
    assert bench.states("board") == {sent[1]: "parked", sent[2]: "parked"}
    assert bench.applied(APPLIED) == sent[:1]


def test_a_database_of_somebody_elses_that_does_not_answer_is_the_handlers_failure(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(2)
    board = board_of(app)
    nowhere = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number == 1:
            nowhere.connect()

    app.drain()
    assert bench.states("board") == {sent[0]: "parked"}
    assert bench.applied(APPLIED) == sent[1:]


def test_a_second_connection_of_a_handler_on_sqlite_is_told_to_write_through_ctx_connection(sqlite_url: str) -> None:
    bench = Bench(sqlite_url)
    app = bench.app()
    sent = bench.send(2)
    board = board_of(app)
    other = create_engine(sqlite_url, connect_args={"timeout": 0.05})

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number == 1:
            with other.begin() as connection:
                connection.execute(insert(APPLIED).values(position=0))

    app.drain()
    other.dispose()
    assert (bench.states("board"), bench.applied(APPLIED)) == ({sent[0]: "parked"}, sent[1:])
    assert "ctx.connection" in bench.attempts("board")[0].traceback
    bench.close()


def deferred_unique(bench: Bench) -> None:
    """Make a rule about `applied` that is only checked when a transaction commits."""
    with bench.transaction() as connection:
        APPLIED.create(connection)
        connection.exec_driver_sql(
            "alter table applied add constraint notes_once unique (note) deferrable initially deferred"
        )


@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_a_batch_that_fails_at_commit_is_narrowed_down_to_its_culprit(
    postgres_database_url: str, on_failure: str
) -> None:
    bench = Bench(postgres_database_url)
    app = bench.app()
    sent = bench.send(5)
    deferred_unique(bench)
    board = board_of(app, on_failure=on_failure)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED, "one" if crate.number in (1, 3) else str(crate.number))

    app.drain()
    applied, states, attempts = bench.applied(APPLIED), bench.states("board"), len(bench.attempts("board"))
    bench.close()
    assert states == {sent[2]: "parked"}
    assert applied == (sent[:2] + sent[3:] if on_failure == "park" else sent[:2])
    assert attempts == 1


def test_a_retry_that_fails_at_commit_is_a_failed_attempt(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    app = bench.app()
    sent = bench.send(2)
    deferred_unique(bench)
    board = board_of(app, retry=Retry(attempts=3, first_seconds=0))

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED, "the same")

    app.drain()
    applied, states, attempts = bench.applied(APPLIED), bench.states("board"), bench.attempts("board")
    bench.close()
    assert (applied, states) == (sent[:1], {sent[1]: "parked"})
    assert [row.attempt for row in attempts] == [1, 2, 3]

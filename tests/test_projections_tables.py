"""Tables that are there already when a projection is registered for the first time: taken over, or refused by name."""

from typing import Any

import msgspec
import pytest
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    Numeric,
    Table,
    Text,
    select,
)

from eventlog.errors import RefusedError
from eventlog.projections import View
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.registration import Registration
from tests.subscribers_support import Bench, Sent, applied_table, note

APPLIED = applied_table()
BOARD = Table(
    "board",
    MetaData(),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text),
    Column("weight", Integer, nullable=False, server_default="1"),
)


def app_of(bench: Bench, *, start: str | int = "beginning") -> App:
    app = bench.app()
    board = app.projection("board", tables=[APPLIED], start=start)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    return app


def look_at(crate: Sent) -> None:
    """A handler that does nothing."""


def execute(bench: Bench, *statements: str) -> None:
    with bench.transaction() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_a_table_that_holds_rows_is_not_taken_over_and_nothing_is_applied_twice(bench: Bench) -> None:
    """Removing a projection leaves its table alone; code that still declares it would apply every event once more."""
    sent = bench.send(2)
    app_of(bench).drain()
    control.remove(bench.log.database, "board")

    with pytest.raises(RefusedError, match="table applied of projection 'board' holds rows") as refused:
        app_of(bench).drain()

    assert "delete from applied" in refused.value.remedy
    assert bench.applied(APPLIED) == sent
    assert bench.rows(select(bench.log.database.tables.subscribers)) == []
    execute(bench, "delete from applied")
    app_of(bench).drain()
    assert bench.applied(APPLIED) == sent


def test_who_begins_now_may_go_on_with_rows_that_were_put_there(bench: Bench) -> None:
    bench.send(2)
    app_of(bench).drain()
    control.remove(bench.log.database, "board")

    assert app_of(bench, start="now").register() == {"board": Registration.CREATED}


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("number bigint not null, label text, weight integer not null", "there is no key, declared is (number)"),
        ("number bigint, label text, weight integer, primary key (number, weight)", "the key is (number, weight)"),
        ("number bigint primary key, label text, weight text", "weight is text, declared is integer"),
        ("number bigint primary key, label integer, weight integer", "label is integer, declared is text"),
        ("number bigint primary key, label text not null, weight integer", "label may not be null"),
        ("number bigint primary key, weight integer", "no column label"),
        (
            "number bigint primary key, label text, weight integer, must integer not null",
            "must is not declared, may not be null and has no default",
        ),
    ],
)
def test_a_table_that_could_not_be_written_is_refused_with_the_differences(bench: Bench, made: str, said: str) -> None:
    execute(bench, f"create table board ({made})")
    app = bench.app()
    app.projection("board", tables=[BOARD])(look_at)

    with pytest.raises(RefusedError) as refused:
        app.register()

    assert said in str(refused.value)
    assert "drop table board" in refused.value.remedy
    assert bench.rows(select(bench.log.database.tables.subscribers)) == []


def test_all_differences_are_named_at_once(bench: Bench) -> None:
    execute(bench, "create table board (number text, weight integer)")
    app = bench.app()
    app.projection("board", tables=[BOARD])(look_at)

    with pytest.raises(RefusedError) as refused:
        app.register()

    for said in ("no column label", "number is text, declared is bigint", "there is no key"):
        assert said in str(refused.value)


@pytest.mark.parametrize(
    "made",
    [
        "number bigint primary key, label text, weight integer not null default 1",
        "number integer primary key, label varchar(100), weight smallint",
        "number bigint primary key, label text, weight bigint, at timestamp, more integer not null default 0",
        "number bigint not null unique, label text, weight integer",
        "NUMBER bigint primary key, Label text, weight integer",
        "weight integer, label text, number bigint not null, constraint of_board primary key (number)",
    ],
)
def test_an_empty_table_that_a_migration_has_made_is_taken_as_it_is(bench: Bench, made: str) -> None:
    execute(bench, f"create table board ({made})")
    app = bench.app()
    app.projection("board", tables=[BOARD])(look_at)

    assert app.register() == {"board": Registration.CREATED}


def test_tables_that_are_declared_later_keep_the_rows_that_the_projection_has_written(bench: Bench) -> None:
    sent = bench.send(2)
    execute(bench, "create table board (number bigint primary key, label text, weight integer)")
    app = bench.app()
    app.projection("board")(look_at)
    app.drain()
    execute(bench, "insert into board (number) values (1)")
    app = bench.app()
    app.projection("board", tables=[BOARD])(look_at)

    app.register()

    assert [row.number for row in bench.rows(select(BOARD.c.number))] == sent[:1]


def test_a_key_that_counts_by_itself_need_not_be_declared(bench: Bench) -> None:
    counts = "bigint generated always as identity primary key" if bench.postgres else "integer not null primary key"
    execute(bench, f"create table board (id {counts}, number bigint not null)")
    table = Table("board", MetaData(), Column("number", BigInteger, nullable=False))
    app = bench.app()
    app.projection("board", tables=[table])(look_at)

    assert app.register() == {"board": Registration.CREATED}


def everything() -> Table:
    kinds: list[Any] = [Boolean, DateTime, DateTime(timezone=True), LargeBinary, Numeric(10, 2)]
    columns = [Column(f"of_{place}", kind) for place, kind in enumerate(kinds)]
    return Table("everything", MetaData(), Column("id", Integer, primary_key=True), *columns)


class Row(msgspec.Struct, frozen=True):
    number: int
    weight: float = 0.0
    known: bool = False
    tags: list[str] = []


def test_what_a_declaration_makes_is_what_it_declares(bench: Bench) -> None:
    """Whatever types a database shows in another way than they were said."""
    view = View("crates", row=Row, key="number")
    tables = [everything(), view.table]
    with bench.transaction() as connection:
        for table in tables:
            table.create(connection)
    app = bench.app()
    app.projection("board", tables=tables)(look_at)

    assert app.register() == {"board": Registration.CREATED}


def test_on_postgresql_a_moment_without_its_zone_is_another_type(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    execute(bench, "create table board (number bigint primary key, at timestamp)")
    table = Table(
        "board", MetaData(), Column("number", BigInteger, primary_key=True), Column("at", DateTime(timezone=True))
    )
    app = bench.app()
    app.projection("board", tables=[table])(look_at)
    try:
        with pytest.raises(
            RefusedError, match="at is timestamp without time zone, declared is timestamp with time zone"
        ):
            app.register()
    finally:
        bench.close()

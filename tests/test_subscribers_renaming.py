"""Replacing the names of tables in SQL text: what is renamed, and above all what is not."""

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, insert, select, text, update
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.errors import DeclarationError
from eventlog.subscribers.owned_tables import beside
from eventlog.subscribers.renaming import names_in, renamed

BOARD = (((None, "board"), "board__r7"),)
SHOP = ((("shop", "board"), "board__r7"),)


@pytest.mark.parametrize(
    ("statement", "becomes"),
    [
        ("select * from board", "select * from board__r7"),
        ("SELECT * FROM Board b", "SELECT * FROM board__r7 b"),
        ('select "board".x from "board"', 'select "board__r7".x from "board__r7"'),
        ("select board.x, boards.y from board, boards", "select board__r7.x, boards.y from board__r7, boards"),
        ("select b.board from board b", "select b.board from board__r7 b"),
        ("select 'board', 'it''s board' from board", "select 'board', 'it''s board' from board__r7"),
        (r"select E'\'board' from board", r"select E'\'board' from board__r7"),
        ("select $$ board $$, $a$board$a$ from board", "select $$ board $$, $a$board$a$ from board__r7"),
        ("-- board\nselect /* board */ 1 from board", "-- board\nselect /* board */ 1 from board__r7"),
        ("update board set x = %(board)s", "update board__r7 set x = %(board)s"),
        ("update board set x = :board, y = $1", "update board__r7 set x = :board, y = $1"),
        ("select other.board from other", "select other.board from other"),
        ('select "Board" from board_2', 'select "Board" from board_2'),
        ("insert into board (x) values (1) on conflict (x) do update set x = excluded.x + board.x",
         "insert into board__r7 (x) values (1) on conflict (x) do update set x = excluded.x + board__r7.x"),
    ],
)  # fmt: skip
def test_only_what_names_the_table_is_renamed(statement: str, becomes: str) -> None:
    assert renamed(statement, BOARD) == becomes


def test_a_table_of_a_schema_is_renamed_with_and_without_its_schema() -> None:
    statement = 'select shop.board.x, board.y, other.board from shop . "board" join board using (x)'

    becomes = 'select shop.board__r7.x, board__r7.y, other.board from shop . "board__r7" join board__r7 using (x)'
    assert renamed(statement, SHOP) == becomes


def test_what_sqlalchemy_composes_is_renamed_wherever_the_table_stands() -> None:
    table = Table("board", MetaData(), Column("x", Integer, primary_key=True), Column("y", Integer))
    statements = [
        insert(table).values(x=1, y=2),
        update(table).where(table.c.x == 1).values(y=table.c.y + 1),
        select(table.c.x, table.alias("other").c.y).where(table.c.y > select(table.c.x).scalar_subquery()),
        text("delete from board where x = :x"),
    ]
    for dialect in (sqlite.dialect(), postgresql.dialect()):  # type: ignore[no-untyped-call]
        for statement in statements:
            assert "board" not in names_in(renamed(str(statement.compile(dialect=dialect)), BOARD))


def test_a_word_that_has_to_be_quoted_as_a_name_is_one_only_where_it_is_quoted() -> None:
    names = (((None, "order"), "order__r7"),)

    said = renamed('select "order".x from "order" order by "order".x', names)

    assert said == 'select "order__r7".x from "order__r7" order by "order__r7".x'


def test_a_table_that_is_called_like_a_word_of_sql_is_not_put_beside_itself() -> None:
    with pytest.raises(DeclarationError, match="called like a word of SQL"):
        beside([Table("key", MetaData(), Column("x", Integer))], "__r7")
    assert beside([Table("order", MetaData(), Column("x", Integer))], "__r7") == {(None, "order"): "order__r7"}


def test_a_statement_without_the_table_stays_as_it_is() -> None:
    statement = "with a as (select 1 as x) select x::int, 'é', \"a b\" from a -- end"

    assert renamed(statement, BOARD) == statement


def test_names_are_found_as_the_database_knows_them() -> None:
    assert {"board", "Odd Name", "x"} <= names_in('create view v as select X from BOARD, "Odd Name" -- hidden')
    assert "hidden" not in names_in("select 1 -- hidden")

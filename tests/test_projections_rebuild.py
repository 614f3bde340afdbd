"""Rebuilding a projection in place: its tables emptied, its checkpoint at its start, all in one transaction."""

import pytest
from sqlalchemy import (
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    func,
    insert,
    inspect,
    select,
    text,
)

from eventlog.errors import RefusedError, UnknownSubscriberError
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Sent, applied_table, note

APPLIED = applied_table()


def board_of(app: App, *, broken: int | None = None, start: str | int = "beginning") -> App:
    board = app.projection("board", tables=[APPLIED], start=start, retry=Retry(attempts=1))

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == broken:
            raise BugError
        note(ctx, APPLIED, str(ctx.redelivery))

    return app


def notes(bench: Bench) -> set[str]:
    return {row.note for row in bench.rows(select(APPLIED.c.note))}


def test_a_rebuild_empties_the_tables_and_applies_everything_once_more(bench: Bench) -> None:
    sent = bench.send(4)
    app = board_of(bench.app())
    app.drain()
    move = rebuild_in_place(app.log.database, "board")
    assert (bench.applied(APPLIED), bench.position("board")) == ([], 0)
    assert (move.to_position, move.emptied, move.undo) == (0, ("applied",), None)
    app.drain()
    assert bench.applied(APPLIED) == sent


def test_what_comes_again_after_a_rebuild_is_no_redelivery(bench: Bench) -> None:
    bench.send(2)
    app = board_of(bench.app())
    app.drain()
    rebuild_in_place(app.log.database, "board")
    app.drain()
    assert notes(bench) == {"False"}


def test_a_rebuild_begins_where_the_projection_began(bench: Bench) -> None:
    sent = bench.send(3)
    app = board_of(bench.app(), start=sent[0])
    app.drain()
    rebuild_in_place(app.log.database, "board")
    app.drain()
    assert bench.applied(APPLIED) == sent[1:]


def test_a_rebuild_of_a_halted_projection_supersedes_its_failure(bench: Bench) -> None:
    sent = bench.send(3)
    board_of(bench.app(), broken=2).drain()
    mended = board_of(bench.app())
    assert rebuild_in_place(mended.log.database, "board").superseded == 1
    mended.drain()
    assert bench.applied(APPLIED) == sent
    assert bench.states("board") == {sent[1]: "superseded"}


def test_a_dry_run_of_a_rebuild_empties_nothing(bench: Bench) -> None:
    sent = bench.send(2)
    app = board_of(bench.app())
    app.drain()
    move = rebuild_in_place(app.log.database, "board", dry_run=True)
    assert (move.events, move.emptied, move.operation) == (2, ("applied",), None)
    assert bench.applied(APPLIED) == sent
    assert bench.position("board") == sent[-1]


def test_a_rebuild_is_on_record_and_cannot_be_undone(bench: Bench) -> None:
    bench.send(1)
    app = board_of(bench.app())
    app.drain()
    move = rebuild_in_place(app.log.database, "board", reason="another column")
    operation = bench.operations("board")[-1]
    assert (operation.action, operation.reason, operation.id) == ("rebuild", "another column", move.operation)
    with pytest.raises(RefusedError):
        control.undo(app.log.database, operation.id)


def test_a_subscriber_without_tables_is_not_rebuilt(bench: Bench) -> None:
    app = bench.app()
    app.projection("board").on("**")(lambda recorded: None)
    bench.send(1)
    app.drain()
    with pytest.raises(RefusedError):
        rebuild_in_place(app.log.database, "board")
    with pytest.raises(UnknownSubscriberError):
        rebuild_in_place(app.log.database, "bord")


PARENT = Table("parent", MetaData(), Column("id", Integer, primary_key=True))


def parents(connection: Connection) -> int:
    return connection.scalar(select(func.count()).select_from(PARENT)) or 0


def test_all_tables_of_a_projection_are_emptied(bench: Bench) -> None:
    app = bench.app()
    board = app.projection("board", tables=[APPLIED, PARENT])

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        ctx.connection.execute(insert(PARENT).values(id=crate.number))

    bench.send(3)
    app.drain()
    rebuild_in_place(app.log.database, "board")
    with bench.transaction() as connection:
        assert (parents(connection), bench.applied(APPLIED)) == (0, [])
    app.drain()
    with bench.transaction() as connection:
        assert parents(connection) == 3


def test_a_reader_that_keeps_a_table_busy_has_the_rebuild_refused_and_nothing_changed(
    postgres_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.projections.rebuild.LOCK_SECONDS", 0.1)
    bench = Bench(postgres_database_url)
    sent = bench.send(2)
    app = board_of(bench.app())
    app.drain()
    with bench.transaction() as connection:
        connection.execute(select(APPLIED)).all()
        with pytest.raises(RefusedError) as error:
            rebuild_in_place(app.log.database, "board")
    position, applied = bench.position("board"), bench.applied(APPLIED)
    bench.close()
    assert error.value.remedy
    assert (position, applied) == (sent[-1], sent)


def family_board(bench: Bench, *, owns_children: bool) -> App:
    """A projection whose tables refer to each other, the parent named first; or one referred to from outside."""
    metadata = MetaData()
    parents = Table("parents", metadata, Column("number", Integer, primary_key=True))
    children = Table("children", metadata, Column("parent", ForeignKey("parents.number"), primary_key=True))
    app = bench.app()
    metadata.create_all(app.engine)
    board = app.projection("board", tables=[parents, children] if owns_children else [parents])

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        ctx.connection.execute(insert(parents).values(number=crate.number))
        ctx.connection.execute(insert(children).values(parent=crate.number))

    return app


def test_tables_that_refer_to_each_other_are_emptied_in_whatever_order_they_are_named(bench: Bench) -> None:
    bench.send(2)
    app = family_board(bench, owns_children=True)
    app.drain()
    rebuild_in_place(app.log.database, "board")
    assert app.drain().handled == 2


def test_a_table_that_others_refer_to_is_not_emptied_and_the_checkpoint_stays(bench: Bench) -> None:
    sent = bench.send(2)
    app = family_board(bench, owns_children=False)
    app.drain()
    with pytest.raises(RefusedError, match="cannot be emptied") as refused:
        rebuild_in_place(app.log.database, "board")
    assert "tables=" in refused.value.remedy
    assert bench.position("board") == sent[-1]


def test_tables_take_the_columns_of_today_also_before_anything_was_applied(bench: Bench) -> None:
    board_of(bench.app()).register()
    app = bench.app()
    wider = APPLIED.to_metadata(MetaData())
    wider.append_column(Column("more", Integer))

    @app.projection("board", tables=[wider])
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, wider)

    with pytest.raises(RefusedError, match="more integer"):
        app.register()
    rebuild_in_place(app.log.database, "board", declared=app.subscribers["board"])
    sent = bench.send(2)
    app.drain()
    assert bench.applied(APPLIED) == sent


def look_at(crate: Sent) -> None:
    """A handler that does nothing."""


def in_place(app: App, *, dry_run: bool = False) -> None:
    """As the command does it, which knows what code declares."""
    rebuild_in_place(app.log.database, "board", declared=app.subscribers["board"], dry_run=dry_run)


def wider_board(bench: Bench) -> App:
    """The board with one column more."""
    app = bench.app()
    wider = applied_table()
    wider.append_column(Column("more", Integer))

    @app.projection("board", tables=[wider])
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, wider)

    return app


def execute(bench: Bench, *statements: str) -> None:
    with bench.transaction() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def test_with_the_columns_of_before_tables_are_emptied_and_keep_what_is_tied_to_them(bench: Bench) -> None:
    sent = bench.send(2)
    app = board_of(bench.app())
    app.drain()
    execute(bench, "create view seen as select position from applied", "create index by_hand on applied (position)")

    in_place(app)

    assert bench.rows(text("select * from seen")) == []
    app.drain()
    assert [row.position for row in bench.rows(text("select position from seen order by position"))] == sent
    assert [one["name"] for one in inspect(bench.log.engine).get_indexes("applied")] == ["by_hand"]


def test_with_the_columns_of_before_rights_policies_and_publications_stay(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    app = board_of(bench.app())
    bench.send(1)
    app.drain()
    execute(
        bench,
        "grant select on applied to public",
        "alter table applied enable row level security",
        "create policy own on applied",
        "create publication of_applied for table applied",
        "create trigger odd before update on applied for each row execute function"
        " suppress_redundant_updates_trigger()",
    )

    in_place(app)

    asked = text(
        "select relrowsecurity, relacl::text like '%=r/%', (select count(*) from pg_policy where polrelid = c.oid),"
        " (select count(*) from pg_publication_rel where prrelid = c.oid),"
        " (select count(*) from pg_trigger where tgrelid = c.oid)"
        " from pg_class as c where oid = 'applied'::regclass"
    )
    kept = tuple(bench.rows(asked)[0])
    bench.close()
    assert kept == (True, True, 1, 1, 1)


def test_other_columns_are_refused_while_something_would_be_lost_with_the_tables(bench: Bench) -> None:
    sent = bench.send(2)
    board_of(bench.app()).drain()
    execute(bench, "create view seen as select position from applied")

    for dry_run in (True, False):
        with pytest.raises(RefusedError, match="view seen") as refused:
            in_place(wider_board(bench), dry_run=dry_run)
        assert "in-place" not in refused.value.remedy
    assert (bench.applied(APPLIED), bench.position("board")) == (sent, sent[-1])

    execute(bench, "drop view seen")
    in_place(wider_board(bench))
    wider_board(bench).drain()
    assert bench.applied(APPLIED) == sent


def test_rights_go_along_to_tables_with_other_columns(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    board_of(bench.app()).register()
    execute(bench, "grant select on applied to public", "grant update (note) on applied to public")

    in_place(wider_board(bench))

    asked = text(
        "select has_table_privilege('pg_monitor', 'applied', 'select'),"
        " has_column_privilege('pg_monitor', 'applied', 'note', 'update'),"
        " has_column_privilege('pg_monitor', 'applied', 'more', 'update')"
    )
    rights = tuple(bench.rows(asked)[0])
    bench.close()
    assert rights == (True, True, False)


def test_an_index_that_is_declared_later_is_made_where_tables_are_emptied(bench: Bench) -> None:
    board_of(bench.app()).register()
    app = bench.app()
    indexed = applied_table()
    Index("of_note", indexed.c.note)
    app.projection("board", tables=[indexed])(look_at)

    in_place(app)

    assert [one["name"] for one in inspect(bench.log.engine).get_indexes("applied")] == ["of_note"]


def test_a_table_that_is_gone_is_made_anew_in_place_as_the_refusal_says(bench: Bench) -> None:
    sent = bench.send(2)
    app = board_of(bench.app())
    app.drain()
    execute(bench, "drop table applied")
    with pytest.raises(RefusedError, match="is gone") as refused:
        app.register()
    assert "--in-place" in refused.value.remedy
    with pytest.raises(RefusedError, match="is gone"):
        rebuild_in_place(app.log.database, "board")

    in_place(app)
    app.drain()

    assert bench.applied(APPLIED) == sent

"""Making a projection anew beside the live one: nobody who reads sees an error, an empty table or half of one."""

import threading
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, Index, MetaData, Table, Text, func, insert, inspect, select, text

from eventlog.errors import NotFoundError, RefusedError
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.exchange import drop_kept, exchange, go_back, hold_live
from eventlog.subscribers.control.rebuilds import (
    RebuildState,
    begin_rebuild,
    cancel_rebuild,
    read_rebuild,
    read_rebuilds,
)
from eventlog.subscribers.rebuilding import BEGIN_SECONDS, Rebuilds, partitions_of, run_rebuild
from eventlog.subscribers.registration import Registration
from eventlog.subscribers.retry import Retry
from eventlog.testing import StillClock
from tests.subscribers_support import Background, Bench, BugError, Sent, eventually, runtime_of

BEFORE = Table("board", MetaData(), Column("number", BigInteger, primary_key=True, autoincrement=False))
AFTER = Table(
    "board",
    MetaData(),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("label", Text, nullable=False),
    Index("ix_board_label", "label"),
)


def look_at(crate: Sent) -> None:
    """A handler that does nothing."""


def first_version(bench: Bench, **options: Any) -> App:
    app = bench.app()
    board = app.projection("board", tables=[BEFORE], **options)

    @board
    def add(crate: Sent, ctx: Context) -> None:
        ctx.connection.execute(insert(BEFORE).values(number=crate.number))

    return app


def second_version(bench: Bench, *, broken: int | None = None, partitions: int = 1) -> App:
    app = bench.app()
    board = app.projection("board", tables=[AFTER], version=2, partitions=partitions, retry=Retry(attempts=1))

    @board
    def add(crate: Sent, ctx: Context) -> None:
        if crate.number == broken:
            raise BugError
        ctx.connection.execute(text("insert into board values (:number, 'board')"), {"number": crate.number})

    return app


def numbers(bench: Bench) -> list[int]:
    return sorted(row.number for row in bench.rows(select(BEFORE.c.number)))


def labels(bench: Bench) -> set[str]:
    return {row.label for row in bench.rows(select(AFTER.c.label))}


def tables(bench: Bench) -> set[str]:
    found = inspect(bench.log.engine).get_table_names()
    return {name for name in found if name.startswith("board")}


def test_a_higher_version_is_made_beside_and_taken_into_use_when_it_has_caught_up(bench: Bench) -> None:
    bench.send(5)
    first_version(bench).drain()

    done = second_version(bench).drain()

    assert done.subscribers["board"].handled == 0
    assert (numbers(bench), labels(bench)) == ([1, 2, 3, 4, 5], {"board"})
    assert (bench.position("board"), tables(bench)) == (5, {"board"})
    assert [one.state for one in read_rebuilds(bench.log.database)] == [RebuildState.DONE]


def test_what_comes_afterwards_is_applied_by_the_new_version_and_once(bench: Bench) -> None:
    bench.send(3)
    first_version(bench).drain()
    app = second_version(bench)
    app.drain()
    bench.send(2, first=4)

    assert app.drain().handled == 2
    assert numbers(bench) == [1, 2, 3, 4, 5]


def test_the_live_one_goes_on_while_the_other_is_made(bench: Bench) -> None:
    bench.send(3)
    old = first_version(bench)
    old.drain()
    second_version(bench).register()
    bench.send(2, first=4)

    assert old.drain().handled == 2
    assert (numbers(bench), len(tables(bench))) == ([1, 2, 3, 4, 5], 2)
    assert bench.status("board").lag == 0


def test_code_of_the_version_before_does_not_run_what_has_been_exchanged(bench: Bench) -> None:
    bench.send(1)
    old = first_version(bench)
    old.drain()
    second_version(bench).drain()

    with pytest.raises(RefusedError, match="version 2"):
        old.drain()
    with pytest.raises(RefusedError, match="version 2"):
        first_version(bench).register()


def test_a_rebuild_goes_on_where_a_worker_that_was_killed_had_come(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.subscribers.feed.PAGE_EVENTS", 500)
    bench.send(600)
    first_version(bench).drain()
    app = second_version(bench)
    app.register()
    rebuild = read_rebuilds(bench.log.database)[0]
    runtime = runtime_of(app)
    shadow = app.subscribers["board"]
    partition = partitions_of(runtime, shadow, rebuild)[0]
    runtime.feed.refresh()
    partition.turn()
    come = bench.position(rebuild.shadow)
    assert 0 < come < 600
    bench.expire_lease(rebuild.shadow)

    done = run_rebuild(runtime_of(app), shadow, rebuild)

    assert done.state is RebuildState.DONE
    assert numbers(bench) == list(range(1, 601))


def test_a_rebuild_that_is_cancelled_leaves_nothing_behind_and_is_not_begun_again(bench: Bench) -> None:
    bench.send(2)
    first_version(bench).drain()
    new = second_version(bench)
    new.register()

    cancel_rebuild(bench.log.database, "board")

    assert tables(bench) == {"board"}
    assert new.register() == {"board": Registration.OUTDATED}
    assert [one.state for one in read_rebuilds(bench.log.database)] == [RebuildState.CANCELLED]
    with pytest.raises(NotFoundError):
        cancel_rebuild(bench.log.database, "board")


def test_a_rebuild_halts_at_an_event_that_fails_and_the_live_one_serves_on(bench: Bench) -> None:
    bench.send(3)
    first_version(bench).drain()

    broken = second_version(bench, broken=2)
    with pytest.raises(RefusedError):
        broken.drain()

    rebuild = read_rebuilds(bench.log.database)[0]
    assert (rebuild.state, bench.states(rebuild.shadow)) == (RebuildState.RUNNING, {2: "parked"})
    assert numbers(bench) == [1, 2, 3]
    control.retry(bench.log.database, rebuild.shadow)
    second_version(bench).drain()
    assert (labels(bench), bench.states("board")) == ({"board"}, {2: "resolved"})


def test_workers_make_a_version_anew_while_old_ones_serve_and_writers_append(bench: Bench) -> None:
    """Readers in a loop see, each time, a whole table: as many rows as its checkpoint says, or more a moment later."""
    bench.send(300)
    old, new = first_version(bench), second_version(bench)
    old.drain()
    seen: list[int] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(bench.rows(select(func.count()).select_from(BEFORE))[0][0])

    with old.worker():
        reader, writer = Background(read), Background(lambda: [bench.send(1, first=301 + n) for n in range(50)])
        with new.worker():
            eventually(lambda: read_rebuilds(bench.log.database)[0].state is RebuildState.DONE, what="the exchange")
            writer.join()
            eventually(lambda: bench.position("board") == 350, what="everything")
        stop.set()
        reader.join()

    assert min(seen) >= 300
    assert numbers(bench) == list(range(1, 351))
    assert labels(bench) == {"board"}


def test_the_version_before_is_kept_and_comes_back_with_its_checkpoint(bench: Bench) -> None:
    bench.send(2)
    old = first_version(bench)
    old.drain()
    new = second_version(bench)
    rebuild = begin_rebuild(bench.log.database, new.subscribers["board"], keep=True)
    new.drain()
    bench.send(1, first=3)
    new.drain()
    assert tables(bench) == {"board", f"board__k{rebuild.operation}"}

    back = go_back(bench.log.database, "board", reason="wrong labels")

    assert (back.from_version, back.to_version, back.checkpoint) == (2, 1, 2)
    assert (numbers(bench), tables(bench)) == ([1, 2], {"board"})
    old.drain()
    assert numbers(bench) == [1, 2, 3]
    assert new.register() == {"board": Registration.OUTDATED}
    assert read_rebuild(bench.log.database, rebuild.operation).state is RebuildState.REVERTED


def test_who_says_keep_while_it_is_made_keeps_the_tables_of_before(bench: Bench) -> None:
    """A worker has begun it by itself, which keeps nothing."""
    bench.send(2)
    first_version(bench).drain()
    app = second_version(bench)
    app.register()
    database, board = bench.log.database, app.subscribers["board"]

    planned = begin_rebuild(database, board, keep=True, dry_run=True)
    assert (planned.keep, read_rebuilds(database)[0].keep) == (True, False)
    assert begin_rebuild(database, board, keep=True).keep
    assert begin_rebuild(database, board).keep
    app.drain()

    assert read_rebuilds(database)[0].kept is not None
    assert go_back(database, "board").to_version == 1
    assert [one.action for one in bench.operations("board")] == ["register", "rebuild", "keep", "exchange", "go-back"]


def test_kept_tables_can_be_dropped_and_the_next_rebuild_drops_them(bench: Bench) -> None:
    bench.send(2)
    first_version(bench).drain()
    new = second_version(bench)
    begin_rebuild(bench.log.database, new.subscribers["board"], keep=True)
    new.drain()
    again = begin_rebuild(bench.log.database, new.subscribers["board"], keep=True)
    new.drain()

    assert tables(bench) == {"board", f"board__k{again.operation}"}
    drop_kept(bench.log.database, "board")
    assert tables(bench) == {"board"}
    with pytest.raises(NotFoundError):
        go_back(bench.log.database, "board")


def test_a_shadow_that_is_not_as_far_as_the_live_one_is_not_taken_into_use(bench: Bench) -> None:
    bench.send(2)
    first_version(bench).drain()
    new = second_version(bench)
    new.register()
    rebuild = read_rebuilds(bench.log.database)[0]

    assert not exchange(bench.log.database, new.subscribers["board"], rebuild)
    assert (numbers(bench), bench.position(rebuild.shadow)) == ([1, 2], 0)


def test_a_live_one_that_is_held_is_given_to_nobody_until_the_hold_ends(bench: Bench) -> None:
    bench.send(2)
    old = first_version(bench)
    old.drain()
    second_version(bench).register()
    rebuild = read_rebuilds(bench.log.database)[0]
    bench.send(1, first=3)
    hold_live(bench.log.database, rebuild, seconds=60)

    runtime = runtime_of(old)
    partition = old.partitions(runtime)[0]
    runtime.feed.refresh()
    partition.turn()
    assert (numbers(bench), partition.lease.held) == ([1, 2], False)

    bench.expire_lease("board")
    partition.turn()
    assert numbers(bench) == [1, 2, 3]


def test_columns_that_changed_without_a_version_ask_for_a_rebuild_before_anything_fails(bench: Bench) -> None:
    bench.send(2)
    first_version(bench).drain()
    app = bench.app()

    @app.projection("board", tables=[AFTER])
    def add(crate: Sent, ctx: Context) -> None:
        ctx.connection.execute(insert(AFTER).values(number=crate.number, label="x"))

    with pytest.raises(RefusedError, match="board with label text not null") as refused:
        app.register()
    assert "version=2" in refused.value.remedy
    begin_rebuild(bench.log.database, app.subscribers["board"])
    assert numbers(bench) == [1, 2]


def test_a_table_that_was_changed_by_hand_as_code_declares_it_is_taken_over(bench: Bench) -> None:
    bench.send(2)
    first_version(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql("alter table board add column label text not null default 'x'")
    app = bench.app()

    @app.projection("board", tables=[AFTER])
    def add(crate: Sent, ctx: Context) -> None: ...

    assert app.register() == {"board": Registration.UNCHANGED}


def test_a_table_has_one_owner_also_across_services(bench: Bench) -> None:
    first_version(bench).register()
    other = bench.app()

    @other.projection("other", tables=[BEFORE])
    def add(crate: Sent) -> None: ...

    with pytest.raises(RefusedError, match="owned by projection 'board'"):
        other.register()


def test_a_table_of_another_projection_is_not_taken_over_later_either(bench: Bench) -> None:
    first_version(bench).register()
    mine = Table("mine", MetaData(), Column("number", BigInteger, primary_key=True))

    def other(*tables: Table, version: int = 1) -> App:
        app = bench.app()
        app.projection("other", tables=tables, version=version)(look_at)
        return app

    other(mine).register()
    with pytest.raises(RefusedError, match="'board' of projection 'other' is owned by projection 'board'"):
        other(mine, BEFORE).register()
    with pytest.raises(RefusedError, match="owned by projection 'board'"):
        rebuild_in_place(bench.log.database, "other", declared=other(mine, BEFORE, version=2).subscribers["other"])


def test_a_table_has_one_owner_by_whatever_name_the_database_knows_it(bench: Bench) -> None:
    first_version(bench).register()
    metadata = MetaData()
    same = (
        BEFORE.to_metadata(metadata, schema="public") if bench.postgres else BEFORE.to_metadata(metadata, name="BOARD")
    )
    app = bench.app()
    app.projection("other", tables=[same])(look_at)

    with pytest.raises(RefusedError, match="owned by projection 'board'"):
        app.register()


def test_the_tables_of_the_log_are_nobodys(bench: Bench) -> None:
    logs = bench.log.database.tables.failures
    same = Table(logs.name, MetaData(), Column("position", BigInteger, primary_key=True), schema=logs.schema)
    app = bench.app()
    app.projection("failures", tables=[same])(look_at)

    with pytest.raises(RefusedError, match="is one of the log's own"):
        app.register()


def test_a_table_that_is_gone_is_not_made_empty_behind_the_checkpoint(bench: Bench) -> None:
    bench.send(1)
    first_version(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql("drop table board")

    with pytest.raises(RefusedError, match="is gone"):
        first_version(bench).register()


def version_of(bench: Bench, version: int, *, tables: Any = AFTER) -> App:
    app = bench.app()

    @app.projection("board", tables=[tables], version=version)
    def add(crate: Sent, ctx: Context) -> None:
        ctx.connection.execute(insert(tables).values(number=crate.number, label=f"v{version}"))

    return app


def versions(bench: Bench) -> list[tuple[int, str]]:
    return [(one.version, str(one.state)) for one in read_rebuilds(bench.log.database)]


@pytest.mark.parametrize(
    ("version", "columns", "said"),
    [
        (3, "those", "rebuild 2 of 'board' runs, of version 2, and this code declares version 3"),
        (2, "others", "rebuild 2 of 'board' runs, of the same version and other columns: board with more text"),
    ],
)
def test_a_rebuild_of_another_version_is_in_the_way_and_the_refusal_says_which(
    bench: Bench, version: int, columns: str, said: str
) -> None:
    bench.send(1)
    first_version(bench).drain()
    second_version(bench).register()
    wider = AFTER.to_metadata(MetaData())
    wider.append_column(Column("more", Text))
    app = version_of(bench, version, tables=AFTER if columns == "those" else wider)

    with pytest.raises(RefusedError) as refused:
        begin_rebuild(bench.log.database, app.subscribers["board"])

    assert said in str(refused.value)
    assert "rebuild board --cancel" in refused.value.remedy


@pytest.mark.parametrize("ends", ["cancelled", "done"])
def test_a_running_worker_begins_its_version_when_the_rebuild_of_an_older_one_has_ended(
    bench: Bench, ends: str
) -> None:
    bench.send(2)
    first_version(bench).drain()
    older = second_version(bench)
    older.register()
    with version_of(bench, 3).worker():
        bench.send(1, first=3)
        if ends == "cancelled":
            cancel_rebuild(bench.log.database, "board")
        else:
            older.drain()
        both = [(3, "done"), (2, ends)]
        eventually(lambda: versions(bench) == both, what="the newer version to be in use", seconds=10)
    assert (numbers(bench), labels(bench)) == ([1, 2, 3], {"v3"})


def test_who_runs_asks_again_whether_its_version_can_be_begun_and_not_for_one_that_was_tried(bench: Bench) -> None:
    """A view was in the way when it started. Cancelled, the version stays cancelled."""
    bench.send(2)
    first_version(bench).drain()
    app, clock = version_of(bench, 2), StillClock()
    looked = Rebuilds(runtime_of(app, clock=clock), app.subscribers)

    def look() -> bool:
        with bench.log.database.reader() as connection:
            looked.look(connection)
        due = looked.next()
        return due is not None and due.turn().moved

    with bench.transaction() as connection:
        connection.exec_driver_sql("create view heavy as select * from board")
    assert not look()
    with bench.transaction() as connection:
        connection.exec_driver_sql("drop view heavy")
    assert not look()
    clock.advance(BEGIN_SECONDS)
    assert look()
    cancel_rebuild(bench.log.database, "board")
    look()
    clock.advance(BEGIN_SECONDS)

    assert not look()
    assert looked.try_at is None
    assert versions(bench) == [(2, "cancelled")]


def test_what_is_being_made_anew_is_neither_renamed_removed_nor_moved(bench: Bench) -> None:
    bench.send(1)
    first_version(bench).drain()
    second_version(bench).register()
    shadow = read_rebuilds(bench.log.database)[0].shadow

    for deed in (
        lambda: control.remove(bench.log.database, "board"),
        lambda: control.rename(bench.log.database, "board", "plank"),
        lambda: control.repartition(bench.log.database, "board", 2),
        lambda: control.remove(bench.log.database, shadow),
        lambda: control.rewind(bench.log.database, shadow, control.to_start),
    ):
        with pytest.raises(RefusedError, match=r"rebuild|made anew"):
            deed()


def test_removing_a_projection_forgets_what_is_kept_of_it_too(bench: Bench) -> None:
    bench.send(1)
    first_version(bench).drain()
    new = second_version(bench)
    begin_rebuild(bench.log.database, new.subscribers["board"], keep=True)
    new.drain()

    control.remove(bench.log.database, "board")

    table = bench.log.database.tables.subscribers
    assert bench.rows(select(table.c.name)) == []
    assert len(tables(bench)) == 2

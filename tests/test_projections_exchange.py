"""The exchange of tables: what readers see of it, what goes along with the names, and what refuses it."""

import threading
from functools import partial
from typing import Any

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Index,
    MetaData,
    Table,
    Text,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)

from eventlog.errors import DeclarationError, NotFoundError, RefusedError
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.exchange import exchange, go_back
from eventlog.subscribers.control.rebuilds import (
    Rebuild,
    RebuildState,
    begin_rebuild,
    cancel_rebuild,
    read_rebuild,
    read_rebuilds,
)
from eventlog.subscribers.rebuilding import Finishing, partitions_of
from tests.log_support import engine_of, wait_until, waiting_for_locks
from tests.subscribers_support import Background, Bench, Sent, eventually, runtime_of

PREFACE = 200
APPENDS = 150


def tables_of(metadata: MetaData) -> tuple[Table, Table]:
    """Two tables that refer to each other by a key, with whatever has a name of its own in a database."""
    crates = Table(
        "crates",
        metadata,
        Column("number", BigInteger, primary_key=True, autoincrement=False),
        Column("label", Text, unique=True),
        Index("ix_crates_label", "label"),
    )
    lines = Table(
        "crate_lines",
        metadata,
        Column("id", BigInteger().with_variant(BigInteger(), "postgresql"), primary_key=True, autoincrement=False),
        Column("crate", BigInteger, ForeignKey("crates.number", name="line_of_crate"), nullable=False),
    )
    return crates, lines


CRATES, LINES = tables_of(MetaData())


def app_of(bench: Bench, version: int = 1) -> App:
    app = bench.app()
    board = app.projection("board", tables=[CRATES, LINES], version=version)

    @board
    def add(sent: list[Sent], ctx: Context) -> None:
        crates = [{"number": one.number, "label": f"v{version}-{one.number}"} for one in sent]
        ctx.connection.execute(insert(CRATES), crates)
        ctx.connection.execute(insert(LINES), [{"id": one.number, "crate": one.number} for one in sent])

    return app


def begun(bench: Bench, version: int = 2, *, keep: bool = False) -> tuple[App, Rebuild]:
    app = app_of(bench, version)
    return app, begin_rebuild(bench.log.database, app.subscribers["board"], keep=keep)


def caught_up(app: App, rebuild: Rebuild) -> None:
    runtime = runtime_of(app)
    runtime.feed.refresh()
    for partition in partitions_of(runtime, app.subscribers["board"], rebuild):
        while partition.turn().moved:
            pass
        partition.release()


def state(bench: Bench, rebuild: Rebuild) -> RebuildState:
    return read_rebuild(bench.log.database, rebuild.operation).state


def test_readers_and_writers_go_on_through_exchange_after_exchange(bench: Bench) -> None:
    """Four readers in a loop, with statements that their driver has prepared; one writer; a worker of each version.

    No reader sees an error, nor fewer rows than it has seen before, nor rows of two versions in one statement.
    """
    bench.send(PREFACE)
    app_of(bench).drain()
    stop = threading.Event()
    reads = [0] * 4

    def read(place: int) -> None:
        least, question = PREFACE, select(func.count(), func.min(CRATES.c.label), func.max(CRATES.c.label))
        with engine_of(bench.url) as engine:
            while not stop.is_set():
                with engine.connect() as connection:
                    count, lowest, highest = connection.execute(question.join(LINES)).one()
                assert count >= least, f"{count} rows after {least}"
                assert lowest[:2] == highest[:2], f"rows of two versions: {lowest}, {highest}"
                least = count
                reads[place] += 1

    readers = [Background(partial(read, place)) for place in range(4)]
    writer = Background(lambda: [bench.send(1, first=PREFACE + 1 + number) for number in range(APPENDS)])
    for version in (2, 3):
        app = app_of(bench, version)
        with app.worker():
            eventually(partial(is_done, bench), what="the exchange")
            if version == 3:
                writer.join()
                app.wait_for("board", bench.log.head(), timeout_seconds=30)
    stop.set()
    for reader in readers:
        reader.join()

    rows = bench.rows(select(CRATES.c.number, CRATES.c.label).order_by(CRATES.c.number))
    assert [tuple(row) for row in rows] == [(n, f"v3-{n}") for n in range(1, PREFACE + APPENDS + 1)]
    assert min(reads) > 0


def test_keys_between_the_tables_and_the_names_of_their_parts_go_along(bench: Bench) -> None:
    bench.send(3)
    app_of(bench).drain()
    before = names_of(bench)
    for version in (2, 3):
        app, rebuild = begun(bench, version)
        caught_up(app, rebuild)
        assert exchange(bench.log.database, app.subscribers["board"], rebuild)

    assert inspect(bench.log.engine).get_foreign_keys("crate_lines")[0]["referred_table"] == "crates"
    if bench.postgres:
        assert names_of(bench) == before
    with bench.transaction() as connection, pytest.raises(Exception, match=r"(?i)foreign key"):
        connection.execute(insert(LINES).values(id=99, crate=99))


def is_done(bench: Bench) -> bool:
    return read_rebuilds(bench.log.database)[0].state is RebuildState.DONE


def names_of(bench: Bench) -> set[str]:
    if not bench.postgres:
        return set()
    found = "select relname from pg_class where relname like '%crate%' union select conname from pg_constraint"
    return {row[0] for row in bench.rows(text(f"{found} where conname like '%crate%'"))}


def test_whoever_comes_second_finds_it_done(bench: Bench) -> None:
    """A worker and a command have seen it catch up; the names are gone when the second one asks for them."""
    bench.send(2)
    app_of(bench).drain()
    app, rebuild = begun(bench)
    caught_up(app, rebuild)

    assert exchange(bench.log.database, app.subscribers["board"], rebuild)
    assert exchange(bench.log.database, app.subscribers["board"], rebuild)

    assert state(bench, rebuild) is RebuildState.DONE


def test_who_cancels_while_it_is_taken_into_use_is_told_that_nothing_runs(postgres_database_url: str) -> None:
    """The cancel waits for the tables until the exchange has committed."""
    bench = Bench(postgres_database_url)
    bench.send(2)
    app_of(bench).drain()
    app, rebuild = begun(bench)
    caught_up(app, rebuild)
    database, rebuilds = bench.log.database, bench.log.database.tables.rebuilds
    with engine_of(postgres_database_url) as observer:
        with database.transaction() as connection:
            connection.exec_driver_sql(f"lock table crates__r{rebuild.operation} in access share mode")
            cancelling = Background(lambda: cancel_rebuild(database, "board"))
            wait_until(lambda: waiting_for_locks(observer) == 1, what="the cancel to wait")
            connection.execute(update(rebuilds).values(state="done"))
        with pytest.raises(NotFoundError, match="no rebuild of 'board' runs"):
            cancelling.join()
    assert len(inspect(bench.log.engine).get_table_names()) == 4
    bench.close()


def test_what_is_in_use_now_is_free_for_any_worker_at_once(bench: Bench) -> None:
    """The shadow's owner is another worker, and has not let go."""
    bench.send(2)
    app_of(bench).drain()
    app, rebuild = begun(bench)
    runtime = runtime_of(app)
    runtime.feed.refresh()
    shadow = partitions_of(runtime, app.subscribers["board"], rebuild)[0]
    while shadow.turn().moved:
        pass
    held = bench.checkpoint(rebuild.shadow)
    assert held.owner == runtime.owner

    assert exchange(bench.log.database, app.subscribers["board"], rebuild)

    now = bench.checkpoint("board")
    assert (now.owner, now.expires_at, now.position) == (None, None, held.position)
    assert now.epoch > held.epoch


def test_rights_and_owner_go_along_on_postgresql(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    bench.send(2)
    app_of(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql("create role board_reader")
        connection.exec_driver_sql("grant select on crates to board_reader with grant option")
        connection.exec_driver_sql("grant select (id), update (crate) on crate_lines to public")
    try:
        app, rebuild = begun(bench)
        caught_up(app, rebuild)
        assert exchange(bench.log.database, app.subscribers["board"], rebuild)
        asked = text(
            "select has_table_privilege('board_reader', 'crates', 'select with grant option'),"
            " has_column_privilege('board_reader', 'crate_lines', 'crate', 'update'),"
            " has_column_privilege('board_reader', 'crate_lines', 'id', 'update')"
        )
        assert tuple(bench.rows(asked)[0]) == (True, True, False)
    finally:
        with bench.transaction() as connection:
            connection.exec_driver_sql("drop owned by board_reader")
            connection.exec_driver_sql("drop role board_reader")
        bench.close()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ("create view heavy as select * from crates", "view heavy"),
        ("create table notes (crate bigint references crates (number))", "foreign key of notes"),
    ],
)
def test_what_would_keep_the_old_tables_refuses_a_rebuild_before_it_begins(bench: Bench, made: str, said: str) -> None:
    bench.send(1)
    app_of(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql(made)

    with pytest.raises(RefusedError, match=said) as refused:
        begun(bench)
    assert read_rebuilds(bench.log.database) == []
    assert ("--in-place" in refused.value.remedy) is said.startswith("view")


def test_in_place_is_recommended_only_where_the_columns_are_those_of_before(bench: Bench) -> None:
    app_of(bench).register()
    with bench.transaction() as connection:
        connection.exec_driver_sql("create view heavy as select * from crates")
    app, other = bench.app(), MetaData()
    wider = (CRATES.to_metadata(other), LINES.to_metadata(other))
    wider[0].append_column(Column("weight", BigInteger))
    app.projection("board", tables=wider, version=2)(look_at)

    with pytest.raises(RefusedError, match="view heavy") as refused:
        begin_rebuild(bench.log.database, app.subscribers["board"])
    assert "--in-place" not in refused.value.remedy


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            "create function heavy() returns bigint language sql begin atomic select count(*) from crates; end",
            r"function heavy\(\)",
        ),
        (
            (
                "create trigger odd before update on crates for each row execute function"
                " suppress_redundant_updates_trigger()"
            ),
            "trigger odd",
        ),
        ("create policy own on crate_lines", "policy own"),
        ("alter table crate_lines enable row level security", "row level security of crate_lines"),
        ("create publication all_crates for table crates", "publication all_crates"),
        ("create table more () inherits (crate_lines)", "inheritance of more"),
    ],
)
def test_what_postgresql_ties_to_a_table_refuses_it_too(postgres_database_url: str, made: str, said: str) -> None:
    bench = Bench(postgres_database_url)
    bench.send(1)
    app_of(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql(made)
    with pytest.raises(RefusedError, match=said):
        begun(bench)
    bench.close()


def test_a_table_of_somebody_else_is_not_taken_over_by_a_new_version(bench: Bench) -> None:
    bench.send(1)
    app_of(bench).drain()
    with bench.transaction() as connection:
        connection.exec_driver_sql("create table totals (number bigint primary key)")
    app = bench.app()
    totals = Table("totals", MetaData(), Column("number", BigInteger, primary_key=True, autoincrement=False))
    app.projection("board", tables=[CRATES, LINES, totals], version=2)(look_at)

    with pytest.raises(RefusedError, match="table 'totals', which 'board' is to have"):
        begin_rebuild(bench.log.database, app.subscribers["board"])
    with bench.transaction() as connection:
        connection.exec_driver_sql("drop table totals")
    app.drain()
    assert bench.rows(select(totals)) == []


def test_a_view_that_comes_while_it_is_made_keeps_it_from_being_taken_into_use(bench: Bench) -> None:
    bench.send(2)
    app_of(bench).drain()
    app, rebuild = begun(bench)
    caught_up(app, rebuild)
    with bench.transaction() as connection:
        connection.exec_driver_sql("create view heavy as select * from crates")
    finishing = Finishing(runtime_of(app), app.subscribers["board"], rebuild)

    assert not finishing.turn().moved
    assert state(bench, rebuild) is RebuildState.RUNNING
    with bench.transaction() as connection:
        connection.exec_driver_sql("drop view heavy")
    assert finishing.turn().moved
    assert state(bench, rebuild) is RebuildState.DONE


def test_a_reader_who_stays_in_the_table_is_left_alone_and_the_live_one_goes_on(postgres_database_url: str) -> None:
    bench = Bench(postgres_database_url)
    bench.send(2)
    old = app_of(bench)
    old.drain()
    app, rebuild = begun(bench)
    caught_up(app, rebuild)
    finishing = Finishing(runtime_of(app), app.subscribers["board"], rebuild)
    with bench.log.engine.connect() as reader:
        reader.execute(select(CRATES)).all()
        assert not finishing.turn().moved
        bench.send(1, first=3)
        assert old.drain().handled == 1
    caught_up(app, rebuild)
    assert finishing.turn().moved
    bench.close()


def test_an_error_on_the_way_leaves_both_as_they_were(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.send(2)
    app_of(bench).drain()
    app, rebuild = begun(bench, keep=True)
    caught_up(app, rebuild)

    def fail(*_given: Any, **_options: Any) -> None:
        raise RuntimeError("between two statements")

    for place in ("_rename", "_record_exchange", "_take_place", "_declare", "end_rebuild"):
        with monkeypatch.context() as patched:
            patched.setattr(f"eventlog.subscribers.control.exchange.{place}", fail)
            with pytest.raises(RuntimeError):
                exchange(bench.log.database, app.subscribers["board"], rebuild)
        assert state(bench, rebuild) is RebuildState.RUNNING
        assert {row.label[:2] for row in bench.rows(select(CRATES.c.label))} == {"v1"}
    assert exchange(bench.log.database, app.subscribers["board"], rebuild)
    for place in ("_rename", "_take_place", "end_rebuild"):
        with monkeypatch.context() as patched:
            patched.setattr(f"eventlog.subscribers.control.exchange.{place}", fail)
            with pytest.raises(RuntimeError):
                go_back(bench.log.database, "board")
        assert {row.label[:2] for row in bench.rows(select(CRATES.c.label))} == {"v2"}
    go_back(bench.log.database, "board")
    assert {row.label[:2] for row in bench.rows(select(CRATES.c.label))} == {"v1"}


def test_tables_that_cannot_stand_beside_themselves_are_refused_with_another_way(bench: Bench) -> None:
    app = bench.app()
    odd = Table("odd", MetaData(), Column("odd", BigInteger, primary_key=True, autoincrement=False))

    @app.projection("odd", tables=[odd])
    def add(crate: Sent) -> None: ...

    app.register()
    with pytest.raises(DeclarationError, match="called like a table") as refused:
        begin_rebuild(bench.log.database, app.subscribers["odd"])
    assert "--in-place" in refused.value.remedy


def test_a_worker_that_may_make_no_tables_says_so_and_runs_the_others(
    postgres_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A role that owns neither tables nor schema starts with a higher version, and with another subscriber."""
    bench = Bench(postgres_database_url)
    bench.send(2)
    app_of(bench).drain()
    role = f"worker_{make_url(postgres_database_url).database}"[:60]
    with bench.transaction() as connection:
        for statement in (
            f"create role {role} login",
            "revoke create on schema public from public",
            f"grant usage on schema eventlog to {role}",
            f"grant all on all tables in schema eventlog to {role}",
            f"grant usage on all sequences in schema eventlog to {role}",
            f"grant all on crates, crate_lines to {role}",
        ):
            connection.exec_driver_sql(statement)
    try:
        app = App(make_url(postgres_database_url).set(username=role))
        board = app.projection("board", tables=[CRATES, LINES], version=2)
        board(look_at)
        mail = app.subscriber("mail")
        mail(look_at)
        with app.worker() as worker:
            eventually(lambda: worker.counts["mail"].handled == 2, what="the mails")
        assert "version 2 of 'board' cannot be made beside the live one" in caplog.text
        assert {row.label[:2] for row in bench.rows(select(CRATES.c.label))} == {"v1"}
        app.engine.dispose()
    finally:
        with bench.transaction() as connection:
            connection.exec_driver_sql(f"drop owned by {role}")
            connection.exec_driver_sql(f"drop role {role}")
        bench.close()


def look_at(crate: Sent) -> None:
    """A handler that does nothing."""

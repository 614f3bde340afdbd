"""Through PgBouncer in transaction mode everything is as without it: appends, order, subscribers, operators.

Three server connections serve all clients of a test, so a client meets another one's connection in its next
transaction. What would be left on a connection, or be looked for there, is found out.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from benchmarks.lost_events.adapters.rewindlog import Pages
from benchmarks.lost_events.node_writer import NodeWriter
from benchmarks.lost_events.race import enough, run_race
from benchmarks.lost_events.shapes import UNDISTURBED
from benchmarks.lost_events.writing import WRITER_NAME
from eventlog.errors import IdConflictError, WrongExpectedVersionError
from eventlog.ids import new_id
from eventlog.importing import Importing
from eventlog.log import EventLog
from eventlog.postgres_pooler import Pooler
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.status import read_status
from tests.carried_support import lines
from tests.clients import clients
from tests.log_support import at_once, engine_of, errors_of, everything, new_seed, note, notes, opened, said
from tests.pgbouncer_server import POOL_CONNECTIONS
from tests.subscribers_support import Bench, BugError, Sent, applied_table, eventually
from tests.subscribers_support import note as apply_note

APPLIED = applied_table()
PREPARED_AFTER = 5
"""How often psycopg runs a statement before it prepares it."""
OFTEN = 3 * PREPARED_AFTER
WRITERS = 12
RACE_SECONDS = 2.0
FOLLOWED_BY_POOLERS = {"application_name", "client_encoding", "DateStyle", "IntervalStyle", "TimeZone"}
"""Settings a pooler follows by itself: it puts them back when it lends a connection to the next client."""


@pytest.fixture
def log(pooled_url: str) -> Iterator[EventLog]:
    with opened(pooled_url) as log:
        yield log


@pytest.fixture
def bench(pooled_url: str) -> Iterator[Bench]:
    bench = Bench(pooled_url)
    yield bench
    bench.close()


def plain(url: str) -> str:
    """The URL for psycopg itself."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def in_turns(*connections: psycopg.Connection[Any]) -> None:
    """Run one statement often on each, so that transactions of one follow those of another."""
    for _ in range(OFTEN):
        for connection in connections:
            with connection.transaction():
                connection.execute("select count(*) from eventlog.events where stream = %s", ["s"])


def test_what_is_prepared_by_default_breaks_here(pooled_url: str) -> None:
    """The trap the other tests would fall into: without it they would show nothing."""
    with (
        psycopg.connect(plain(pooled_url)) as one,
        psycopg.connect(plain(pooled_url)) as other,
        pytest.raises((psycopg.errors.DuplicatePreparedStatement, psycopg.errors.InvalidSqlStatementName)),
    ):
        in_turns(one, other)


def test_a_pooler_is_noticed_and_a_server_is_not_taken_for_one(pooled_url: str, postgres_database_url: str) -> None:
    with psycopg.connect(plain(pooled_url)) as pooled, psycopg.connect(plain(postgres_database_url)) as direct:
        assert (Pooler().is_before(pooled), Pooler().is_before(direct)) == (True, False)


def test_statements_are_prepared_where_no_pooler_stands_between(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log, log.engine.connect() as connection:
        for number in range(OFTEN):
            log.append(note(f"{number}"), tx=connection)
        assert connection.scalar(text("select count(*) from pg_prepared_statements where statement ~ 'insert'")) == 1


def test_a_log_is_made_and_found_through_the_pooler(pooled_empty_url: str) -> None:
    with opened(pooled_empty_url) as log:
        log.init()
        log.append(note("made"))
    with opened(pooled_empty_url) as log:
        log.init()
        log.append(note("found"))
        assert said(everything(log)) == ["made", "found"]


def test_two_upgrades_at_once_make_one_log(pooled_empty_url: str) -> None:
    with opened(pooled_empty_url) as one, opened(pooled_empty_url) as other:
        assert errors_of(at_once(one.init, other.init)) == []
        assert one.append(note("made"))[0].position == 1


def exercise(log: EventLog) -> None:
    """Append and read in every way, each often enough for its statements to be prepared."""
    for number in range(OFTEN):
        stream = f"s-{number}"
        kept = note("kept", stream=stream, id=new_id())
        assert [one.version for one in log.append(kept)] == [1]
        assert [one.version for one in log.append(*notes(3, stream=stream), expected=1)] == [2, 3, 4]
        with log.engine.begin() as connection:
            log.append(note("in a transaction", stream=stream), tx=connection)
            last = log.append(*notes(2, stream=stream), tx=connection)[-1]
        assert log.append(kept)[0].version == 1
        with pytest.raises(IdConflictError):
            log.append(note("other", stream=stream, id=kept.id))
        with log.engine.begin() as connection, pytest.raises(WrongExpectedVersionError):
            log.append(note("late", stream=stream), expected=3, tx=connection)
        assert log.version(stream) == 7
        assert len(list(log.read(stream=stream, types=["note.taken"]))) == 7
        assert kept.id is not None
        assert log.get(kept.id).version == 1
        assert log.get(last.position).version == 7
    assert log.head() == log.high_water_mark() >= OFTEN * 7
    assert len(everything(log)) == OFTEN * 7


def test_appends_and_reads_are_as_without_it(log: EventLog) -> None:
    exercise(log)


def test_an_import_keeps_positions(pooled_url: str) -> None:
    with opened(pooled_url) as log:
        for _ in Importing(log.database, lines(3)).run():
            pass
        assert [one.position for one in log.append(note("next"))] == [4]


def test_engines_as_a_service_makes_them_serve_too(pooled_url: str) -> None:
    """The service has prepared statements on, and still has them on afterwards.

    While one client holds a connection the other is lent the next one, and then the other way round.
    """
    with engine_of(pooled_url) as engine, engine_of(pooled_url) as other_engine:
        one, other = EventLog(engine), EventLog(other_engine)
        for _ in range(OFTEN):
            for first, second in ((one, other), (other, one)):
                with first.engine.begin() as connection:
                    first.append(note("held"), tx=connection)
                    first.append(*notes(2), tx=connection)
                    second.append(note("beside", stream="beside"))
                assert first.get(second.head()).stream == "beside"

        assert len(everything(one)) == len(everything(other)) == 8 * OFTEN
        assert [prepare_threshold(engine), prepare_threshold(other_engine)] == [PREPARED_AFTER, PREPARED_AFTER]


def test_coroutines_append_on_their_own_engines(pooled_url: str) -> None:
    async def append_in_turns() -> None:
        engines = [create_async_engine(pooled_url) for _ in range(2)]
        logs = [EventLog(pooled_url), EventLog(pooled_url)]
        for _ in range(OFTEN):
            for first, second in ((0, 1), (1, 0)):
                async with engines[first].begin() as one, engines[second].begin() as other:
                    await logs[first].append_async(note("held", stream=f"own-{first}"), tx=one)
                    await logs[second].append_async(*notes(2, stream=f"own-{second}"), tx=other)
        assert len([event async for event in logs[0].read_async()]) == 6 * OFTEN
        for closing in engines:
            await closing.dispose()
        for log in logs:
            log.engine.dispose()

    asyncio.run(append_in_turns())


def prepare_threshold(engine: Engine) -> object:
    with engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        return driver.prepare_threshold


def test_a_service_runs_its_own_statements_on_an_engine_of_ours(pooled_url: str) -> None:
    with opened(pooled_url) as one, opened(pooled_url) as other:
        for _ in range(OFTEN):
            for log in (one, other):
                with log.engine.begin() as connection:
                    assert connection.scalar(text("select count(*) from eventlog.events")) == 0


def test_writers_in_python_and_node_race_and_a_follower_misses_nothing(
    pooled_url: str, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    seed = new_seed()
    programs = clients(pooled_url, tmp_path, pytestconfig.cache.mkdir("node"))
    node = NodeWriter(clients=programs, name=f"{WRITER_NAME}-node", seed=seed)
    log = Pages(pooled_url, connect_args={"prepare_threshold": None})

    race = run_race(
        log,
        writers=WRITERS,
        seconds=RACE_SECONDS,
        seed=seed,
        shapes=UNDISTURBED,
        beside=[node],
        until=lambda writers: enough(100)(writers) and enough(10)([node]),
    )

    assert race.verdict.faults == {}, race


def test_who_holds_the_log_back_is_named_by_his_application(pooled_url: str, log: EventLog) -> None:
    with engine_of(f"{pooled_url}?application_name=checkout") as engine, engine.connect() as connection:
        log.append(note("early"), tx=connection)
        held_back_by = read_status(log.database).held_back_by
        connection.rollback()

    assert [holder.application for holder in held_back_by] == ["checkout"]


def service(app: App, *, fails: Callable[[Context], bool] = lambda _ctx: False) -> App:
    """A board that counts every call, and a mailer that fails where it is told to."""
    board = app.projection("board", tables=[APPLIED])
    mail = app.subscriber("mail", retry=Retry(attempts=3, first_seconds=0))

    @board
    def put(_crate: Sent, ctx: Context) -> None:
        apply_note(ctx, APPLIED)

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        if fails(ctx):
            raise BugError

    return app


def test_a_drain_delivers_fails_retries_and_parks(bench: Bench) -> None:
    sent = bench.send(OFTEN)
    app = service(bench.app(), fails=lambda ctx: ctx.event.position == sent[1] or ctx.attempt == 1 == sent[2] % 2)

    app.drain()

    assert bench.applied(APPLIED) == sent
    assert bench.position("mail") == sent[-1]
    assert {position for position, state in bench.states("mail").items() if state == "parked"} == {sent[1]}


def test_two_workers_share_what_is_appended_and_each_event_is_applied_once(bench: Bench) -> None:
    one, other = service(bench.app()), service(bench.app())
    with one.worker(), other.worker():
        sent = [position for number in range(OFTEN) for position in bench.send(4, first=4 * number)]
        eventually(lambda: bench.position("board") == bench.position("mail") == sent[-1], what="everything")

    assert bench.applied(APPLIED) == sent


def test_a_rewind_while_a_worker_runs_delivers_again_and_nothing_is_applied_twice(bench: Bench) -> None:
    sent = bench.send(OFTEN)
    calls: list[int] = []

    def noted(ctx: Context) -> bool:
        calls.append(ctx.event.position)
        return False

    app = service(bench.app(), fails=noted)
    with app.worker():
        eventually(lambda: bench.position("mail") == sent[-1], what="the first delivery")
        control.rewind(app.log.database, "mail", lambda _connection, _row: sent[0], resend=True)
        eventually(lambda: len(calls) == 2 * len(sent) - 1, what="the second delivery")
        eventually(lambda: bench.position("mail") == sent[-1], what="its checkpoint")

    assert calls == [*sent, *sent[1:]]
    assert bench.applied(APPLIED) == sent


def test_a_worker_serves_on_an_engine_as_a_service_makes_it(pooled_url: str) -> None:
    engine = create_engine(pooled_url)
    bench = Bench(pooled_url)
    app = service(App(engine), fails=lambda ctx: ctx.attempt == 1)
    try:
        with app.worker(), service(bench.app()).worker():
            sent = [position for number in range(OFTEN) for position in bench.send(2, first=2 * number)]
            eventually(lambda: bench.position("board") == bench.position("mail") == sent[-1], what="everything")
            eventually(lambda: set(bench.states("mail").values()) <= {"resolved"}, what="the retries")
        assert bench.applied(APPLIED) == sent
    finally:
        engine.dispose()
        bench.close()


LEFT_BEHIND = {
    "settings": (
        "select name from pg_settings where source = 'session' and setting <> ''"
        f" and name <> all (array{sorted(FOLLOWED_BY_POOLERS)})"
    ),
    "prepared statements": "select name from pg_prepared_statements",
    "locks": "select locktype from pg_locks where pid = pg_backend_pid() and locktype = 'advisory'",
    "notifications": "select pg_listening_channels()",
    "tables": "select relname from pg_class where relnamespace = pg_my_temp_schema()",
}


def test_nothing_is_left_on_the_connections_that_others_are_lent(bench: Bench, subtests: pytest.Subtests) -> None:
    exercise(bench.log)
    with service(bench.app()).worker():
        sent = bench.send(OFTEN)
        eventually(lambda: bench.position("board") == bench.position("mail") == sent[-1], what="everything")

    with ExitStack() as stack:
        lent = [stack.enter_context(psycopg.connect(plain(bench.url))) for _ in range(POOL_CONNECTIONS)]
        processes = {connection.execute("select pg_backend_pid()", prepare=False).fetchone() for connection in lent}
        assert len(processes) == POOL_CONNECTIONS
        for what, question in LEFT_BEHIND.items():
            with subtests.test(what):
                left = [row for connection in lent for row in connection.execute(question.encode(), prepare=False)]
                assert left == []

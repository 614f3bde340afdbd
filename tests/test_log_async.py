"""The log from coroutines: the same behaviour, in the transactions of AsyncSession and AsyncConnection."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from eventlog.errors import (
    AppendConditionError,
    EventLogError,
    IdConflictError,
    InvalidEventError,
    UnsafeTransactionError,
    UsageError,
    WrongExpectedVersionError,
)
from eventlog.ids import new_id
from eventlog.log import EventLog
from eventlog.query import Query
from eventlog.sqlite import prepare
from tests.log_support import errors_of, everything, note, notes, opened, positions, said, wait_until, waiting_for_locks
from tests.log_tags_support import tagged

TASKS = 8
SECONDS_MAX = 30


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with opened(database_url) as log:
        with log.engine.begin() as connection:
            connection.execute(text("create table orders (number integer)"))
        yield log


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, SECONDS_MAX))


@asynccontextmanager
async def async_engine(log: EventLog, *, prepared: bool = True, **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine as a service with coroutines makes it, for the log's database."""
    driver = "sqlite+aiosqlite" if log.engine.dialect.name == "sqlite" else "postgresql+psycopg"
    engine = create_async_engine(log.engine.url.set(drivername=driver), **options)
    if prepared and engine.dialect.name == "sqlite":
        prepare(engine)
    try:
        yield engine
    finally:
        await engine.dispose()


@asynccontextmanager
async def async_session(log: EventLog) -> AsyncIterator[AsyncSession]:
    async with async_engine(log) as engine, AsyncSession(engine) as session:
        yield session


def orders(log: EventLog) -> int:
    with log.engine.connect() as connection:
        return int(connection.scalar(text("select count(*) from orders")) or 0)


async def place(tx: AsyncSession | AsyncConnection) -> None:
    await tx.execute(text("insert into orders values (1)"))


@pytest.mark.parametrize("count", [1, 3])
def test_an_event_is_recorded_when_the_async_session_commits(log: EventLog, count: int) -> None:
    async def work() -> None:
        async with async_session(log) as session, session.begin():
            await place(session)
            appended = await log.append_async(*notes(count), tx=session)
            assert positions(appended) == list(range(1, count + 1))
            assert everything(log) == []

    run(work())

    assert (orders(log), len(everything(log))) == (1, count)


@pytest.mark.parametrize("count", [1, 3])
def test_an_event_is_gone_when_the_async_session_rolls_back(log: EventLog, count: int) -> None:
    async def work() -> None:
        async with async_session(log) as session:
            await place(session)
            await log.append_async(*notes(count), tx=session)
            await session.rollback()

    run(work())

    assert (orders(log), everything(log)) == (0, [])


@pytest.mark.parametrize("ended_by", ["commit", "rollback"])
def test_an_event_shares_the_fate_of_an_async_connection(log: EventLog, ended_by: str) -> None:
    async def work() -> None:
        async with async_engine(log) as engine, engine.connect() as connection:
            await log.append_async(note("first"), tx=connection)
            await log.append_async(*notes(2), tx=connection, expected=1)
            await place(connection)
            await getattr(connection, ended_by)()

    run(work())

    assert (orders(log), len(everything(log))) == ((1, 3) if ended_by == "commit" else (0, 0))


@pytest.mark.parametrize("count", [1, 3])
def test_a_refused_append_leaves_the_async_session_usable_and_nothing_in_it(log: EventLog, count: int) -> None:
    known = new_id()
    log.append(tagged("a", said="before", id=known))

    async def work() -> None:
        async with async_session(log) as session, session.begin():
            await place(session)
            for error, refused in [
                (AppendConditionError, log.append_async(*notes(count), unless=Query(tags=["a"]), tx=session)),
                (WrongExpectedVersionError, log.append_async(*notes(count), expected=7, tx=session)),
                (IdConflictError, log.append_async(*notes(count - 1), note("other", id=known), tx=session)),
                (InvalidEventError, log.append_async(*notes(count), note("", stream=""), tx=session)),
            ]:
                with pytest.raises(error):
                    await refused
            await log.append_async(note("after"), unless=Query(tags=["a"], after=1), tx=session)

    run(work())

    assert (orders(log), said(everything(log))) == (1, ["before", "after"])


def test_an_id_appended_again_in_an_async_session_is_returned(log: EventLog) -> None:
    event = tagged("a", id=new_id())
    first = log.append(event)

    async def work() -> None:
        async with async_session(log) as session:
            assert await log.append_async(event, tx=session) == first
        assert await log.append_async(event) == first

    run(work())


def test_a_savepoint_of_an_async_session_holds_the_event(log: EventLog) -> None:
    async def work() -> None:
        async with async_session(log) as session, session.begin():
            savepoint = await session.begin_nested()
            await log.append_async(*notes(2), tx=session)
            await savepoint.rollback()
            await log.append_async(note("kept"), expected="none", tx=session)

    run(work())

    assert said(everything(log)) == ["kept"]


def test_without_a_transaction_an_append_has_one_of_its_own(log: EventLog) -> None:
    async def work() -> None:
        await log.append_async(note("first"), tags=["a"], metadata={"by": "ada"})
        await log.append_async(*notes(2))
        with pytest.raises(AppendConditionError):
            await log.append_async(note("refused"), unless=Query(tags=["a"]))

    run(work())

    assert len(everything(log)) == 3
    assert (everything(log)[0].tags, everything(log)[0].metadata) == (("a",), {"by": "ada"})


def test_many_tasks_append_to_one_stream_without_a_gap(log: EventLog) -> None:
    async def alone(task: int) -> None:
        for number in range(5):
            await log.append_async(note(f"{task}.{number}"))

    async def within(engine: AsyncEngine) -> None:
        for _ in range(5):
            async with AsyncSession(engine) as session, session.begin():
                await log.append_async(note("within"), tx=session)

    async def work() -> None:
        async with async_engine(log) as engine:
            await asyncio.gather(*[alone(task) for task in range(TASKS)], *[within(engine) for _ in range(TASKS)])

    run(work())

    assert [event.version for event in everything(log)] == list(range(1, 10 * TASKS + 1))


def test_of_many_tasks_that_decide_by_one_tag_exactly_one_wins(log: EventLog) -> None:
    async def decide(engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await log.append_async(tagged("a"), unless=Query(tags=["a"]), tx=session)

    async def work() -> list[Any]:
        async with async_engine(log) as engine:
            return await asyncio.gather(*[decide(engine) for _ in range(TASKS)], return_exceptions=True)

    refused = errors_of(run(work()))

    assert [type(error) for error in refused] == [AppendConditionError] * (TASKS - 1)
    assert len(everything(log)) == 1


def test_a_decision_that_waits_leaves_the_loop_to_other_tasks(postgres_database_url: str) -> None:
    """If it did not, the transaction it waits for could never commit: they share the loop."""

    async def work(log: EventLog) -> None:
        async with async_engine(log) as engine, AsyncSession(engine) as first, AsyncSession(engine) as second:
            await log.append_async(tagged("a"), tx=first)
            decision = asyncio.create_task(log.append_async(tagged("a"), unless=Query(tags=["a"]), tx=second))
            await asyncio.to_thread(wait_until, lambda: waiting_for_locks(log.engine), what="the decision to wait")
            await first.commit()
            with pytest.raises(AppendConditionError):
                await decision

    with opened(postgres_database_url) as log:
        run(work(log))


def test_a_cancelled_append_is_rolled_back_with_its_session(postgres_database_url: str) -> None:
    """It waits for another append to its stream when it is cancelled; the pool gets a connection back that works."""

    async def cancelled(log: EventLog, engine: AsyncEngine) -> None:
        async with AsyncSession(engine) as session, session.begin():
            await log.append_async(note("before", stream="other"), tx=session)
            await log.append_async(note("waits"), tx=session)

    async def work(log: EventLog) -> None:
        async with async_engine(log, pool_size=2, max_overflow=0) as engine, engine.connect() as holder:
            await log.append_async(note("holder"), tx=holder)
            task = asyncio.create_task(cancelled(log, engine))
            await asyncio.to_thread(wait_until, lambda: waiting_for_locks(log.engine), what="the append to wait")
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await holder.rollback()
            async with AsyncSession(engine) as session, session.begin():
                await log.append_async(note("after"), tx=session)

    with opened(postgres_database_url) as log:
        run(work(log))

        assert said(everything(log)) == ["after"]
        assert log.high_water_mark() == log.head()


@pytest.mark.parametrize("count", [1, 3])
def test_an_async_transaction_that_commits_each_statement_is_refused(log: EventLog, count: int) -> None:
    autocommit = {"isolation_level": "AUTOCOMMIT"}

    async def work() -> None:
        async with async_engine(log) as engine:
            async with AsyncSession(engine) as session:
                await session.connection(execution_options=autocommit)
                with pytest.raises(UnsafeTransactionError) as refused:
                    await log.append_async(*notes(count), tx=session)
                assert refused.value.remedy
            async with engine.connect() as connection:
                await connection.execution_options(**autocommit)
                with pytest.raises(UnsafeTransactionError):
                    await log.append_async(*notes(count), tx=connection)

    run(work())

    assert everything(log) == []


def test_an_async_sqlite_engine_that_was_not_prepared_is_refused(sqlite_url: str) -> None:
    async def work(log: EventLog) -> None:
        async with async_engine(log, prepared=False) as engine, AsyncSession(engine) as session:
            with pytest.raises(UnsafeTransactionError) as refused:
                await log.append_async(note("first"), tx=session)
            assert "prepare" in refused.value.remedy

    with opened(sqlite_url) as log:
        run(work(log))

        assert everything(log) == []


def test_a_condition_under_another_isolation_level_is_refused(postgres_database_url: str) -> None:
    async def work(log: EventLog) -> None:
        async with async_engine(log, isolation_level="REPEATABLE READ") as engine, AsyncSession(engine) as session:
            with pytest.raises(UnsafeTransactionError, match="READ COMMITTED"):
                await log.append_async(note("first"), unless=Query(tags=["a"]), tx=session)
            await log.append_async(note("after"), tx=session)
            await session.commit()

    with opened(postgres_database_url) as log:
        run(work(log))

        assert said(everything(log)) == ["after"]


def test_a_transaction_of_the_other_kind_is_refused_with_a_remedy(log: EventLog) -> None:
    async def work() -> None:
        async with async_engine(log) as engine, AsyncSession(engine) as session, engine.connect() as connection:
            for tx in (session, connection):
                with pytest.raises(UsageError, match=f"tx is a {type(tx).__name__}") as refused:
                    log.append(note("first"), tx=tx)  # type: ignore[arg-type]
                assert "append_async" in refused.value.remedy
        with Session(log.engine) as sync_session, log.engine.connect() as sync_connection:
            for sync_tx in (sync_session, sync_connection, "tx"):
                with pytest.raises(UsageError, match=f"tx is a {type(sync_tx).__name__}") as refused:
                    await log.append_async(note("first"), tx=sync_tx)  # type: ignore[arg-type]
                assert "AsyncSession" in refused.value.remedy

    run(work())

    assert everything(log) == []


def test_a_session_of_another_database_is_refused(sqlite_url: str, postgres_database_url: str) -> None:
    async def work(log: EventLog, other: EventLog) -> None:
        async with async_session(other) as session:
            with pytest.raises(UnsafeTransactionError):
                await log.append_async(note("first"), tx=session)

    with opened(sqlite_url) as sqlite_log, opened(postgres_database_url) as postgres_log:
        run(work(sqlite_log, postgres_log))
        run(work(postgres_log, sqlite_log))


def test_a_read_from_a_coroutine_is_the_read(log: EventLog) -> None:
    log.append(*notes(1_500), tagged("a"), tagged("a", "b"))

    async def read(**arguments: Any) -> list[Any]:
        return [recorded async for recorded in log.read_async(**arguments)]

    for arguments in (
        {},
        {"after": 1_400, "until": 1_501},
        {"tags": ["a"]},
        {"limit": 1_200, "backwards": True},
        {"matching": [Query(tags=["b"]), Query(types=["note.*"], after=1_499)]},
        {"types": ["nothing.*"]},
    ):
        assert run(read(**arguments)) == list(log.read(**arguments))
    with pytest.raises(UsageError):
        log.read_async(types="note")


def test_an_error_while_reading_is_raised_where_the_coroutine_reads(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> object:
        raise EventLogError("gone")

    async def read() -> None:
        async for _ in log.read_async():
            pass

    monkeypatch.setattr(log.database, "page", fail)
    log.append(note("first"))
    with pytest.raises(EventLogError, match="gone"):
        run(read())


def test_a_coroutine_follows_the_log_until_it_breaks_out(log: EventLog) -> None:
    async def work() -> list[str]:
        seen = []
        await log.append_async(note("first"))
        async for recorded in log.follow_async(types=["note.*"]):
            seen.append(recorded.data["said"])
            if len(seen) == 3:
                break
            await log.append_async(note(f"after {len(seen)}"))
        return seen

    assert run(work()) == ["first", "after 1", "after 2"]


def test_a_coroutine_that_follows_is_ended_by_cancelling(log: EventLog) -> None:
    async def follow(seen: asyncio.Event) -> None:
        async for _ in log.follow_async():
            seen.set()

    async def work() -> None:
        seen = asyncio.Event()
        task = asyncio.create_task(follow(seen))
        await log.append_async(note("first"))
        await seen.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work())

    assert log.engine.pool.checkedout() == 0  # type: ignore[attr-defined]


def test_two_coroutines_follow_side_by_side(log: EventLog) -> None:
    async def follow(tag: str) -> list[str]:
        seen: list[str] = []
        async for recorded in log.follow_async(tags=[tag]):
            seen.append(recorded.data["said"])
            if len(seen) == 3:
                break
        return seen

    async def work() -> list[list[str]]:
        followers = [asyncio.create_task(follow(tag)) for tag in "ab"]
        for number in range(3):
            await log.append_async(tagged("a", said=f"a{number}"), tagged("b", said=f"b{number}"))
        return list(await asyncio.gather(*followers))

    assert run(work()) == [["a0", "a1", "a2"], ["b0", "b1", "b2"]]

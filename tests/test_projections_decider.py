"""Folding a stream, and deciding commands on it: conflicts, snapshots, the caller's own transaction."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import delete, select, update
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy.ext.asyncio import create_async_engine

from eventlog.errors import DeclarationError, UsageError, WrongExpectedVersionError
from eventlog.event_types import event
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.projections import Decider, Snapshots, fold
from eventlog.projections.digests import digest_of
from eventlog.testing import StillClock


@event("till.opened")
class Opened(msgspec.Struct, frozen=True):
    limit: int


@event("till.paid")
class Paid(msgspec.Struct, frozen=True):
    amount: int


class Till(msgspec.Struct, frozen=True):
    limit: int = 0
    total: int = 0


class FullError(Exception):
    """The till holds no more."""


def evolve(till: Till, happened: object) -> Till:
    match happened:
        case Opened(limit):
            return msgspec.structs.replace(till, limit=limit)
        case Paid(amount):
            return msgspec.structs.replace(till, total=till.total + amount)
    return till


def decide(till: Till, amount: int) -> list[Paid]:
    if till.total + amount > till.limit:
        raise FullError(till.total)
    return [Paid(amount)] if amount else []


def till_of(**options: Any) -> Decider[Till, int]:
    return Decider("till", initial=Till(), evolve=evolve, decide=decide, **options)


def with_snapshots(every: int = 2, version: int = 1) -> Decider[Till, int]:
    return till_of(snapshots=Snapshots(state=Till, every=every, version=version))


def opened(log: EventLog, limit: int = 100) -> None:
    log.append(Opened(limit), stream="till-1")


def snapshots(log: EventLog) -> list[tuple[int, int]]:
    table = log.database.tables.snapshots
    with log.database.reader() as connection:
        return [(row.fold_version, row.stream_version) for row in connection.execute(select(table))]


def test_a_stream_is_folded_into_its_state(log: EventLog) -> None:
    opened(log)
    log.append(Paid(5), Event({"odd": 1}, "till.cleaned"), Paid(7), stream="till-1")
    log.append(Paid(1_000), stream="till-2")

    assert fold(log, "till-1", Till(), evolve) == Till(limit=100, total=12)
    assert fold(log, "till-3", Till(), evolve) == Till()


def test_a_function_may_ask_for_the_recorded_event(log: EventLog) -> None:
    opened(log)

    def versions(seen: list[int], recorded: Recorded[Any]) -> list[int]:
        return [*seen, recorded.version]

    assert fold(log, "till-1", list[int](), versions) == [1]


def test_a_stream_is_folded_to_its_end_while_an_append_elsewhere_is_in_flight(log: EventLog) -> None:
    """The mark is held back by another transaction; what is decided on must not be."""
    opened(log)
    with log.engine.begin() as connection:
        log.append(Paid(5), stream="till-1", tx=connection)
        assert fold(log, "till-1", Till(), evolve, tx=connection).total == 5
        if log.engine.dialect.name == "postgresql":
            log.append(Paid(1), stream="till-2")
            assert fold(log, "till-2", Till(), evolve).total == 1
        assert fold(log, "till-1", Till(), evolve).total == 0


def test_a_command_is_decided_on_what_is_true_and_its_events_are_appended(log: EventLog) -> None:
    opened(log)
    till = till_of()

    done = till.handle(log, "till-1", 30, metadata={"by": "Ada"})

    assert (done.state.total, done.version, [one.data for one in done.events]) == (30, 2, [Paid(30)])
    assert log.get(done.events[0].position).metadata == {"by": "Ada"}
    assert till.load(log, "till-1").version == 2


def test_a_command_that_is_refused_or_has_nothing_to_do_appends_nothing(log: EventLog) -> None:
    opened(log, limit=10)
    with pytest.raises(FullError):
        till_of().handle(log, "till-1", 11)
    assert till_of().handle(log, "till-1", 0).events == ()
    assert log.version("till-1") == 1


def test_whoever_comes_second_decides_again_on_what_is_true_then(log: EventLog) -> None:
    opened(log, limit=10)
    seen: list[int] = []

    def decide_late(till: Till, amount: int) -> list[Paid]:
        seen.append(till.total)
        if len(seen) == 1:
            log.append(Paid(6), stream="till-1")
        return decide(till, amount)

    late = Decider("till", initial=Till(), evolve=evolve, decide=decide_late, clock=StillClock())
    assert late.handle(log, "till-1", 4).state.total == 10
    assert seen == [0, 6]
    with pytest.raises(FullError):
        late.handle(log, "till-1", 1)


def test_after_the_last_attempt_the_conflict_comes_out_with_its_numbers(log: EventLog) -> None:
    opened(log)

    def always_late(till: Till, amount: int) -> list[Paid]:
        log.append(Paid(1), stream="till-1")
        return decide(till, amount)

    late = Decider("till", initial=Till(), evolve=evolve, decide=always_late, clock=StillClock())
    with pytest.raises(WrongExpectedVersionError, match="is at version 4, expected 3"):
        late.handle(log, "till-1", 1, attempts=3)
    with pytest.raises(UsageError):
        late.handle(log, "till-1", 1, attempts=0)


def test_a_callers_transaction_sees_its_own_events_and_takes_them_back(log: EventLog) -> None:
    opened(log)
    till = with_snapshots(every=1)
    with log.engine.connect() as connection, connection.begin() as transaction:
        till.handle(log, "till-1", 30, tx=connection)
        done = till.handle(log, "till-1", 30, tx=connection)
        assert (done.state.total, done.version) == (60, 3)
        transaction.rollback()

    assert (log.version("till-1"), snapshots(log)) == (1, [])


def test_a_conflict_in_a_callers_transaction_leaves_it_usable(log: EventLog) -> None:
    """On PostgreSQL somebody else commits in between; a SQLite file has one writer, and nobody can."""
    opened(log)
    raced = threading.Event()

    def decide_late(till: Till, amount: int) -> list[Paid]:
        if log.engine.dialect.name == "postgresql" and not raced.is_set():
            log.append(Paid(1), stream="till-1")
        raced.set()
        return decide(till, amount)

    late = Decider("till", initial=Till(), evolve=evolve, decide=decide_late, clock=StillClock())
    with log.engine.begin() as connection:
        late.handle(log, "till-1", 10, tx=connection)
    assert fold(log, "till-1", Till(), evolve).total in (10, 11)


def test_a_coroutine_decides_alone_or_in_its_own_transaction(log: EventLog) -> None:
    opened(log)
    driver = {"postgresql": "postgresql+psycopg", "sqlite": "sqlite+aiosqlite"}[log.engine.dialect.name]
    engine = create_async_engine(log.engine.url.set(drivername=driver))

    async def pay() -> int:
        await till_of().handle_async(log, "till-1", 1)
        async with engine.begin() as connection:
            done = await till_of().handle_async(log, "till-1", 2, tx=connection)
        await engine.dispose()
        return done.state.total

    if log.engine.dialect.name == "sqlite":
        from eventlog.sqlite import prepare

        prepare(engine)
    assert asyncio.run(pay()) == 3


def spoilt(**last: Any) -> str:
    """Write a snapshot of a `Till` that has a total which no event has made."""
    return msgspec.json.encode({"state": {"total": 999}, "type": digest_of(Till), **last}).decode()


def test_with_a_snapshot_only_what_came_after_it_is_read(log: EventLog) -> None:
    opened(log, limit=1_000)
    till = with_snapshots(every=50)
    log.append(*(Paid(1) for _ in range(99)), stream="till-1")
    till.handle(log, "till-1", 1)
    evolved: list[object] = []

    def counting(state: Till, happened: object) -> Till:
        evolved.append(happened)
        return evolve(state, happened)

    again = Decider("till", initial=Till(), evolve=counting, decide=decide, snapshots=Snapshots(state=Till, every=50))
    assert again.load(log, "till-1").state.total == 100
    assert evolved == []
    assert again.handle(log, "till-1", 5).state.total == 105
    assert (evolved, snapshots(log)) == ([Paid(5)], [(1, 101)])


def test_snapshots_may_be_deleted_spoilt_or_of_another_version_and_the_state_is_the_same(log: EventLog) -> None:
    opened(log)
    with_snapshots().handle(log, "till-1", 30)
    table = log.database.tables.snapshots
    assert with_snapshots(version=2).load(log, "till-1").state.total == 30
    for change in (
        update(table).values(state='{"state": 7}'),
        update(table).values(state=spoilt(version=2, id="another")),
        update(table).values(state=spoilt(version=7, id="of a log that is gone")),
        delete(table),
    ):
        with log.database.transaction() as connection:
            connection.execute(change)
        assert with_snapshots().load(log, "till-1").state.total == 30


class RefusedError(Exception):
    """The seat is taken."""


class Sold(msgspec.Struct, frozen=True):
    """A state of before, which a `Till` could be read from: it has nothing but defaults."""

    sold: tuple[int, ...] = ()


class Counted(msgspec.Struct, frozen=True):
    """The state as it is now; its version was not raised."""

    times: dict[str, int] = {}


def seats(state: Any, field: str, add: Callable[[Any, Paid], Any]) -> Decider[Any, int]:
    def evolve(now: Any, paid: Paid) -> Any:
        return state(add(getattr(now, field), paid))

    def decide(now: Any, amount: int) -> list[Paid]:
        if amount in getattr(now, field) or str(amount) in getattr(now, field):
            raise RefusedError(f"{amount} is taken")
        return [Paid(amount)]

    kept = Snapshots(state=state, every=1)
    return Decider("seats", initial=state(), evolve=evolve, decide=decide, snapshots=kept)


def test_a_snapshot_of_another_type_is_passed_over_though_its_version_was_not_raised(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    before = seats(Sold, "sold", lambda sold, paid: (*sold, paid.amount))
    now = seats(Counted, "times", lambda times, paid: {**times, str(paid.amount): 1})
    before.handle(log, "seats-1", 7)

    with pytest.raises(RefusedError, match="7 is taken"):
        now.handle(log, "seats-1", 7)

    assert "the snapshot of seats-1 is made anew, it is of another type of state" in caplog.text
    assert "raise it" in caplog.text
    now.handle(log, "seats-1", 8)
    caplog.clear()
    assert now.load(log, "seats-1").state == Counted({"7": 1, "8": 1})
    assert caplog.text == ""
    with pytest.raises(RefusedError, match="8 is taken"):
        before.handle(log, "seats-1", 8)


def test_a_snapshot_from_before_types_were_noted_is_passed_over_and_made_anew(log: EventLog) -> None:
    opened(log)
    with_snapshots(every=1).handle(log, "till-1", 30)
    table = log.database.tables.snapshots
    with log.database.transaction() as connection:
        text: Any = msgspec.json.decode(connection.execute(select(table.c.state)).scalar_one())
        del text["type"]
        text["state"]["total"] = 999
        connection.execute(update(table).values(state=msgspec.json.encode(text).decode()))

    assert with_snapshots(every=1).handle(log, "till-1", 1).state.total == 31
    assert snapshots(log) == [(1, 3)]
    assert with_snapshots(every=1).load(log, "till-1").state.total == 31


def test_a_later_snapshot_of_another_history_makes_room_for_one_of_this(log: EventLog) -> None:
    opened(log)
    with_snapshots().handle(log, "till-1", 30)
    gone = {"stream_version": 500, "state": spoilt(version=500, id="of a log that is gone")}
    with log.database.transaction() as connection:
        connection.execute(update(log.database.tables.snapshots).values(gone))

    assert with_snapshots().handle(log, "till-1", 5).state.total == 35

    assert snapshots(log) == [(1, 3)]


def test_an_older_snapshot_never_replaces_a_newer_one_and_a_higher_version_does(log: EventLog) -> None:
    opened(log)
    first, second = with_snapshots(every=1), with_snapshots(every=1, version=2)
    old = first.load(log, "till-1")
    first.handle(log, "till-1", 1)
    store = first._store
    assert store is not None
    store.write(log, "till-1", old, tx=None)
    assert snapshots(log) == [(1, 2)]
    second.handle(log, "till-1", 1)
    first.handle(log, "till-1", 1)
    assert snapshots(log) == [(2, 3)]


def test_a_snapshot_that_cannot_be_written_does_not_fail_the_command(
    log: EventLog, caplog: pytest.LogCaptureFixture
) -> None:
    opened(log)

    def refuse(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.lower().startswith("insert into") and "snapshots" in statement:
            raise ValueError("no space left")

    sqlalchemy_event.listen(log.engine, "before_cursor_execute", refuse)
    done = with_snapshots(every=1).handle(log, "till-1", 1)
    assert (done.version, snapshots(log)) == (2, [])
    assert "no snapshot of till-1 at version 2" in caplog.text


def test_what_is_no_decider_is_refused() -> None:
    async def waits(state: Till, happened: object) -> Till:
        return state

    for bad in (waits, lambda state: state):
        with pytest.raises(DeclarationError):
            Decider("till", initial=Till(), evolve=bad, decide=decide)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError):
        Snapshots(state=Till, every=0)
    with pytest.raises(DeclarationError):
        Snapshots(state=object())
    with pytest.raises(DeclarationError, match="no type that can be read from JSON"):
        Snapshots(state=complex)


@pytest.mark.parametrize("returned", [None, "text", {"a": 1}])
def test_what_is_no_list_of_events_is_told_with_its_command(log: EventLog, returned: Any) -> None:
    odd: Decider[Till, int] = Decider("till", initial=Till(), evolve=evolve, decide=lambda _s, _c: returned)
    with pytest.raises(DeclarationError, match="for int"):
        odd.handle(log, "till-1", 1)

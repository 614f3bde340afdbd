"""Copies that are made while everything is in use, and what subscribers do on them: they go on, and skip nothing.

One history for each way to make a copy, told once and looked at from several sides:

    the source     writers write, a worker runs a projection and an effect, appends are in flight
    the copy       is made in the middle of that; the source goes on, and is done
    on the copy    more is written, and a worker runs the same subscribers there
"""

import random
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import select, text

from benchmarks.lost_events.adapters.rewindlog import Pages
from benchmarks.lost_events.shapes import UNDISTURBED
from benchmarks.lost_events.sql_writer import SqlWriter
from benchmarks.lost_events.writing import EVENT_TYPE
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.results import Delivered
from eventlog.subscribers.status import read_status
from eventlog.testing import make_retries_due
from tests.backups import (
    MakeCopy,
    base_backup,
    drop_database,
    name_of,
    new_database,
    on_server,
    pg_dump,
    put_back,
    sqlite_backup,
    sqlite_vacuum_into,
)
from tests.log_support import everything, note, notes, opened, said
from tests.postgres_server import server_of_the_wheel
from tests.schema_support import facts
from tests.subscribers_support import applied_table, eventually, runtime_of
from tests.subscribers_support import note as apply_note

BOARD = applied_table()
LEASE_SECONDS = 1.0
WRITERS = 3
PARTITIONS = 2
CALL_SECONDS = 0.001
"""How long a mail takes: never is everything done when a copy is made."""
MANY = 60
"""So many events are written before the copy, after it, and on it."""

PREPARED = "eventlog-backup"
WAYS: dict[str, MakeCopy] = {
    "pg_dump": pg_dump,
    "sqlite backup": sqlite_backup,
    "sqlite vacuum into": sqlite_vacuum_into,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call of the effect."""

    position: int
    id: UUID
    key: str
    redelivery: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What is in a database at one moment: events and checkpoints, and all that its owner would compare."""

    events: dict[int, UUID]
    streams: dict[int, str]
    board: list[int]
    checkpoints: dict[tuple[str, int], Any]
    head: int
    high_water_mark: int
    schema: dict[str, Any]

    def mail_checkpoint(self, position: int) -> Any:
        """The checkpoint of the partition that the event at a position belongs to."""
        return self.checkpoints["mail", partition_of(self.streams[position], partitions=PARTITIONS)]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The source at its end, the copy as it was made and at its end, and every call of the effect on either."""

    in_flight: frozenset[UUID]
    """Begun before the copy was made, and committed on the source after it."""
    source: State
    source_calls: list[Call]
    copy: State
    copy_ended: State
    copy_calls: list[Call]
    next_epoch: int


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[str]:
    """A PostgreSQL of its own, younger than that of the other tests."""
    with server_of_the_wheel() as url:
        yield url


@pytest.fixture(scope="module", params=WAYS)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    way = WAYS[request.param]
    if way is not pg_dump:
        folder = tmp_path_factory.mktemp("backup")
        shutil.copyfile(request.getfixturevalue("sqlite_template"), folder / "log.db")
        yield told(way, f"sqlite:///{folder / 'log.db'}", f"sqlite:///{folder / 'copy.db'}")
        return
    server, cluster = request.getfixturevalue("postgres_url"), request.getfixturevalue("other_cluster")
    url = new_database(server, template=request.getfixturevalue("postgres_template"))
    yield told(way, url, new_database(cluster).replace("postgresql://", "postgresql+psycopg://"))
    drop_database(server, url)


def told(way: MakeCopy, url: str, copy_url: str) -> History:
    with service(url) as (app, source_calls):
        with app.worker(), writing(url, "source"):
            eventually(lambda: app.log.head() >= MANY and all_have_moved(app.log), what="events before the copy")
            with in_flight(app.log) as ids:
                way(url, copy_url)
            grown_by(MANY, app.log)
        app.drain()
        source = state(app.log)
    with service(copy_url) as (app, copy_calls):
        copy = state(app.log)
        with app.worker(), writing(copy_url, "copy"):
            grown_by(MANY, app.log)
        app.drain()
        # What was alone in a dead owner's hand counts as an attempt that failed: it is in the ledger, and comes again.
        make_retries_due(app, "mail")
        app.drain()
        copy_ended = state(app.log)
        with app.log.database.transaction() as connection:
            next_epoch = app.log.database.next_epoch(connection)
    return History(
        in_flight=frozenset(ids),
        source=source,
        source_calls=source_calls,
        copy=copy,
        copy_ended=copy_ended,
        copy_calls=copy_calls,
        next_epoch=next_epoch,
    )


@contextmanager
def service(url: str) -> Iterator[tuple[App, list[Call]]]:
    """The same subscribers on any copy: a projection that notes every call, and an effect that tells its own."""
    app, calls = App(url, lease_seconds=LEASE_SECONDS), list[Call]()

    @app.projection("board", tables=[BOARD]).on(EVENT_TYPE)
    def put(_recorded: Recorded[Any], ctx: Context) -> None:
        apply_note(ctx, BOARD)

    @app.subscriber("mail", partitions=PARTITIONS).on(EVENT_TYPE)
    def send(recorded: Recorded[Any], ctx: Context) -> None:
        key = ctx.idempotency_key
        calls.append(Call(position=recorded.position, id=recorded.id, key=key, redelivery=ctx.redelivery))
        threading.Event().wait(CALL_SECONDS)

    try:
        yield app, calls
    finally:
        app.engine.dispose()


@contextmanager
def writing(url: str, name: str) -> Iterator[None]:
    """Write while the block runs, in all shapes that leave connections alone, to streams of this name."""
    adapter, stop = Pages(url), threading.Event()
    writers = [
        SqlWriter(
            hand=adapter.hand,
            number=number,
            name=f"{name}-{number}",
            random=random.Random(number),
            shapes=adapter.shapes & UNDISTURBED,
        )
        for number in range(WRITERS)
    ]
    threads = [threading.Thread(target=writer.run, args=[stop], daemon=True) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [writer.failures for writer in writers] == [[]] * WRITERS


@contextmanager
def in_flight(log: EventLog) -> Iterator[list[UUID]]:
    """Appends that are on their way while the block runs, and are committed after it; SQLite knows none."""
    if log.engine.dialect.name == "sqlite":
        yield []
        return
    with log.engine.connect() as open_one, log.engine.connect() as prepared:
        prepared.execute(text("set local eventlog.doorbell_eventlog = off"))
        ids = [
            log.append(Event({}, type=EVENT_TYPE, stream=f"in-flight-{number}"), tx=connection)[0].id
            for number, connection in enumerate((open_one, prepared))
        ]
        prepared.execute(text(f"prepare transaction '{PREPARED}'"))
        prepared.rollback()
        yield ids
        open_one.commit()
    with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"commit prepared '{PREPARED}'"))


def grown_by(events: int, log: EventLog) -> None:
    before = log.head()
    eventually(lambda: log.head() >= before + events, what=f"{events} more events")


def all_have_moved(log: EventLog) -> bool:
    positions = select(log.database.tables.checkpoints.c.position)
    with log.engine.connect() as connection:
        found = connection.scalars(positions).all()
    return len(found) == 1 + PARTITIONS and min(found) > 0


def applied(log: EventLog) -> list[int]:
    with log.engine.connect() as connection:
        return list(connection.scalars(select(BOARD.c.position).order_by(BOARD.c.id)))


def state(log: EventLog) -> State:
    tables = log.database.tables
    with log.engine.connect() as connection:
        events = connection.execute(select(tables.events.c.position, tables.events.c.id, tables.events.c.stream)).all()
        checkpoints = connection.execute(select(tables.checkpoints)).all()
    return State(
        events={row.position: UUID(str(row.id)) for row in events},
        streams={row.position: row.stream for row in events},
        board=applied(log),
        checkpoints={(row.subscriber, row.partition): row for row in checkpoints},
        head=log.head(),
        high_water_mark=log.high_water_mark(),
        schema=facts(log.engine),
    )


def test_the_source_loses_nothing_by_being_copied(history: History) -> None:
    source = history.source
    assert source.board == sorted(source.events)
    assert {call.id for call in history.source_calls} == set(source.events.values())


def test_the_checkpoints_of_a_copy_fit_the_events_and_the_tables_in_it(history: History) -> None:
    copy, called = history.copy, {call.id for call in history.source_calls}
    at = copy.checkpoints["board", 0].position
    behind = [position for position in copy.events if position <= copy.mail_checkpoint(position).position]

    assert copy.board == sorted(position for position in copy.events if position <= at)
    assert {copy.events[position] for position in behind} <= called
    assert copy.board
    assert behind
    assert copy.events.items() <= history.source.events.items(), "each at the position it had"


def test_what_was_in_flight_is_not_in_the_copy_and_holds_nothing_back_there(history: History) -> None:
    copy, source = history.copy, history.source
    places = {position for position, one in source.events.items() if one in history.in_flight}

    assert copy.high_water_mark == copy.head
    assert len(places) == len(history.in_flight)
    assert places.isdisjoint(history.copy_ended.events), "what had their positions on the source has not been given out"


def test_positions_and_epochs_go_on_above_those_in_the_copy(history: History) -> None:
    copy, ended = history.copy, history.copy_ended
    new = ended.events.keys() - copy.events.keys()

    assert copy.head >= max(copy.events)
    assert min(new) > copy.head
    assert history.next_epoch > max(row.epoch for row in ended.checkpoints.values())
    assert all(ended.checkpoints[key].epoch > row.epoch for key, row in copy.checkpoints.items())


def test_triggers_and_all_else_of_the_schema_are_in_the_copy_as_they_were(history: History) -> None:
    assert history.copy.schema == history.source.schema


def test_a_projection_goes_on_in_the_copy_and_applies_every_event_once(history: History) -> None:
    ended = history.copy_ended
    assert ended.board == sorted(ended.events)


def test_an_effect_goes_on_in_the_copy_and_misses_nothing(history: History) -> None:
    copy, ended = history.copy, history.copy_ended
    to_come = {
        one
        for position, one in ended.events.items()
        if position not in copy.events or position > copy.mail_checkpoint(position).position
    }
    assert {call.id for call in history.copy_calls} == to_come


def test_what_was_delivered_after_the_copy_was_made_is_delivered_again_under_the_same_key(history: History) -> None:
    """The copy cannot know of it. Of what had been handed out when it was made it says so."""
    keys = {call.id: call.key for call in history.source_calls}
    again = [call for call in history.copy_calls if call.id in keys]

    assert again
    assert [call.key for call in again] == [keys[call.id] for call in again]
    for call in again:
        assert call.redelivery or call.position > history.copy.mail_checkpoint(call.position).handled_through


def test_a_base_backup_brings_prepared_transactions_along_and_names_them(other_cluster: str) -> None:
    """Nobody who knows of it may be left; until it is ended, what follows it waits, and does not pass it."""
    url = new_database(other_cluster)
    with opened(url) as log:
        log.init()
        log.append(*notes(2))
        with log.engine.connect() as connection:
            connection.execute(text("set local eventlog.doorbell_eventlog = off"))
            log.append(note("prepared", stream="prepared"), tx=connection)
            connection.execute(text(f"prepare transaction '{PREPARED}'"))
        log.append(note("late", stream="late"))

        with base_backup(other_cluster) as copied, opened(f"{copied}{name_of(url)}") as copy:
            (held,) = read_status(copy.database).held_back_by
            assert (held.application, said(everything(copy))) == (PREPARED, ["note-1 1", "note-1 2"])
            on_server(copy.engine.url, f"rollback prepared '{PREPARED}'")
            (new,) = copy.append(note("new", stream="new"))
            assert said(everything(copy)) == ["note-1 1", "note-1 2", "late", "new"]
            assert new.position > log.head()
        on_server(log.engine.url, f"rollback prepared '{PREPARED}'")


def test_a_worker_that_was_not_stopped_delivers_what_is_in_the_log_now(
    postgres_url: str, postgres_template: str
) -> None:
    """The log is put back to a copy within a turn: the page at hand is of a log that is no more.

    Five events are in the copy; of those after them there are others now, at the same positions.
    """
    url = new_database(postgres_url, template=postgres_template)
    with opened(url) as log:
        log.append(*notes(5))
    copy = new_database(postgres_url, template=name_of(url))
    app, to_do = App(url), [lambda: put_back(postgres_url, url, copy)]

    @app.projection("board", tables=[BOARD]).on("note.*")
    def put(recorded: Recorded[Any], ctx: Context) -> None:
        while to_do:
            to_do.pop()()
        apply_note(ctx, BOARD, f"{recorded.id}")

    app.register()
    app.log.append(*notes(5, stream="before"))
    runtime = runtime_of(app)
    (partition,) = app.partitions(runtime, ())
    runtime.feed.refresh()
    assert partition.turn() == Delivered(moved=True)

    app.register()
    app.log.append(*notes(5, stream="now"))
    runtime.feed.refresh()
    while partition.turn().moved:
        pass

    with app.engine.connect() as connection:
        applied_ids = connection.scalars(select(BOARD.c.note).order_by(BOARD.c.id)).all()
    assert applied_ids == [f"{one.id}" for one in app.log.read()]
    app.engine.dispose()
    for database in (url, copy):
        drop_database(postgres_url, database)

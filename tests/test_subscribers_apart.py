"""Projections in another database than the log: exactly once there, and never past what was read."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, create_engine, insert, select, update

from eventlog.errors import DeclarationError, RefusedError, UnknownSubscriberError, UsageError
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.exchange import go_back
from eventlog.subscribers.control.rebuilds import RebuildState, begin_rebuild, read_rebuilds
from eventlog.subscribers.declaration import Delivery, Kind, OnFailure, Subscriber
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.status import read_failures, read_status
from tests.subscribers_child import APPLIED
from tests.subscribers_support import BugError, Lost, Sent, eventually
from tests.test_subscribers_crash import Child

TABLE = Table(
    "board", MetaData(), Column("position", BigInteger, primary_key=True, autoincrement=False), Column("note", Text)
)


class Apart:
    """A log in one database, and a board in another."""

    def __init__(self, log_url: str, home_url: str) -> None:
        self.log_url, self.home_url = log_url, home_url
        self.apps: list[App] = []
        self.fails_at: set[int] = set()

    def app(self, *, version: int = 1, partitions: int = 1, lease_seconds: float = 15.0) -> App:
        app = App(self.log_url, lease_seconds=lease_seconds)
        self.apps.append(app)
        board = app.projection(
            "board",
            tables=[TABLE],
            database=self.home_url,
            retry=Retry(attempts=1),
            version=version,
            partitions=partitions,
        )

        @board
        def add(crate: Sent, ctx: Context) -> None:
            ctx.connection.execute(insert(TABLE).values(position=ctx.event.position, note=f"v{version}"))
            if crate.number in self.fails_at:
                raise BugError

        @app.subscriber("mail")
        def mail(crate: Sent) -> None: ...

        return app

    def send(self, *numbers: int) -> list[int]:
        return [one.position for one in self.app().log.append(*(Sent(number) for number in numbers))]

    def rows(self, question: Any) -> list[Any]:
        app = self.app()
        with app.home_of(app.subscribers["board"]).reader() as connection:
            return list(connection.execute(question).all())

    def applied(self) -> list[int]:
        return sorted(row.position for row in self.rows(select(TABLE.c.position)))

    def checkpoint(self) -> Any:
        app = self.app()
        table = app.home_of(app.subscribers["board"]).tables.checkpoints
        return self.rows(select(table).where(table.c.subscriber == "board"))[0]

    def close(self) -> None:
        for app in self.apps:
            for home in app.homes:
                home.engine.dispose()


@pytest.fixture(params=["sqlite beside postgres", "postgres beside sqlite", "sqlite beside sqlite"])
def apart(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_url: str, postgres_database_url: str
) -> Iterator[Apart]:
    file = f"sqlite:///{tmp_path / 'board.db'}"
    log_url, home_url = {
        "sqlite beside postgres": (postgres_database_url, file),
        "postgres beside sqlite": (sqlite_url, postgres_database_url),
        "sqlite beside sqlite": (sqlite_url, file),
    }[request.param]
    made = Apart(log_url, home_url)
    try:
        yield made
    finally:
        made.close()


def test_rows_and_checkpoint_are_there_and_effects_are_with_the_log(apart: Apart) -> None:
    sent = apart.send(1, 2, 3)
    app = apart.app()

    done = app.drain()

    assert (done.handled, done.subscribers["board"].handled, apart.applied()) == (6, 3, sent)
    assert apart.checkpoint().position == sent[-1]
    assert [one.name for one in read_status(app.log.database).subscribers] == ["mail"]
    assert [one.name for one in read_status(app.homes[1]).subscribers] == ["board"]


def test_a_checkpoint_moves_only_to_events_that_were_read_and_keeps_their_id(apart: Apart) -> None:
    app = apart.app()
    first = app.log.append(Sent(1))[0]
    last = app.log.append(Lost(2))[0]
    with app.engine.connect() as connection, connection.begin() as transaction:
        app.log.append(Sent(3), tx=connection)
        transaction.rollback()
    app.drain()

    checkpoint = apart.checkpoint()
    assert (checkpoint.position, checkpoint.event_id) in [(one.position, str(one.id)) for one in (first, last)]
    assert checkpoint.position == last.position


def test_what_fails_is_in_the_ledger_there_and_is_tried_again_from_there(apart: Apart) -> None:
    sent = apart.send(1, 2, 3)
    apart.fails_at = {2}
    app = apart.app()
    app.drain(["board"])
    home = app.homes[1]
    assert apart.applied() == sent[:1]
    assert [(one.position, one.state) for one in read_failures(home)] == [(sent[1], "parked")]
    assert control.retry(home, "board", event_type="crate.lost").entries == ()
    assert len(control.retry(home, "board", event_type="crate.*").entries) == 1
    apart.fails_at = set()
    app.drain(["board"])
    assert apart.applied() == sent


def test_a_batch_whose_owner_was_overtaken_leaves_nothing(apart: Apart) -> None:
    sent = apart.send(1, 2)
    app = apart.app()
    app.register()
    board = app.subscribers["board"]
    runtime = app.runtime_for(board)
    home, table = runtime.database, runtime.database.tables.checkpoints
    partition = app.partitions(runtime, ["board"])[0]
    runtime.feed.refresh()
    assert partition.lease.take(board) is not None
    with home.transaction() as connection:
        connection.execute(update(table).values(epoch=home.next_epoch(connection), owner="somebody else"))

    partition.turn()

    assert apart.applied() == []
    with home.transaction() as connection:
        connection.execute(update(table).values(owner=None, expires_at=None))
    app.drain(["board"])
    assert apart.applied() == sent


def test_a_worker_that_is_killed_in_a_batch_leaves_nothing_of_it_there_and_the_next_applies_each_once(
    apart: Apart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME_URL", apart.home_url)
    sent = apart.send(*range(1, 21))
    child = Child(apart.log_url, "board", "run", "stand", "12")
    child.wait_for("inside 12")
    child.kill()
    done = apart.checkpoint().position
    assert _positions(apart) == [position for position in sent if position <= done < 12]

    again = Child(apart.log_url, "board", "drain")

    assert again.end() == 0
    assert _positions(apart) == sent
    assert apart.checkpoint().position == sent[-1]


def _positions(apart: Apart) -> list[int]:
    """What the service in the other process has applied, in its own table."""
    return sorted(row.position for row in apart.rows(select(APPLIED.c.position)))


def test_a_worker_runs_both_and_notices_what_operators_do_there(apart: Apart) -> None:
    app = apart.app()
    with app.worker() as worker:
        sent = apart.send(1, 2)
        app.wait_for("board", sent[-1])
        control.pause(app.homes[1], "board")
        more = apart.send(3)
        app.wait_for("mail", more[0])
        assert apart.applied() == sent
        control.resume(app.homes[1], "board")
        eventually(lambda: apart.applied() == sent + more, what="the board to go on", seconds=10)
    assert (worker.counts["board"].handled, worker.counts["mail"].handled) == (3, 3)


def test_it_is_moved_through_the_app_and_refuses_without(apart: Apart) -> None:
    sent = apart.send(1, 2, 3)
    app = apart.app()
    app.drain()
    home = app.homes[1]

    with pytest.raises(UnknownSubscriberError) as unknown:
        control.rewind(app.log.database, "board", control.to_start)
    assert "--app" in unknown.value.remedy
    alone = App(apart.home_url)
    apart.apps.append(alone)
    with pytest.raises(RefusedError, match="follows the log"):
        control.rewind(alone.log.database, "board", control.to_start)
    assert [(one.lag, one.lag_exact) for one in read_status(alone.log.database).subscribers] == [(None, False)]
    assert read_status(home).subscribers[0].lag == 0

    move = rebuild_in_place(home, "board")
    assert (move.events, move.to_position, apart.applied()) == (3, 0, [])
    app.drain()
    assert apart.applied() == sent


def test_a_higher_version_is_made_anew_beside_there(apart: Apart) -> None:
    sent = apart.send(1, 2, 3)
    apart.app().drain()
    app = apart.app(version=2)
    app.drain()

    assert apart.applied() == sent
    assert {row.note for row in apart.rows(select(TABLE.c.note))} == {"v2"}
    assert [one.state for one in read_rebuilds(app.homes[1])] == [RebuildState.DONE]


class Restored(Apart):
    """A log in a file that is put back to a copy: then other events may take the positions that the board has seen."""

    def __init__(self, tmp_path: Path, log_url: str) -> None:
        super().__init__(log_url, f"sqlite:///{tmp_path / 'board.db'}")
        self._file = Path(str(create_engine(log_url).url.database))
        self._copy = tmp_path / "copy.db"

    def back_up(self) -> None:
        self.close()
        shutil.copyfile(self._file, self._copy)

    def restore(self) -> None:
        self.close()
        for ending in ("", "-wal", "-shm"):
            Path(f"{self._file}{ending}").unlink(missing_ok=True)
        shutil.copyfile(self._copy, self._file)


@pytest.fixture
def restored(tmp_path: Path, sqlite_url: str) -> Iterator[Restored]:
    made = Restored(tmp_path, sqlite_url)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("replaced", ["gone", "another"])
def test_a_log_that_was_restored_to_an_earlier_point_stops_it_visibly(restored: Restored, replaced: str) -> None:
    restored.send(1)
    restored.back_up()
    restored.send(2, 3)
    restored.app().drain(["board"])
    restored.restore()
    if replaced == "another":
        restored.send(8, 9, 10)

    app = restored.app()
    with pytest.raises(RefusedError, match="restored to an earlier point"):
        app.drain(["board"])

    status = read_status(app.homes[1]).subscribers[0]
    assert (status.state, restored.applied()) == ("ahead", [1, 2, 3])
    assert "restored to an earlier point" in str(status.state_reason)
    rebuild_in_place(app.homes[1], "board")
    control.resume(app.homes[1], "board")
    app.drain(["board"])
    assert restored.applied() == list(range(1, app.log.head() + 1))


@pytest.mark.parametrize("changed", ["exchanged", "back", "partitions"])
def test_what_keeps_its_place_keeps_the_event_it_stands_at_and_a_restored_log_is_noticed(
    restored: Restored, changed: str
) -> None:
    """Neither an exchange of tables nor the way back, nor another number of partitions, moves the checkpoint."""
    restored.send(1)
    restored.back_up()
    restored.send(2, 3)
    restored.app().drain(["board"])
    if changed == "partitions":
        control.repartition(restored.app().homes[1], "board", 2)
    else:
        app = restored.app(version=2)
        begin_rebuild(app.homes[1], app.subscribers["board"], keep=True)
        app.drain(["board"])
    if changed == "back":
        go_back(restored.app().homes[1], "board")
    restored.restore()
    restored.send(8, 9, 10)

    version, partitions = (2 if changed == "exchanged" else 1), (2 if changed == "partitions" else 1)
    with pytest.raises(RefusedError, match="restored to an earlier point"):
        restored.app(version=version, partitions=partitions).drain(["board"])

    assert restored.applied() == [1, 2, 3]


def test_an_effect_is_with_the_log(apart: Apart) -> None:
    with pytest.raises(DeclarationError, match="'mail' is an effect, and says database="):
        Subscriber(
            "mail",
            kind=Kind.EFFECT,
            start="now",
            delivery=Delivery.AT_LEAST_ONCE,
            on_failure=OnFailure.PARK,
            retry=Retry(),
            database=apart.home_url,
        )


def test_a_handler_there_cannot_append_to_the_log(apart: Apart) -> None:
    app, said = apart.app(), list[str]()

    @app.projection("other", database=apart.home_url)
    def add(crate: Sent, ctx: Context) -> None:
        try:
            ctx.append(Lost(1))
        except UsageError as error:
            said.append(str(error))

    apart.send(1)
    app.drain(["other"])
    assert "another database than the log's" in said[0]

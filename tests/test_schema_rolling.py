"""A rolling deployment: the release before is at work while `eventlog init` of this one upgrades the log under it.

This code plays the release before where it can: it is told that it knows all revisions but the newest. What a worker of
it writes is told by its statements.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Engine

from eventlog.errors import SchemaMissingError, SchemaTooNewError
from eventlog.log import EventLog
from eventlog.schema import migrate
from eventlog.schema.migrate import known_revisions, upgrade
from eventlog.schema.tables import tables
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from tests.cli_support import ran_to_end
from tests.log_support import engine_of, everything, note, opened
from tests.subscribers_support import Bench, Sent, applied_table
from tests.subscribers_support import note as write_down

APPLIED = applied_table()
*OLDER, NEWEST = known_revisions()


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """A log as the release before has made it."""
    with engine_of(empty_database_url) as engine:
        upgrade(engine, until=OLDER[-1])
        yield engine


@pytest.fixture
def bench(engine: Engine, empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    """The release before, at work on that log."""
    monkeypatch.setattr(migrate, "known_revisions", lambda: tuple(OLDER))
    bench = Bench(empty_database_url)
    yield bench
    bench.close()


@contextmanager
def opened_bench(url: str) -> Iterator[Bench]:
    bench = Bench(url)
    yield bench
    bench.close()


def init(url: str, folder: Path) -> None:
    """Run this release's `eventlog init`, as a process of its own."""
    ran = ran_to_end([sys.executable, "-m", "eventlog.cli", "init", "--url", url, "-o", "json"], cwd=folder)
    assert (ran.code, ran.json["tables"]) == (0, "upgraded"), ran.err


RELEASE_BEFORE = (
    (
        "insert into {subscribers} (name, kind, start, start_position, partitions, declaration)"
        " values ('board', 'projection', 'beginning', 0, 1, '{declaration}')"
    ),
    (
        "insert into {checkpoints} (subscriber, partition, position, in_hand, handled_through, epoch)"
        " values ('board', 0, 0, 0, 0, 1)"
    ),
    "update {checkpoints} set epoch = 2, owner = 'before', expires_at = null where subscriber = 'board'",
    (
        "insert into {failures} (subscriber, position, partition, key, state, attempts, redelivery, error_type,"
        " message, fingerprint) values ('board', 1, 0, 'crate-1', 'parked', 1, {yes}, 'Bug', 'broken', 'f')"
    ),
    (
        "insert into {attempts} (subscriber, position, round, attempt, outcome, worker, epoch, duration_seconds)"
        " values ('board', 1, 0, 1, 'failed', 'before', 2, 0.1)"
    ),
    (
        "update {checkpoints} set position = 1, in_hand = 1, handled_through = 1 where subscriber = 'board'"
        " and epoch = 2 and owner = 'before' and position = 0"
    ),
    "update {checkpoints} set owner = null where subscriber = 'board'",
)
"""What a worker of the release before writes: from registering a projection to parking its first event."""

DECLARATION = (
    '{"patterns":["crate.sent"],"key":"stream","partitions":1,"delivery":"transactional","on_failure":"park",'
    '"tables":["applied"],"idempotent":false}'
)


def as_the_release_before(engine: Engine) -> None:
    """Write what its worker writes, each statement in a transaction of its own."""
    log = tables(dialect=engine.dialect.name)
    names = {name: log.sql_name(name) for name in ("subscribers", "checkpoints", "failures", "attempts")}
    yes = "1" if engine.dialect.name == "sqlite" else "true"
    for statement in RELEASE_BEFORE:
        with engine.begin() as connection:
            connection.exec_driver_sql(statement.format(declaration=DECLARATION, yes=yes, **names))


def board_of(app: App) -> App:
    board = app.projection("board", tables=[APPLIED], on_failure="park")

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        write_down(ctx, APPLIED)

    return app


def test_this_release_goes_on_from_what_a_worker_of_the_release_before_writes_after_the_upgrade(
    engine: Engine, empty_database_url: str, tmp_path: Path
) -> None:
    init(empty_database_url, tmp_path)
    as_the_release_before(engine)
    with opened_bench(empty_database_url) as bench:
        first, *rest = bench.send(3)

        board_of(bench.app()).drain()

        assert bench.states("board") == {first: "parked"}
        assert bench.applied(APPLIED) == rest


def test_appends_of_the_release_before_go_on_through_an_upgrade(bench: Bench, tmp_path: Path) -> None:
    sent = bench.send(3)
    init(bench.url, tmp_path)
    sent += bench.send(3, first=4)

    assert [one.position for one in everything(bench.log)] == sent


def test_the_release_before_is_refused_when_it_is_started_again(bench: Bench, tmp_path: Path) -> None:
    init(bench.url, tmp_path)

    with opened(bench.url) as log, pytest.raises(SchemaTooNewError, match=f"later release of rewindlog.*{NEWEST}"):
        everything(log)


def test_this_release_is_refused_before_the_upgrade(engine: Engine) -> None:
    with pytest.raises(SchemaMissingError, match="tables of an earlier release") as refused:
        everything(EventLog(engine))

    assert "eventlog init" in refused.value.remedy
    EventLog(engine).init()
    EventLog(engine).append(note("first"))

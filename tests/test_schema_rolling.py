"""A rolling deployment: the release before is at work while `eventlog init` of this one upgrades the log under it.

This code plays the release before: it is told that it knows all revisions but the newest, in this process alone.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from eventlog.errors import SchemaMissingError, SchemaTooNewError
from eventlog.log import EventLog
from eventlog.schema import migrate
from eventlog.schema.migrate import known_revisions, upgrade
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from tests.cli_support import ran_to_end
from tests.log_support import engine_of, everything, note, opened
from tests.subscribers_support import Bench, Sent, applied_table, eventually
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


def init(url: str, folder: Path) -> None:
    """Run this release's `eventlog init`, as a process of its own."""
    ran = ran_to_end([sys.executable, "-m", "eventlog.cli", "init", "--url", url, "-o", "json"], cwd=folder)
    assert (ran.code, ran.json["tables"]) == (0, "upgraded"), ran.err


def board_of(app: App) -> App:
    board = app.projection("board", tables=[APPLIED])

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        write_down(ctx, APPLIED)

    return app


def test_a_worker_of_the_release_before_goes_on_through_an_upgrade(bench: Bench, tmp_path: Path) -> None:
    sent = bench.send(3)
    with board_of(bench.app()).worker():
        eventually(lambda: bench.position("board") == sent[-1], what="what was there")
        init(bench.url, tmp_path)
        sent += bench.send(3, first=4)
        eventually(lambda: bench.position("board") == sent[-1], what="what came after the upgrade")

    assert bench.applied(APPLIED) == sent


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

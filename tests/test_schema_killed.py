"""An upgrade that is killed leaves nothing behind, whatever it began with, and the next one does it all."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import inspect

from eventlog.errors import SchemaMissingError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, current_revision, known_revisions, upgrade
from tests import warm_python
from tests.log_support import (
    THREAD_SECONDS_MAX,
    Background,
    engine_of,
    everything,
    note,
    opened,
    wait_until,
    waiting_for_locks,
)
from tests.schema_support import facts

POINTS = ["create table", "create index", "create trigger", "schema_version (version_num) values"]


@contextmanager
def stopped_at(url: str, words: str) -> Iterator["subprocess.Popen[str]"]:
    """A process that upgrades the database, and waits behind the first statement with these words."""
    command = ("-m", "tests.log_upgrade_child", url, words)
    with warm_python.started(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "reached\n", f"no statement has the words {words!r}"
            yield process
        finally:
            process.kill()
            process.wait(THREAD_SECONDS_MAX)


@pytest.mark.parametrize("words", POINTS)
def test_a_killed_upgrade_leaves_nothing_and_the_next_one_does_it_all(empty_database_url: str, words: str) -> None:
    with stopped_at(empty_database_url, words) as process:
        process.kill()

    with opened(empty_database_url) as log:
        with pytest.raises(SchemaMissingError, match="has no tables"):
            everything(log)
        assert inspect(log.engine).get_table_names(schema=log.database.tables.schema) == []
        log.init()
        log.append(note("first"))
        assert len(everything(log)) == 1


@pytest.mark.parametrize("words", ["alter table", "create table", "create trigger", "set version_num"])
def test_a_killed_upgrade_leaves_an_older_log_as_it_was(empty_database_url: str, words: str) -> None:
    with engine_of(empty_database_url) as engine:
        upgrade(engine, until=known_revisions()[0])
        before = facts(engine)

        with stopped_at(empty_database_url, words) as process:
            process.kill()

        assert facts(engine) == before
        with engine.connect() as connection:
            assert current_revision(connection) == known_revisions()[0]
        assert upgrade(engine) is SchemaState.OLDER
        log = EventLog(engine)
        log.append(note("first"))
        assert len(everything(log)) == 1


def test_an_upgrade_waits_for_one_that_runs_and_finds_its_work(postgres_empty_url: str) -> None:
    with engine_of(postgres_empty_url) as engine, stopped_at(postgres_empty_url, "create trigger") as first:
        second = Background(lambda: upgrade(engine))
        with engine_of(postgres_empty_url) as observer:
            wait_until(lambda: waiting_for_locks(observer), what="the second upgrade to wait")
        assert not second.done
        first.communicate(timeout=THREAD_SECONDS_MAX)

        assert second.result() is SchemaState.CURRENT


def test_an_upgrade_takes_the_place_of_one_that_was_killed(postgres_empty_url: str) -> None:
    with engine_of(postgres_empty_url) as engine, stopped_at(postgres_empty_url, "create trigger") as first:
        second = Background(lambda: upgrade(engine))
        with engine_of(postgres_empty_url) as observer:
            wait_until(lambda: waiting_for_locks(observer), what="the second upgrade to wait")
        first.kill()

        assert second.result() is SchemaState.MISSING
        assert everything(EventLog(engine)) == []

"""The tables of a log: what the migrations make is what the code names, whatever way and however often it is made."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from sqlalchemy import Engine, inspect, text

from eventlog.errors import UsageError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, current_revision, known_revisions, schema_state, upgrade
from eventlog.schema.revisions import revision_module
from eventlog.schema.tables import Tables, tables
from eventlog.schema.target import refuse_downgrade
from tests.log_support import Background, at_once, engine_of, everything, note, notes, opened, positions, said
from tests.schema_support import facts


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    with engine_of(empty_database_url) as engine:
        yield engine


def names_of(engine: Engine) -> Tables:
    return tables(dialect=engine.dialect.name)


def equal_whatever_the_way(stepped_url: str, fresh_url: str) -> None:
    with engine_of(stepped_url) as stepped, engine_of(fresh_url) as fresh:
        for revision in known_revisions():
            upgrade(stepped, until=revision)

        assert facts(stepped) == facts(fresh)
        assert all(facts(fresh).values())


def test_a_fresh_postgres_schema_equals_one_that_was_migrated_step_by_step(
    postgres_empty_url: str, postgres_database_url: str
) -> None:
    equal_whatever_the_way(postgres_empty_url, postgres_database_url)


def test_a_fresh_sqlite_schema_equals_one_that_was_migrated_step_by_step(sqlite_url: str, tmp_path: Path) -> None:
    equal_whatever_the_way(f"sqlite:///{tmp_path / 'stepped.db'}", sqlite_url)


def test_the_tables_in_code_are_the_tables_in_the_database(engine: Engine) -> None:
    upgrade(engine)
    log = names_of(engine)
    inspector = inspect(engine)

    in_code = {table.name for table in log.metadata.sorted_tables}
    assert set(inspector.get_table_names(schema=log.schema)) - {"schema_version", "epochs"} == in_code
    for table in log.metadata.sorted_tables:
        found = inspector.get_columns(table.name, schema=log.schema)
        assert [(one["name"], one["nullable"]) for one in found] == [(one.name, one.nullable) for one in table.columns]
        key = inspector.get_pk_constraint(table.name, schema=log.schema)["constrained_columns"]
        assert key == [column.name for column in table.primary_key]


def test_the_types_in_code_are_the_types_in_the_database(engine: Engine) -> None:
    upgrade(engine)
    log = names_of(engine)
    same = {"INTEGER": "BIGINT", "VARCHAR(24)": "TIMESTAMP"} if engine.dialect.name == "sqlite" else {}

    def told(kind: Any) -> str:
        written = str(kind.compile(dialect=engine.dialect))
        return same.get(written, written)

    for table in log.metadata.sorted_tables:
        found = inspect(engine).get_columns(table.name, schema=log.schema)
        assert [(one["name"], told(one["type"])) for one in found] == [
            (one.name, told(one.type)) for one in table.columns
        ]


def test_an_upgrade_tells_what_it_found(engine: Engine) -> None:
    with engine.connect() as connection:
        assert schema_state(connection) is SchemaState.MISSING

    assert upgrade(engine) is SchemaState.MISSING
    assert upgrade(engine) is SchemaState.CURRENT
    with engine.connect() as connection:
        assert schema_state(connection) is SchemaState.CURRENT


def test_a_second_upgrade_changes_nothing(database_url: str) -> None:
    with opened(database_url) as log:
        log.append(*notes(3))
        before = facts(log.engine)

        log.init()

        assert facts(log.engine) == before
        assert len(everything(log)) == 3


def test_upgrades_at_the_same_time_all_succeed(empty_database_url: str) -> None:
    """Each on a connection of its own, as several processes of a service do when it is deployed."""

    def start() -> int:
        with opened(empty_database_url) as log:
            log.init()
            return len(log.append(note("started")))

    assert at_once(*[start] * 6) == [1] * 6

    with opened(empty_database_url) as log:
        assert said(everything(log)) == ["started"] * 6


def test_logs_of_several_names_are_made_at_the_same_time_in_one_database(empty_database_url: str) -> None:
    names = ["eventlog", "audit", "eventlog", "billing"]

    def start(name: str) -> int:
        with opened(empty_database_url, schema=name) as log:
            log.init()
            return len(log.append(note("started")))

    assert at_once(*[partial(start, name) for name in names]) == [1] * len(names)

    for name in names:
        with opened(empty_database_url, schema=name) as log:
            assert len(everything(log)) == names.count(name)


def test_logs_in_several_databases_are_made_at_the_same_time_by_one_process(
    tmp_path: Path, postgres_empty_url: str
) -> None:
    """Alembic keeps the running revision's database in a variable of the process."""
    urls = [postgres_empty_url, *(f"sqlite:///{tmp_path / name}.db" for name in "abcde")]

    def start(url: str) -> int:
        with opened(url) as log:
            log.init()
            return len(log.append(note("started")))

    assert at_once(*[partial(start, url) for url in urls]) == [1] * len(urls)


def test_an_upgrade_waits_for_whoever_writes_to_the_file(sqlite_empty_url: str, tmp_path: Path) -> None:
    """Somebody else is at work in a file that no log has been in before: an upgrade is patient, like any writer."""
    with engine_of(sqlite_empty_url) as engine, closing(sqlite3.connect(tmp_path / "log.db")) as other:
        other.execute("create table other (n integer)")
        other.execute("insert into other values (1)")
        upgrading = Background(lambda: upgrade(engine))
        upgrading.ends_within(0.2)
        other.commit()

        assert upgrading.result() is SchemaState.MISSING


def test_the_sequence_of_positions_is_not_cached_and_does_not_cycle(postgres_database_url: str) -> None:
    with engine_of(postgres_database_url) as engine:
        sequences = {name: rest for name, *rest in facts(engine)["sequences"]}

    assert sequences["events_position_seq"] == ["bigint", 1, 1, False, 1]
    assert sequences["epochs"] == ["bigint", 1, 1, False, 1]


def test_the_triggers_that_keep_events_safe_fire_always(postgres_database_url: str) -> None:
    with engine_of(postgres_database_url) as engine:
        on_events = {name: enabled for name, enabled, told in facts(engine)["triggers"] if "eventlog.events" in told}

    assert on_events == {"mark_append": "A", "guard_position": "A", "index_tags": "A", "refuse_change": "A"}


def test_functions_with_the_rights_of_their_owner_choose_their_own_search_path(postgres_database_url: str) -> None:
    with engine_of(postgres_database_url) as engine:
        definers = [told for (told,) in facts(engine)["functions"] if "SECURITY DEFINER" in told]

    assert len(definers) == 6
    assert all("SET search_path TO 'pg_catalog', 'pg_temp'" in told for told in definers)


def test_logs_of_other_names_stand_side_by_side_in_one_database(empty_database_url: str) -> None:
    with opened(empty_database_url) as first:
        others = [EventLog(first.engine, schema=name) for name in ("audit", "a", "x" * 41, "_9")]
        for log in (first, *others):
            log.init()
            log.append(*notes(2), expected="none")

        assert [positions(everything(log)) for log in (first, *others)] == [[1, 2]] * 5
        assert {str(log.database.schema) for log in others} == {"audit", "a", "x" * 41, "_9"}


def test_a_log_of_another_name_is_missing_until_it_is_made(database_url: str) -> None:
    with opened(database_url, schema="other") as log, log.engine.connect() as connection:
        assert schema_state(connection, schema="other") is SchemaState.MISSING
        assert schema_state(connection) is SchemaState.CURRENT


def test_immutability_holds_in_every_log(database_url: str) -> None:
    with opened(database_url, schema="audit") as log:
        log.init()
        log.append(note("first"))
        name = log.database.tables.sql_name("events")

        for change in (f"update {name} set stream = 'x'", f"delete from {name}"):
            with log.engine.connect() as connection, pytest.raises(sqlalchemy.exc.DBAPIError, match="is refused"):
                connection.execute(text(change))


@pytest.mark.parametrize(
    "name", ["", "Audit", "a-b", "a b", "a;drop", "a.b", "9a", "ä", "x" * 42, 'a"b', "a'b", "a\n", "a\0"]
)
@pytest.mark.parametrize("url", ["sqlite:///x.db", "postgresql://h/d"])
def test_a_name_that_needs_quotes_is_refused(url: str, name: str) -> None:
    with pytest.raises(UsageError, match="plain name"):
        EventLog(url, schema=name)


def test_a_word_of_sql_names_a_log_or_is_refused(empty_database_url: str, subtests: pytest.Subtests) -> None:
    for name in ("user", "select", "order", "table", "all", "lateral", "system_user", "pg_mine", "sqlite", "public"):
        with subtests.test(name), engine_of(empty_database_url) as engine:
            try:
                log = EventLog(engine, schema=name)
            except UsageError:
                continue
            log.init()
            log.append(note("first"))
            assert said(everything(log)) == ["first"]


def test_known_revisions_are_those_of_the_migrations_in_order() -> None:
    revisions = known_revisions()

    assert revisions[0] == "eventlog_0001"
    assert list(revisions) == sorted(set(revisions))


def test_every_revision_follows_the_one_before_and_refuses_the_way_down() -> None:
    modules = [revision_module(one) for one in known_revisions()]

    assert [module.revision for module in modules] == list(known_revisions())
    assert [module.down_revision for module in modules] == [None, *known_revisions()[:-1]]
    assert {module.downgrade for module in modules} == {refuse_downgrade}


def test_every_revision_leaves_its_name_in_the_database(engine: Engine) -> None:
    for revision in known_revisions():
        upgrade(engine, until=revision)
        with engine.connect() as connection:
            assert current_revision(connection) == revision

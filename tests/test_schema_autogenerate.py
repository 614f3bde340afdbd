"""Autogenerate of a service leaves the log alone: by filters, or because it knows the tables in full."""

from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, MetaData

from eventlog.log import EventLog
from eventlog.schema.autogenerate import LogTables, declare_log
from eventlog.schema.migrate import upgrade
from tests.log_support import engine_of, note

SCHEMAS = ["eventlog", "audit", "public"]


@pytest.fixture
def engine(empty_database_url: str) -> Iterator[Engine]:
    """A database with a log and a table of a service."""
    with engine_of(empty_database_url) as engine:
        shop(MetaData()).create_all(engine)
        yield engine


def shop(metadata: MetaData) -> MetaData:
    """The service's own tables: one of them is called as one of ours."""
    sa.Table("orders", metadata, sa.Column("number", sa.Integer(), primary_key=True))
    return metadata


def proposals(connection: Connection, metadata: MetaData, **options: Any) -> list[Any]:
    """What `alembic revision --autogenerate` would write, and `alembic check` complain about."""
    options = {"compare_type": True, "compare_server_default": True} | options
    found: list[Any] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("include_schemas", [False, True])
def test_filtered_tables_of_the_log_are_not_proposed_for_dropping(
    engine: Engine, schema: str, include_schemas: bool
) -> None:
    upgrade(engine, schema=schema)
    with engine.connect() as connection:
        log = LogTables(connection, schema=schema)
        options = {"include_schemas": include_schemas, "include_name": log.include_name}

        assert proposals(connection, shop(MetaData()), **options) == []


@pytest.mark.parametrize("schema", SCHEMAS)
def test_without_the_filter_tables_of_the_log_would_be_dropped(engine: Engine, schema: str) -> None:
    """The test above would hold of nothing otherwise."""
    upgrade(engine, schema=schema)
    with engine.connect() as connection:
        found = proposals(connection, shop(MetaData()), include_schemas=True)

    removed = {one[1].name.removeprefix(f"{schema}_") for one in found if one[0] == "remove_table"}
    assert {"events", "schema_version"} <= removed


@pytest.mark.parametrize("schema", SCHEMAS)
def test_the_filter_leaves_the_changes_of_the_service_to_be_seen(engine: Engine, schema: str) -> None:
    upgrade(engine, schema=schema)
    with engine.begin() as connection:
        connection.execute(sa.text("create table audit_trail (n integer primary key)"))
        connection.execute(sa.text("create index orders_again on orders (number)"))
    metadata = shop(MetaData())
    sa.Table("customers", metadata, sa.Column("name", sa.Text(), primary_key=True))
    with engine.connect() as connection:
        log = LogTables(connection, schema=schema)
        found = proposals(connection, metadata, include_schemas=True, include_name=log.include_name)

    assert sorted((one[0], one[1].name) for one in found) == [
        ("add_table", "customers"),
        ("remove_index", "orders_again"),
        ("remove_table", "audit_trail"),
    ]


def test_a_table_of_the_service_that_is_called_like_one_of_ours_is_seen(postgres_database_url: str) -> None:
    metadata = MetaData()
    sa.Table("events", metadata, sa.Column("number", sa.Integer(), primary_key=True))
    with engine_of(postgres_database_url) as engine, engine.connect() as connection:
        metadata.create_all(connection)
        log = LogTables(connection)
        options = {"include_schemas": True, "include_name": log.include_name}

        assert proposals(connection, metadata, **options) == []
        assert [one[0] for one in proposals(connection, MetaData(), **options)] == ["remove_table"]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_tables_of_the_log_in_the_metadata_of_a_service_are_passed_by_with_both_filters(
    engine: Engine, schema: str
) -> None:
    upgrade(engine, schema=schema)
    metadata = shop(MetaData())
    for table in EventLog(engine, schema=schema).database.tables.metadata.tables.values():
        table.to_metadata(metadata)
    with engine.connect() as connection:
        log = LogTables(connection, schema=schema)
        options = {"include_name": log.include_name, "include_object": log.include_object, "include_schemas": True}

        assert proposals(connection, metadata, **options) == []


@pytest.mark.parametrize("schema", ["eventlog", "audit"])
def test_declared_in_full_the_log_differs_in_nothing_from_what_the_revisions_made(engine: Engine, schema: str) -> None:
    upgrade(engine, schema=schema)
    metadata = shop(MetaData())
    declare_log(metadata, dialect=engine.dialect.name, schema=schema)
    with engine.connect() as connection:
        assert proposals(connection, metadata, include_schemas=True) == []


def test_what_is_not_declared_is_found(engine: Engine) -> None:
    """Each kind of thing that the test above compares, it can also miss."""
    upgrade(engine)
    metadata = shop(MetaData())
    log = declare_log(metadata, dialect=engine.dialect.name)
    events, failures = (metadata.tables[str(table)] for table in (log.events, log.failures))
    events.constraints -= {one for one in events.constraints if isinstance(one, sa.UniqueConstraint)}
    events.c.type_version.server_default = None
    events.c.stream.type = sa.Integer()
    failures.indexes.clear()
    with engine.connect() as connection:
        found = proposals(connection, metadata, include_schemas=True)

    kinds = {one[0] if isinstance(one, tuple) else one[0][0] for one in found}
    assert kinds == {"remove_constraint", "remove_index", "modify_default", "modify_type"}


def test_a_table_of_a_service_may_refer_to_events(engine: Engine) -> None:
    upgrade(engine)
    metadata = shop(MetaData())
    log = declare_log(metadata, dialect=engine.dialect.name)
    event = sa.ForeignKey(metadata.tables[str(log.events)].c.id)
    kind = sa.Text() if engine.dialect.name == "sqlite" else sa.Uuid()
    letters = sa.Table("letters", metadata, sa.Column("event", kind, event, primary_key=True))
    metadata.create_all(engine)
    [recorded] = EventLog(engine).append(note("first"))

    with engine.begin() as connection:
        event_id: Any = str(recorded.id) if engine.dialect.name == "sqlite" else recorded.id
        connection.execute(letters.insert().values(event=event_id))
        assert proposals(connection, metadata, include_schemas=True) == []


def test_create_all_makes_no_log_without_its_triggers(engine: Engine) -> None:
    metadata = MetaData()
    declare_log(metadata, dialect=engine.dialect.name)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("create schema eventlog"))
        with pytest.raises(sa.exc.InvalidRequestError, match="eventlog init"):
            metadata.create_all(connection)

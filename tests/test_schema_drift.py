"""A log that is not what the revisions make: each kind of difference is found, and nothing is where there is none.

The damage is done in a transaction that is rolled back; `tests/test_cli_doctor.py` does some of it for good.
"""

import pytest
from sqlalchemy import Connection, text

from eventlog.log import EventLog
from eventlog.schema.drift import Difference, DifferenceKind, differences
from eventlog.schema.drift_postgres import expected_functions, expected_triggers
from eventlog.schema.migrate_sql import upgrade_sql
from tests.schema_support import POSTGRES_FACTS

POSTGRES: tuple[tuple[str, ...], ...] = (
    ("trigger mark_append on events: it is disabled", "alter table eventlog.events disable trigger mark_append"),
    (
        "trigger guard_position on events: it does not fire on a replica's connections",
        "alter table eventlog.events enable trigger guard_position",
    ),
    ("trigger refuse_change on event_tags is missing", "drop trigger refuse_change on eventlog.event_tags"),
    (
        "trigger mark_append on events: it fires otherwise",
        "drop trigger mark_append on eventlog.events",
        "create trigger mark_append after insert on eventlog.events execute function eventlog.mark_append()",
        "alter table eventlog.events enable always trigger mark_append",
    ),
    (
        "function ring: its text is another one",
        "create or replace function eventlog.ring() returns void language sql as $$ select 1 $$",
    ),
    ("function look: its rights are others", "alter function eventlog.look() security invoker"),
    ("function partition_of is missing", "drop function eventlog.partition_of(text, integer)"),
    (
        "constraint events_stream_version of events is missing",
        "alter table eventlog.events drop constraint events_stream_version",
    ),
    (
        "check of events: events_type_length is missing",
        "alter table eventlog.events drop constraint events_type_length",
    ),
    ("index of failures: failures_open is missing", "drop index eventlog.failures_open"),
    (
        "index of attempts: attempts_entry: it is over other columns",
        "drop index eventlog.attempts_entry",
        "create index attempts_entry on eventlog.attempts (position)",
    ),
    ("column of subscribers: log is missing", "alter table eventlog.subscribers drop column log"),
    (
        "column of failures: attempts: it is bigint, not integer",
        "alter table eventlog.failures alter column attempts type bigint",
    ),
    (
        "column of checkpoints: epoch: it may be null",
        "alter table eventlog.checkpoints alter column epoch drop not null",
    ),
    (
        "column of events: tenant: it must be filled",
        "alter table eventlog.events add column tenant text not null default ''",
        "alter table eventlog.events alter column tenant drop default",
    ),
    (
        "column of events: recorded_at: its default is another one",
        "alter table eventlog.events alter column recorded_at drop default",
    ),
    ("table snapshots is missing", "drop table eventlog.snapshots"),
)
"""What has to be said, and what is done for that."""

SQLITE: tuple[tuple[str, ...], ...] = (
    ("trigger events_refuse_update is missing", "drop trigger events_refuse_update"),
    (
        "trigger events_refuse_delete: its statement is another one",
        "drop trigger events_refuse_delete",
        "create trigger events_refuse_delete before delete on events begin select 1; end",
    ),
    ("index failures_open is missing", "drop index failures_open"),
    ("table subscribers: its statement is another one", "alter table subscribers drop column log"),
    ("table snapshots is missing", "drop table snapshots"),
)


def told(one: Difference) -> str:
    return f"{one.thing} is missing" if one.kind is DifferenceKind.MISSING else f"{one.thing}: {one.detail}"


def grave(connection: Connection, log: EventLog) -> list[str]:
    found = differences(connection, log.database.tables, schema=log.database.schema)
    return [told(one) for one in found if one.kind is not DifferenceKind.EXTRA]


def test_every_difference_is_found_alone(log: EventLog, subtests: pytest.Subtests) -> None:
    on_sqlite = log.engine.dialect.name == "sqlite"
    for said, *damage in SQLITE if on_sqlite else POSTGRES:
        with subtests.test(said), log.database.transaction() as connection:
            for statement in damage:
                connection.exec_driver_sql(statement)
            (found,) = grave(connection, log)
            assert found.startswith(said), found
            connection.rollback()
    with log.database.reader() as connection:
        assert differences(connection, log.database.tables, schema=log.database.schema) == []


def test_an_index_that_is_not_valid_is_a_difference(postgres_log: EventLog) -> None:
    """As one is that could not be made to its end while others wrote."""
    with postgres_log.database.transaction() as connection:
        connection.execute(
            text("update pg_index set indisvalid = false where indexrelid = 'eventlog.events_id'::regclass")
        )
        (found,) = differences(connection, postgres_log.database.tables, schema="eventlog")
        connection.rollback()
    assert (found.detail, found.repair) == ("it is not valid, and not used", "reindex index eventlog.events_id;")


def test_what_is_there_besides_is_told_apart(log: EventLog) -> None:
    events = log.database.tables.sql_name("events")
    with log.database.transaction() as connection:
        connection.execute(text(f"create index by_type on {events} (type)"))
        (found,) = differences(connection, log.database.tables, schema="eventlog")
        connection.rollback()
    assert found.kind is DifferenceKind.EXTRA
    assert found.thing.endswith("by_type")


def test_all_triggers_and_functions_are_read_off_the_revisions(postgres_log: EventLog) -> None:
    """The comparison would pass one by that it does not know of."""
    script = upgrade_sql(dialect="postgresql")
    with postgres_log.database.reader() as connection:
        triggers = connection.execute(text(POSTGRES_FACTS["triggers"])).all()
        functions = connection.execute(text(POSTGRES_FACTS["functions"])).all()
    assert len(expected_triggers(script)) == len(triggers)
    assert len(expected_functions(script)) == len(functions)

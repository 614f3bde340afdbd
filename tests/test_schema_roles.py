"""Who may make and upgrade a log on PostgreSQL: a role that may create, and one whose schema somebody else has made."""

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, make_url, text

from eventlog.errors import PermissionDeniedError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, known_revisions, schema_state, upgrade
from tests.log_support import engine_of, everything, note, opened, said


@pytest.fixture
def owner(postgres_empty_url: str) -> Iterator[Engine]:
    with engine_of(postgres_empty_url) as engine:
        yield engine


@pytest.fixture
def shop(owner: Engine) -> Iterator[EventLog]:
    """A log as a role opens it that may create nothing in this database."""
    name = f"eventlog_test_{uuid.uuid4().hex}"
    with owner.begin() as connection:
        connection.execute(text(f"create role {name} login password 'secret'"))
    url = make_url(str(owner.url)).set(username=name, password="secret")
    with opened(url.render_as_string(hide_password=False)) as log:
        yield log
    with owner.begin() as connection:
        connection.execute(text(f"drop owned by {name} cascade"))
        connection.execute(text(f"drop role {name}"))


def grant(owner: Engine, words: str, log: EventLog) -> None:
    with owner.begin() as connection:
        connection.execute(text(f"{words} {log.engine.url.username}"))


def test_a_role_that_may_not_create_is_told_so_and_leaves_nothing(owner: Engine, shop: EventLog) -> None:
    with pytest.raises(PermissionDeniedError, match="permission denied for database") as denied:
        shop.init()

    assert denied.value.remedy
    with owner.connect() as connection:
        assert schema_state(connection) is SchemaState.MISSING
        assert not connection.scalar(text("select count(*) from pg_namespace where nspname = 'eventlog'"))


def test_a_role_makes_its_log_in_a_schema_that_was_made_for_it(owner: Engine, shop: EventLog) -> None:
    """`create schema if not exists` would ask for the right to create schemas even when there is one."""
    grant(owner, "create schema eventlog authorization", shop)

    shop.init()

    shop.append(note("first"))
    assert said(everything(shop)) == ["first"]


def test_a_role_that_may_use_a_log_may_not_upgrade_it(owner: Engine, shop: EventLog) -> None:
    upgrade(owner, until=known_revisions()[0])
    grant(owner, "grant usage on schema eventlog to", shop)
    grant(owner, "grant select on all tables in schema eventlog to", shop)

    with pytest.raises(PermissionDeniedError):
        shop.init()

    with owner.connect() as connection:
        assert schema_state(connection) is SchemaState.OLDER


def test_a_role_that_owns_nothing_may_find_that_there_is_nothing_to_do(owner: Engine, shop: EventLog) -> None:
    upgrade(owner)
    grant(owner, "grant usage on schema eventlog to", shop)
    grant(owner, "grant select on all tables in schema eventlog to", shop)

    assert upgrade(shop.engine) is SchemaState.CURRENT


def test_who_had_rights_on_checkpoints_has_them_on_the_tables_an_upgrade_adds(owner: Engine, shop: EventLog) -> None:
    """A worker that goes on through the upgrade is not refused for want of a grant nobody knew of."""
    upgrade(owner, until="eventlog_0004")
    grant(owner, "grant select, update on eventlog.checkpoints to", shop)

    upgrade(owner)

    asked = text("select has_table_privilege(:role, 'eventlog.' || :name, :right)")
    with owner.connect() as connection:
        for name in ("floors", "receipts", "workers", "replays", "rebuilds", "snapshots"):
            for right, has in (("select", True), ("update", True), ("delete", True), ("insert", False)):
                given = {"role": shop.engine.url.username, "name": name, "right": right}
                assert connection.scalar(asked, given) is has, given

"""Our revisions in a service's own Alembic tree, by Alembic's command line: they make the log that `init` makes."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, inspect, text

from eventlog.errors import SchemaMissingError
from eventlog.log import EventLog
from eventlog.schema.migrate import SchemaState, current_revision, known_revisions, schema_state, upgrade
from tests.cli_support import ran_to_end
from tests.log_support import THREAD_SECONDS_MAX, Background, at_once, engine_of, everything, note, opened, said
from tests.schema_support import apply_sql, facts
from tests.service_tree import Service

FIRST, SECOND, *_, NEWEST = known_revisions()
NO_WAY_DOWN = "has no way down"


@pytest.fixture
def service(tmp_path: Path, empty_database_url: str) -> Service:
    return Service.make(tmp_path / "service", empty_database_url)


@pytest.fixture
def engine(service: Service) -> Iterator[Engine]:
    with engine_of(service.url) as engine:
        yield engine


def of_the_log(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """What the database knows of the log alone."""
    own = ("orders", "alembic_version")
    return {what: [row for row in rows if not any(cell in own for cell in row)] for what, rows in facts(engine).items()}


def of_init(engine: Engine, tmp_path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """What it would know after `eventlog init`: the log is dropped and made anew."""
    if engine.dialect.name == "sqlite":
        with engine_of(f"sqlite:///{tmp_path / 'of_init.db'}") as other:
            upgrade(other)
            return facts(other)
    with engine.begin() as connection:
        connection.execute(text("drop schema eventlog cascade"))
    upgrade(engine)
    return facts(engine)


def state(engine: Engine, *, schema: str = "eventlog") -> SchemaState:
    with engine.connect() as connection:
        return schema_state(connection, schema=schema)


def revision(engine: Engine) -> str | None:
    with engine.connect() as connection:
        return current_revision(connection)


def works(engine: Engine, *, schema: str = "eventlog") -> None:
    log = EventLog(engine, schema=schema)
    log.append(note("appended"))
    assert said(everything(log))[-1] == "appended"


def heads(service: Service) -> set[str]:
    done = service.alembic("current")
    assert done.code == 0, done.out + done.err
    return {line.split()[0] for line in done.out.splitlines()}


def test_the_branch_makes_the_log_that_init_makes(service: Service, engine: Engine, tmp_path: Path) -> None:
    service.upgrade()

    assert state(engine) is SchemaState.CURRENT
    assert heads(service) == {"shop_0001", NEWEST}
    works(engine)
    assert of_the_log(engine) == of_init(engine, tmp_path)


def test_init_has_nothing_to_do_after_alembic(service: Service, engine: Engine) -> None:
    service.upgrade()
    before = of_the_log(engine)

    assert upgrade(engine) is SchemaState.CURRENT
    assert of_the_log(engine) == before
    assert heads(service) == {"shop_0001", NEWEST}


def test_alembic_takes_over_a_log_that_init_made(service: Service, engine: Engine) -> None:
    upgrade(engine)
    works(engine)
    before = of_the_log(engine)

    service.upgrade()

    assert of_the_log(engine) == before
    assert heads(service) == {"shop_0001", NEWEST}
    assert len(everything(EventLog(engine))) == 1


def test_init_and_alembic_may_take_turns(service: Service, engine: Engine, tmp_path: Path) -> None:
    service.upgrade(FIRST)
    assert (state(engine), revision(engine)) == (SchemaState.OLDER, FIRST)
    with pytest.raises(SchemaMissingError, match="earlier release"):
        everything(EventLog(engine))

    assert upgrade(engine, until=SECOND) is SchemaState.OLDER
    assert heads(service) == {FIRST}
    service.upgrade()

    works(engine)
    assert heads(service) == {"shop_0001", NEWEST}
    assert of_the_log(engine) == of_init(engine, tmp_path)


def test_a_revision_at_a_time_leaves_the_log_at_each(service: Service, engine: Engine) -> None:
    for one in known_revisions():
        service.upgrade(one)
        assert revision(engine) == one


def test_a_transaction_for_each_migration_serves_as_well(service: Service, engine: Engine) -> None:
    service.upgrade(PER_MIGRATION="1")

    assert revision(engine) == NEWEST
    works(engine)


def test_an_env_for_async_engines_serves_as_well(tmp_path: Path, empty_database_url: str) -> None:
    service = Service.make(tmp_path / "service", empty_database_url, is_async=True)
    service.upgrade()

    with engine_of(empty_database_url) as engine:
        assert revision(engine) == NEWEST
        works(engine)


def test_history_shows_the_branch_beside_that_of_the_service(service: Service) -> None:
    """With a Python that has imported nothing before: there, too, is no warning."""
    words = [sys.executable, "-W", "error", "-m", "alembic", "history"]
    done = ran_to_end(words, cwd=service.folder, SHOP_URL=service.url)

    lines = [line.partition(",")[0] for line in done.out.splitlines()]
    assert "<base> -> shop_0001 (shop) (head)" in lines
    assert f"<base> -> {FIRST} (eventlog)" in lines
    assert f"{known_revisions()[-2]} -> {NEWEST} (eventlog) (head)" in lines


def test_check_proposes_nothing_and_autogenerate_writes_nothing_about_the_log(service: Service) -> None:
    service.upgrade()

    assert service.alembic("check").code == 0
    done = service.alembic("revision", "--autogenerate", "-m", "more", "--head", "shop@head")
    assert done.code == 0, done.out + done.err
    [written] = (service.folder / "migrations" / "versions").glob("*_more.py")
    body = written.read_text().partition("def upgrade")[2]
    assert "op." not in body


@pytest.mark.parametrize("target", ["base", "eventlog@base", f"eventlog@{FIRST}", "eventlog@-1"])
def test_the_branch_has_no_way_down(service: Service, engine: Engine, target: str) -> None:
    service.upgrade()
    works(engine)

    done = service.alembic("downgrade", target)

    assert done.code != 0
    assert NO_WAY_DOWN in done.out
    assert "Traceback" not in done.out + done.err
    assert len(everything(EventLog(engine))) == 1
    assert NEWEST in heads(service)


def test_the_service_may_take_its_own_branch_down(service: Service, engine: Engine) -> None:
    service.upgrade()

    assert service.alembic("downgrade", "shop@base").code == 0
    assert not inspect(engine).has_table("orders")
    assert heads(service) == {NEWEST}
    works(engine)


def test_offline_the_tree_writes_sql_that_makes_the_log(service: Service, engine: Engine, tmp_path: Path) -> None:
    done = service.alembic("upgrade", "heads", "--sql")
    assert done.code == 0, done.err
    apply_sql(service.url, done.out)

    assert heads(service) == {"shop_0001", NEWEST}
    works(engine)
    assert of_the_log(engine) == of_init(engine, tmp_path)


def test_offline_sql_of_an_upgrade_goes_on_from_where_the_log_is(service: Service, engine: Engine) -> None:
    service.upgrade(FIRST)
    done = service.alembic("upgrade", f"{FIRST}:{NEWEST}", "--sql")
    assert done.code == 0, done.err
    apply_sql(service.url, done.out)

    assert revision(engine) == NEWEST
    works(engine)


def named(service: Service, schema: str) -> None:
    ini = service.folder / "alembic.ini"
    ini.write_text(f"{ini.read_text()}\neventlog_schema = {schema}\n")


def test_the_configuration_names_the_log(service: Service, engine: Engine) -> None:
    named(service, "audit")
    service.upgrade()

    assert state(engine, schema="audit") is SchemaState.CURRENT
    assert state(engine) is SchemaState.MISSING
    assert service.alembic("check").code == 0
    works(engine, schema="audit")


def test_pyproject_may_name_the_log_and_our_revisions(service: Service, engine: Engine) -> None:
    (service.folder / "alembic.ini").unlink()
    (service.folder / "pyproject.toml").write_text(
        '[tool.alembic]\nscript_location = "%(here)s/migrations"\nprepend_sys_path = ["."]\neventlog_schema = "audit"\n'
        'version_locations = ["%(here)s/migrations/versions", "eventlog.schema.migrations:versions"]\n'
    )
    service.upgrade()

    assert state(engine, schema="audit") is SchemaState.CURRENT


def test_a_name_that_cannot_be_a_logs_is_refused(service: Service) -> None:
    named(service, "No-Name")
    done = service.alembic("upgrade", "heads", "--sql")

    assert done.code != 0
    assert "FAILED: eventlog_schema" in done.out
    assert "'No-Name' is not a plain name" in done.out


def test_a_name_that_was_changed_on_the_way_is_noticed(service: Service, engine: Engine) -> None:
    service.upgrade(FIRST)
    named(service, "audit")
    done = service.alembic("upgrade", "heads")

    assert done.code != 0
    assert f"says nothing, and {SECOND} comes after {FIRST}" in done.out
    assert revision(engine) == FIRST


def test_stamping_alone_makes_no_log_and_init_still_can(service: Service, engine: Engine) -> None:
    assert service.alembic("stamp", "eventlog@head").code == 0
    assert state(engine) is SchemaState.MISSING

    assert upgrade(engine) is SchemaState.MISSING
    service.upgrade()
    works(engine)


def test_a_revision_of_the_service_may_depend_on_ours(service: Service, engine: Engine) -> None:
    kind = "Text" if engine.dialect.name == "sqlite" else "Uuid"
    place = "events.id" if engine.dialect.name == "sqlite" else "eventlog.events.id"
    service.revision(
        "shop_0002_letters",
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision, depends_on = 'shop_0002', 'shop_0001', '{FIRST}'\n"
        "def upgrade():\n"
        f"    event = sa.Column('event', sa.{kind}(), sa.ForeignKey('{place}'), primary_key=True)\n"
        "    op.create_table('letters', event)\n",
    )
    service.upgrade("shop@head")

    assert inspect(engine).has_table("letters")
    assert revision(engine) == FIRST


def test_alembic_and_init_at_the_same_time_make_one_log(service: Service) -> None:
    def init() -> int:
        with opened(service.url) as log:
            log.init()
        return 0

    def tree() -> int:
        return service.alembic("upgrade", "eventlog@head").code

    assert at_once(init, tree, init, init) == [0, 0, 0, 0]

    with engine_of(service.url) as engine:
        assert heads(service) == {NEWEST}
        works(engine)


@pytest.mark.parametrize("words", ["create table", "create index", "create trigger", "schema_version", "event_tags"])
def test_alembic_killed_on_the_way_leaves_no_half_of_a_revision(service: Service, engine: Engine, words: str) -> None:
    with service.started("upgrade", "eventlog@head", STOP_AT=words) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reached\n"
        process.kill()

    found = revision(engine)
    assert found in (None, FIRST)
    with opened(service.url) as log:
        log.init()
    service.upgrade()
    works(engine)
    assert heads(service) == {"shop_0001", NEWEST}


def test_an_upgrade_of_the_tree_waits_for_init_and_passes_its_work_by(postgres_empty_url: str, tmp_path: Path) -> None:
    """Alembic has read its own version table before it waits: the revision looks again, at the log's."""
    service = Service.make(tmp_path / "service", postgres_empty_url)
    with service.started("upgrade", "eventlog@head", STOP_AT="create trigger") as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "reached\n"
        with engine_of(postgres_empty_url) as engine:
            init = Background(lambda: upgrade(engine))
            assert not init.ends_within(0.3)
            first.communicate(timeout=THREAD_SECONDS_MAX)
            assert init.result() in (SchemaState.CURRENT, SchemaState.OLDER)
            works(engine)

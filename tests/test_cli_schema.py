"""`schema current` and `schema sql`: what they say, and what the SQL makes."""

import re
import sqlite3
import subprocess
from pathlib import Path

import pytest

from eventlog.schema.migrate import known_revisions, upgrade
from eventlog.schema.migrate_sql import upgrade_sql
from tests.cli_support import Shop
from tests.log_support import engine_of, everything, note, opened, said
from tests.schema_support import apply_sql, dumped, facts, sqlite_shell

FIRST, *_, NEWEST = known_revisions()
DIALECTS = ("postgresql", "sqlite")


@pytest.fixture
def shop(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    return Shop.open(tmp_path, empty_database_url, monkeypatch=monkeypatch, capsys=capsys)


def upgraded(url: str, *, until: str | None = None) -> None:
    with engine_of(url) as engine:
        upgrade(engine, until=until)


def known(url: str) -> dict[str, list[tuple[object, ...]]]:
    with engine_of(url) as engine:
        return facts(engine)


def test_current_of_a_log_that_fits_is_0(shop: Shop) -> None:
    upgraded(shop.url)

    assert shop.json("schema", "current") == {
        "schema": "eventlog",
        "database": NEWEST,
        "code": NEWEST,
        "state": "current",
    }
    ran = shop.cli("schema", "current")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines()[1].split() == ["eventlog", NEWEST, NEWEST, "current"]


def test_current_of_an_older_log_is_4(shop: Shop) -> None:
    upgraded(shop.url, until=FIRST)

    ran = shop.cli("schema", "current")

    assert ran.code == 4
    assert ran.out.splitlines()[1].split() == ["eventlog", FIRST, NEWEST, "older"]
    assert ran.err == "run `eventlog init` to upgrade it\n"


def test_current_of_a_newer_log_is_4(shop: Shop) -> None:
    upgraded(shop.url)
    with engine_of(shop.url) as engine, engine.begin() as connection:
        name = "schema_version" if engine.dialect.name == "sqlite" else "eventlog.schema_version"
        connection.exec_driver_sql(f"update {name} set version_num = 'eventlog_9999'")

    ran = shop.cli("schema", "current", "-o", "json")

    assert (ran.code, ran.json["state"], ran.json["database"]) == (4, "newer", "eventlog_9999")


def test_current_where_there_is_no_log_is_5(shop: Shop) -> None:
    if shop.url.startswith("sqlite"):
        assert shop.cli("schema", "current", "-o", "json").error["code"] == "schema_missing"
        with engine_of(shop.url) as engine, engine.begin() as connection:
            connection.exec_driver_sql("create table other (n integer)")

    ran = shop.cli("schema", "current", "-o", "json")

    assert (ran.code, ran.json["state"], ran.json["database"]) == (5, "missing", None)


def test_current_of_a_database_that_does_not_answer_is_5(shop: Shop) -> None:
    ran = shop.cli("schema", "current", "--url", "postgresql://postgres@127.0.0.1:1/nothing", "-o", "json")

    assert (ran.code, ran.error["code"]) == (5, "database_unreachable")


@pytest.mark.parametrize("after", [None, *known_revisions()[:-1]])
def test_sql_makes_what_init_makes(shop: Shop, after: str | None) -> None:
    """From every revision, in the database of the URL, which is not asked."""
    if after is not None:
        upgraded(shop.url, until=after)
    script = shop.cli("schema", "sql", *(["--from", after] if after else []))

    apply_sql(shop.url, script.out)

    by_hand = known(shop.url)
    with opened(shop.url) as log:
        log.init()
        log.append(note("first"))
        assert said(everything(log)) == ["first"]
    assert known(shop.url) == by_hand
    assert shop.json("schema", "current")["state"] == "current"


def test_a_log_made_by_sql_is_the_one_made_by_init(sqlite_url: str, tmp_path: Path) -> None:
    by_hand = f"sqlite:///{tmp_path / 'by_hand.db'}"
    apply_sql(by_hand, upgrade_sql(dialect="sqlite"))

    assert known(by_hand) == known(sqlite_url)
    with engine_of(by_hand) as engine, engine.connect() as connection:
        assert connection.exec_driver_sql("pragma journal_mode").scalar_one() == "wal"


def test_a_dump_of_a_log_made_by_sql_is_the_one_of_a_log_made_by_init(
    postgres_empty_url: str, postgres_database_url: str
) -> None:
    apply_sql(postgres_empty_url, upgrade_sql(dialect="postgresql"))

    assert dumped(postgres_empty_url) == dumped(postgres_database_url)
    assert "create trigger mark_append" in dumped(postgres_database_url).lower()


def test_the_shell_of_sqlite_takes_the_sql(sqlite_url: str, tmp_path: Path) -> None:
    file = tmp_path / "by_hand.db"
    command = [str(sqlite_shell(tmp_path)), "-bail", str(file)]
    done = subprocess.run(command, input=upgrade_sql(dialect="sqlite"), text=True, capture_output=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")
    assert known(f"sqlite:///{file}") == known(sqlite_url)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_sql_is_the_same_every_time_and_one_transaction(shop: Shop, dialect: str) -> None:
    first, second = (shop.cli("schema", "sql", "--dialect", dialect).out for _ in range(2))

    assert first == second
    assert first.count("\ncommit;\n") == 1
    assert first.count("\nbegin;\n" if dialect == "postgresql" else "\nbegin immediate;\n") == 1
    assert first.endswith("commit;\n")


def test_sql_asks_no_database(shop: Shop) -> None:
    ran = shop.cli("schema", "sql", "--url", "postgresql://postgres@127.0.0.1:1/nothing", "--schema", "audit")

    assert ran.code == 0
    assert "create schema if not exists audit" in ran.out
    assert "audit.events" in ran.out
    assert not re.search(r"\beventlog\.(events|subscribers|schema_version|head|epochs)\b", ran.out)


def test_sql_for_a_log_of_another_name_makes_that_log(shop: Shop) -> None:
    apply_sql(shop.url, shop.cli("schema", "sql", "--schema", "audit").out)

    with opened(shop.url, schema="audit") as log:
        log.append(note("first"))
        assert said(everything(log)) == ["first"]


def test_sql_in_steps_is_sql_in_one(shop: Shop) -> None:
    for after, until in zip((None, *known_revisions()[:-1]), known_revisions(), strict=True):
        given = ["--from", after] if after else []
        apply_sql(shop.url, shop.cli("schema", "sql", *given, "--to", until).out)
        found = shop.cli("schema", "current", "-o", "json").json
        assert found["database"] == until


def test_sql_from_where_the_log_is_already_is_a_comment(shop: Shop) -> None:
    ran = shop.cli("schema", "sql", "--from", NEWEST)

    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if not line.startswith("--")] == []


@pytest.mark.parametrize("given", [("--from", "eventlog_9999"), ("--to", "x"), ("--from", NEWEST, "--to", FIRST)])
def test_sql_of_a_way_there_is_not_is_refused(shop: Shop, given: tuple[str, ...]) -> None:
    ran = shop.cli("schema", "sql", *given, "-o", "json")

    assert (ran.code, ran.out, ran.error["code"]) == (2, "", "usage")


def test_sql_for_another_state_of_the_log_changes_nothing(postgres_database_url: str) -> None:
    before = dumped(postgres_database_url)

    with pytest.raises(AssertionError, match=f"does not say {FIRST}"):
        apply_sql(postgres_database_url, upgrade_sql(dialect="postgresql", after=FIRST))
    with pytest.raises(AssertionError, match="already exists"):
        apply_sql(postgres_database_url, upgrade_sql(dialect="postgresql"))

    assert dumped(postgres_database_url) == before


def test_sql_for_another_state_of_a_file_changes_nothing(sqlite_url: str) -> None:
    before = known(sqlite_url)

    with pytest.raises(sqlite3.OperationalError, match=r"duplicate column|already exists"):
        apply_sql(sqlite_url, upgrade_sql(dialect="sqlite", after=FIRST))
    with pytest.raises(sqlite3.OperationalError, match="already exists"):
        apply_sql(sqlite_url, upgrade_sql(dialect="sqlite"))

    assert known(sqlite_url) == before

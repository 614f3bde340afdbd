"""`doctor`: a sound log has nothing wrong, and each damage that is done to one is found, with a remedy."""

import dataclasses
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import make_url, text

from eventlog import postgres_doctor, sqlite_doctor
from eventlog.clock import utc_now
from eventlog.schema.migrate import known_revisions, upgrade
from tests.cli_support import Shop
from tests.log_support import engine_of, note, opened


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Damage:
    """What is done to a log, the examination that has to find it, and what it has to say; `mends` is SQL that helps."""

    sql: str
    check: str
    said: str
    remedy: str
    mends: bool = False


APART = """
import os

from eventlog import App

app = App(os.environ["SHOP_URL"])
board = app.projection("board", database=os.environ["SHOP_URL"].replace("log.db", "apart.db"))


@board.on("clishop.*")
def count(recorded):
    pass
"""

POSTGRES = {
    "a trigger that is disabled": Damage(
        sql="alter table eventlog.events disable trigger mark_append",
        check="tables",
        said="trigger mark_append on events: it is disabled",
        remedy="alter table eventlog.events enable always trigger mark_append;",
        mends=True,
    ),
    "a trigger with another condition": Damage(
        sql="drop trigger index_tags on eventlog.events; create trigger index_tags after insert on eventlog.events"
        " for each row when (new.tags is null) execute function eventlog.index_tags()"
        "; alter table eventlog.events enable always trigger index_tags",
        check="tables",
        said="trigger index_tags on events: its condition is another one",
        remedy="eventlog schema sql",
    ),
    "a function that is gone": Damage(
        sql="drop function eventlog.partition_of(text, integer)",
        check="tables",
        said="function partition_of is missing",
        remedy="eventlog schema sql",
    ),
    "a table that is gone": Damage(
        sql="drop table eventlog.snapshots",
        check="tables",
        said="table snapshots is missing",
        remedy="restore it from a backup",
    ),
    "a sequence with a cache": Damage(
        sql="alter sequence eventlog.events_position_seq cache 20",
        check="sequence",
        said="cache 20, increment 1",
        remedy="alter sequence eventlog.events_position_seq increment 1 cache 1 no cycle;",
        mends=True,
    ),
    "a sequence behind the events": Damage(
        sql="select setval('eventlog.events_position_seq', 1)",
        check="positions",
        said="there are events up to 3, and positions were given out up to 1",
        remedy="select setval('eventlog.events_position_seq', 3);",
    ),
    "a checkpoint beyond the head": Damage(
        sql="insert into eventlog.subscribers (name, kind, start, start_position, partitions, declaration)"
        " values ('mail', 'effect', 'beginning', 0, 1, '{}'); insert into eventlog.checkpoints values"
        " ('mail', 0, 9, 9, 9, 1)",
        check="checkpoints",
        said="mail stands at 9, beyond the head 3",
        remedy="eventlog rewind mail --from 4 --resend",
    ),
    "a revision that is not known": Damage(
        sql="update eventlog.schema_version set version_num = 'eventlog_0999'",
        check="schema",
        said="at revision eventlog_0999, and this release knows",
        remedy="upgrade rewindlog",
    ),
}

SQLITE = {
    "a trigger with another text": Damage(
        sql="drop trigger events_refuse_delete;"
        " create trigger events_refuse_delete before delete on events begin select 1; end",
        check="tables",
        said="trigger events_refuse_delete: its statement is another one",
        remedy="drop trigger events_refuse_delete; create trigger",
        mends=True,
    ),
    "a table that is gone": Damage(
        sql="drop table snapshots", check="tables", said="table snapshots is missing", remedy="restore it from a backup"
    ),
    "a checkpoint beyond the head": Damage(
        sql="insert into subscribers (name, kind, start, start_position, partitions, declaration)"
        " values ('board', 'projection', 'beginning', 0, 1, '{}'); insert into checkpoints"
        " (subscriber, partition, position, in_hand, handled_through, epoch) values ('board', 0, 9, 9, 9, 1)",
        check="checkpoints",
        said="board stands at 9, beyond the head 3",
        remedy="eventlog rebuild board",
    ),
    "another journal mode": Damage(
        sql="pragma journal_mode = delete",
        check="journal",
        said="the journal mode is delete",
        remedy="eventlog init",
    ),
    "a revision from before": Damage(
        sql="update schema_version set version_num = 'eventlog_0003'",
        check="schema",
        said="at revision eventlog_0003, behind",
        remedy="eventlog init",
    ),
}


def append(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(*(note(f"{number}") for number in range(3)))


def run(shop: Shop, sql: str) -> None:
    """As whoever runs the database would, each statement at once."""
    if shop.url.startswith("sqlite"):
        with closing(sqlite3.connect(shop.folder / "log.db", isolation_level=None)) as connection:
            connection.executescript(sql)
        return
    with engine_of(shop.url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        for statement in filter(None, map(str.strip, sql.split("; "))):
            connection.exec_driver_sql(statement.replace("%", "%%"))


def wrong(shop: Shop, *words: str, code: int = 4) -> list[Any]:
    ran = shop.cli("doctor", "-o", "json", *words)
    assert (ran.code, ran.json["ok"]) == (code, code == 0), ran
    return [one for one in ran.json["findings"] if one["status"] == "wrong"]


def found(shop: Shop, check: str, status: str, *words: str) -> Any:
    """The only finding of an examination."""
    ran = shop.cli("doctor", "-o", "json", *words)
    (finding,) = [one for one in ran.json["findings"] if one["check"] == check]
    assert finding["status"] == status, finding
    return finding


def holds(shop: Shop, damage: Damage) -> None:
    append(shop)
    run(shop, damage.sql)
    (finding,) = wrong(shop)
    assert finding["check"] == damage.check
    assert damage.said in finding["said"]
    assert damage.remedy.lower() in finding["remedy"].lower()
    if damage.mends:
        run(shop, finding["remedy"])
        assert wrong(shop, code=0) == []


@pytest.mark.parametrize("name", POSTGRES)
def test_damage_on_postgres_is_found(postgres_shop: Shop, name: str) -> None:
    holds(postgres_shop, POSTGRES[name])


@pytest.mark.parametrize("name", SQLITE)
def test_damage_on_sqlite_is_found(sqlite_shop: Shop, name: str) -> None:
    holds(sqlite_shop, SQLITE[name])


def test_a_sound_log_has_nothing_wrong_and_says_what_was_looked_at(shop: Shop) -> None:
    append(shop)
    ran = shop.cli("doctor", "--quick-check")
    lines = ran.out.splitlines()
    assert (ran.code, ran.err) == (0, "Nothing is wrong.\n")
    assert {line.split()[0] for line in lines} == {"ok"}, ran.out
    looked_at = {"schema", "tables", "positions", "checkpoints"}
    looked_at |= (
        {"file", "journal", "write-ahead", "content"}
        if shop.url.startswith("sqlite")
        else {"server", "sequence", "in", "isolation", "pooler", "wake-up", "clock", "rights"}
    )
    assert {line.split()[1] for line in lines} == looked_at
    assert all(set(one) == {"check", "status", "said", "remedy"} for one in shop.json("doctor")["findings"])
    assert len(shop.cli("doctor", "-o", "jsonl").lines) == len(shop.json("doctor")["findings"])


def test_a_log_that_came_step_by_step_and_under_another_name_is_sound(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop.open(tmp_path, empty_database_url, monkeypatch=monkeypatch, capsys=capsys)
    with engine_of(shop.url) as engine:
        for revision in known_revisions():
            upgrade(engine, schema="audit", until=revision)
    assert wrong(shop, "--schema", "audit", code=0) == []


def test_what_others_have_added_is_noted_and_not_wrong(shop: Shop) -> None:
    events = "events" if shop.url.startswith("sqlite") else "eventlog.events"
    run(shop, f"create index events_by_type on {events} (type)")
    of_tables = [one for one in shop.json("doctor")["findings"] if one["check"] == "tables"]
    assert [one["status"] for one in of_tables] == ["note", "ok"]
    assert "events_by_type" in of_tables[0]["said"]


def test_the_database_of_a_projection_elsewhere_is_examined_with_the_app(sqlite_shop: Shop) -> None:
    sqlite_shop.module("apart", APART)
    sqlite_shop.cli("run", "--drain", "--app", "apart:app")
    assert wrong(sqlite_shop, "--app", "apart:app", code=0) == []
    with closing(sqlite3.connect(sqlite_shop.folder / "apart.db")) as connection:
        connection.execute("drop index failures_open")
    (finding,) = wrong(sqlite_shop, "--app", "apart:app")
    assert finding["said"].startswith(f"in sqlite:///{sqlite_shop.folder / 'apart.db'} eventlog: index failures_open")


def test_there_is_nothing_to_examine_without_a_log(
    empty_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop.open(tmp_path, empty_database_url, monkeypatch=monkeypatch, capsys=capsys)
    assert shop.cli("doctor").code == 5
    assert shop.cli("doctor", "--url", "postgresql://nobody@127.0.0.1:1/nothing").code == 5


def test_an_append_that_stays_open_is_named(postgres_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_doctor, "IN_FLIGHT_SECONDS_MAX", 0.0)
    with opened(postgres_shop.url) as log, log.database.transaction() as connection:
        connection.execute(text("set application_name = 'nightly import'"))
        pid = connection.scalar(text("select pg_backend_pid()"))
        log.append(note("open"), tx=connection)
        (finding,) = wrong(postgres_shop)
    assert f"pid {pid} (nightly import, user" in finding["said"]
    assert f"pg_terminate_backend({pid})" in finding["remedy"]
    assert found(postgres_shop, "in flight", "ok")["said"].endswith("none is open")


def test_another_isolation_level_is_noted(postgres_shop: Shop) -> None:
    database = make_url(postgres_shop.url).database
    run(postgres_shop, f"alter database {database} set default_transaction_isolation = 'repeatable read'")
    assert "REPEATABLE READ unless" in found(postgres_shop, "isolation", "note")["said"]
    assert wrong(postgres_shop, code=0) == []


def test_a_server_that_takes_no_writes_is_wrong(postgres_shop: Shop) -> None:
    """A standby is found in `test_faults_failover.py`, which has one."""
    run(postgres_shop, f"alter database {make_url(postgres_shop.url).database} set default_transaction_read_only = on")
    (finding,) = wrong(postgres_shop)
    assert (finding["check"], "read-only here" in finding["said"]) == ("server", True)


def test_clocks_that_are_apart_are_wrong(postgres_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_doctor, "utc_now", lambda: utc_now() - timedelta(hours=1))
    (finding,) = wrong(postgres_shop)
    assert "3,600 s ahead of this machine's" in finding["said"] or "3,59" in finding["said"]


def test_a_pooler_is_noted_and_a_way_past_it_is_tried(pooled_url: str, postgres_shop: Shop) -> None:
    notes = [one for one in postgres_shop.json("doctor", "--url", pooled_url)["findings"] if one["status"] == "note"]
    assert [one["check"] for one in notes] == ["pooler", "wake-up"]
    assert all("listen_url" in one["remedy"] for one in notes)
    past = postgres_shop.json("doctor", "--url", pooled_url, "--listen-url", postgres_shop.url)["findings"]
    assert {one["status"] for one in past} == {"ok"}
    assert "notification comes through by listen_url" in next(one for one in past if one["check"] == "wake-up")["said"]


def test_a_listen_url_that_leads_elsewhere_is_wrong(
    postgres_shop: Shop, new_postgres_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.postgres_doorbell.SELF_TEST_SECONDS_MAX", 0.3)
    (finding,) = wrong(postgres_shop, "--listen-url", new_postgres_database())
    assert "no notification comes through by listen_url" in finding["said"]


def test_a_listen_url_that_is_none_is_refused_and_its_password_does_not_show(postgres_shop: Shop) -> None:
    postgres_shop.monkeypatch.setenv("EVENTLOG_LISTEN_URL", "postgresql://ada:an@x:hunter2@127.0.0.1/shop")
    for words in (("doctor",), ("run", "--drain", "--app", "shop:app")):
        ran = postgres_shop.cli(*words, "-v")
        assert (ran.code, "a URL to listen by is none" in ran.err) == (2, True), ran
        assert "hunter2" not in ran.out + ran.err


def test_a_role_that_may_not_do_everything_is_told_what_it_lacks(postgres_shop: Shop) -> None:
    url = make_url(postgres_shop.url)
    role = f"looker_{url.database}"
    run(
        postgres_shop,
        f"create role {role} login password 'secret'; grant usage on schema eventlog to {role};"
        f" grant select on all tables in schema eventlog to {role}",
    )
    theirs = url.set(username=role, password="secret").render_as_string(hide_password=False)
    rights = found(postgres_shop, "rights", "note", "--url", theirs)
    assert f"{role} may read, and lacks what it needs to append: insert on events;" in rights["said"]
    assert "update on checkpoints" in rights["said"]
    run(postgres_shop, f"revoke select on eventlog.events from {role}")
    unseen = found(postgres_shop, "positions", "note", "--url", theirs)
    assert "this role may not look: " in unseen["said"]
    run(postgres_shop, f"drop owned by {role}; drop role {role}")


def test_a_long_write_ahead_log_is_wrong(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_doctor, "WAL_BYTES_MAX", 10_000)
    with opened(sqlite_shop.url) as log:
        log.append(*(note(f"{number}") for number in range(200)))
        (finding,) = wrong(sqlite_shop)
    assert "waiting to be merged" in finding["said"]
    assert "wal_checkpoint" in finding["remedy"]


def test_a_damaged_file_is_found_by_reading_it_through(sqlite_shop: Shop) -> None:
    with opened(sqlite_shop.url) as log:
        log.append(*(note("x" * 500) for _ in range(200)))
    file = sqlite_shop.folder / "log.db"
    content = bytearray(file.read_bytes())
    content[-9_000:-8_000] = b"\xff" * 1_000
    file.write_bytes(content)
    assert wrong(sqlite_shop, code=0) == []
    (finding,) = wrong(sqlite_shop, "--quick-check")
    assert (finding["check"], "damaged" in finding["said"] or "malformed" in finding["said"]) == ("content", True)


def test_a_file_that_was_opened_for_reading_only_cannot_be_written(sqlite_shop: Shop) -> None:
    append(sqlite_shop)
    (finding,) = wrong(sqlite_shop, "--url", f"sqlite:///file:{sqlite_shop.folder / 'log.db'}?mode=ro&uri=true")
    assert "cannot be written: attempt to write a readonly database" in finding["said"]


def test_a_folder_that_cannot_be_written_is_wrong(sqlite_shop: Shop) -> None:
    wrong(sqlite_shop, code=0)  # what is imported late is imported by somebody who may read it
    with _folder_of_somebody(sqlite_shop.folder / "log.db") as file:
        sqlite_shop.monkeypatch.chdir(file.parent)
        said = [one["said"] for one in wrong(sqlite_shop, "--url", f"sqlite:///{file}")]
    assert any("the folder" in one and "cannot be written" in one for one in said)


@contextmanager
def _folder_of_somebody(log: Path) -> Iterator[Path]:
    """A copy of a log in a folder that we may look into and not write; root may do everything, so it is nobody then."""
    folder = Path(f"/tmp/eventlog-doctor-{os.getpid()}")
    folder.mkdir()
    file = Path(shutil.copy(log, folder / "log.db"))
    # Without its files beside it a log in a folder that cannot be written could not even be read.
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.execute("update epochs set value = value + 1")
        for one in (file, *folder.iterdir()):
            one.chmod(0o666)
        folder.chmod(0o555)
        with _as_nobody() if os.geteuid() == 0 else nullcontext():
            yield file
        folder.chmod(0o755)
    shutil.rmtree(folder)


@contextmanager
def _as_nobody() -> Iterator[None]:
    os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(0)

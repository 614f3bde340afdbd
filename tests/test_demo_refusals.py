"""What `eventlog demo` refuses: to overwrite files or fill a database that is in use, and options it would ignore."""

from pathlib import Path

import pytest

from tests.cli_support import as_process
from tests.log_support import engine_of, note, opened


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "APP", "SCHEMA", "OUTPUT"):
        monkeypatch.delenv(f"EVENTLOG_{name}", raising=False)


def test_a_used_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "app.py"
    file.write_text("print('mine')\n")
    ran = as_process("demo", ".", cwd=tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "holds app.py already" in ran.err
    assert [file.read_text(), *tmp_path.iterdir()] == ["print('mine')\n", file]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ran = as_process("demo", "file", "--output", "json", cwd=tmp_path)
    assert (ran.code, ran.error["remedy"]) == (2, "name one that is new or empty")


def test_a_log_with_events_is_refused(database_url: str, tmp_path: Path) -> None:
    with opened(database_url) as log:
        log.append(note("mine"))
    ran = as_process("demo", "flights", "--url", database_url, "--output", "json", cwd=tmp_path)
    assert (ran.code, ran.error["code"]) == (2, "refused")
    assert "holds a log with events" in ran.error["message"]
    assert not (tmp_path / "flights").exists()


@pytest.mark.parametrize("option", ["--app", "--schema"])
def test_an_option_that_would_be_ignored_is_refused(option: str, tmp_path: Path) -> None:
    ran = as_process("demo", option, "other", "--output", "json", cwd=tmp_path)
    assert (ran.code, ran.error["remedy"]) == (2, f"leave {option} out")


def test_a_database_with_a_table_of_the_application_is_refused(empty_database_url: str, tmp_path: Path) -> None:
    with engine_of(empty_database_url) as engine, engine.begin() as connection:
        connection.exec_driver_sql("create table flights (mine integer)")
    ran = as_process("demo", "--url", empty_database_url, "--output", "json", cwd=tmp_path)
    assert ran.code == 2
    assert "has a table 'flights' already" in ran.error["message"]


def test_a_database_that_does_not_answer_is_named(tmp_path: Path) -> None:
    url = "postgresql://nobody@127.0.0.1:1/nowhere"
    ran = as_process("demo", "flights", "--url", url, "--output", "json", cwd=tmp_path)
    assert (ran.code, ran.error["code"]) == (5, "database_unreachable")
    assert not (tmp_path / "flights").exists()

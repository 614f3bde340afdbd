"""How commands end: exit codes, errors as text and as JSON, and what never stands in them."""

import sqlite3
from pathlib import Path

import pytest
import sqlalchemy

from eventlog.cli.exits import exit_code
from eventlog.errors import ConflictError, DatabaseUnreachableError, EventLogError, RefusedError, UnknownEventError
from tests.cli_support import Shop, command, ran_to_end

READERS = (
    ("status",),
    ("read",),
    ("subscribers",),
    ("failures",),
    ("retry",),
    ("skip", "mail", "1", "--reason", "x"),
    ("rewind", "mail", "--to-start"),
    ("undo", "1"),
    ("append", "note.taken", "-s", "note-1"),
    ("run", "--drain", "--app", "shop:app"),
    ("register", "--app", "shop:app"),
)


@pytest.fixture
def empty_shop(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    return Shop.open(tmp_path, empty_database_url, monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop.open(tmp_path, sqlite_url, monkeypatch=monkeypatch, capsys=capsys)


def test_a_log_that_is_not_there_ends_every_command_with_5(empty_shop: Shop) -> None:
    for arguments in READERS:
        ran = empty_shop.cli(*arguments, "--output", "json")
        assert (ran.code, ran.out, ran.error["code"]) == (5, "", "schema_missing"), arguments
        assert "eventlog init" in ran.error["remedy"]
    assert not list(empty_shop.folder.glob("*.db"))


def test_a_table_that_was_dropped_is_a_missing_log(shop: Shop) -> None:
    with sqlite3.connect(shop.folder / "log.db") as connection:
        connection.execute("drop table failures")
    connection.close()
    assert shop.cli("failures", "-o", "json").error["code"] == "schema_missing"


def test_a_server_that_does_not_answer_ends_with_5(shop: Shop) -> None:
    ran = shop.cli("--url", "postgresql://ada:hunter2@127.0.0.1:1/shop", "status", "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "database_unreachable")


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:hunter2@127.0.0.1:1/shop",
        "postgresql://ada:hunter2@127.0.0.1:port/shop",
        "postgresql://ada:hunter2@127.0.0.1:1/shop?nonsense=1",
        "mysql://ada:hunter2@127.0.0.1/shop",
        "ada:hunter2",
    ],
)
@pytest.mark.parametrize("words", [("status",), ("init",), ("run", "--drain", "--app", "shop:app")], ids=" ".join)
def test_a_password_never_shows(shop: Shop, url: str, words: tuple[str, ...]) -> None:
    for form in ((), ("-o", "json"), ("-v",)):
        ran = shop.cli(*words, "--url", url, *form)
        assert ran.code in (1, 2, 5)
        assert "hunter2" not in ran.out + ran.err


def test_who_is_not_there_ends_with_3_and_names_who_is(shop: Shop) -> None:
    shop.cli("register", "--app", "shop:app")
    for words in (("failures", "male"), ("rewind", "male", "--to-start"), ("retry", "male"), ("retry", "mail", "7")):
        assert shop.cli(*words).code == 3
    assert "board, mail" in shop.cli("failures", "male", "-o", "json").error["remedy"]
    assert shop.cli("run", "--app", "shop:app", "--only", "male").code == 3
    assert shop.cli("undo", 99, "--yes").code == 3


def test_the_branch_of_an_error_decides_the_exit_code() -> None:
    errors = (
        EventLogError("x"),
        ConflictError("x"),
        RefusedError("x"),
        UnknownEventError("x"),
        DatabaseUnreachableError("x"),
    )
    assert [exit_code(error) for error in errors] == [1, 1, 2, 3, 5]


def test_an_error_is_a_message_and_a_remedy_on_stderr(shop: Shop) -> None:
    ran = shop.cli("--url", "sqlite:///nowhere.db", "status")
    assert ran.out == ""
    assert ran.err.startswith("Error: there is no log in nowhere.db")
    assert "\n  run `eventlog init`" in ran.err


def test_an_error_is_one_line_of_json_where_json_is_asked_for(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = ("--url", "sqlite:///nowhere.db")
    for words in (("-o", "jsonl", "status", *wrong), ("status", *wrong, "--output=json"), ("-ojson", "status", *wrong)):
        assert set(shop.cli(*words).error) == {"code", "message", "remedy"}
    monkeypatch.setenv("EVENTLOG_OUTPUT", "json")
    assert shop.cli("status", *wrong).error["code"] == "schema_missing"


@pytest.mark.parametrize(
    "wrong", [("status", "--bogus"), ("rewind",), ("statsu",), ("read", "--limit", "many"), ("-o", "xml", "status")]
)
def test_a_wrong_command_line_ends_with_2_in_the_form_that_is_asked_for(shop: Shop, wrong: tuple[str, ...]) -> None:
    assert shop.cli(*wrong).code == 2
    ran = shop.cli("--output", "json", *wrong)
    if "xml" not in wrong:
        assert (ran.code, ran.error["code"]) == (2, "usage")


def test_a_command_that_is_nearly_one_is_suggested(shop: Shop) -> None:
    assert "'status'" in shop.cli("statsu").err


def test_an_error_nobody_expected_ends_with_1_and_keeps_its_traceback_for_those_who_ask(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ZeroDivisionError("in the middle")

    monkeypatch.setattr("eventlog.cli.settings.settle", explode)
    ran = shop.cli("status")
    assert (ran.code, "Traceback" in ran.err) == (1, False)
    assert "Traceback" in shop.cli("status", "-v").err
    assert shop.cli("status", "-o", "json").error["code"] == "internal"


def test_what_the_database_refuses_otherwise_ends_with_1(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise sqlalchemy.exc.DBAPIError("select 1", None, sqlite3.IntegrityError("no"))

    monkeypatch.setattr("eventlog.cli.status_command.read_status_of", refuse)
    ran = shop.cli("status")
    assert (ran.code, ran.err.splitlines()[0]) == (1, "Error: the database failed: no")


def test_no_arguments_show_the_help_and_end_with_2(shop: Shop) -> None:
    ran = shop.cli()
    assert ran.code == 2
    assert "Usage: eventlog" in ran.err


def test_the_version_is_that_of_the_distribution(shop: Shop) -> None:
    assert shop.cli("--version").out.startswith("rewindlog ")


def test_the_exit_code_reaches_the_shell(shop: Shop) -> None:
    assert ran_to_end(command("failures", "nobody"), cwd=shop.folder).code == 3


def test_data_is_on_stdout_and_talk_on_stderr(shop: Shop) -> None:
    shop.orders(-1.0)
    shop.drain()
    assert shop.cli("run", "--drain", "--app", "shop:app", "-o", "json").json["handled"] == 0
    ran = shop.cli("failures")
    assert "ValueError" in ran.out
    assert "eventlog retry" in ran.err

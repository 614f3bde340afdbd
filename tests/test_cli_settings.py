"""Where a command takes its settings from, and finding the app they name."""

from pathlib import Path

import pytest

import eventlog
from eventlog.cli.output import Format
from eventlog.cli.settings import DEFAULT_URL, read_file, settle
from eventlog.errors import UsageError
from tests.cli_support import Shop
from tests.log_support import opened


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    return Shop.open(tmp_path, sqlite_url, monkeypatch=monkeypatch, capsys=capsys)


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default() -> None:
    file = {"url": "sqlite:///file.db", "app": "file:app", "schema": "file"}
    environment = {"EVENTLOG_URL": "sqlite:///env.db", "EVENTLOG_APP": "env:app", "EVENTLOG_SCHEMA": "env"}
    flags = {"url": "sqlite:///flag.db", "app": "flag:app", "schema": "flag"}
    settled = [settle(*given) for given in ((flags, environment, file), ({}, environment, file), ({}, {}, file))]
    assert [(one.url, one.app, one.schema) for one in settled] == [
        ("sqlite:///flag.db", "flag:app", "flag"),
        ("sqlite:///env.db", "env:app", "env"),
        ("sqlite:///file.db", "file:app", "file"),
    ]
    assert settle({}, {}, {}).url == DEFAULT_URL


def test_an_app_named_nearer_than_the_url_brings_its_own_log() -> None:
    file = {"url": "sqlite:///file.db"}
    assert settle({"app": "shop:app"}, {}, file).url is None
    assert settle({}, {"EVENTLOG_APP": "shop:app"}, file).url is None
    assert settle({}, {}, {"app": "shop:app"}).url is None
    assert settle({}, {"EVENTLOG_URL": "sqlite:///env.db"}, {"app": "shop:app"}).url == "sqlite:///env.db"


def test_an_empty_variable_is_one_that_is_not_set() -> None:
    assert settle({}, {"EVENTLOG_URL": "", "EVENTLOG_OUTPUT": ""}, {}).url == DEFAULT_URL


def test_a_form_of_output_nobody_knows_is_refused() -> None:
    assert settle({}, {"EVENTLOG_OUTPUT": "json"}, {}).output is Format.JSON
    with pytest.raises(UsageError, match="xml"):
        settle({}, {"EVENTLOG_OUTPUT": "xml"}, {})


def test_eventlog_toml_goes_before_pyproject_toml(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("[tool.eventlog]\nurl = 'sqlite:///project.db'\n")
    assert read_file(tmp_path)[1] == {"url": "sqlite:///project.db"}
    (tmp_path / "eventlog.toml").write_text("url = 'sqlite:///own.db'\n")
    assert read_file(tmp_path)[1] == {"url": "sqlite:///own.db"}


@pytest.mark.parametrize("text", ["uri = 'sqlite:///x.db'", "url = 7", "url = ", "\x00"])
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "eventlog.toml").write_text(text)
    with pytest.raises(UsageError, match=r"eventlog\.toml"):
        read_file(tmp_path)


def test_a_flag_counts_on_either_side_of_the_command(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTLOG_URL", "sqlite:///wrong.db")
    monkeypatch.setenv("EVENTLOG_OUTPUT", "table")
    before = shop.cli("--url", shop.url, "--output", "json", "status")
    after = shop.cli("status", "--url", shop.url, "--output", "json")
    assert before.json == after.json


def test_the_flag_nearest_to_the_end_wins(shop: Shop) -> None:
    assert shop.cli("--url", "sqlite:///wrong.db", "status", "--url", shop.url).code == 0


def test_settings_of_a_file_in_the_folder_are_used(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EVENTLOG_URL")
    (shop.folder / "eventlog.toml").write_text("app = 'shop:app'\n")
    assert set(shop.json("run", "--drain")["subscribers"]) == {"mail", "board"}
    assert len(shop.json("status")["subscribers"]) == 2


def test_an_app_may_be_made_by_a_function(shop: Shop) -> None:
    assert shop.cli("register", "--app", "shop:make").code == 0


@pytest.mark.parametrize(
    ("app", "message"),
    [
        ("shop", "does not name an app"),
        ("shop.py:app", "does not name an app"),
        ("shoop:app", "no module 'shoop'"),
        ("shop:ap", "no 'ap'"),
        ("shop:totals", "is a Table"),
        ("shop:Placed", "not an App"),
        ("shop.more:app", "no module 'shop.more'"),
    ],
)
def test_an_app_that_is_not_there_is_told_by_what_is_missing(shop: Shop, app: str, message: str) -> None:
    ran = shop.cli("run", "--drain", "--app", app, "-o", "json")
    assert ran.code == 2
    assert message in ran.error["message"]
    assert ran.error["remedy"]


def test_an_app_elsewhere_in_the_module_is_named(shop: Shop) -> None:
    assert "shop:app" in shop.cli("run", "--app", "shop:ap").err


@pytest.mark.parametrize("line", ["import nowhere_to_be_found", "1 / 0", "raise SystemExit(0)"])
def test_an_app_that_fails_at_import_shows_its_own_line(shop: Shop, line: str) -> None:
    shop.module("broken_shop", f"def start():\n    {line}\n\nstart()\n")
    ran = shop.cli("run", "--app", "broken_shop:app")
    assert ran.code == 2
    assert "broken_shop.py" in ran.err
    assert line in ran.err
    assert "importlib" not in ran.err


def test_what_a_declaration_got_wrong_keeps_its_remedy(shop: Shop) -> None:
    shop.module(
        "twice", "from eventlog import App\napp = App('sqlite:///x.db')\napp.subscriber('a')\napp.subscriber('a')\n"
    )
    ran = shop.cli("run", "--app", "twice:app", "-o", "json")
    assert "'a' is declared twice" in ran.error["message"]
    assert "name of its own" in ran.error["remedy"]


DEEP = """
import re

from eventlog import App

app = App("sqlite:///nothing.db")


def declared(name):
    {line}


declared("mail")
"""


@pytest.mark.parametrize(
    "line",
    [
        'app.projection(name, key="no field")',
        'app.log.append({}, type="a.b", stream="no such/" * 300)',
        're.compile("((((((((*")',
        'app.subscriber(name).on("a..b")(print)',
    ],
)
def test_an_app_that_fails_deep_in_a_library_shows_its_own_line_and_no_line_of_ours(shop: Shop, line: str) -> None:
    shop.module("deep", DEEP.replace("{line}", line))
    said = shop.cli("run", "--app", "deep:app").err
    assert f"    {line}\n" in said
    assert 'deep.py", line 10, in declared' in said
    assert str(Path(eventlog.__file__).parent) not in said


def test_handlers_without_an_app_are_refused(shop: Shop) -> None:
    assert "--app" in shop.cli("run").err


def test_an_app_whose_log_is_elsewhere_is_refused(shop: Shop) -> None:
    with opened("sqlite:///other.db") as other:
        other.init()
    ran = shop.cli("run", "--drain", "--app", "shop:app", "--url", "sqlite:///other.db")
    assert ran.code == 2
    assert "other.db" in ran.err
    assert "log.db" in ran.err
    assert shop.cli("run", "--drain", "--app", "shop:app", "--schema", "other").code == 2


def test_a_relative_and_an_absolute_path_are_one_log(shop: Shop) -> None:
    assert shop.cli("run", "--drain", "--app", "shop:app", "--url", "sqlite:///log.db").code == 0

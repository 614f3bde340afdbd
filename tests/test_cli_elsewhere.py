"""What is in another database than the log is found through the app, by commands that name nobody, too."""

import shlex
from pathlib import Path

import pytest

from tests.cli_support import SHOP, Shop

APP = ("--app", "shop:app")


@pytest.fixture
def elsewhere(sqlite_shop: Shop, tmp_path: Path) -> Shop:
    """The shop whose board is in a database of its own, and fails at orders of a negative total."""
    text = SHOP.replace(
        "tables=[totals])", f'tables=[totals], retry=Retry(attempts=1), database="sqlite:///{tmp_path / "board.db"}")'
    ).replace(
        "    ctx.connection.execute",
        '    if placed.total < 0 or "BROKEN" in os.environ:\n        raise ValueError\n    ctx.connection.execute',
    )
    sqlite_shop.module("shop", text)
    return sqlite_shop


def test_before_anything_is_registered_there_the_log_alone_is_shown(elsewhere: Shop, tmp_path: Path) -> None:
    for command in ("status", "failures", "subscribers", "rebuilds"):
        assert elsewhere.cli(command, *APP).code == 0
    assert not (tmp_path / "board.db").exists()


def test_failures_there_are_listed_and_counted_with_those_of_the_log(elsewhere: Shop) -> None:
    elsewhere.orders(1, -2)
    elsewhere.drain()

    found = elsewhere.json("failures", *APP)["failures"]
    groups = elsewhere.json("failures", "--group-by", "error", *APP)["errors"]

    assert [(one["subscriber"], one["position"]) for one in found] == [("mail", 2), ("board", 2)]
    assert [(one["subscriber"], one["count"]) for one in groups] == [("mail", 1), ("board", 1)]
    assert [one["subscriber"] for one in elsewhere.json("failures")["failures"]] == ["mail"]
    assert "`eventlog failures board --app ...` shows it" in elsewhere.cli("status", *APP).err
    assert elsewhere.json("retry", *APP)["failures"] == [
        {"subscriber": "mail", "position": 2},
        {"subscriber": "board", "position": 2},
    ]


OTHER = """
from eventlog import App, Retry

app = App({url!r})
letters = app.subscriber("letters", retry=Retry(attempts=1))


@letters.on("clishop.placed")
def write(data: dict) -> None:
    raise ValueError
"""


def test_a_log_that_is_there_as_well_has_nothing_of_ours(elsewhere: Shop, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'board.db'}"
    elsewhere.module("other", OTHER.format(url=url))
    elsewhere.orders(1, -2)
    elsewhere.drain()
    there = ("--app", "other:app", "--url", url)
    assert elsewhere.cli("append", "clishop.placed", "-s", "a", "-d", "number:=1", "--url", url).code == 0
    assert elsewhere.cli("run", "--drain", *there).code == 0

    assert [one["subscriber"] for one in elsewhere.json("failures", *there)["failures"]] == ["board", "letters"]
    assert [one["subscriber"] for one in elsewhere.json("failures", *APP)["failures"]] == ["mail", "board"]
    assert [one["name"] for one in elsewhere.json("subscribers", *APP)["subscribers"]] == ["mail", "board"]


def test_subscribers_and_rebuilds_there_are_listed(elsewhere: Shop) -> None:
    elsewhere.orders(1)
    elsewhere.drain()
    elsewhere.json("rebuild", "board", "--yes", *APP)

    assert [one["name"] for one in elsewhere.json("subscribers", *APP)["subscribers"]] == ["mail", "board"]
    assert [one["subscriber"] for one in elsewhere.json("rebuilds", *APP)["rebuilds"]] == ["board"]
    assert elsewhere.json("rebuilds")["rebuilds"] == []


def undone(shop: Shop, *arguments: str) -> str:
    """Run a command, then the one that it prints to take it back, as it is printed; return that."""
    ran = shop.cli(*arguments)
    assert ran.code == 0, ran.err
    undo = ran.out.split("undo: ")[1].splitlines()[0]
    again = shop.cli(*shlex.split(undo.removeprefix("eventlog ")), *(() if "resume" in undo else ("--yes",)))
    assert again.code == 0, again.err
    return undo


def test_the_command_that_takes_something_back_there_can_be_run_as_it_is_printed(elsewhere: Shop) -> None:
    elsewhere.orders(1, 2)
    elsewhere.drain()
    assert undone(elsewhere, "pause", "board", *APP) == "eventlog resume board --app shop:app"
    rebuilt = undone(elsewhere, "rebuild", "board", "--keep", "--yes", *APP)
    assert rebuilt == "eventlog rebuild board --back --app shop:app"
    elsewhere.orders(3)
    advanced = undone(elsewhere, "advance", "board", "--to-end", "--reason", "x", "--yes", *APP)
    assert advanced == "eventlog undo board --app shop:app"
    assert elsewhere.json("advance", "board", "--to-end", "--reason", "x", "--yes", *APP)["undo"] == advanced
    assert undone(elsewhere, "advance", "mail", "--to-end", "--reason", "x", "--yes", *APP).split()[:2] == [
        "eventlog",
        "undo",
    ]


def test_a_projection_there_is_registered_and_a_rebuild_that_waits_says_what_shows_why(elsewhere: Shop) -> None:
    elsewhere.orders(1)
    assert "board: created" in elsewhere.cli("register", *APP).out
    elsewhere.drain()
    elsewhere.monkeypatch.setenv("BROKEN", "yes")

    waits = elsewhere.cli("rebuild", "board", "--yes", *APP)

    shadow = elsewhere.json("rebuilds", *APP)["rebuilds"][0]["shadow"]
    assert f"`eventlog failures {shadow} --app shop:app` shows why" in waits.err
    assert [one["position"] for one in elsewhere.json("failures", shadow, *APP)["failures"]] == [1]

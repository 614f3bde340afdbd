"""How the command line behaves whatever it is asked: exit codes, documents, completion, names, passwords, widths."""

import re
import socket
import subprocess
from typing import Any

import click
import pytest
from click.shell_completion import BashComplete

from eventlog import postgres_connections
from eventlog.cli import completion
from eventlog.cli.main import eventlog
from eventlog.cli.secrets import hide
from eventlog.clock import SystemClock
from tests.cli_support import SHOP, Shop
from tests.log_support import note, opened

MOVE = {
    "subscriber": str,
    "from": int,
    "to": int,
    "next_event": int,
    "events": int,
    "already_handled": int,
    "dry_run": bool,
    "undo": (str, type(None)),
}
FAILURE = {
    "subscriber": str,
    "position": int,
    "state": str,
    "attempts": int,
    "error_type": str,
    "message": str,
    "next_attempt_at": (str, type(None)),
}
STATUS = {
    "name": str,
    "kind": str,
    "state": str,
    "checkpoint": int,
    "lag": int,
    "lag_exact": bool,
    "failures": dict,
    "owner": (str, type(None)),
}
RECORDED = {
    "position": int,
    "id": str,
    "stream": str,
    "version": int,
    "type": str,
    "type_version": int,
    "data": dict,
    "metadata": dict,
    "recorded_at": str,
}
DOCUMENTS: dict[tuple[str, ...], dict[str, Any]] = {
    ("append", "note.taken", "-s", "n"): {"events": [{"position": int, "id": str, "stream": str, "version": int}]},
    ("status",): {"head": int, "high_water_mark": int, "held_back_by": list, "subscribers": [STATUS]},
    ("failures",): {"failures": [FAILURE]},
    ("failures", "--group-by", "error"): {"errors": [{"fingerprint": str, "count": int, "position": int}]},
    ("failure", "mail", "2"): {"failure": FAILURE, "event": RECORDED, "attempts": [{"traceback": str, "at": str}]},
    ("retry", "--dry-run"): {"changed": int},
    ("skip", "mail", "2", "--reason", "x", "--dry-run"): {"changed": int},
    ("replay", "mail", "--dry-run"): {"subscriber": str, "events": int, "estimated": bool, "by_type": dict},
    ("rewind", "mail", "--by", "1", "--dry-run"): MOVE,
    ("seek", "mail", "--from", "1", "--dry-run"): MOVE,
    ("rewind", "mail", "--to-start", "--resend", "--yes"): MOVE,
    ("undo", "mail", "--dry-run"): {"subscriber": str, "from": int, "to": int, "next_event": int, "dry_run": bool},
    ("advance", "mail", "--to-end", "--dry-run"): MOVE,
    ("run", "--drain", "--app", "shop:app"): {"handled": int, "failed": int, "subscribers": {"mail": dict}},
    ("streams",): {"streams": [{"stream": str, "version": int, "first": int, "last": int}], "complete": bool},
    ("verify", "mail", "--log"): {
        "ok": bool,
        "log": {"events": int, "streams": int, "unused": int, "head": int, "high_water_mark": int},
        "subscribers": [
            {
                "name": str,
                "kind": str,
                "ok": bool,
                "checkpoint": int,
                "entries": int,
                "accounts": [
                    {
                        "partition": (int, type(None)),
                        "after": int,
                        "until": int,
                        "unused": int,
                        "handled": int,
                        "parked": int,
                        "skipped": int,
                        "passed_over": int,
                        "filtered_out": int,
                        "unaccounted": int,
                        "unaccounted_at": list,
                    }
                ],
            }
        ],
        "findings": [{"subscriber": (str, type(None)), "check": str, "status": str, "said": str, "remedy": str}],
    },
    ("stats",): {"events": int, "events_exact": bool, "size_bytes": int, "growth": dict, "relations": list},
    ("export", "x.jsonl"): {"file": str, "events": int, "first": int, "last": int},
    ("import", "x.jsonl", "--dry-run"): {"read": int, "imported": int, "known": int, "positions": str},
}
"""What programs may rely on: at least these keys, of these types."""

NAMING = (
    "failures X",
    "failures X --group-by error",
    "failure X 1",
    "retry X",
    "skip X 1 --reason r",
    "rewind X --to-start",
    "advance X --to-end",
    "seek X --to-end",
    "undo X",
    "pause X",
    "resume X",
    "partitions X 2",
    "rename X y",
    "remove X",
    "replay X --from 1",
    "replays X",
    "rebuild X --app shop:app",
    "rebuild X --cancel",
    "rebuild X --back",
    "rebuild X --drop-kept",
    "rebuilds X",
    "check X",
    "verify X",
    "register X --app shop:app",
    "run --drain --app shop:app --only X",
)
"""Every command that takes a subscriber."""


@pytest.fixture
def shop(sqlite_shop: Shop) -> Shop:
    sqlite_shop.orders(1, -1, 1)
    sqlite_shop.drain()
    return sqlite_shop


def test_every_document_has_the_keys_and_types_that_are_promised(shop: Shop) -> None:
    for words, promised in DOCUMENTS.items():
        _assert_shaped(shop.json(*words), promised, " ".join(words))
    for event in shop.cli("read", "-o", "jsonl").lines:
        _assert_shaped(event, RECORDED, "read")


def test_every_exit_code_is_what_it_says(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    (shop.folder / "broken.jsonl").write_text("{}\n")
    codes = {
        0: ("status",),
        1: ("append", "note.taken", "-s", "n", "--expected", "7"),
        2: ("rewind", "mail", "--to-start"),
        3: ("failure", "mail", "1"),
        4: ("rewind", "mail", "--to-start", "--resend", "--yes", "--wait", "--timeout", "0"),
        5: ("status", "--url", "sqlite:///nowhere.db"),
    }
    for code, words in codes.items():
        assert (shop.cli(*words).code, words) == (code, words)
    assert shop.cli("import", "broken.jsonl").code == 2

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("eventlog.cli.status_command.read_status_of", interrupt)
    assert shop.cli("status").code == 130


def test_a_subscriber_that_is_not_there_is_not_found_by_any_command(shop: Shop) -> None:
    """Before anything is asked, also where nothing would have been said about it."""
    for words in NAMING:
        ran = shop.cli(*words.replace("X", "male").split(), "-o", "json")
        assert (ran.code, words) == (3, words)
        assert "Did you mean 'mail'?" in ran.error["message"]


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("raed", "'read'"),
        ("types chek", "check"),
        ("schema curent", "current"),
        ("rewind mail --to-strt", "--to-start"),
    ],
)
def test_what_is_nearly_right_is_suggested(shop: Shop, wrong: str, meant: str) -> None:
    ran = shop.cli(*wrong.split())
    assert (ran.code, "Did you mean" in ran.err, meant in ran.err) == (2, True, True)


def completed(*words: str) -> list[str]:
    """What a shell would offer for the last word."""
    completion = BashComplete(eventlog, {}, "eventlog", "_EVENTLOG_COMPLETE")
    return [one.value for one in completion.get_completions(list(words[:-1]), words[-1])]


def test_commands_options_and_subscribers_are_completed(shop: Shop) -> None:
    assert completed("rew") == ["rewind"]
    assert completed("rewind", "m") == ["mail"]
    assert completed("undo", "") == completed("check", "") == ["board", "mail"]
    assert completed("--url", shop.url, "failures", "b") == ["board"]
    assert completed("rewind", "mail", "--to-") == ["--to-start", "--to-failure"]
    assert completed("run", "--only", "m") == ["mail"], "without an app, those that are registered"
    shop.module("shop", SHOP.replace('"mail"', '"letters"'))
    assert completed("run", "--app", "shop:app", "--only", "l") == ["letters"]
    assert completed("register", "--app", "shop:app", "board", "") == ["board", "letters"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]


def test_completion_says_nothing_when_it_cannot_tell(shop: Shop, capsys: pytest.CaptureFixture[str]) -> None:
    (shop.folder / "loud.py").write_text("print('here I am')\nraise RuntimeError\n")
    for options in (
        ("--url", "sqlite:///nowhere.db"),
        ("--url", "postgresql://ada:hunter2@127.0.0.1:1/shop"),
        ("--url", "nonsense"),
        ("--app", "loud:app", "--schema", "x"),
    ):
        assert completed("register", *options, "m") == []
        assert completed("failures", *options, "m") == []
    assert not list(shop.folder.glob("nowhere*"))
    assert capsys.readouterr() == ("", "")


def test_completion_does_not_wait_for_a_server_that_says_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Connecting alone would be given up after two seconds, and be tried again."""
    monkeypatch.setattr(completion, "ANSWER_SECONDS", 0.1)
    began = SystemClock().monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ada@127.0.0.1:{silent.getsockname()[1]}/shop"
        assert completed("failures", "--url", url, "m") == []
    assert SystemClock().monotonic() - began < 2


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell_is_printed(sqlite_shop: Shop, shell: str) -> None:
    ran = sqlite_shop.cli("completion", shell)
    assert (ran.code, f"_EVENTLOG_COMPLETE={shell}_complete" in ran.out) == (0, True)
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ran.out, text=True, check=True, timeout=30)


def test_a_database_that_never_answers_ends_with_5_in_seconds(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection, and never says a word."""
    monkeypatch.setitem(postgres_connections._DEFAULTS, "connect_timeout", 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://ada:hunter2@127.0.0.1:{silent.getsockname()[1]}/shop"
        ran = sqlite_shop.cli("status", "--url", url, "-o", "json")
    assert (ran.code, ran.error["code"]) == (5, "database_unreachable")
    assert "timeout" in ran.error["message"]


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada@127.0.0.1:1/shop?password=hunter2",
        "postgresql://ada:hunter2@127.0.0.1:1/shop?sslpassword=hunter2",
        "postgresql://ada:hunter2@[::1/shop",
        "postgresql://ada:hunter2@host:hunter2/shop",
        "postgresql://ada:hunter%32@127.0.0.1:1/shop",
        "postgresql://ada:an@hunter2@127.0.0.1:1/shop",
    ],
)
def test_a_password_never_shows_wherever_it_stands(sqlite_shop: Shop, url: str) -> None:
    for form in ((), ("-o", "json"), ("-v",)):
        ran = sqlite_shop.cli("status", "--url", url, *form)
        assert ran.code in (2, 5)
        assert "hunter" not in ran.out + ran.err


def test_a_password_in_somebody_elses_error_is_hidden(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise RuntimeError("cannot log in with hunter2, nor with postgresql://bob:s3cret@db/x")

    monkeypatch.setattr("eventlog.cli.opening.opened_log", explode)
    ran = sqlite_shop.cli("status", "-v", "--url", "postgresql://ada:hunter2@127.0.0.1/shop")
    assert (ran.code, "Traceback" in ran.err) == (1, True)
    assert "hunter2" not in ran.err
    assert "postgresql://bob:***@db/x" in ran.err


def test_a_password_that_is_a_word_of_every_message_is_hidden_in_urls_only() -> None:
    given = ["--url", "postgresql://postgres:postgres@db/postgres"]
    assert hide("postgresql://postgres:postgres@db/postgres", given) == "postgresql://postgres:***@db/postgres"
    assert hide("the postgres server", given) == "the postgres server"


@pytest.mark.parametrize("columns", [40, 200])
def test_tables_fit_narrow_and_wide_terminals(shop: Shop, monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    with opened(shop.url) as log:
        log.append(note("x" * 500, stream="note-" + "9" * 60))
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", str(columns))
    for words in (("failures", "--group-by", "error"), ("streams",), ("stats",), ("read",), ("failures",)):
        ran = shop.cli(*words)
        assert ran.code == 0
        table = re.sub(r"\x1b\[[0-9;]*m", "", ran.out).rstrip().split("\n\n")[-1]
        assert max(map(len, table.splitlines())) <= columns


def test_what_no_narrow_table_holds_is_set_row_under_row(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are cut off would be other numbers."""
    shop.json("replay", "mail", "--yes")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    lines = shop.cli("replays").out.splitlines()
    assert [line.split() for line in lines[1:5]] == [
        ["subscriber", "mail"], ["state", "running"], ["position", "0"], ["until", "3"]
    ]  # fmt: skip
    monkeypatch.setenv("COLUMNS", "120")
    assert "subscriber  mail" not in shop.cli("replays").out


def test_no_color_goes_before_force_color(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b" not in shop.cli("streams").out, "where nothing is said, colours are for terminals"
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1m" in shop.cli("streams").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in shop.cli("streams").out


def test_every_subscriber_argument_is_completed() -> None:
    for name in eventlog.list_commands(click.Context(eventlog)):
        command = eventlog.get_command(click.Context(eventlog), name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Argument) and parameter.name in ("subscriber", "move"):
                assert parameter._custom_shell_complete is not None


def _assert_shaped(value: Any, promised: Any, where: str) -> None:
    if isinstance(promised, dict):
        assert isinstance(value, dict), where
        for key, inner in promised.items():
            assert key in value, f"{where}: {key}"
            _assert_shaped(value[key], inner, f"{where}: {key}")
    elif isinstance(promised, list):
        assert value, where
        for one in value:
            _assert_shaped(one, promised[0], where)
    else:
        assert isinstance(value, promised), f"{where}: {value!r}"
        assert promised is not int or not isinstance(value, bool), where

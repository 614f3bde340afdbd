"""What a person at a terminal sees: questions, tables that fit, and ^C."""

from pathlib import Path

import pytest

from tests.cli_support import Shop, on_terminal

QUESTION = "[y/N]"


@pytest.fixture
def shop(tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    shop = Shop.open(tmp_path, sqlite_url, monkeypatch=monkeypatch, capsys=capsys)
    shop.orders(1, -1, 1)
    shop.drain()
    return shop


def test_a_rewind_that_is_declined_changes_nothing(shop: Shop) -> None:
    """No is what the return key says."""
    ran = on_terminal("rewind", "mail", "--to-start", "--resend", cwd=shop.folder, asked=QUESTION, answer=b"\n")
    assert (ran.code, shop.checkpoint("mail")) == (2, 3)
    assert "Nothing was changed." in ran.out


def test_a_rewind_that_is_accepted_is_done(shop: Shop) -> None:
    ran = on_terminal("rewind", "mail", "--to-start", "--resend", cwd=shop.folder, asked=QUESTION, answer=b"y\n")
    assert (ran.code, shop.checkpoint("mail")) == (0, 0)
    assert ran.out.index("3 events will be delivered") < ran.out.index(QUESTION) < ran.out.index("Rewound mail")


def test_control_c_at_the_question_changes_nothing(shop: Shop) -> None:
    ran = on_terminal("rewind", "board", "--to-start", cwd=shop.folder, asked=QUESTION, answer=b"\x03")
    assert (ran.code, shop.checkpoint("board"), shop.rows()) == (130, 3, 3)
    assert "Empty shop_totals" in ran.out


def test_skip_asks_and_names_what_is_given_up(shop: Shop) -> None:
    ran = on_terminal("skip", "mail", 2, "--reason", "gone", cwd=shop.folder, asked=QUESTION, answer=b"y\n")
    assert (ran.code, shop.status("mail")["failures"]) == (0, {"skipped": 1})
    assert ran.out.index("mail 2: parked, ValueError") < ran.out.index(QUESTION)


def test_what_would_be_refused_is_refused_before_anybody_is_asked(shop: Shop) -> None:
    ran = on_terminal("rewind", "mail", "--to-start", cwd=shop.folder)
    assert ran.code == 2
    assert QUESTION not in ran.out


@pytest.mark.parametrize("words", [("status",), ("read",)], ids=lambda words: words[0])
def test_a_table_fits_80_columns(shop: Shop, words: tuple[str, ...]) -> None:
    shop.json("append", "note.taken", "-s", "note-" + "9" * 60, "-d", "said=" + "x" * 500)
    ran = on_terminal(*words, cwd=shop.folder)
    assert ran.code == 0
    assert max(len(line) for line in ran.out.splitlines()) <= 80


def test_a_person_gets_json_on_several_lines(shop: Shop) -> None:
    assert '\n  "head": 3' in on_terminal("status", "-o", "json", cwd=shop.folder).out

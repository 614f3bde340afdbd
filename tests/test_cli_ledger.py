"""`status`, `subscribers`, `register`, `failures`, `retry` and `skip`, on both databases."""

from pathlib import Path

import pytest

from tests.cli_support import Shop
from tests.log_support import opened


def test_status_has_the_keys_that_are_promised(shop: Shop) -> None:
    position = shop.orders(1, -1)[-1]
    shop.drain()
    found = shop.json("status")
    more = {"held_back_seconds", "rate", "workers"}
    assert set(found) == {"head", "high_water_mark", "held_back_by", "subscribers"} | more
    assert (found["head"], found["high_water_mark"], found["held_back_by"]) == (position, position, [])
    mail = shop.status("mail")
    assert {name: mail.pop(name) for name in ("lag_seconds", "rate")} == {"lag_seconds": 0.0, "rate": None}
    assert mail.pop("last_error")["error_type"] == "ValueError"
    assert mail == {
        "name": "mail",
        "kind": "effect",
        "state": "running",
        "checkpoint": position,
        "lag": 0,
        "lag_exact": True,
        "failures": {"parked": 1},
        "owner": None,
        "partitions": 1,
        "outage_handler": None,
        "outage_since": None,
        "log": None,
        "state_reason": None,
        "ahead": False,
    }


def test_status_counts_what_a_subscriber_has_still_to_do(shop: Shop) -> None:
    shop.json("register", "--app", "shop:app")
    shop.orders(1, 1, 1)
    assert shop.status("mail")["lag"] == 3
    assert [one["name"] for one in shop.cli("status", "-o", "jsonl").lines] == ["board", "mail"]


def test_status_names_the_transaction_that_holds_the_log_back(
    postgres_database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = Shop.open(tmp_path, postgres_database_url, monkeypatch=monkeypatch, capsys=capsys)
    with opened(f"{shop.url}?application_name=slow-import") as log, log.engine.begin() as connection:
        from eventlog.events import Event

        log.append(Event({}, type="note.taken", stream="note-1"), tx=connection)
        (holder,) = shop.json("status")["held_back_by"]
        assert (holder["application"], holder["pid"] > 0) == ("slow-import", True)
        assert f"pid {holder['pid']} (slow-import" in shop.cli("status").err


def test_a_table_of_status_says_what_failed_and_what_to_do(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(-1, -1)
    sqlite_shop.drain()
    ran = sqlite_shop.cli("status")
    assert "2 parked" in ran.out
    assert "eventlog retry" in ran.err


def test_register_says_what_it_did_to_whom(sqlite_shop: Shop) -> None:
    assert sqlite_shop.json("register", "mail", "--app", "shop:app")["subscribers"] == {"mail": "created"}
    assert sqlite_shop.json("register", "--app", "shop:app")["subscribers"] == {"mail": "unchanged", "board": "created"}
    assert "board: unchanged" in sqlite_shop.cli("register", "--app", "shop:app").out


NEW = """
import os

from eventlog import App

app = App(os.environ["SHOP_URL"])
for name, start in {"all": "beginning", "some": 2, "none": "now"}.items():
    app.subscriber(name, start=start).on("clishop.*")(lambda recorded: None)
app.subscriber("others").on("other.*")(lambda recorded: None)
app.projection("board").on("clishop.*")(lambda recorded: None)
"""


def test_who_is_registered_on_an_old_log_is_told_what_lies_ahead(shop: Shop) -> None:
    shop.module("new", NEW)
    shop.orders(1, 1, 1)
    assert shop.json("register", "all", "some", "--app", "new:app")["beginnings"] == {
        "all": {"position": 0, "events": 3, "exact": True},
        "some": {"position": 2, "events": 1, "exact": True},
    }
    shop.json("remove", "all", "--yes")
    shop.json("remove", "some", "--yes")
    ran = shop.cli("register", "--app", "new:app")
    assert ran.out.splitlines() == [
        "all: created, begins at the first event, 3 events ahead",
        "some: created, begins after 2, 1 event ahead",
        "none: created, begins with what comes",
        "others: created, begins with what comes",
        "board: created, begins at the first event, 3 events ahead",
    ]
    hints = [line for line in ran.err.splitlines() if "--to-end" in line]
    assert [line.split()[2] for line in hints] == ["all", "some"]
    assert 'start="now" it begins with what comes' in hints[0]
    assert shop.cli("register", "all", "--app", "new:app").out == "all: unchanged\n"


def test_a_worker_says_what_lies_ahead_of_whom_it_registers(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    shop.module("new", NEW)
    shop.orders(1, 1, 1)
    shop.cli("run", "--drain", "--app", "new:app", "--only", "all", "--log-level", "info")
    assert "all: registered, begins at the first event, 3 events ahead; `eventlog advance all --to-end`" in caplog.text
    caplog.clear()
    shop.cli("run", "--drain", "--app", "new:app", "--only", "all", "--log-level", "info")
    assert "begins" not in caplog.text


def test_code_that_handles_less_is_registered_with_consent_only(shop: Shop) -> None:
    _fewer_types(shop, before="clishop.placed", after="clishop.other")
    ran = shop.cli("register", "--app", "less:app", "-o", "json")
    assert (ran.code, ran.error["code"]) == (2, "refused")
    assert "--drop-types" in ran.error["remedy"]
    assert shop.json("register", "--app", "less:app", "--drop-types")["subscribers"] == {"mail": "changed"}


def test_subscribers_lists_what_is_registered(shop: Shop) -> None:
    assert shop.json("subscribers") == {"subscribers": []}
    shop.json("register", "--app", "shop:app")
    board, mail = shop.json("subscribers")["subscribers"]
    assert (board["name"], board["kind"], board["tables"]) == ("board", "projection", ["shop_totals"])
    assert (mail["name"], mail["delivery"], mail["types"]) == ("mail", "at-least-once", ["clishop.placed"])


def test_failures_have_the_keys_that_are_promised(shop: Shop) -> None:
    _, position = shop.orders(1, -1)
    shop.drain()
    (failure,) = shop.json("failures")["failures"]
    promised = {"subscriber", "position", "state", "attempts", "error_type", "message", "next_attempt_at"}
    assert promised <= set(failure)
    assert (failure["subscriber"], failure["position"], failure["state"]) == ("mail", position, "parked")
    assert (failure["error_type"], failure["message"]) == ("ValueError", "a total of -1.0")


def test_failures_are_narrowed_by_subscriber_state_and_limit(shop: Shop) -> None:
    shop.orders(-1, -1)
    shop.drain()

    def count(*options: str | int) -> int:
        return len(shop.json("failures", *options)["failures"])

    assert count("mail") == count("--state", "parked") == 2
    assert count("board") == count("--state", "retrying") == 0
    ran = shop.cli("failures", "--limit", 1, "-o", "jsonl")
    assert len(ran.lines) == 1
    assert "1 of 2 failures; --limit" in ran.err


def test_closed_failures_are_listed_when_they_are_asked_for(shop: Shop) -> None:
    (position,) = shop.orders(-1)
    shop.drain()
    shop.json("skip", "mail", position, "--reason", "gone", "--yes")
    assert shop.json("failures") == {"failures": []}
    (failure,) = shop.json("failures", "--all")["failures"]
    assert (failure["state"], failure["reason"]) == ("skipped", "gone")


def test_retry_makes_failures_due_and_a_worker_runs_them(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(1, -1, -1)
    shop.drain()
    monkeypatch.setenv("FIXED", "yes")
    assert shop.json("retry")["changed"] == 2
    assert shop.status("mail")["failures"] == {"retrying": 2}
    assert shop.drain()["subscribers"]["mail"] == {"handled": 2, "failed": 0}
    assert shop.status("mail")["failures"] == {"resolved": 2}


def test_retry_takes_a_subscriber_and_positions(shop: Shop) -> None:
    first, _, third = shop.orders(-1, -1, -1)
    shop.drain()
    assert shop.json("retry", "mail", first, third)["changed"] == 2
    assert shop.json("retry", "board")["changed"] == 0
    assert shop.status("mail")["failures"] == {"parked": 1, "retrying": 2}


def test_a_dry_run_of_retry_changes_nothing(sqlite_shop: Shop) -> None:
    (position,) = sqlite_shop.orders(-1)
    sqlite_shop.drain()
    plan = sqlite_shop.json("retry", "--dry-run")
    assert (plan["changed"], plan["failures"]) == (0, [{"subscriber": "mail", "position": position}])
    assert "1 failure would be due now" in sqlite_shop.cli("retry", "--dry-run").out
    assert sqlite_shop.status("mail")["failures"] == {"parked": 1}


def test_a_failure_that_is_closed_is_not_retried(shop: Shop) -> None:
    (position,) = shop.orders(-1)
    shop.drain()
    shop.json("skip", "mail", position, "--reason", "gone", "--yes")
    assert shop.cli("retry", "mail", position).code == 2
    assert "nothing was changed" in shop.cli("retry").out


def test_skip_wants_a_reason_and_consent(sqlite_shop: Shop) -> None:
    (position,) = sqlite_shop.orders(-1)
    sqlite_shop.drain()
    assert "--reason" in sqlite_shop.cli("skip", "mail", position).err
    ran = sqlite_shop.cli("skip", "mail", position, "--reason", "gone", "-o", "json")
    assert (ran.code, ran.error["code"]) == (2, "refused")
    assert "--yes" in ran.error["remedy"]
    assert sqlite_shop.json("skip", "mail", position, "--reason", "gone", "--dry-run")["changed"] == 0
    assert sqlite_shop.status("mail")["failures"] == {"parked": 1}
    assert sqlite_shop.json("skip", "mail", position, "--reason", "gone", "--yes")["changed"] == 1
    assert sqlite_shop.status("mail")["failures"] == {"skipped": 1}


def test_a_message_cannot_write_on_the_terminal(sqlite_shop: Shop) -> None:
    source = (sqlite_shop.folder / "shop.py").read_text()
    sqlite_shop.module("shop", source.replace('f"a total of', 'f"\\x1b[2Jone\\nline'))
    sqlite_shop.orders(-1)
    sqlite_shop.drain()
    (header, line) = sqlite_shop.cli("failures").out.splitlines()
    assert "one line" in line
    assert "\x1b" not in header + line


def _fewer_types(shop: Shop, *, before: str, after: str) -> None:
    """Register `mail` for one type, and leave an app that handles another one."""
    text = "from eventlog import App\napp = App({url!r})\nmail = app.subscriber('mail')\n"
    text += "@mail.on({pattern!r})\ndef send(recorded):\n    pass\n"
    for name, pattern in (("more", before), ("less", after)):
        shop.module(name, text.format(url=shop.url, pattern=pattern))
    shop.json("register", "--app", "more:app")

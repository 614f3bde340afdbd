"""`failures` narrowed and grouped, `failure` in full, `retry` some at a time."""

import pytest

from tests.cli_support import Shop


@pytest.fixture
def failing(sqlite_shop: Shop) -> Shop:
    """Three failures of two kinds, on SQLite: what is the same on both databases, and what people see."""
    return failed(sqlite_shop)


def failed(shop: Shop) -> Shop:
    """Make three failures: two alike, one whose message differs in more than numbers."""
    source = (shop.folder / "shop.py").read_text()
    source = source.replace(
        "    if placed.total < 0",
        "    if placed.total == 13:\n        raise KeyError('unlucky')\n    if placed.total < 0",
    )
    shop.module("shop", source)
    shop.orders(-1, 1, 13, -2)
    shop.drain()
    return shop


def test_failures_are_grouped_by_what_went_wrong(shop: Shop) -> None:
    failing = failed(shop)
    first, last = failing.json("failures", "--group-by", "error")["errors"]
    assert set(first) == {
        "subscriber",
        "fingerprint",
        "count",
        "first_failed_at",
        "last_failed_at",
        "position",
        "error_type",
        "message",
    }
    assert (first["subscriber"], first["count"], first["position"]) == ("mail", 2, 1)
    assert (first["error_type"], first["message"]) == ("ValueError", "a total of -1.0")
    assert (last["count"], last["position"], last["error_type"]) == (1, 3, "KeyError")
    assert first["first_failed_at"] <= first["last_failed_at"]
    ran = failing.cli("failures", "--group-by", "error", "--limit", 1)
    assert f"`eventlog retry mail --error {first['fingerprint']}`" in ran.err
    assert "more than 1" in ran.err
    assert failing.cli("failures", "board", "--group-by", "error").err == "No failures.\n"


def test_failures_are_narrowed_by_error_fingerprint_and_type(shop: Shop) -> None:
    failing = failed(shop)

    def at(*options: str) -> list[int]:
        return [one["position"] for one in failing.json("failures", *options)["failures"]]

    kind = failing.json("failures", "--group-by", "error")["errors"][0]["fingerprint"]
    assert at("--error", kind) == at("--error", "valueerror") == at("--error", "a total of") == [1, 4]
    assert at("--error", "100%_") == []
    assert (at("--type", "clishop.*"), at("--type", "other.**")) == ([1, 3, 4], [])
    assert failing.json("skip", "mail", 3, "--reason", "gone", "--yes")["changed"] == 1
    assert at("--type", "clishop.*", "--state", "skipped") == [3]
    assert at("--all", "--error", "KeyError") == [3]
    assert failing.cli("failures", "--type", "a..b").code == 2


def test_a_failure_is_shown_with_its_event_its_attempts_and_the_traceback(failing: Shop) -> None:
    failing.json("retry", "mail", 1)
    failing.drain()
    found = failing.json("failure", "mail", 1)
    assert set(found) == {"failure", "event", "attempts", "waits_for"}
    assert (found["failure"]["state"], found["failure"]["attempts"]) == ("parked", 2)
    assert (found["event"]["position"], found["event"]["data"]["total"]) == (1, -1.0)
    assert [(one["attempt"], one["outcome"]) for one in found["attempts"]] == [(2, "failed"), (1, "failed")]
    assert "in send" in found["attempts"][0]["traceback"]
    ran = failing.cli("failure", "mail", 1)
    for said in ("failure   mail 1\n", "state     parked\n", "position  1\n", "in send", "ValueError: a total of -1.0"):
        assert said in ran.out
    assert "`eventlog retry mail 1`" in ran.err


def test_a_failure_that_is_not_there_is_not_found(failing: Shop) -> None:
    for words in (("mail", 2), ("mail", 999), ("male", 1)):
        assert failing.cli("failure", *words).code == 3
    assert failing.cli("retry", "mail", 2).code == 3
    assert failing.cli("skip", "mail", 2, "--reason", "x", "--yes").code == 3
    ran = failing.cli("retry", "mail", 1, 2, "-o", "json")
    assert (ran.code, ran.out) == (3, "")
    assert failing.status("mail")["failures"] == {"parked": 3}


def test_retry_takes_some_at_a_time_and_says_that_there_are_more(failing: Shop) -> None:
    plan = failing.cli("retry", "mail", "--all", "--limit", 2, "--dry-run")
    assert "2 failures would be due now" in plan.out
    assert "        1  mail KeyError: 'unlucky'" in plan.out
    done = failing.json("retry", "mail", "--all", "--limit", 2)
    assert (done["changed"], done["more"]) == (2, True)
    assert failing.status("mail")["failures"] == {"parked": 1, "retrying": 2}
    done = failing.json("retry", "--error", "a total of", "--limit", 2)
    assert (done["changed"], done["more"]) == (2, False)


def test_retry_of_all_names_nothing_else(failing: Shop) -> None:
    assert failing.cli("retry", "mail", "--all", "--error", "x").code == 2
    assert failing.cli("retry", "mail", 1, "--all").code == 2
    assert failing.json("retry", "--all")["changed"] == 3


def test_skip_takes_some_at_a_time(failing: Shop) -> None:
    skip = ("skip", "mail", "--error", "ValueError", "--reason", "gone", "--limit", 1)
    assert failing.json(*skip, "--dry-run") == {
        "changed": 0,
        "dry_run": True,
        "failures": [{"subscriber": "mail", "position": 1}],
        "operation": None,
        "more": True,
    }
    assert failing.json(*skip, "--yes")["changed"] == 1
    assert failing.status("mail")["failures"] == {"parked": 2, "skipped": 1}


@pytest.fixture
def blocking(sqlite_shop: Shop) -> Shop:
    """Orders of one customer: one failure, and three behind it."""
    shop = sqlite_shop
    shop.module("shop", (shop.folder / "shop.py").read_text().replace('"mail", retry', '"mail", key="customer", retry'))
    text = (shop.folder / "shop.py").read_text()
    shop.module("shop", text.replace("total: float = 1.0", 'total: float = 1.0\n    customer: str = "ada"'))
    shop.orders(1, -1, 1, 1, 1)
    shop.drain()
    return shop


def test_causes_come_before_what_waits_behind_them_and_only_they_are_to_be_retried(blocking: Shop) -> None:
    kinds = blocking.json("failures", "--group-by", "error")["errors"]
    assert [(one["error_type"], one["count"]) for one in kinds] == [("ValueError", 1), ("Blocked", 3)]
    said = blocking.cli("failures", "--group-by", "error").err
    assert f"`eventlog retry mail --error {kinds[0]['fingerprint']}`" in said
    said = blocking.cli("failures", "--group-by", "error", "--state", "blocked").err
    assert ("retry" in said, "follow by themselves" in said) == (False, True)
    said = blocking.cli("failures", "--state", "blocked").err
    assert ("retry" in said, "follow by themselves" in said) == (False, True)
    assert "retry" not in blocking.cli("failures", "--group-by", "error", "--all").err


def test_a_blocked_failure_names_the_event_that_it_waits_for(blocking: Shop) -> None:
    assert blocking.json("failure", "mail", 4)["waits_for"] == 2
    assert blocking.json("failure", "mail", 2)["waits_for"] is None
    ran = blocking.cli("failure", "mail", 4)
    assert "error     Blocked: waits behind event 2\n" in ran.out
    assert "`eventlog retry mail 4`" not in ran.err
    assert "`eventlog failure mail 2` shows that one" in ran.err
    assert blocking.cli("failures", "mail").out.count("Blocked: waits behind event 2") == 3


def test_what_had_waited_and_was_handled_waits_for_nothing(blocking: Shop) -> None:
    blocking.monkeypatch.setenv("FIXED", "yes")
    blocking.json("retry", "mail", 2)
    blocking.drain()
    ran = blocking.cli("failures", "mail", "--all")
    assert ran.out.count("waited behind an earlier failure of its key") == 3
    assert "Blocked" not in ran.out


def test_of_many_failures_it_is_told_how_many_are_shown(blocking: Shop) -> None:
    ran = blocking.cli("failures", "mail", "--limit", 2)
    assert "2 of 4 failures; --limit shows more of them.\n" in ran.err
    assert "4 failures of 2 kinds.\n" in blocking.cli("failures", "mail", "--limit", 4).err
    assert "1 of 3 failures" in blocking.cli("failures", "--state", "blocked", "--limit", 1).err

"""`pause`, `resume`, `advance`, `seek`, `partitions`, `rename`, `remove`, `workers`, `replay`, as they are typed."""

from importlib import import_module
from typing import Any

import pytest

from eventlog.cli import replay_command
from eventlog.subscribers.control.replays import ReplayPlan, start_replay
from eventlog.subscribers.replaying import Replaying
from tests.cli_support import Shop
from tests.log_support import wait_until


def test_a_paused_subscriber_is_given_nothing_until_it_is_resumed(shop: Shop) -> None:
    shop.drain()
    paused = shop.cli("pause", "mail", "--reason", "the provider moves")
    assert (paused.code, "undo: eventlog resume mail" in paused.out) == (0, True)
    shop.orders(1)
    assert shop.drain()["subscribers"]["mail"]["handled"] == 0
    assert shop.status("mail")["state"] == "paused"
    assert shop.json("resume", "mail")["changed"] is True
    assert shop.drain()["subscribers"]["mail"]["handled"] == 1


def test_pausing_twice_says_so(sqlite_shop: Shop) -> None:
    sqlite_shop.drain()
    sqlite_shop.cli("pause", "mail")
    assert "already" in sqlite_shop.cli("pause", "mail").out
    assert sqlite_shop.cli("pause", "nobody").code == 3


def test_advance_passes_events_over_and_undo_brings_them_back(shop: Shop) -> None:
    positions = shop.orders(1, 1, 1)
    shop.cli("register", "--app", "shop:app")
    done = shop.json("advance", "mail", "--from", positions[2], "--yes")
    promised = {"subscriber", "from", "to", "next_event", "events", "already_handled", "dry_run", "undo"}
    assert promised <= set(done)
    assert (done["from"], done["to"], done["events"]) == (0, positions[1], 2)
    assert shop.json(*done["undo"].split()[1:], "--yes")["to"] == 0
    assert shop.drain()["subscribers"]["mail"]["handled"] == 3


def test_advance_to_the_end_and_seek_back(shop: Shop) -> None:
    positions = shop.orders(1, 1)
    shop.drain()
    assert shop.cli("advance", "mail", "--to-end", "--yes").code == 2
    more = shop.orders(1)
    assert shop.json("advance", "mail", "--to-end", "--yes")["to"] == more[-1]
    assert shop.json("seek", "mail", "--from", positions[0], "--resend", "--yes")["to"] == positions[0] - 1


def test_undo_takes_a_subscribers_name(shop: Shop) -> None:
    positions = shop.orders(1, 1)
    shop.drain()
    shop.cli("rewind", "mail", "--to-start", "--resend", "--yes")
    assert shop.json("undo", "mail", "--yes")["to"] == positions[-1]
    assert shop.cli("undo", "mail", "--yes").code == 3


def test_without_a_terminal_consent_is_a_flag(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(1)
    sqlite_shop.drain()
    for words in ("partitions mail 4", "rename mail post", "remove mail", "replay mail"):
        ran = sqlite_shop.cli(*words.split(), "-o", "json")
        assert (ran.code, ran.out, "--yes" in ran.error["remedy"]) == (2, "", True), words
        assert sqlite_shop.cli(*words.split(), "--dry-run").code == 0
        assert sqlite_shop.status("mail")["state"] == "running"


def test_partitions_tells_where_they_begin(shop: Shop) -> None:
    positions = shop.orders(1, 1)
    shop.drain()
    ran = shop.cli("partitions", "mail", "4", "--yes")
    assert (ran.code, "mail: 1 partition -> 4" in ran.out) == (0, True)
    assert f"all begin at checkpoint {positions[-1]}" in ran.err
    assert shop.json("partitions", "mail", "1", "--yes")["partitions"] == 1


def test_rename_and_remove(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    assert shop.json("rename", "mail", "post", "--yes")["before"] == "mail"
    assert shop.json("remove", "post", "--yes", "--reason", "no more")["subscriber"] == "post"
    assert shop.cli("pause", "post").code == 3


def test_a_skip_by_error_and_a_retry_by_type(shop: Shop) -> None:
    shop.orders(-1, -1)
    shop.drain()
    assert shop.json("retry", "mail", "--type", "clishop.*")["changed"] == 2
    shop.drain()
    entry = shop.json("failures", "mail")["failures"][0]
    done = shop.json("skip", "mail", "--error", entry["fingerprint"], "--reason", "spoiled", "--yes")
    assert done["changed"] == 2
    assert shop.cli("retry", "mail", "1", "--error", "x").code == 2
    assert shop.cli("skip", "mail", "--reason", "all").code == 2


def test_no_worker_runs(sqlite_shop: Shop) -> None:
    assert sqlite_shop.json("workers") == {"workers": []}
    assert "No worker runs" in sqlite_shop.cli("workers").err


def test_a_replay_in_the_foreground(shop: Shop) -> None:
    positions = shop.orders(1, 1, 1)
    shop.drain()
    plan = shop.json("replay", "mail", "--from", positions[1], "--dry-run")
    assert (plan["events"], plan["dry_run"]) == (2, True)
    done = shop.json("replay", "mail", "--from", positions[1], "--foreground", "--yes", "--app", "shop:app")
    assert (done["state"], done["handled"], done["failed"]) == ("done", 2, 0)
    assert shop.json("replays", "mail")["replays"][0]["state"] == "done"
    assert shop.checkpoint("mail") == positions[-1]


def test_a_replay_in_the_foreground_is_taken_up_by_no_running_worker(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker looks at the very moment that the row is committed."""
    shop.orders(1, 1)
    shop.drain()
    taken: list[bool] = []

    def start_and_look(*arguments: Any, **options: Any) -> ReplayPlan:
        plan = start_replay(*arguments, **options)
        if plan.operation is not None:
            app = import_module("shop").app
            taken.append(Replaying(app.runtime(), app.subscribers["mail"], plan.operation).turn().moved)
            app.log.engine.dispose()
        return plan

    monkeypatch.setattr(replay_command, "start_replay", start_and_look)
    done = shop.json("replay", "mail", "--foreground", "--yes", "--app", "shop:app")
    assert (taken, done["state"], done["handled"]) == ([False], "done", 2)


def test_a_replay_that_cannot_be_executed_in_the_foreground_is_not_started(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    shop.module("other", OTHER)
    for app in ("other:fewer", "other:another"):
        ran = shop.cli("replay", "mail", "--foreground", "--yes", "--app", app)
        assert ran.code in (2, 3), ran
    assert shop.cli("replay", "mail", "--foreground", "--yes").code == 2
    assert shop.json("replays")["replays"] == []


OTHER = """
import os

from eventlog import App

fewer = App(os.environ["SHOP_URL"])
another = App(os.environ["SHOP_URL"])
another.subscriber("mail", partitions=4).on("clishop.*")(print)
"""


def test_a_replay_whose_events_fail_ends_with_1(shop: Shop) -> None:
    shop.orders(-1)
    shop.drain()
    entry = shop.json("failures", "mail")["failures"][0]
    shop.cli("skip", "mail", entry["position"], "--reason", "later", "--yes")
    ran = shop.cli("replay", "mail", "--foreground", "--yes", "--app", "shop:app")
    assert (ran.code, "1 failed" in ran.out) == (1, True)
    assert f"  event {entry['position']}: ValueError: a total of -1.0\n" in ran.out
    assert "`eventlog replays --failed " in ran.err
    assert f"event {entry['position']} failed" not in ran.err


def test_what_a_replay_failed_at_is_listed_with_its_errors(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replay_command, "FAILURES_NAMED", 1)
    monkeypatch.setenv("FIXED", "yes")
    shop.orders(1, -2, -3)
    shop.drain()
    monkeypatch.delenv("FIXED")
    operation = shop.json("replay", "mail", "--yes")["operation"]
    app = import_module("shop").app
    with app.worker(["mail"]):
        wait_until(lambda: shop.json("replays")["replays"][0]["state"] == "done", what="a worker has done it")
    app.log.engine.dispose()
    failed = shop.json("replays", "--failed", operation)["failures"]
    assert [(one["position"], one["error_type"], one["message"]) for one in failed] == [
        (2, "ValueError", "a total of -2.0"),
        (3, "ValueError", "a total of -3.0"),
    ]
    assert "raise ValueError" in failed[0]["traceback"]
    assert f"replay {operation} of mail: event 2 failed: ValueError" in caplog.messages
    assert (
        f"replay {operation} of mail: done: 1 handled, 2 failed; `eventlog replays --failed {operation}`" in caplog.text
    )
    assert "a total of" not in caplog.text

    ran = shop.cli("replays", "--failed", operation, "--limit", 1)
    assert "ValueError: a total of -2.0" in ran.out
    assert "There are more than 1" in ran.err
    assert f"`eventlog replays --failed {operation}`" in shop.cli("replays").err
    assert shop.cli("replays", "--failed", 999).code == 3
    assert shop.cli("replays", "mail", "--failed", operation).code == 2
    again = shop.cli("replay", "mail", "--foreground", "--yes", "--app", "shop:app")
    assert "and 1 more: `eventlog replays --failed" in again.err
    shop.json("rename", "mail", "post", "--yes")
    assert len(shop.json("replays", "--failed", operation)["failures"]) == 2


def test_a_replay_is_cancelled_by_its_number(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(1)
    sqlite_shop.drain()
    started = sqlite_shop.json("replay", "mail", "--yes")
    assert started["state"] == "running"
    assert sqlite_shop.cli("rewind", "mail", "--to-start", "--resend", "--yes").code == 2
    assert sqlite_shop.json(*started["undo"].split()[1:])["state"] == "cancelled"
    assert sqlite_shop.cli("replay", "--cancel", started["operation"]).code == 2
    assert sqlite_shop.cli("replay", "--cancel", "999").code == 3
    assert sqlite_shop.cli("replay").code == 2

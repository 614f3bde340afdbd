"""`run`: draining, and a worker that runs until it is stopped."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from tests.cli_support import DEADLINE_SECONDS, Shop, started
from tests.log_support import wait_until

SLOW_SHOP = '''
"""Mails that take until somebody has written the file `go`."""

import os
import time
from pathlib import Path

from eventlog import App

app = App(os.environ["SHOP_URL"])
mail = app.subscriber("mail")


@mail.on("clishop.*")
def send(recorded):
    Path("sending").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    Path("sent").touch()
'''


def test_a_drain_has_the_keys_that_are_promised(shop: Shop) -> None:
    shop.orders(1, -1)
    assert shop.drain() == {
        "handled": 3,
        "failed": 1,
        "subscribers": {"mail": {"handled": 1, "failed": 1}, "board": {"handled": 2, "failed": 0}},
    }


def test_failures_of_handlers_are_no_failure_of_the_command(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(-1)
    ran = sqlite_shop.cli("run", "--drain", "--app", "shop:app")
    assert ran.code == 0
    assert ran.err == "1 attempt failed; `eventlog failures` shows what stands in the ledger.\n"


def test_only_runs_those_that_are_named(shop: Shop) -> None:
    shop.orders(1)
    done = shop.json("run", "--drain", "--app", "shop:app", "--only", "mail")
    assert set(done["subscribers"]) == {"mail"}
    assert shop.checkpoint("mail") > 0
    assert [one["name"] for one in shop.json("status")["subscribers"]] == ["mail"]


def test_an_app_without_subscribers_is_refused(shop: Shop) -> None:
    shop.module("bare", f"from eventlog import App\napp = App({shop.url!r})\n")
    assert "no subscribers" in shop.cli("run", "--app", "bare:app").err


def test_a_signal_ends_a_worker_after_the_events_at_hand(shop: Shop) -> None:
    """SIGTERM on one database, ^C on the other: which signal it was is no business of theirs."""
    number, code = (signal.SIGINT, 130) if shop.url.startswith("sqlite") else (signal.SIGTERM, 0)
    shop.module("slow", SLOW_SHOP)
    position = shop.orders(1)[0]
    with _running(shop, "run", "--app", "slow:app") as worker:
        _wait_for_first_event(shop, worker)
        assert shop.status("mail")["owner"]
        worker.send_signal(number)
        (shop.folder / "go").touch()
        _, said = worker.communicate(timeout=DEADLINE_SECONDS)
    assert (worker.returncode, (shop.folder / "sent").exists()) == (code, True)
    assert (shop.status("mail")["checkpoint"], shop.status("mail")["owner"]) == (position, None)
    assert "leases released" in said


def test_the_second_signal_ends_a_worker_at_once(sqlite_shop: Shop) -> None:
    sqlite_shop.module("slow", SLOW_SHOP)
    sqlite_shop.orders(1)
    with _running(sqlite_shop, "run", "--app", "slow:app") as worker:
        _wait_for_first_event(sqlite_shop, worker)
        worker.send_signal(signal.SIGTERM)
        assert worker.stderr is not None
        wait_until(lambda: "once more" in (worker.stderr.readline() if worker.stderr else ""), what="the first answer")
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == -signal.SIGTERM
    assert not (sqlite_shop.folder / "sent").exists()


def test_a_signal_ends_a_drain_after_the_event_at_hand(sqlite_shop: Shop) -> None:
    sqlite_shop.module("slow", SLOW_SHOP)
    first, *_ = sqlite_shop.orders(*[1] * 5)
    with _running(sqlite_shop, "run", "--drain", "--app", "slow:app") as worker:
        _wait_for_first_event(sqlite_shop, worker)
        worker.send_signal(signal.SIGINT)
        (sqlite_shop.folder / "go").touch()
        worker.communicate(timeout=DEADLINE_SECONDS)
    assert worker.returncode == 130
    assert (sqlite_shop.status("mail")["checkpoint"], sqlite_shop.status("mail")["owner"]) == (first, None)


def test_a_worker_says_what_it_runs_and_what_fails(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(-1)
    with _running(sqlite_shop, "run", "--app", "shop:app") as worker:
        wait_until(lambda: sqlite_shop.json("failures")["failures"], what="the failure")
        worker.send_signal(signal.SIGTERM)
        _, said = worker.communicate(timeout=DEADLINE_SECONDS)
    assert "running mail, board on" in said
    assert "failed in attempt 1 and is parked" in said
    assert "a total of" not in said, "payloads are not for logs"


def _wait_for_first_event(shop: Shop, worker: "subprocess.Popen[str]") -> None:
    wait_until(lambda: (shop.folder / "sending").exists() or worker.poll() is not None, what="the first event")
    assert worker.poll() is None, worker.communicate()


@contextmanager
def _running(shop: Shop, *words: str) -> Iterator["subprocess.Popen[str]"]:
    process = started(*words, cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            process.kill()

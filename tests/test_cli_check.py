"""`check`: a line and an exit code for monitoring systems, each limit broken by a real log."""

import re

import pytest
from sqlalchemy import update

from tests.cli_support import Shop
from tests.log_support import note, opened, wait_until

PERFORMANCE = re.compile(r"'[^']+'=(?:[\d.]+s?|U);;[\d.]*")
"""One label and its value, as the plugins' own rules want it."""


@pytest.fixture
def shop(shop: Shop) -> Shop:
    shop.cli("register", "--app", "shop:app")
    return shop


def test_a_log_where_all_is_well_is_one_line_and_zero(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    ran = shop.cli("check", "--max-lag", 10, "--max-age", "5m", "--max-failed", 0)
    line, performance = ran.out.rstrip("\n").split(" | ")
    assert (ran.code, line, ran.err) == (0, "EVENTLOG OK - 2 subscribers, everything holds", "")
    assert all(PERFORMANCE.fullmatch(one) for one in re.findall(r"'[^']+'=\S*", performance))
    assert "'mail lag'=0;;10" in performance
    assert "'board age'=0s;;300" in performance


def test_lag_above_the_limit_does_not_hold(shop: Shop) -> None:
    shop.orders(1, 1, 1)
    assert shop.cli("check", "--max-lag", 3).code == 0
    ran = shop.cli("check", "mail", "--max-lag", 2)
    assert (ran.code, ran.out) == (
        4,
        "EVENTLOG CRITICAL - mail lags by 3 events | " + ran.out.partition(" | ")[2],
    )
    assert "board" not in ran.out


def test_an_old_event_does_not_hold(shop: Shop) -> None:
    shop.orders(1)
    wait_until(lambda: shop.status("mail")["lag_seconds"] > 0.3, what="it is a third of a second old")
    ran = shop.cli("check", "--max-age", "0.2s")
    assert ran.code == 4
    assert re.search(r"mail has an event waiting for \d+ s", ran.out)
    assert shop.cli("check", "--max-age", "1h").code == 0


def test_open_failures_above_the_limit_do_not_hold(shop: Shop) -> None:
    shop.orders(-1, -1)
    shop.drain()
    assert shop.cli("check", "--max-failed", 2).code == 0
    ran = shop.cli("check", "--max-failed", 1, "-o", "json")
    assert (ran.code, ran.json["ok"]) == (4, False)
    assert [(one["subscriber"], one["what"], one["value"]) for one in ran.json["checks"] if not one["ok"]] == [
        ("mail", "failed", 2)
    ]
    assert set(ran.json["checks"][0]) == {"subscriber", "what", "value", "limit", "ok", "said"}


def test_a_halted_subscriber_never_holds(shop: Shop) -> None:
    shop.module("halting", HALTING)
    shop.orders(-1)
    shop.cli("run", "--drain", "--app", "halting:app")
    ran = shop.cli("check")
    assert (ran.code, "strict is halted at event 1" in ran.out) == (4, True)
    assert shop.cli("check", "mail").code == 0


def test_a_handler_in_an_outage_never_holds(shop: Shop) -> None:
    shop.module("halting", HALTING.replace('on_failure="halt"', "outage_after=2"))
    shop.orders(-1, -1, -1)
    shop.cli("run", "--drain", "--app", "halting:app")
    assert "strict is in an outage of" in shop.cli("check").out


def test_one_ahead_of_its_log_never_holds_also_when_its_worker_has_paused_it(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    with opened(shop.url) as log, log.engine.begin() as connection:
        table = log.database.tables.checkpoints
        connection.execute(update(table).where(table.c.subscriber == "mail").values(position=500, handled_through=500))
    run = shop.cli("run", "--drain", "--app", "shop:app", "--only", "mail", "--log", "text")
    assert "; before anything is appended: `eventlog rewind mail --from 2 --resend`, then `eventlog res" in run.err
    ran = shop.cli("check", "--max-lag", 1, "--max-age", "1s")
    assert (ran.code, "CRITICAL - mail is ahead of the log" in ran.out) == (4, True)
    assert (shop.status("mail")["state"], shop.status("mail")["ahead"]) == ("ahead", True)
    assert shop.cli("rewind", "mail", "--from", 2, "--resend", "--yes").code == 0
    assert shop.cli("resume", "mail").code == 0
    assert shop.cli("check", "--max-lag", 1).code == 0


def test_what_an_open_append_holds_back_counts_as_age(
    tmp_path: object, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody lags behind the high-water mark then: it is the mark that stands still."""
    shop = Shop.open(tmp_path, postgres_database_url, monkeypatch=monkeypatch, capsys=capsys)  # type: ignore[arg-type]
    shop.cli("register", "--app", "shop:app")
    with opened(shop.url) as log, log.database.transaction() as connection:
        log.append(note("open"), tx=connection)
        shop.orders(1)
        wait_until(lambda: shop.json("status")["held_back_seconds"] > 0.3, what="a third of a second")
        assert shop.status("mail")["lag"] == 0
        ran = shop.cli("check", "--max-age", "0.2s")
    assert ran.code == 4
    assert re.search(r"events are held back for \d+ s, .* by pid \d+ \(eventlog, user \w+\), open since", ran.out)


def test_who_is_not_registered_is_not_found(shop: Shop) -> None:
    ran = shop.cli("check", "nobody")
    assert (ran.code, ran.out) == (3, "")
    assert "registered are: board, mail" in ran.err


def test_a_limit_that_is_no_duration_is_refused(shop: Shop) -> None:
    assert shop.cli("check", "--max-age", "soon").code == 2


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:1/nothing", "sqlite:///not-there.db"])
def test_a_database_that_does_not_answer_is_unknown(shop: Shop, url: str) -> None:
    ran = shop.cli("check", "--url", url)
    assert (ran.code, ran.err) == (5, "")
    assert ran.out.startswith("EVENTLOG UNKNOWN - ")
    assert shop.cli("check", "--url", url, "-o", "json").error["code"] in ("database_unreachable", "schema_missing")


HALTING = """
import os

from eventlog import App, Retry

app = App(os.environ["SHOP_URL"])
strict = app.subscriber("strict", on_failure="halt", retry=Retry(attempts=1))


@strict.on("clishop.*")
def send(recorded):
    raise ValueError(recorded.position)
"""

"""What moves tell and take beyond going there: places, plans, workers, waiting, and the way back; on both databases."""

import threading
from datetime import timedelta

import pytest

from eventlog import counting
from eventlog.cli import catching_up
from eventlog.cli.catching_up import wait_until_caught_up
from eventlog.errors import CheckFailedError
from eventlog.subscribers.app import App
from eventlog.subscribers.control import advance, high_water_mark, pause, rewind, to_start
from tests.cli_support import Shop
from tests.log_support import note, opened
from tests.subscribers_support import Bench, Sent, eventually

Behind = tuple[Bench, App]


@pytest.fixture
def behind(bench: Bench) -> Behind:
    """A subscriber that has handled three events, and was taken back to its start; and the app that runs it."""
    app = bench.app()

    @app.subscriber("mail")
    def send(sent: Sent) -> None: ...

    bench.send(3)
    app.drain()
    rewind(bench.log.database, "mail", to_start, resend=True)
    return bench, app


def test_by_goes_back_over_so_many_events_of_its_types(shop: Shop) -> None:
    """Others lie between and do not count; it never goes before where the subscriber began."""
    first = shop.orders(1, 1)
    with opened(shop.url) as log:
        log.append(*(note("aside") for _ in range(5)))
    last = shop.orders(1, 1)[-1]
    shop.drain()
    assert shop.json("rewind", "mail", "--by", 1, "--dry-run")["next_event"] == last
    plan = shop.json("rewind", "mail", "--by", 3, "--dry-run")
    assert (plan["next_event"], plan["events"]) == (first[1], 3)
    assert shop.json("rewind", "mail", "--by", 99, "--dry-run")["to"] == 0
    assert shop.cli("rewind", "mail", "--by", 0).code == 2


def test_a_time_is_told_in_utc_with_the_position_it_means(sqlite_shop: Shop) -> None:
    positions = sqlite_shop.orders(1, 1)
    sqlite_shop.drain()
    with opened(sqlite_shop.url) as log:
        second = log.get(positions[1]).recorded_at
    ran = sqlite_shop.cli("rewind", "mail", "--since", (second - timedelta(days=1)).isoformat(), "--resend", "--yes")
    said = f"Since {second - timedelta(days=1):%Y-%m-%dT%H:%M:%SZ}: from position {positions[0]} on"
    assert ran.err.count(said) == 1


def test_every_move_prints_the_command_that_takes_it_back(sqlite_shop: Shop) -> None:
    positions = sqlite_shop.orders(1, 1, 1)
    sqlite_shop.drain()

    def undo_of(*words: str | int) -> list[str]:
        ran = sqlite_shop.cli(*words, "--yes")
        assert ran.code == 0
        (way_back,) = (one.partition("undo: eventlog ")[2] for one in ran.out.splitlines() if "undo:" in one)
        return way_back.split()

    there = undo_of("rewind", "mail", "--from", positions[1], "--resend")
    again = undo_of(*there)
    assert sqlite_shop.checkpoint("mail") == positions[2]
    assert again == ["seek", "mail", "--from", str(positions[1]), "--resend"]
    undo_of(*again)
    assert sqlite_shop.checkpoint("mail") == positions[0]
    assert undo_of("advance", "mail", "--to-end")[0] == "undo"
    ran = sqlite_shop.cli("rewind", "board", "--to-start", "--yes")
    assert "undo: none, tables that were emptied are only filled again" in ran.out


def test_a_plan_names_the_workers_that_are_live(behind: Behind) -> None:
    bench, app = behind
    database = bench.log.database
    assert advance(database, "mail", high_water_mark(database), dry_run=True).workers == ()
    with app.worker():
        eventually(lambda: bench.position("mail") == 3, what="the worker")
        (worker,) = rewind(database, "mail", to_start, dry_run=True).workers
        assert worker == bench.checkpoint("mail").owner


def test_a_plan_of_very_many_events_is_an_estimate(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.orders(*[1] * 30)
    shop.drain()
    monkeypatch.setattr(counting, "EXACT_MAX", 10)
    monkeypatch.setattr(counting, "WINDOW_POSITIONS", 1)
    plan = shop.json("rewind", "mail", "--to-start", "--dry-run")
    assert (plan["estimated"], plan["exact"], plan["needs_resend"]) == (True, False, True)
    assert plan["first_recorded_at"] <= plan["last_recorded_at"]
    ran = shop.cli("rewind", "mail", "--to-start", "--dry-run")
    assert "about " in ran.out
    assert "estimated from a sample; types with few events may be missing" in ran.out


def test_what_a_sample_has_not_seen_is_not_done_twice_unasked(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One event of its type among sixty, and the sample misses it: it was handled all the same."""
    sqlite_shop.orders(1)
    with opened(sqlite_shop.url) as log:
        log.append(*(note("aside") for _ in range(60)))
    sqlite_shop.drain()
    monkeypatch.setattr(counting, "EXACT_MAX", 10)
    monkeypatch.setattr(counting, "WINDOW_POSITIONS", 1)
    monkeypatch.setattr(counting, "WINDOWS", 1)
    plan = sqlite_shop.json("rewind", "mail", "--to-start", "--dry-run")
    assert (plan["events"], plan["already_handled"], plan["needs_resend"]) == (0, 0, True)
    assert sqlite_shop.cli("rewind", "mail", "--to-start", "--yes").code == 2
    assert sqlite_shop.cli("rewind", "mail", "--to-start", "--yes", "--resend").code == 0


def test_a_move_is_waited_for_until_a_worker_has_caught_up(behind: Behind, capsys: pytest.CaptureFixture[str]) -> None:
    bench, app = behind
    database = bench.log.database
    with app.worker():
        wait_until_caught_up(database, "mail", timeout_seconds=30)
    assert bench.position("mail") == 3
    assert "mail has caught up" in capsys.readouterr().err


def test_events_nobody_wants_are_not_waited_for(behind: Behind) -> None:
    """A checkpoint is written seldom where there is nothing to do."""
    bench, app = behind
    app.drain()
    bench.log.append(note("aside"))
    wait_until_caught_up(bench.log.database, "mail", timeout_seconds=0)


def test_waiting_for_nobody_ends_with_the_reason(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, _ = behind
    monkeypatch.setattr(catching_up, "NO_WORKER_SECONDS", 0.0)
    with pytest.raises(CheckFailedError, match="nobody has run mail") as caught:
        wait_until_caught_up(bench.log.database, "mail", timeout_seconds=None)
    assert "eventlog run" in caught.value.remedy
    pause(bench.log.database, "mail")
    with pytest.raises(CheckFailedError, match=r"mail is paused: .* checkpoint is at 0 of 3"):
        wait_until_caught_up(bench.log.database, "mail", timeout_seconds=None)


def test_waiting_for_a_worker_that_takes_too_long_ends_after_a_time(behind: Behind) -> None:
    bench, _ = behind
    app, stuck = bench.app(), threading.Event()

    @app.subscriber("mail")
    def send(sent: Sent) -> None:
        stuck.wait(20)

    with app.worker():
        eventually(lambda: bench.checkpoint("mail").owner is not None, what="the lease")
        try:
            with pytest.raises(CheckFailedError, match=r"has not caught up in 0\.1 s"):
                wait_until_caught_up(bench.log.database, "mail", timeout_seconds=0.1)
        finally:
            stuck.set()


def test_a_halted_projection_is_not_waited_for(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (sqlite_shop.folder / "shop.py").read_text()
    source = source.replace('app.projection("board"', 'app.projection("board", retry=Retry(attempts=1)')
    sqlite_shop.module("shop", source.replace("ctx.connection.execute(", "1 / placed.total; ctx.connection.execute("))
    sqlite_shop.orders(1, 0, 1)
    sqlite_shop.drain()
    words = ("rewind", "board", "--to-start", "--yes", "--wait", "--timeout", 0, "-o", "json")
    ran = sqlite_shop.cli(*words)
    assert (ran.code, ran.json["to"]) == (4, 0)
    sqlite_shop.drain()
    with opened(sqlite_shop.url) as log, pytest.raises(CheckFailedError, match="board is halted"):
        wait_until_caught_up(log.database, "board", timeout_seconds=None)

"""`eventlog rebuild` and `rebuilds`: a projection made anew, cancelled, brought back; and one in another database."""

from pathlib import Path

import pytest

from tests.cli_support import SHOP, Shop, on_terminal


def second_version(shop: Shop, *, failing: bool = False) -> None:
    text = SHOP.replace(
        'app.projection("board", tables=[totals])', 'app.projection("board", tables=[totals], version=2)'
    )
    if failing:
        text = text.replace("version=2", "version=2, retry=Retry(attempts=1)")
        text = text.replace("    ctx.connection.execute", "    raise ValueError('no')\n    ctx.connection.execute")
    shop.module("shop", text)


def test_a_projection_is_made_anew_beside_the_live_one_and_brought_back(shop: Shop) -> None:
    shop.orders(1, 2, 3)
    shop.drain()

    done = shop.json("rebuild", "board", "--app", "shop:app", "--keep", "--yes")

    assert (done["state"], done["version"], shop.rows()) == ("done", 1, 3)
    assert [one["operation"] for one in shop.json("rebuilds", "board")["rebuilds"]] == [done["operation"]]
    plan = shop.json("rebuild", "board", "--back", "--dry-run")
    assert (plan["checkpoint"], plan["dry_run"]) == (3, True)
    assert shop.json("rebuild", "board", "--back", "--yes")["to_version"] == 1
    assert shop.cli("rebuild", "board", "--back", "--yes").code == 3
    assert shop.rows() == 3


def test_a_higher_version_is_made_by_a_drain_and_in_the_background_by_workers(shop: Shop) -> None:
    shop.orders(1, 2)
    shop.drain()
    second_version(shop)
    begun = shop.json("rebuild", "board", "--app", "shop:app", "--background", "--yes")
    assert (begun["state"], begun["version"]) == ("running", 2)
    assert f"board@rebuild-{begun['operation']}" in [one["name"] for one in shop.json("status")["subscribers"]]
    shop.drain()
    assert shop.json("rebuilds")["rebuilds"][0]["state"] == "done"
    assert shop.rows() == 2


def test_keep_is_minded_also_when_the_rebuild_runs_already(shop: Shop) -> None:
    shop.orders(1, 2)
    shop.drain()
    second_version(shop)
    shop.json("rebuild", "board", "--app", "shop:app", "--background", "--yes")

    done = shop.cli("rebuild", "board", "--app", "shop:app", "--keep", "--yes")

    assert (done.code, "goes on, and the tables of before are kept" in done.err) == (0, True)
    assert shop.json("rebuild", "board", "--back", "--yes")["to_version"] == 1
    assert shop.rows() == 2


def test_a_rebuild_that_waits_at_a_failure_says_where_and_can_be_cancelled(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    second_version(shop, failing=True)

    waiting = shop.cli("rebuild", "board", "--app", "shop:app", "--yes")
    assert (waiting.code, "It waits at event 1, and the live tables serve on" in waiting.err) == (1, True)
    done = shop.cli("rebuild", "board", "--cancel", "--yes")
    assert (done.code, shop.rows()) == (0, 1)
    assert "cancelled" in done.out
    assert shop.cli("rebuild", "board", "--cancel", "--yes").code == 3


def test_control_c_leaves_a_rebuild_to_be_gone_on_with(sqlite_shop: Shop) -> None:
    """The handler presses it: the event at hand is finished, the live tables serve on, and another start goes on."""
    shop = sqlite_shop
    shop.orders(1, 2, 3)
    shop.drain()
    press = "    os.kill(os.getpid(), signal.SIGINT)\n    ctx.connection.execute"
    text = SHOP.replace("    ctx.connection.execute", press).replace("import os\n", "import os\nimport signal\n")
    shop.module("shop", text)

    stopped = shop.cli("rebuild", "board", "--app", "shop:app", "--yes")

    assert (stopped.code, "is not through; run this again" in stopped.err, shop.rows()) == (130, True, 3)
    assert shop.json("rebuilds")["rebuilds"][0]["state"] == "running"
    shop.module("shop", SHOP)
    assert shop.json("rebuild", "board", "--app", "shop:app", "--yes")["state"] == "done"
    assert shop.rows() == 3


def test_a_dry_run_tells_what_there_is_and_changes_nothing(sqlite_shop: Shop) -> None:
    shop, app = sqlite_shop, ("--app", "shop:app")
    shop.orders(1)
    shop.drain()
    for what in ("--cancel", "--drop-kept"):
        assert shop.cli("rebuild", "board", what, "--dry-run").code == 3
    plan = shop.json("rebuild", "board", *app, "--dry-run")
    assert (plan["version"], plan["dry_run"], shop.json("rebuilds")) == (1, True, {"rebuilds": []})
    shop.json("rebuild", "board", *app, "--background", "--yes")
    assert shop.json("rebuild", "board", "--cancel", "--dry-run")["state"] == "running"
    shop.cli("rebuild", "board", "--cancel", "--yes")
    shop.json("rebuild", "board", *app, "--keep", "--yes")
    kept = shop.json("rebuild", "board", "--drop-kept", "--dry-run")
    assert shop.json("rebuild", "board", "--drop-kept", "--yes")["dropped"] == kept["dropped"]


def test_in_place_the_tables_are_emptied_and_take_the_columns_of_today(shop: Shop) -> None:
    shop.orders(1, 2)
    shop.drain()
    text = SHOP.replace('Column("number", Integer))', 'Column("number", Integer), Column("more", Integer))')
    shop.module("shop", text)
    refused = shop.cli("register", "--app", "shop:app")
    assert (refused.code, "version=2" in refused.err) == (2, True)

    plan = shop.json("rebuild", "board", "--app", "shop:app", "--in-place", "--dry-run")
    assert (plan["emptied"], plan["events"], shop.rows()) == (["shop_totals"], 2, 2)
    shop.json("rebuild", "board", "--app", "shop:app", "--in-place", "--yes")
    assert shop.rows() == 0
    shop.drain()
    assert shop.rows() == 2


def test_what_is_no_rebuild_is_refused(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(1)
    sqlite_shop.drain()
    for words, code in (
        (("rebuild", "mail", "--app", "shop:app", "--yes"), 2),
        (("rebuild", "bord", "--app", "shop:app", "--yes"), 3),
        (("rebuild", "board", "--yes"), 2),
        (("rebuild", "board", "--in-place", "--keep", "--app", "shop:app"), 2),
        (("rebuild", "board", "--app", "shop:app"), 2),
        (("rebuild", "board", "--drop-kept", "--yes"), 3),
    ):
        assert sqlite_shop.cli(*words).code == code, words
    assert "Nothing has been rebuilt" in sqlite_shop.cli("rebuilds").err


def test_a_terminal_shows_how_far_it_is_and_asks_first(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(*range(1, 30))
    sqlite_shop.drain()
    ran = on_terminal(
        "rebuild", "board", "--app", "shop:app", cwd=sqlite_shop.folder, asked="Rebuild board?", answer=b"y\n"
    )
    assert ran.code == 0, ran.out
    assert "board is made anew, and in use at version 1" in ran.out


@pytest.fixture
def elsewhere(sqlite_shop: Shop, tmp_path: Path) -> Shop:
    """The shop whose board is in a database of its own."""
    url = f"sqlite:///{tmp_path / 'board.db'}"
    sqlite_shop.module("shop", SHOP.replace("tables=[totals])", f'tables=[totals], database="{url}")'))
    sqlite_shop.orders(1, 2)
    sqlite_shop.drain()
    return sqlite_shop


def test_a_projection_elsewhere_is_reached_through_the_app_and_not_without(elsewhere: Shop, tmp_path: Path) -> None:
    app = ("--app", "shop:app")
    assert [one["name"] for one in elsewhere.json("status")["subscribers"]] == ["mail"]
    board = next(one for one in elsewhere.json("status", *app)["subscribers"] if one["name"] == "board")
    assert (board["checkpoint"], board["lag"]) == (2, 0)
    unknown = elsewhere.cli("rewind", "board", "--to-start", "--yes")
    assert (unknown.code, "--app" in unknown.err) == (3, True)
    by_url = elsewhere.cli("rewind", "board", "--to-start", "--yes", "--url", f"sqlite:///{tmp_path / 'board.db'}")
    assert (by_url.code, "follows the log" in by_url.err) == (2, True)
    moved = elsewhere.json("rewind", "board", "--to-start", "--yes", *app)
    assert (moved["to"], moved["events"]) == (0, 2)
    assert elsewhere.json("pause", "board", *app)["changed"]
    assert elsewhere.json("resume", "board", *app)["changed"]
    assert elsewhere.drain()["subscribers"]["board"]["handled"] == 2

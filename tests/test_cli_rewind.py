"""`rewind` and `undo`, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from tests.cli_support import Shop
from tests.log_support import opened


def test_from_names_the_event_that_is_delivered_next(shop: Shop) -> None:
    positions = shop.orders(1, 1, 1)
    shop.drain()
    done = shop.json("rewind", "mail", "--from", positions[1], "--resend", "--yes")
    promised = {"subscriber", "from", "to", "next_event", "events", "already_handled", "dry_run", "undo"}
    assert promised <= set(done)
    assert (done["from"], done["to"], done["next_event"]) == (positions[2], positions[1] - 1, positions[1])
    assert (done["events"], done["already_handled"], done["dry_run"]) == (2, 2, False)
    assert shop.drain()["subscribers"]["mail"]["handled"] == 2


def test_the_plan_tells_what_comes_again(shop: Shop) -> None:
    positions = shop.orders(1, -1)
    shop.drain()
    plan = shop.json("rewind", "mail", "--to-start", "--dry-run")
    assert (plan["by_type"], plan["superseded"]) == ({"clishop.placed": 2}, 1)
    ran = shop.cli("rewind", "mail", "--to-start", "--dry-run")
    assert f"mail: checkpoint {positions[-1]} -> 0, next event {positions[0]}" in ran.out
    assert "2 events will be delivered, 1 of them handled before" in ran.out
    assert "1 open failure superseded" in ran.out


def test_a_dry_run_changes_nothing(sqlite_shop: Shop) -> None:
    positions = sqlite_shop.orders(1)
    sqlite_shop.drain()
    assert sqlite_shop.json("rewind", "mail", "--to-start", "--resend", "--yes", "--dry-run")["dry_run"] is True
    assert sqlite_shop.checkpoint("mail") == positions[-1]


def test_without_a_terminal_consent_is_a_flag(sqlite_shop: Shop) -> None:
    positions = sqlite_shop.orders(1)
    sqlite_shop.drain()
    ran = sqlite_shop.cli("rewind", "mail", "--to-start", "--resend", "-o", "json")
    assert (ran.code, ran.out, ran.error["code"]) == (2, "", "refused")
    assert "--yes" in ran.error["remedy"]
    assert sqlite_shop.checkpoint("mail") == positions[-1]


def test_effects_that_happened_want_resend_as_well(shop: Shop) -> None:
    positions = shop.orders(1)
    shop.drain()
    ran = shop.cli("rewind", "mail", "--to-start", "--yes", "-o", "json")
    assert (ran.code, "--resend" in ran.error["remedy"]) == (2, True)
    assert shop.checkpoint("mail") == positions[-1]


@pytest.mark.parametrize("places", [(), ("--to-start", "--from", "1"), ("--from", "1", "--since", "2h")])
def test_a_rewind_goes_to_exactly_one_place(shop: Shop, places: tuple[str, ...]) -> None:
    assert shop.cli("rewind", "mail", *places, "-o", "json").error["message"] == "a rewind wants one place to go to"


def test_a_rewind_never_goes_forward(sqlite_shop: Shop) -> None:
    positions = sqlite_shop.orders(1)
    sqlite_shop.drain()
    ran = sqlite_shop.cli("rewind", "mail", "--from", positions[-1] + 1, "--yes", "--resend", "-o", "json")
    assert (ran.code, "never passes anything over" in ran.error["message"]) == (2, True)


def test_since_goes_to_the_first_event_recorded_at_that_time(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    with opened(shop.url) as log:
        recorded = next(iter(log.read())).recorded_at
    for time in ("1h", (recorded - timedelta(hours=1)).isoformat(), recorded.astimezone(UTC).isoformat()):
        assert shop.json("rewind", "mail", "--since", time, "--dry-run")["to"] == 0
    assert shop.cli("rewind", "mail", "--since", (recorded + timedelta(hours=1)).isoformat(), "--dry-run").code == 2


def test_a_time_without_an_offset_is_local_and_said_in_utc(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(1)
    sqlite_shop.drain()
    local = datetime.now(UTC).astimezone() - timedelta(days=1)
    ran = sqlite_shop.cli("rewind", "mail", "--since", local.replace(tzinfo=None).isoformat(), "--dry-run")
    assert f"Since {local.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" in ran.err


def test_a_projection_at_its_start_has_empty_tables(shop: Shop) -> None:
    shop.orders(1, 1)
    shop.drain()
    done = shop.json("rewind", "board", "--to-start", "--yes")
    assert (done["emptied"], done["undo"]) == (["shop_totals"], None)
    assert shop.rows() == 0
    shop.drain()
    assert shop.rows() == 2


def test_a_rewind_that_emptied_tables_cannot_be_undone_and_says_so(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    done = shop.json("rewind", "board", "--to-start", "--yes")
    for which in ("board", done["operation"]):
        ran = shop.cli("undo", which, "--yes", "-o", "json")
        assert (ran.code, "emptied its tables, and cannot be undone" in ran.error["message"]) == (2, True)


def test_a_rewind_that_wants_consent_says_what_shows_the_events(shop: Shop) -> None:
    shop.orders(1, 1)
    shop.drain()
    remedy = shop.cli("rewind", "mail", "--from", 2, "--yes", "-o", "json").error["remedy"]
    assert (
        "--dry-run shows how many events of which types come again, and `eventlog read --from 2` the events" in remedy
    )


def test_the_plan_of_a_rebuild_names_the_tables_and_leaves_them(shop: Shop) -> None:
    shop.orders(1)
    shop.drain()
    assert "shop_totals" in shop.cli("rewind", "board", "--to-start", "--dry-run").out
    assert shop.rows() == 1


def test_a_projection_is_not_applied_twice_by_accident(shop: Shop) -> None:
    position = shop.orders(1)[0]
    shop.drain()
    ran = shop.cli("rewind", "board", "--from", position, "--yes", "-o", "json")
    assert (ran.code, "--to-start" in ran.error["remedy"]) == (2, True)


def test_undo_takes_a_rewind_back(shop: Shop) -> None:
    positions = shop.orders(1, -1)
    shop.drain()
    done = shop.json("rewind", "mail", "--to-start", "--resend", "--yes")
    assert shop.checkpoint("mail") == 0
    assert shop.cli(*done["undo"].split()[1:]).code == 2
    back = shop.json(*done["undo"].split()[1:], "--yes")
    assert (back["from"], back["to"]) == (0, positions[-1])
    assert shop.status("mail")["failures"] == {"parked": 1}
    assert shop.cli(*done["undo"].split()[1:], "--yes").code == 2


def test_a_rewind_prints_both_ends_and_the_way_back(shop: Shop) -> None:
    first, last = shop.orders(1, 1)
    shop.drain()
    ran = shop.cli("rewind", "mail", "--from", first, "--resend", "--yes", "--reason", "lost")
    assert f"mail: checkpoint {last} -> {first - 1}, next event {first}" in ran.out
    assert "undo: eventlog undo" in ran.out

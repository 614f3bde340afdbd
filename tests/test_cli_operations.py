"""`operations`: what was done to subscribers, by whom, why, and how it is taken back."""

import re

from tests.cli_support import Shop


def test_what_was_done_is_listed_with_who_and_why_and_its_undo(shop: Shop) -> None:
    shop.cli("register", "--app", "shop:app")
    shop.json("append", "clishop.placed", "-s", "clishop-1", "-d", "number:=1")
    shop.cli("run", "--drain", "--app", "shop:app")
    shop.cli("rewind", "mail", "--to-start", "--reason", "the template was wrong", "--yes", "--resend")
    shop.cli("pause", "mail", "--reason", "until noon")

    listed = shop.json("operations", "mail")["operations"]
    paused, rewound = listed[:2]
    assert (paused["action"], paused["reason"], paused["undo"]) == (
        "pause",
        "until noon",
        "eventlog resume mail",
    )
    assert (rewound["action"], rewound["reason"]) == ("rewind", "the template was wrong")
    assert rewound["undo"] == f"eventlog undo {rewound['operation']}"
    assert (rewound["before"] != rewound["after"], "@" in rewound["actor"]) == (True, True)
    assert [one["operation"] for one in listed] == sorted((one["operation"] for one in listed), reverse=True)

    out = shop.cli("operations", "-n", "1").out
    assert re.search(r"mail +pause .*until noon", out)
    assert "rewind" not in out
    assert shop.cli(*rewound["undo"].split()[1:], "--yes").code == 0


def test_what_was_done_to_one_that_is_removed_is_kept(shop: Shop) -> None:
    shop.cli("register", "--app", "shop:app")
    shop.cli("remove", "mail", "--reason", "not wanted", "--yes")

    assert shop.json("operations", "mail")["operations"][0]["action"] == "remove"


def test_nobody_and_nothing_are_told(shop: Shop) -> None:
    refused = shop.cli("operations", "male", "-o", "json")
    nothing = shop.cli("operations")

    assert (refused.code, refused.error["code"]) == (3, "unknown_subscriber")
    assert (nothing.code, nothing.out, nothing.err) == (0, "", "Nothing has been done yet.\n")

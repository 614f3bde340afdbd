"""What `read` can be narrowed down to from the command line, and conditions of `append`, on both databases."""

from datetime import UTC, datetime, timedelta

import pytest

from eventlog.clock import utc_now
from eventlog.events import Event
from tests.cli_support import Shop, on_terminal
from tests.log_support import opened, wait_until


def said(shop: Shop, *options: str | int) -> list[str]:
    """What the notes say that `read` prints with these options."""
    return [event["data"]["said"] for event in shop.cli("read", "-o", "jsonl", *options).lines]


def take(shop: Shop, words: str, *options: str) -> int:
    """Append a note from the command line and return its position."""
    position: int = shop.json("append", "note.taken", "-s", "note-1", "-d", f"said={words}", *options)["events"][0][
        "position"
    ]
    return position


def test_tags_of_an_append_are_what_read_finds_it_by(shop: Shop) -> None:
    take(shop, "both", "--tag", "desk:7", "--tag", "by:ada")
    take(shop, "one", "--tag", "desk:7")
    take(shop, "none")
    assert said(shop, "--tag", "desk:7") == ["both", "one"]
    assert said(shop, "--tag", "desk:7", "--tag", "by:ada") == ["both"]


def test_a_prefix_narrows_down_to_streams_whose_name_begins_so(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(*(Event({"said": one}, type="note.taken", stream=one) for one in ("desk-1", "desk-2", "door-1")))
    assert said(shop, "--stream-prefix", "desk-") == ["desk-1", "desk-2"]


def test_backwards_begins_with_the_last(shop: Shop) -> None:
    for words in ("first", "second", "third"):
        take(shop, words)
    assert said(shop, "--backwards", "--limit", 2) == ["third", "second"]


def test_times_narrow_down_by_when_an_event_was_recorded(shop: Shop) -> None:
    with opened(shop.url) as log:
        first = log.append(Event({"said": "a"}, type="note.taken", stream="a"))[0]
        wait_until(lambda: utc_now() > first.recorded_at + timedelta(milliseconds=1), what="the clock to go on")
        second = log.append(Event({"said": "b"}, type="note.taken", stream="b"))[0]
    between = second.recorded_at.isoformat()
    assert first.recorded_at < second.recorded_at
    assert (said(shop, "--since", between), said(shop, "--before", between)) == (["b"], ["a"])
    assert (said(shop, "--since", "1h"), said(shop, "--before", "1h")) == (["a", "b"], [])


def test_a_time_that_is_none_is_refused(shop: Shop) -> None:
    assert shop.cli("read", "--since", "yesterday").code == 2


def test_a_seat_is_taken_once(shop: Shop) -> None:
    seat = ("--tag", "seat:7", "--unless-tag", "seat:7")
    take(shop, "taken", *seat)
    ran = shop.cli("append", "note.taken", "-s", "note-2", *seat, "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "append_condition")
    assert said(shop) == ["taken"]


def test_a_condition_holds_after_what_has_been_looked_at(shop: Shop) -> None:
    seen = take(shop, "first", "--tag", "seat:7")
    condition = ("--unless-tag", "seat:7", "--unless-after", str(seen), "--unless-type", "note.*")
    take(shop, "second", "--tag", "seat:7", *condition)
    assert shop.cli("append", "note.taken", "-s", "note-1", *condition).code == 1


@pytest.mark.parametrize("alone", [("--unless-type", "note.*"), ("--unless-after", "0")])
def test_a_condition_without_a_tag_is_refused(shop: Shop, alone: tuple[str, str]) -> None:
    ran = shop.cli("append", "note.taken", "-s", "note-1", *alone)
    assert (ran.code, "--unless-tag" in ran.err, said(shop)) == (2, True, [])


def test_a_time_without_an_offset_is_local(shop: Shop) -> None:
    take(shop, "now")
    later = datetime.now(UTC).astimezone().replace(tzinfo=None, microsecond=0).isoformat()
    assert said(shop, "--before", later.replace(later[:4], "2000", 1)) == []
    assert said(shop, "--since", later.replace(later[:4], "2000", 1)) == ["now"]


def test_a_later_event_with_a_longer_name_keeps_its_columns_apart(sqlite_shop: Shop) -> None:
    """The first 200 events decide how wide the columns are; this is the one after them."""
    name = "a-stream-of-a-much-longer-name"
    with opened(sqlite_shop.url) as log:
        log.append(*(Event({}, type="note.taken", stream="s") for _ in range(200)))
        log.append(Event({}, type="note.retaken", stream=name))
    *_, last = on_terminal("read", cwd=sqlite_shop.folder, columns=140).out.splitlines()
    assert last.split()[2:] == [name, "note.retaken", "{}"]

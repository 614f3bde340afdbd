"""`streams`, `stats`, and reads by what stands in the data; on both databases."""

from pathlib import Path

import pytest

from eventlog import counting, sqlite_tables
from eventlog.data_fields import check_where, hold
from eventlog.events import Event
from tests.cli_support import Shop
from tests.log_support import note, opened


def test_streams_are_listed_with_the_newest_first(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(note("1", stream="order-1"), note("2", stream="order-2"), note("3", stream="desk"))
        log.append(note("4", stream="order-1"))
    found = shop.json("streams")
    assert [(one["stream"], one["version"], one["first"], one["last"]) for one in found["streams"]] == [
        ("order-1", 2, 1, 4),
        ("desk", 1, 3, 3),
        ("order-2", 1, 2, 2),
    ]
    assert (found["more"], found["complete"], found["looked_through"]) == (False, True, 100_000)
    assert [one["stream"] for one in shop.json("streams", "--prefix", "order-")["streams"]] == ["order-1", "order-2"]
    ran = shop.cli("streams", "--limit", 1, "--look-through", 3, "-o", "jsonl")
    assert [one["stream"] for one in ran.lines] == ["order-1"]
    assert "There are more than 1;" in ran.err
    assert "The last 3 events were looked through, and there are more" in ran.err


def test_streams_of_an_empty_log_are_none(sqlite_shop: Shop) -> None:
    assert (sqlite_shop.cli("streams").err, sqlite_shop.json("streams")["streams"]) == ("No streams.\n", [])


def test_stats_are_the_log_in_figures(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(note("1", stream="a"), note("2", stream="b"), Event({}, type="x.y", stream="a"))
    found = shop.json("stats")
    assert (found["events"], found["streams"], found["types"]) == (3, 2, 2)
    assert (found["events_exact"], found["streams_exact"], found["types_exact"]) == (True, True, True)
    assert found["growth"] == {
        "events_last_day": 3,
        "events_per_day": 3,
        "bytes_per_day": 3 * found["bytes_per_event"],
        "exact": True,
    }
    assert (found["size_exact"], found["size_bytes"]) == (True, sum(one["bytes"] for one in found["relations"]))
    assert 0 < found["size_bytes"] <= found["database_bytes"]
    assert {"events", "failures"} <= {one["name"] for one in found["relations"] if one["kind"] == "table"}
    assert len([one for one in found["relations"] if (one["of"], one["kind"]) == ("events", "index")]) >= 2
    assert "events        3, up to position 3" in shop.cli("stats").out


def test_what_is_estimated_is_marked(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    sqlite_shop.orders(*[1] * 20)
    monkeypatch.setattr(counting, "EXACT_MAX", 5)
    monkeypatch.setattr(sqlite_tables, "SIZED_BYTES_MAX", 0)
    found = sqlite_shop.json("stats")
    assert (found["events_exact"], found["size_exact"], found["growth"]["exact"]) == (False, False, False)
    assert found["size_bytes"] == found["database_bytes"]
    ran = sqlite_shop.cli("stats")
    assert "events        about " in ran.out
    assert "types         at least 1" in ran.out
    assert "Tables are not told apart in a file of this size" in ran.err


def test_reads_are_narrowed_by_what_stands_in_the_data(shop: Shop) -> None:
    with opened(shop.url) as log:
        for customer, total in (("ada", 19.5), ("bob", 3), ("ada", 3)):
            log.append(Event({"customer": {"name": customer}, "total": total}, type="order.placed", stream="o"))

    def at(*options: str | int) -> list[int]:
        return [one["position"] for one in shop.cli("read", "-o", "jsonl", *options).lines]

    ada = ("--where", "customer.name=ada")
    assert (at(*ada), at(*ada, "--where", "total:=3.0"), at("--where", "total=3")) == ([1, 3], [3], [])
    assert at(*ada, "--limit", 1, "--backwards") == [3]
    assert at(*ada, "--type", "order.*", "--after", 1) == [3]
    assert shop.cli("read", "--where", "customer").code == 2
    assert shop.cli("read", "--where", "a..b=c").code == 2


@pytest.mark.parametrize(
    ("path", "value", "data", "holds"),
    [
        ("a", 1, '{"a": 1.0}', True),
        ("a", True, '{"a": 1}', False),
        ("a", None, '{"a": null}', True),
        ("a", None, "{}", False),
        ("a.1.b", "x", '{"a": [0, {"b": "x"}]}', True),
        ("a.2", "x", '{"a": [0]}', False),
        ("a", [1, {"b": 2}], '{"a": [1.0, {"b": 2}]}', True),
        ("a", "é", '{"a": "\\u00e9"}', True),
        ("a", "x", '{"b": "x"}', False),
        ("a", "x", '"x"', False),
        ("a", "x", '{"a": "x", "b": 1e999, "c": "\\ud800"}', True),
        ("a", "x", "{", False),
    ],
)
def test_a_field_is_found_by_its_path_and_its_value(path: str, value: object, data: str, holds: bool) -> None:
    assert hold(check_where({path: value}), data) is holds


def test_a_log_is_read_by_its_data_from_python(sqlite_url: str, tmp_path: Path) -> None:
    with opened(sqlite_url) as log:
        log.append(note("yes"), note("no"), note("yes"))
        assert [one.position for one in log.read(where={"said": "yes"}, limit=2)] == [1, 3]

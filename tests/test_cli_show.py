"""`show`: one event in full, with its neighbours and its failures, on both databases."""

from typing import Any
from uuid import uuid4

from sqlalchemy import text

from eventlog.events import Event, Recorded, caused_by
from eventlog.lineage import NAMED_MAX, lineage
from eventlog.log import EventLog
from tests.cli_support import Shop, on_terminal
from tests.log_support import as_other_code, note, opened


def follow_up(log: EventLog, cause: Recorded[Any], words: str, *, stream: str = "note-2") -> Recorded[Any]:
    (event,) = log.append(note(words, stream=stream), metadata=caused_by(cause))
    return event


def at(places: Any) -> list[int]:
    return [place["position"] for place in places["events"]]


def test_a_position_and_an_id_show_the_same_event(shop: Shop) -> None:
    with opened(shop.url) as log:
        (recorded,) = log.append(Event({"said": "hé"}, type="note.taken", stream="note-1", tags=["desk:7"]))
    by_position, by_id = shop.json("show", recorded.position), shop.json("show", str(recorded.id))
    assert by_position == by_id
    (read,) = shop.cli("read", "-o", "jsonl").lines
    assert by_position["event"] == read


def test_an_event_is_shown_with_its_cause_its_effects_and_its_correlation(shop: Shop) -> None:
    with opened(shop.url) as log:
        (first,) = log.append(note("first"))
        log.append(note("unrelated"))
        middle = follow_up(log, first, "middle")
        last, sibling = follow_up(log, middle, "last"), follow_up(log, first, "sibling")
    shown = shop.json("show", middle.position)
    assert shown["cause"]["position"] == first.position
    assert at(shown["effects"]) == [last.position]
    assert at(shown["correlated"]) == [first.position, last.position, sibling.position]
    assert shown["complete"]
    begun = shop.json("show", first.position)
    assert (begun["cause"], at(begun["effects"])) == (None, [middle.position, sibling.position])
    assert begun["correlated"]["count"] == 3


def test_a_correlation_of_anybodys_making_is_found_on_both_sides(shop: Shop) -> None:
    request = {"correlation_id": 'request "7" é'}
    with opened(shop.url) as log:
        events = [log.append(note(words), metadata=request)[0] for words in ("a", "b", "c")]
    assert at(shop.json("show", events[1].position)["correlated"]) == [events[0].position, events[2].position]


def test_the_events_beside_it_in_its_stream_are_named(shop: Shop) -> None:
    with opened(shop.url) as log:
        one, _, two, three = log.append(
            note("1"), note("elsewhere", stream="note-2"), note("2"), note("3"),
        )  # fmt: skip
    shown = shop.json("show", two.position)
    assert (shown["previous"]["position"], shown["next"]["position"]) == (one.position, three.position)
    assert shop.json("show", one.position)["previous"] is None
    assert shop.json("show", three.position)["next"] is None


def test_subscribers_that_have_it_in_their_ledger_are_named(shop: Shop) -> None:
    good, bad = shop.orders(1, -1)
    shop.drain()
    (entry,) = shop.json("show", bad)["ledger"]
    assert (entry["subscriber"], entry["state"], entry["attempts"]) == ("mail", "parked", 1)
    assert "ValueError" in shop.cli("show", bad).out
    assert shop.json("show", good)["ledger"] == []


def test_what_is_farther_away_than_was_looked_is_said_to_be_missing(shop: Shop) -> None:
    with opened(shop.url) as log:
        (first,) = log.append(note("first"))
        log.append(note("between"))
        effect = follow_up(log, first, "effect")
    near = shop.json("show", first.position, "--look-through", 1)
    assert (near["effects"]["count"], near["complete"]) == (0, False)
    assert "--look-through" in shop.cli("show", first.position, "--look-through", 1).err
    far = shop.json("show", first.position, "--look-through", 2)
    assert (at(far["effects"]), far["complete"]) == ([effect.position], True)


def test_many_effects_are_counted_and_the_first_of_them_named(shop: Shop) -> None:
    with opened(shop.url) as log:
        (first,) = log.append(note("first"))
        log.append(*(note(str(n), stream=f"note-{n}") for n in range(NAMED_MAX + 5)), metadata=caused_by(first))
        found = lineage(log.database, log.get_stored(first.position))
    assert (found.effects.count, len(found.effects.events)) == (NAMED_MAX + 5, NAMED_MAX)
    assert f"{NAMED_MAX + 5} effects in all" in shop.cli("show", first.position).out


def test_metadata_of_other_programs_is_no_obstacle(shop: Shop) -> None:
    """Neither on the event that is shown, nor on those it looks through."""
    with opened(shop.url) as log:
        (first,) = log.append(note("first"))
        for number, metadata in enumerate(("[]", "7", '{"causation_id": [1]}', r'{"note": "\u0000"}'), start=1):
            _insert(log, metadata, version=number)
        effect = follow_up(log, first, "effect")
        strange = [one for one in log.read_stored() if one.stream == "strange"]
    assert at(shop.json("show", first.position)["effects"]) == [effect.position]
    assert [shop.json("show", one.position)["effects"]["count"] for one in strange] == [0] * 4


def test_a_cause_that_is_not_in_the_log_is_named(sqlite_shop: Shop) -> None:
    cause = str(uuid4())
    with opened(sqlite_shop.url) as log:
        (event,) = log.append(note("imported"), metadata={"causation_id": cause})
    assert f"{cause} is not in this log" in sqlite_shop.cli("show", event.position).out


def test_what_no_class_can_read_is_shown_all_the_same(sqlite_shop: Shop) -> None:
    with opened(sqlite_shop.url) as log, as_other_code():
        (event,) = log.append(Event({"number": "not one"}, type="clishop.placed", stream="clishop-1"))
    sqlite_shop.cli("register", "--app", "shop:app")
    assert '"number": "not one"' in sqlite_shop.cli("show", event.position, "--app", "shop:app").out


def test_what_is_not_there_is_not_found(shop: Shop) -> None:
    for place in ("0", "4711", "99999999999999999999", "0190b5a2-0000-7000-8000-000000000000"):
        ran = shop.cli("show", place, "-o", "json")
        assert (ran.code, ran.error["code"]) == (3, "unknown_event"), place


def test_what_is_no_place_is_refused(sqlite_shop: Shop) -> None:
    for place in ("-1", "order", "", "9" * 5_000):
        assert sqlite_shop.cli("show", place).code == 2, place


def test_it_fits_a_narrow_terminal_but_for_the_event_itself(sqlite_shop: Shop) -> None:
    with opened(sqlite_shop.url) as log:
        (first,) = log.append(note("first", stream="a-stream-of-a-rather-long-name"))
        effect = follow_up(log, first, "effect", stream="another-stream-of-a-rather-long-name")
    ran = on_terminal("show", effect.position, cwd=sqlite_shop.folder, columns=50)
    assert ran.code == 0
    related = ran.out[ran.out.index("related") :].splitlines()
    assert max(len(line) for line in related) <= 50


def _insert(log: EventLog, metadata: str, *, version: int) -> None:
    table = log.database.tables.sql_name("events")
    now = ", strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if log.engine.dialect.name == "sqlite" else ", now()"
    with log.database.transaction() as connection:
        connection.execute(
            text(
                f"insert into {table} (id, stream, version, type, data, metadata, recorded_at)"
                f" values ('{uuid4()}', 'strange', {version}, 'note.taken', '{{}}', :metadata{now})"
            ),
            {"metadata": metadata},
        )

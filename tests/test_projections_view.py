"""Views: rows that pure functions make of events, folded in memory and written in bulk."""

from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import event as sqlalchemy_event
from sqlalchemy import inspect, select

from eventlog.errors import DeclarationError, RefusedError
from eventlog.event_types import event
from eventlog.events import Event, Recorded
from eventlog.projections import View
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.retry import Retry
from tests.log_support import as_other_code
from tests.subscribers_support import Bench, BugError, Lost, Sent


@event("pallet.weighed", stream="pallet-{number}")
class Weighed(msgspec.Struct, frozen=True):
    number: int
    city: str
    kilos: Decimal


@event("pallet.moved", stream="pallet-{number}")
class Moved(msgspec.Struct, frozen=True):
    number: int
    origin: str
    city: str


@event("town.closed", stream="city-{city}")
class Closed(msgspec.Struct, frozen=True):
    city: str


class City(msgspec.Struct, frozen=True):
    city: str
    parcels: int = 0
    kilos: Decimal = Decimal(0)
    last: int | None = None


def cities(**options: Any) -> View[City]:
    """Three types into a row, one of them into two rows, one of them deleting it."""
    view = View("cities", row=City, key="city", **options)

    @view
    def weigh(row: City | None, weighed: Weighed) -> City:
        row = row or City(city=weighed.city)
        return replace(row, parcels=row.parcels + 1, kilos=row.kilos + weighed.kilos, last=weighed.number)

    @view.on(key=lambda moved: [(moved.origin,), moved.city])
    def move(row: City | None, moved: Moved, city: str) -> City | None:
        return row and replace(row, last=moved.number if city == row.city else None)

    @view
    def close(row: City | None, closed: Closed) -> None:
        return None

    return view


def app_with(bench: Bench, view: View[Any]) -> App:
    app = bench.app()
    app.add(view)
    return app


def rows_of(bench: Bench, view: View[Any]) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in bench.rows(select(view.table).order_by(*view.table.primary_key))]


@contextmanager
def statements(app: App) -> Iterator[list[str]]:
    """Note every statement that names the view's table."""
    seen: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if "cities" in statement and "eventlog" not in statement:
            seen.append(statement.split(maxsplit=1)[0])

    sqlalchemy_event.listen(app.engine, "before_cursor_execute", note)
    yield seen
    sqlalchemy_event.remove(app.engine, "before_cursor_execute", note)


def test_events_of_several_types_make_one_row_in_the_order_of_the_log(bench: Bench) -> None:
    view = cities()
    app = app_with(bench, view)
    bench.log.append(
        Weighed(1, "Rom", Decimal("1.50")), Weighed(2, "Rom", Decimal("0.25")), Weighed(3, "Ulm", Decimal(2))
    )
    bench.log.append(Closed("Rom"), Weighed(4, "Rom", Decimal("0.5")))

    assert app.drain().handled == 5
    assert rows_of(bench, view) == [("Rom", 1, Decimal("0.5"), 4), ("Ulm", 1, Decimal(2), 3)]


def test_one_event_touches_several_rows_and_none_makes_no_row(bench: Bench) -> None:
    view = cities()
    bench.log.append(Weighed(1, "Rom", Decimal(1)), Weighed(2, "Ulm", Decimal(1)), Moved(9, "Rom", "Ulm"))
    bench.log.append(Moved(8, "Bonn", "Ulm"))
    app_with(bench, view).drain()

    assert [(row[0], row[3]) for row in rows_of(bench, view)] == [("Rom", 9), ("Ulm", 8)]


def test_a_row_that_is_none_is_deleted_and_may_come_again(bench: Bench) -> None:
    view = cities()
    app = app_with(bench, view)
    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    app.drain()
    bench.log.append(Closed("Rom"))
    app.drain()
    assert rows_of(bench, view) == []
    bench.log.append(Weighed(2, "Rom", Decimal(1)))
    app.drain()
    assert [row[0] for row in rows_of(bench, view)] == ["Rom"]


def test_a_batch_costs_one_select_and_one_upsert(bench: Bench) -> None:
    view = cities()
    app = app_with(bench, view)
    app.register()
    bench.log.append(*(Weighed(n, f"city-{n % 40}", Decimal(n)) for n in range(300)))
    with statements(app) as seen:
        app.drain()

    assert [one for one in seen if one in ("select", "insert", "delete")] == ["select", "insert"]


def test_a_frozen_row_that_stays_the_same_is_not_written(bench: Bench) -> None:
    view = cities()
    app = app_with(bench, view)
    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    app.drain()
    bench.log.append(Moved(1, "Rom", "Ulm"))
    with statements(app) as seen:
        app.drain()

    assert [one for one in seen if one != "PRAGMA"] == ["select"]


def test_a_failing_function_is_called_again_for_its_event_alone_and_not_for_the_whole_batch(bench: Bench) -> None:
    calls: list[int] = []
    view = View("cities", row=City, key="city", retry=Retry(attempts=1))

    @view
    def weigh(row: City | None, weighed: Weighed) -> City:
        calls.append(weighed.number)
        if weighed.number == 50:
            raise BugError
        return City(city=weighed.city)

    bench.log.append(*(Weighed(n, f"city-{n}", Decimal(n)) for n in range(1, 101)))
    app_with(bench, view).drain()

    assert calls == [*range(1, 51), *range(1, 50), 50]
    assert (bench.states("cities"), len(rows_of(bench, view))) == ({50: "parked"}, 49)


def test_an_event_that_cannot_be_decoded_is_found_among_others(bench: Bench) -> None:
    view = cities(retry=Retry(attempts=1))
    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    with as_other_code():
        bench.log.append(Event({"number": 2, "city": 7}, "pallet.weighed", "pallet-2"))
    bench.log.append(Weighed(3, "Rom", Decimal(1)))
    app_with(bench, view).drain()

    assert (bench.states("cities"), rows_of(bench, view)[0][1]) == ({2: "parked"}, 1)


def test_a_key_of_several_fields_finds_its_row(bench: Bench) -> None:
    class Route(msgspec.Struct, frozen=True):
        origin: str
        city: str
        parcels: int = 0

    view = View("routes", row=Route, key=("origin", "city"), indexes=("parcels", ("city", "parcels")))

    @view
    def move(row: Route | None, moved: Moved) -> Route | None:
        row = row or Route(moved.origin, moved.city)
        return None if moved.number == 0 else replace(row, parcels=row.parcels + 1)

    app = app_with(bench, view)
    bench.log.append(Moved(1, "Rom", "Ulm"), Moved(2, "Ulm", "Rom"), Moved(3, "Rom", "Ulm"))
    app.drain()
    assert rows_of(bench, view) == [("Rom", "Ulm", 2), ("Ulm", "Rom", 1)]
    bench.log.append(Moved(0, "Rom", "Ulm"))
    app.drain()
    assert rows_of(bench, view) == [("Ulm", "Rom", 1)]
    found = {one["name"] for one in inspect(app.engine).get_indexes("routes")}
    assert found == {"ix_routes_parcels", "ix_routes_city_parcels"}


def test_functions_may_take_recorded_events_and_data_that_no_class_declares(bench: Bench) -> None:
    class Count(msgspec.Struct, frozen=True):
        type: str
        events: int = 0
        last: int = 0

    view = View("counts", row=Count, key="type")

    @view.on("**", key=lambda recorded: recorded.type)
    def count(row: Count | None, recorded: Recorded) -> Count:  # type: ignore[type-arg]
        row = row or Count(recorded.type)
        return replace(row, events=row.events + 1, last=recorded.position)

    @view.on("odd.*", key="type")
    def odd(row: Count | None, data: dict) -> Count:  # type: ignore[type-arg]
        return Count(data["type"], events=-1)

    bench.log.append(Sent(1), Sent(2), Lost(3))
    bench.log.append(Event({"type": "one of another kind"}, "odd.thing", "odd"))
    app_with(bench, view).drain()

    assert rows_of(bench, view) == [("crate.lost", 1, 3), ("crate.sent", 2, 2), ("one of another kind", -1, 0)]


@pytest.mark.parametrize(
    ("returned", "said"),
    [("text", "returned a str"), (City(city="Bonn"), "returned one whose key is"), ({}, "returned a dict")],
)
def test_what_is_no_row_of_the_key_is_refused_with_both_named(bench: Bench, returned: Any, said: str) -> None:
    view = View("cities", row=City, key="city", retry=Retry(attempts=1))

    @view
    def weigh(row: City | None, weighed: Weighed) -> Any:
        return returned

    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    app_with(bench, view).drain()

    assert said in bench.entries("cities")[0].message


@pytest.mark.parametrize("value", [2**70, "a\x00b", "a\ud800"])
def test_a_value_that_no_database_takes_is_told_with_its_row_and_field(bench: Bench, value: Any) -> None:
    class Odd(msgspec.Struct, frozen=True):
        city: str
        value: int | str

    class Typed(msgspec.Struct, frozen=True):
        city: str
        number: int = 0
        text: str = ""

    view = View("odd", row=Typed, key="city", retry=Retry(attempts=1))

    @view
    def weigh(row: Typed | None, weighed: Weighed) -> Typed:
        return Typed(weighed.city, **{"number" if isinstance(value, int) else "text": value})

    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    app_with(bench, view).drain()

    if bench.postgres or value != "a\x00b":
        assert "the row of city='Rom' cannot be kept" in bench.entries("odd")[0].message


def test_partitions_share_rows_by_their_key_and_an_event_of_two_rows_is_refused(bench: Bench) -> None:
    view = cities(partitions=3, retry=Retry(attempts=1))
    app = app_with(bench, view)
    bench.log.append(*(Weighed(n, f"city-{n % 7}", Decimal(1)) for n in range(70)))
    app.drain()
    assert [row[1] for row in rows_of(bench, view)] == [10] * 7
    bench.log.append(Moved(1, "city-1", "city-2"))
    app.drain()
    assert "two workers would write one" in bench.entries("cities")[0].message


def test_events_of_a_row_are_of_one_partition_whatever_their_streams(bench: Bench) -> None:
    view = cities(partitions=3)
    bench.log.append(*(Weighed(n, f"city-{n % 4}", Decimal(1)) for n in range(12)))
    bench.log.append(Moved(7, "Rom", "Ulm"))

    keys = [view.subscriber.key.of(FeedItem(stored)) for stored in bench.log.read_stored()]

    assert keys == [*(f"city-{n % 4}" for n in range(12)), "pallet-7"]


@pytest.mark.parametrize("key", ["a\x00b", "\ud800"])
def test_a_key_that_no_database_takes_is_its_events_failure_and_not_the_workers(bench: Bench, key: str) -> None:
    view = View("cities", row=City, key="city", retry=Retry(attempts=1))

    @view.on(key=lambda weighed: key)
    def weigh(row: City | None, weighed: Weighed) -> City:
        return City(key)

    bench.log.append(Weighed(1, "Rom", Decimal(1)))
    done = app_with(bench, view).drain()

    keeps = key == "a\x00b" and not bench.postgres
    assert (done.handled, bench.states("cities")) == ((1, {}) if keeps else (0, {1: "parked"}))


def test_a_view_is_rewound_to_its_start_and_comes_out_the_same(bench: Bench) -> None:
    view = cities()
    app = app_with(bench, view)
    bench.log.append(*(Weighed(n, f"city-{n % 3}", Decimal(n)) for n in range(10)))
    app.drain()
    before = rows_of(bench, view)
    with pytest.raises(RefusedError):
        control.rewind(bench.log.database, "cities", control.after_position(5))
    from eventlog.projections.rebuild import rebuild_in_place

    rebuild_in_place(bench.log.database, "cities")
    assert rows_of(bench, view) == []
    app.drain()
    assert rows_of(bench, view) == before


def test_a_row_that_has_another_field_asks_for_a_version_and_is_made_anew_beside(bench: Bench) -> None:
    class Later(msgspec.Struct, frozen=True):
        city: str
        parcels: int = 0

    bench.log.append(*(Weighed(n, f"city-{n % 3}", Decimal(n)) for n in range(9)))
    app_with(bench, cities()).drain()

    def later(version: int) -> View[Later]:
        view = View("cities", row=Later, key="city", version=version, indexes=["parcels"])

        @view
        def weigh(row: Later | None, weighed: Weighed) -> Later:
            return Later(weighed.city, parcels=(row.parcels if row else 0) + 1)

        return view

    with pytest.raises(RefusedError, match="cities without kilos"):
        app_with(bench, later(1)).register()
    view = later(2)
    app_with(bench, view).drain()
    assert rows_of(bench, view) == [("city-0", 3), ("city-1", 3), ("city-2", 3)]
    assert read_rebuilds(bench.log.database)[0].state is RebuildState.DONE


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"key": "town"}, "no field 'town'"),
        ({"key": "kilos"}, "cannot be a key"),
        ({"key": "last"}, "cannot be a key"),
        ({"key": ()}, "wants a key"),
        ({"key": "city", "indexes": ["town"]}, "no field 'town'"),
        ({"key": "city", "table": "kilos"}, "column of the same name"),
        ({"key": lambda weighed: weighed.city}, "key=.* names no fields"),
        ({"key": None}, "key=None names no fields"),
        ({"key": ["city", 1]}, "names no fields"),
        ({"key": "city", "indexes": "kilos"}, "indexes='kilos' is no list"),
        ({"key": "city", "indexes": [None]}, "names no fields"),
    ],
)
def test_a_view_that_cannot_work_is_refused_when_it_is_declared(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=said):
        View("cities", row=City, **options)


def test_functions_that_cannot_be_called_as_evolve_are_refused() -> None:
    view = View("cities", row=City, key="city")

    async def waits(row: City | None, weighed: Weighed) -> None: ...
    def alone(weighed: Weighed) -> None: ...
    def keyless(row: City | None, sent: Sent) -> None: ...
    def unknown(row: City | None, other: int) -> None: ...

    for function, said in (
        (waits, "evolve"),
        (alone, "evolve"),
        (keyless, "no field city"),
        (unknown, "does not say which events"),
    ):
        with pytest.raises(DeclarationError, match=said):
            view(function)


WEIGHTS = st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.decimals("-9.99", "9.99", places=2))
HISTORIES = st.lists(
    st.one_of(
        WEIGHTS.map(lambda one: Weighed(*one)),
        st.tuples(st.integers(1, 5), st.sampled_from("abc"), st.sampled_from("abc")).map(lambda one: Moved(*one)),
        st.sampled_from("abc").map(Closed),
    ),
    max_size=12,
)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(histories=st.lists(HISTORIES, min_size=1, max_size=3))
def test_a_view_is_what_folding_all_of_its_events_in_memory_gives(bench: Bench, histories: list[list[Any]]) -> None:
    """Each history is one drain; the rows of a plain dictionary are what the table has to hold."""
    view = cities()
    app = bench.app()
    rows: dict[str, City | None] = {row[0]: City(*row) for row in stored(bench, view)}
    app.add(view)
    for events in histories:
        if events:
            bench.log.append(*events)
        app.drain()
        for one in events:
            for key in dict.fromkeys([one.origin, one.city] if isinstance(one, Moved) else [one.city]):
                rows[key] = view._evolver(type_of(one)).evolve(rows.get(key), one, (key,))

    expected = sorted(msgspec.structs.astuple(row) for row in rows.values() if row is not None)
    assert stored(bench, view) == expected
    app.engine.dispose()


def stored(bench: Bench, view: View[Any]) -> list[tuple[Any, ...]]:
    return rows_of(bench, view) if inspect(bench.log.engine).has_table("cities") else []


def type_of(one: Any) -> str:
    names: dict[Any, str] = {Weighed: "pallet.weighed", Moved: "pallet.moved", Closed: "town.closed"}
    return names[type(one)]

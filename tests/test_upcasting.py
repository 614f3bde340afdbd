"""Upcasters: older versions are brought to the declared one step by step, and what cannot be is said clearly."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from eventlog.errors import DeclarationError, UndecodableEventError
from eventlog.event_types import check_declarations, declaration_problems, event
from eventlog.events import Event, JsonObject
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.upcasting import upcast
from tests.log_support import everything

pytestmark = pytest.mark.usefixtures("own_declarations")


def declare_parcel() -> type[msgspec.Struct]:
    """A type at version 3: the weight was in kilograms first, then in grams, and the depot was added last."""

    @event("parcel.weighed", version=3)
    class ParcelWeighed(msgspec.Struct, frozen=True):
        grams: int
        depot: str

    return ParcelWeighed


def in_grams(data: JsonObject) -> JsonObject:
    return {"grams": round(data["kilograms"] * 1000)}


def with_depot(data: JsonObject) -> JsonObject:
    data["depot"] = "unknown"
    return data


def stored(log: EventLog, data: Any, *, version: int, name: str = "parcel.weighed") -> int:
    """Append data as an earlier release of the code did; return its position."""
    return log.append(Event(data, type=name, stream="parcel-1", type_version=version))[0].position


def test_each_version_is_brought_to_the_declared_one_step_by_step(log: EventLog) -> None:
    parcel: Any = declare_parcel()
    upcast("parcel.weighed", version=1)(in_grams)
    upcast("parcel.weighed", version=2)(with_depot)
    stored(log, {"kilograms": 1.5}, version=1)
    stored(log, {"grams": 7}, version=2)
    log.append(parcel(8, "JFK"), stream="parcel-1")

    assert [(one.type_version, one.data) for one in log.read()] == [
        (1, parcel(1500, "unknown")),
        (2, parcel(7, "unknown")),
        (3, parcel(8, "JFK")),
    ]


def test_what_is_stored_is_not_changed_by_reading_it(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(with_depot)
    stored(log, {"grams": 7}, version=2)

    everything(log)

    (kept,) = log.read_stored(after=0, until=None, types=(), stream=None, limit=None)
    assert (kept.data, kept.type_version) == ('{"grams":7}', 2)


def test_data_of_the_declared_version_goes_through_no_upcaster(log: EventLog) -> None:
    parcel: Any = declare_parcel()
    seen: list[JsonObject] = []

    @upcast("parcel.weighed", version=2)
    def note(data: JsonObject) -> JsonObject:
        seen.append(data)
        return data

    log.append(parcel(8, "JFK"), stream="parcel-1")

    assert everything(log)[0].data == parcel(8, "JFK")
    assert seen == []


def test_steps_may_be_declared_before_the_class(log: EventLog) -> None:
    upcast("parcel.weighed", version=2)(with_depot)
    upcast("parcel.weighed", version=1)(in_grams)
    parcel: Any = declare_parcel()
    stored(log, {"kilograms": 1.5}, version=1)

    assert everything(log)[0].data == parcel(1500, "unknown")


def test_an_upcaster_is_returned_as_it_was() -> None:
    assert upcast("parcel.weighed", version=1)(in_grams) is in_grams


def test_a_step_may_return_what_the_class_holds(log: EventLog) -> None:
    """A datetime is easier to make than its text."""

    @event("parcel.scanned", version=2)
    class ParcelScanned(msgspec.Struct, frozen=True):
        at: datetime

    @upcast("parcel.scanned", version=1)
    def as_moment(data: JsonObject) -> JsonObject:
        return {"at": datetime.fromtimestamp(data["seconds"], UTC)}

    stored(log, {"seconds": 86_400}, version=1, name="parcel.scanned")

    assert everything(log)[0].data == ParcelScanned(datetime(1970, 1, 2, tzinfo=UTC))


def test_numbers_pass_a_step_whole(log: EventLog) -> None:
    @event("parcel.counted", version=2)
    class ParcelCounted(msgspec.Struct, frozen=True):
        count: int
        ratio: float

    upcast("parcel.counted", version=1)(lambda data: data)
    stored(log, {"count": 2**63 - 1, "ratio": 0.1}, version=1, name="parcel.counted")

    assert everything(log)[0].data == ParcelCounted(2**63 - 1, 0.1)


def test_without_upcasters_an_older_version_is_read_as_far_as_the_class_accepts_it(log: EventLog) -> None:
    parcel: Any = declare_parcel()
    stored(log, {"grams": 7, "depot": "EWR"}, version=1)

    assert everything(log)[0].data == parcel(7, "EWR")


@pytest.mark.parametrize(("declared_steps", "missing"), [((1,), "2 to 3"), ((2,), "1 to 2")])
def test_a_version_whose_chain_has_a_gap_is_not_guessed_at(
    log: EventLog, declared_steps: tuple[int, ...], missing: str
) -> None:
    declare_parcel()
    for version in declared_steps:
        upcast("parcel.weighed", version=version)(with_depot)
    stored(log, {"grams": 7, "depot": "EWR"}, version=1)

    with pytest.raises(UndecodableEventError, match=f"event 1.*no upcaster from version {missing}") as refused:
        everything(log)

    assert "@upcast('parcel.weighed', version=" in refused.value.remedy


def test_an_upcaster_that_raises_makes_the_event_unreadable(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=1)(in_grams)
    upcast("parcel.weighed", version=2)(with_depot)
    position = stored(log, {"stones": 2}, version=1)

    with pytest.raises(
        UndecodableEventError, match=rf"event {position} .*in_grams from version 1 raised KeyError: 'kilograms'"
    ) as refused:
        everything(log)

    assert "upcaster" in refused.value.remedy


@pytest.mark.parametrize("made", [None, [], "text", 7])
def test_an_upcaster_that_returns_no_dict_makes_the_event_unreadable(log: EventLog, made: Any) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(lambda _data: made)
    stored(log, {"grams": 7}, version=2)

    with pytest.raises(UndecodableEventError, match=r"event 1 .*from version 2 returned"):
        everything(log)


def test_an_upcaster_that_makes_what_the_class_refuses_makes_the_event_unreadable(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(lambda data: data | {"depot": None})
    stored(log, {"grams": 7}, version=2)

    with pytest.raises(UndecodableEventError, match=r"event 1 .*\$\.depot"):
        everything(log)


def test_an_upcaster_that_makes_what_json_cannot_hold_makes_the_event_unreadable(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(lambda data: data | {"depot": object()})
    stored(log, {"grams": 7}, version=2)

    with pytest.raises(UndecodableEventError, match="made what is no data"):
        everything(log)


def test_data_without_named_fields_cannot_be_upcast(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(with_depot)
    stored(log, [7], version=2)

    with pytest.raises(UndecodableEventError, match="takes a JSON object, and the data is list"):
        everything(log)


def test_a_version_newer_than_the_declared_one_goes_through_no_upcaster(log: EventLog) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=2)(with_depot)
    stored(log, {"grams": 7}, version=4)

    with pytest.raises(UndecodableEventError, match="written as version 4, declared is 3"):
        everything(log)


def test_plain_data_for_a_declared_type_bears_the_declared_version(log: EventLog) -> None:
    """It has the form of today: an upcaster would take it for data of long ago."""
    parcel: Any = declare_parcel()
    upcast("parcel.weighed", version=1)(in_grams)
    upcast("parcel.weighed", version=2)(with_depot)

    (appended,) = log.append(Event({"grams": 7, "depot": "LGA"}, type="parcel.weighed", stream="parcel-1"))

    assert appended.type_version == 3
    assert everything(log)[0].data == parcel(7, "LGA")


def test_a_step_declared_twice_is_refused() -> None:
    upcast("parcel.weighed", version=1)(in_grams)

    with pytest.raises(DeclarationError, match=r"version 1 has two upcasters.*in_grams.*with_depot"):
        upcast("parcel.weighed", version=1)(with_depot)


def test_two_nameless_steps_for_one_version_are_refused() -> None:
    upcast("parcel.weighed", version=1)(lambda data: data)

    with pytest.raises(DeclarationError, match="two upcasters"):
        upcast("parcel.weighed", version=1)(lambda data: {**data, "depot": ""})


def test_a_module_that_is_imported_again_declares_its_steps_anew() -> None:
    def load() -> Any:
        @upcast("parcel.weighed", version=1)
        def step(data: JsonObject) -> JsonObject:
            return data

        return step

    assert load() is not load()


@pytest.mark.parametrize("name", ["", "a b", "parcel.*"])
def test_a_step_of_what_cannot_be_a_type_is_refused(name: str) -> None:
    with pytest.raises(DeclarationError):
        upcast(name, version=1)(in_grams)


@pytest.mark.parametrize("version", [0, -1, True, "1"])
def test_a_step_from_what_is_no_version_is_refused(version: Any) -> None:
    with pytest.raises(DeclarationError, match="version"):
        upcast("parcel.weighed", version=version)


def test_a_coroutine_cannot_be_an_upcaster() -> None:
    async def later(data: JsonObject) -> JsonObject:
        return data

    with pytest.raises(DeclarationError, match="coroutine"):
        upcast("parcel.weighed", version=1)(later)  # type: ignore[type-var]  # what a type checker would refuse too


@pytest.mark.parametrize("version", [3, 4])
def test_a_step_at_or_above_the_declared_version_is_a_problem(version: int) -> None:
    declare_parcel()
    upcast("parcel.weighed", version=version)(with_depot)

    with pytest.raises(DeclarationError, match=f"from version {version} to {version + 1}.*declared with version 3"):
        check_declarations()


def test_a_step_of_a_type_that_nobody_declares_is_a_problem() -> None:
    upcast("parcel.wieghed", version=1)(in_grams)

    with pytest.raises(DeclarationError, match=r"'parcel\.wieghed', which no class is declared for"):
        check_declarations()


def test_a_gap_in_a_chain_is_a_problem() -> None:
    declare_parcel()
    upcast("parcel.weighed", version=1)(in_grams)

    with pytest.raises(DeclarationError, match="no upcaster from version 2 to 3") as refused:
        check_declarations()

    assert "@upcast('parcel.weighed', version=2)" in refused.value.remedy


def test_a_chain_that_begins_above_version_one_is_no_problem() -> None:
    """Version 1 may never have been recorded; where it was, reading says so."""
    declare_parcel()
    upcast("parcel.weighed", version=2)(with_depot)

    assert declaration_problems() == []


def test_an_app_with_a_problem_registers_nothing(database_url: str) -> None:
    parcel: Any = declare_parcel()
    app = App(database_url)
    subscriber = app.subscriber("weights")

    @subscriber
    def weigh(parcel: parcel) -> None: ...

    upcast("parcel.weighed", version=1)(in_grams)

    with pytest.raises(DeclarationError, match="no upcaster from version 2 to 3"):
        app.drain()

    table = app.log.database.tables.subscribers
    with app.engine.connect() as connection:
        assert connection.execute(table.select()).all() == []
    app.engine.dispose()

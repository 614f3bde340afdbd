"""A type that was renamed: what is stored under its old names reads as its class, and goes to its handlers."""

from typing import Any

import msgspec
import pytest

from eventlog.errors import DeclarationError, InvalidEventError, RefusedError, UndecodableEventError
from eventlog.event_types import check_declarations, declared_as, declared_types, event
from eventlog.events import Event, JsonObject, Recorded
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.registration import Registration
from eventlog.upcasting import upcast
from tests.log_support import everything
from tests.subscribers_support import Bench

pytestmark = pytest.mark.usefixtures("own_declarations")

Case = type[msgspec.Struct]


def declare(*, version: int = 1, aliases: tuple[str, ...] = ("case.shut",)) -> Any:
    @event("box.closed", version=version, stream="box-{number}", aliases=aliases)
    class BoxClosed(msgspec.Struct, frozen=True):
        number: int
        by: str = ""

    return BoxClosed


def old(number: int, *, name: str = "case.shut", version: int = 1) -> Event[Any]:
    """An event as it was recorded before the type got its new name."""
    return Event({"number": number}, type=name, stream=f"box-{number}", type_version=version)


def reader(app: App) -> tuple[Subscriber, list[Any]]:
    return app.subscriber("closings"), []


def test_an_event_under_an_old_name_reads_as_the_class_and_keeps_its_type(log: EventLog) -> None:
    box: Any = declare()
    log.append(old(1), box(2))

    assert [(one.type, one.data) for one in log.read()] == [("case.shut", box(1)), ("box.closed", box(2))]
    assert log.get(1).data == box(1)


def test_reading_a_type_reads_its_old_names_too(log: EventLog) -> None:
    box: Any = declare()
    log.append(old(1), box(2), Event({}, type="other.thing", stream="other"))

    assert [one.data.number for one in log.read(types=["box.closed"])] == [1, 2]
    assert [one.data.number for one in log.read(types=["box.*"])] == [1, 2]
    assert [one.data.number for one in log.read(types=["case.shut"])] == [1]
    assert [one.data.number for one in log.read(types=["box.*", "case.*"])] == [1, 2]


def test_an_event_under_an_old_name_goes_through_the_steps_of_the_new_one(log: EventLog) -> None:
    box: Any = declare(version=3)
    upcast("box.closed", version=1)(lambda data: data | {"by": "v1"})
    upcast("box.closed", version=2)(lambda data: data | {"by": f"{data.get('by', '')} v2"})
    log.append(old(1), old(2, version=2), old(3, name="box.closed", version=1))

    assert [one.data for one in log.read()] == [box(1, "v1 v2"), box(2, " v2"), box(3, "v1 v2")]


def test_a_step_under_an_old_name_serves_only_what_is_stored_under_it_and_goes_first(log: EventLog) -> None:
    box: Any = declare(version=3)
    upcast("case.shut", version=1)(lambda data: data | {"by": "case"})
    upcast("box.closed", version=1)(lambda data: data | {"by": "box"})
    upcast("box.closed", version=2)(lambda data: data | {"by": data["by"] + "!"})
    log.append(old(1), old(2, name="box.closed"))
    check_declarations()

    assert [one.data for one in log.read()] == [box(1, "case!"), box(2, "box!")]


def test_a_renamed_type_goes_on_counting_its_versions(log: EventLog) -> None:
    declare(version=1)
    log.append(old(1, version=2))

    with pytest.raises(UndecodableEventError, match="written as version 2, declared is 1") as refused:
        everything(log)

    assert "goes on counting" in refused.value.remedy


def test_new_events_are_not_recorded_under_an_old_name(log: EventLog) -> None:
    box: Any = declare()

    with pytest.raises(InvalidEventError, match=r"declared as 'box\.closed', not 'case\.shut'"):
        log.append(Event(box(1), type="case.shut"))


def test_plain_data_under_an_old_name_is_not_taken_for_todays_version(log: EventLog) -> None:
    declare(version=2)

    (appended,) = log.append(Event({"number": 1}, type="case.shut", stream="box-1"))

    assert appended.type_version == 1


def test_a_type_is_found_by_each_of_its_names_and_listed_once() -> None:
    box: Any = declare(aliases=("case.shut", "case.closed"))

    assert {declared_as(name) for name in ("box.closed", "case.shut", "case.closed")} == set(declared_types())
    assert [(one.data_class, one.names) for one in declared_types()] == [
        (box, ("box.closed", "case.shut", "case.closed"))
    ]


def test_a_name_stands_for_one_class_also_as_an_alias() -> None:
    declare()

    with pytest.raises(DeclarationError, match=r"'case\.shut' is declared twice.*BoxClosed.*Shut"):

        @event("case.shut")
        class Shut(msgspec.Struct):
            pass

    with pytest.raises(DeclarationError, match=r"'case\.shut' is declared twice"):

        @event("lid.shut", aliases=("case.shut",))
        class LidShut(msgspec.Struct):
            pass


@pytest.mark.parametrize("aliases", [("box.closed",), "case.shut", ("a b",), ("case.*",)])
def test_what_cannot_be_an_alias_is_refused(aliases: Any) -> None:
    with pytest.raises(DeclarationError):
        declare(aliases=aliases)


def test_a_class_that_is_declared_again_keeps_no_alias_it_does_not_name() -> None:
    declare()
    declare(aliases=())

    assert declared_as("case.shut") is None


def test_a_handler_of_the_class_gets_events_of_all_its_names(bench: Bench) -> None:
    box: Any = declare()
    app = bench.app()
    closings, seen = reader(app)

    @closings
    def closed(one: box) -> None:
        seen.append(one)

    bench.log.append(old(1), box(2), Event({}, type="other.thing", stream="other"))

    assert app.drain().handled == 2
    assert seen == [box(1), box(2)]


def test_a_pattern_that_covers_the_new_name_gets_events_of_the_old_one(bench: Bench) -> None:
    box: Any = declare()
    app = bench.app()
    closings, seen = reader(app)

    @closings.on("box.*")
    def closed(one: Recorded[Any]) -> None:
        seen.append((one.type, one.data))

    bench.log.append(old(1), box(2))

    assert app.drain().handled == 2
    assert seen == [("case.shut", box(1)), ("box.closed", box(2))]
    assert closings.declaration.patterns == ("box.*", "case.shut")


def test_a_class_given_to_a_pattern_gets_events_of_all_its_names(bench: Bench) -> None:
    box: Any = declare()
    app = bench.app()
    closings, seen = reader(app)

    @closings.on("box.*")
    def closed(one: box) -> None:
        seen.append(one)

    bench.log.append(old(1), box(2))
    app.drain()

    assert seen == [box(1), box(2)]


def test_an_event_under_an_old_name_goes_to_the_most_specific_handler_of_either(bench: Bench) -> None:
    box: Any = declare()
    app = bench.app()
    closings, seen = reader(app)

    @closings.on("**")
    def anything(one: Recorded[Any]) -> None:
        seen.append(("anything", one.position))

    @closings.on("box.closed")
    def closed(one: Recorded[Any]) -> None:
        seen.append(("closed", one.position))

    bench.log.append(old(1), box(2))
    app.drain()

    assert seen == [("closed", 1), ("closed", 2)]


def test_where_both_names_are_asked_for_alike_the_stored_one_decides(bench: Bench) -> None:
    box: Any = declare()
    app = bench.app()
    closings, seen = reader(app)

    @closings.on("box.closed")
    def new_name(one: Recorded[Any]) -> None:
        seen.append(("new", one.position))

    @closings.on("case.shut")
    def old_name(one: Recorded[Any]) -> None:
        seen.append(("old", one.position))

    bench.log.append(old(1), box(2))
    app.drain()

    assert seen == [("old", 1), ("new", 2)]


def test_two_handlers_for_the_names_of_one_class_are_refused() -> None:
    box: Any = declare()
    closings, _seen = reader(App("sqlite:///never-opened.db"))

    @closings
    def closed(one: box) -> None: ...

    with pytest.raises(DeclarationError, match="would handle the same events"):

        @closings.on("case.shut")
        def shut(one: Recorded[Any]) -> None: ...


def test_renaming_a_type_extends_the_declaration_and_keeps_code_of_before_out(bench: Bench) -> None:
    """Code that does not know the new name would pass its events by."""

    def release(name: str, *, aliases: tuple[str, ...]) -> App:
        class Closed(msgspec.Struct, frozen=True):
            number: int

        event(name, aliases=aliases)(Closed)
        app = bench.app()

        @app.subscriber("closings")
        def closed(one: Closed) -> None: ...

        return app

    before = release("case.shut", aliases=())
    assert before.register() == {"closings": Registration.CREATED}
    after = release("box.closed", aliases=("case.shut",))

    assert after.register() == {"closings": Registration.EXTENDED}
    with pytest.raises(RefusedError, match=r"no handler|does not handle"):
        before.register()


def test_dropping_an_alias_needs_consent(bench: Bench) -> None:
    def release(*aliases: str) -> App:
        box: Any = declare(aliases=aliases)
        app = bench.app()

        @app.subscriber("closings")
        def closed(one: box) -> None: ...

        return app

    release("case.shut").register()

    with pytest.raises(RefusedError, match=r"case\.shut") as refused:
        release().register()

    assert "--drop-types" in refused.value.remedy


def test_an_event_that_cannot_be_upcast_is_a_failure_of_that_event_alone(bench: Bench) -> None:
    box: Any = declare(version=2)

    @upcast("case.shut", version=1)
    def named(data: JsonObject) -> JsonObject:
        if data["number"] == 2:
            raise ValueError("nobody knows who closed box 2")
        return data | {"by": "ada"}

    app = bench.app()
    closings, seen = reader(app)

    @closings
    def closed(one: box) -> None:
        seen.append(one)

    bench.log.append(old(1), old(2), old(3))
    drained = app.drain()

    assert (drained.handled, drained.failed) == (2, 1)
    assert seen == [box(1, "ada"), box(3, "ada")]
    (entry,) = bench.entries("closings")
    assert (entry.position, "ValueError: nobody knows who closed box 2" in entry.message) == (2, True)
    assert bench.position("closings") == 3


def test_a_mended_upcaster_and_a_retry_deliver_what_failed(bench: Bench) -> None:
    box: Any = declare(version=2)
    mended: list[bool] = []

    @upcast("case.shut", version=1)
    def named(data: JsonObject) -> JsonObject:
        return data | {"by": "ada" if mended else None}

    app = bench.app()
    closings, seen = reader(app)

    @closings
    def closed(one: box) -> None:
        seen.append(one)

    bench.log.append(old(1))
    assert app.drain().failed == 1
    mended.append(True)
    bench.make_due("closings")

    assert app.drain().handled == 1
    assert seen == [box(1, "ada")]

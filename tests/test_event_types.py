"""Declared event types: which class stands for which type, how streams are named, and that data survives the log."""

import enum
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from eventlog.encoding import encode_data
from eventlog.errors import DeclarationError, InvalidEventError, UndecodableEventError
from eventlog.event_types import declared_as, declared_for, event
from eventlog.events import Event
from eventlog.log import EventLog
from tests.log_support import as_other_code, everything, opened


class Cabin(enum.Enum):
    """An enum whose members are texts."""

    ECONOMY = "economy"
    FIRST = "first"


class Priority(enum.IntEnum):
    """An enum whose members are numbers."""

    LOW = 1
    HIGH = 2


class Fare(msgspec.Struct, frozen=True):
    """A nested Struct."""

    amount: Decimal
    currency: str = "USD"


class Seat(msgspec.Struct, frozen=True, tag=True):
    """One of a tagged union."""

    row: int


class Standby(msgspec.Struct, frozen=True, tag=True):
    """The other one."""

    since: datetime


@event("ticket.booked", version=3, stream="ticket-{number}")
class TicketBooked(msgspec.Struct, frozen=True, kw_only=True):
    """One field of every kind that must come back as it went in."""

    number: int
    fare: Fare
    booked_at: datetime
    flies_on: date
    gate_closes: time
    duration: timedelta
    passenger: UUID
    cabin: Cabin
    priority: Priority
    place: Seat | Standby
    legs: tuple[Fare, ...] = ()
    remarks: list[str] = []
    extras: dict[str, Fare] = {}
    returns_on: date | None = None
    discount: float | None = None
    barcode: bytes = b""


@event("ticket.moved", stream="ticket-{cabin}-{on}-{number:05}")
class TicketMoved(msgspec.Struct, frozen=True):
    """A type whose stream is named from an enum, a date and a padded number."""

    cabin: Cabin
    on: date | None
    number: int = 0


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
fares = st.builds(Fare, amount=st.decimals(allow_nan=False, allow_infinity=False), currency=texts)
zones = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
moments = st.datetimes(min_value=datetime(1, 1, 3), max_value=datetime(9999, 12, 29), timezones=zones)  # noqa: DTZ001
bookings = st.builds(
    TicketBooked,
    number=st.integers(0, 10**6),
    fare=fares,
    booked_at=moments,
    flies_on=st.dates(),
    gate_closes=st.times(),
    duration=st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000)),
    passenger=st.uuids(),
    cabin=st.sampled_from(Cabin),
    priority=st.sampled_from(Priority),
    place=st.builds(Seat, row=st.integers(-(2**63), 2**63 - 1)) | st.builds(Standby, since=moments),
    legs=st.lists(fares, max_size=3).map(tuple),
    remarks=st.lists(texts, max_size=3),
    extras=st.dictionaries(texts, fares, max_size=3),
    returns_on=st.none() | st.dates(),
    discount=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    barcode=st.binary(max_size=20),
)
plain_data = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def ticket() -> TicketBooked:
    return TicketBooked(
        number=7,
        fare=Fare(Decimal("1234567890.1000000000000000001"), "€"),
        booked_at=datetime(2013, 1, 1, 23, 59, 59, 999_999, tzinfo=timezone(timedelta(hours=-5))),
        flies_on=date(2013, 1, 2),
        gate_closes=time(5, 30, 0, 1),
        duration=timedelta(hours=6, microseconds=7),
        passenger=uuid4(),
        cabin=Cabin.FIRST,
        priority=Priority.HIGH,
        place=Standby(datetime(2013, 1, 1, tzinfo=UTC)),
        legs=(Fare(Decimal("1.10")),),
        extras={"bag": Fare(Decimal("-0.00"))},
        discount=0.1,
        barcode=b"\x00\xff",
    )


def append_and_read(log: EventLog, data: object) -> Any:
    (appended,) = log.append(data)
    (read,) = log.read(after=appended.position - 1)
    assert read == appended
    return read.data


def test_every_kind_of_field_comes_back_as_it_went_in(log: EventLog, ticket: TicketBooked) -> None:
    read = append_and_read(log, ticket)

    assert read == ticket
    assert (str(read.fare.amount), str(read.extras["bag"].amount)) == ("1234567890.1000000000000000001", "-0.00")
    assert (type(read.cabin), type(read.priority), type(read.place)) == (Cabin, Priority, Standby)
    assert read.booked_at.utcoffset() == timedelta(hours=-5)


def test_any_data_of_a_declared_type_comes_back_as_it_went_in(database_url: str) -> None:
    with opened(database_url) as log:

        @given(bookings)
        def comes_back(booking: TicketBooked) -> None:
            assert append_and_read(log, booking) == booking

        comes_back()


def test_any_plain_data_comes_back_as_it_went_in(database_url: str) -> None:
    with opened(database_url) as log:

        @given(plain_data)
        def comes_back(data: object) -> None:
            read = append_and_read(log, Event(data, type="plain.data", stream="plain"))
            assert (read, repr(read)) == (data, repr(data))

        comes_back()


def test_data_is_kept_byte_for_byte(log: EventLog, ticket: TicketBooked) -> None:
    log.append(ticket)

    with log.engine.connect() as connection:
        stored = connection.scalar(text(f"select cast(data as text) from {log.database.tables.sql_name('events')}"))

    assert stored == encode_data(ticket, event_type="ticket.booked")


def test_a_recorded_event_bears_the_version_of_its_declaration(log: EventLog, ticket: TicketBooked) -> None:
    log.append(ticket)

    assert [(event.type, event.type_version) for event in log.read()] == [("ticket.booked", 3)]


def test_a_type_nobody_declared_is_read_as_plain_data(log: EventLog) -> None:
    log.append(Event({"at": datetime(2013, 1, 1, tzinfo=UTC), "n": Decimal("1.10")}, type="odd.fact", stream="odd"))

    assert everything(log)[0].data == {"at": "2013-01-01T00:00:00Z", "n": "1.10"}


def test_a_struct_nobody_declared_can_be_appended_under_a_type(log: EventLog) -> None:
    log.append(Event(Fare(Decimal("1.5")), type="fare.set", stream="fare"))

    assert everything(log)[0].data == {"amount": "1.5", "currency": "USD"}


def test_plain_data_appended_under_a_declared_type_is_read_as_its_class(log: EventLog) -> None:
    log.append(Event({"cabin": "first", "on": "2013-01-02", "number": 3}, type="ticket.moved", stream="ticket"))

    assert everything(log)[0].data == TicketMoved(Cabin.FIRST, date(2013, 1, 2), 3)


def test_an_earlier_version_is_read_as_far_as_the_class_accepts_it(log: EventLog) -> None:
    log.append(Event({"cabin": "first", "on": None}, type="ticket.moved", stream="ticket", type_version=1))

    assert everything(log)[0].data == TicketMoved(Cabin.FIRST, None, 0)


def test_a_version_newer_than_the_declared_one_is_not_read(log: EventLog) -> None:
    log.append(Event({"cabin": "first", "on": None}, type="ticket.moved", stream="ticket", type_version=2))

    with pytest.raises(UndecodableEventError, match=r"event 1 \(ticket\.moved\).*version 2, declared is 1"):
        everything(log)


def test_data_that_does_not_fit_names_the_position_and_the_path(log: EventLog) -> None:
    log.append(Event({}, type="odd.fact", stream="odd"))
    with as_other_code():
        log.append(Event({"cabin": "hold", "on": "2013-01-02"}, type="ticket.moved", stream="ticket"))

    with pytest.raises(UndecodableEventError, match=r"event 2 \(ticket\.moved\).*TicketMoved.*\$\.cabin") as refused:
        everything(log)

    assert refused.value.remedy


@pytest.mark.parametrize(
    ("event", "path"),
    [
        (TicketMoved("hold", date(2013, 1, 2)), r"\$\.cabin"),  # type: ignore[arg-type]
        (Event({"cabin": "first", "on": "2013-01-02", "number": "three"}, type="ticket.moved"), r"\$\.number"),
        (Event([], type="ticket.moved"), "Expected `object`"),
    ],
    ids=["a class", "plain data", "no object"],
)
def test_data_that_its_own_class_could_not_read_again_is_not_recorded(log: EventLog, event: Any, path: str) -> None:
    """Neither is what comes with it. A Struct does not check what it is made with, and nobody could put it right."""
    with pytest.raises(InvalidEventError, match=rf"ticket\.moved could not be read again: .*{path}") as refused:
        log.append(Event({"n": 1}, type="odd.fact"), event, stream="ticket")

    assert refused.value.remedy
    assert log.head() == 0


def test_data_of_another_version_or_an_old_name_is_recorded_as_it_is(log: EventLog) -> None:
    """What reads it are upcasters, and perhaps not those of this code."""
    log.append(Event({}, type="ticket.moved", stream="ticket", type_version=3))

    assert log.head() == 1


def test_the_events_before_one_that_cannot_be_read_are_handed_out(log: EventLog) -> None:
    log.append(Event({"n": 1}, type="odd.fact", stream="odd"))
    with as_other_code():
        log.append(Event([], type="ticket.moved", stream="ticket"))
    reading = log.read()

    assert next(reading).data == {"n": 1}
    with pytest.raises(UndecodableEventError):
        next(reading)


def test_an_event_that_cannot_be_read_does_not_keep_the_others_from_being_read(log: EventLog) -> None:
    with as_other_code():
        log.append(Event([], type="ticket.moved", stream="ticket"))
    log.append(Event({"n": 1}, type="odd.fact", stream="odd"))

    assert [event.data for event in log.read(after=1)] == [{"n": 1}]
    assert [event.data for event in log.read(types=["odd.*"])] == [{"n": 1}]


def test_the_stream_is_named_from_the_fields(log: EventLog) -> None:
    log.append(TicketMoved(Cabin.FIRST, date(2013, 1, 2), 42))

    assert everything(log)[0].stream == "ticket-first-2013-01-02-00042"


@pytest.mark.parametrize("missing", [None, ""])
def test_a_field_without_a_value_cannot_name_a_stream(log: EventLog, missing: Any) -> None:
    with pytest.raises(InvalidEventError, match=r"ticket\.moved.*on is") as refused:
        log.append(TicketMoved(Cabin.FIRST, missing))

    assert refused.value.remedy
    assert log.head() == 0


def test_a_field_that_is_zero_or_false_can_name_a_stream(log: EventLog) -> None:
    @event("door.set", stream="door-{open}-{floor}")
    class DoorSet(msgspec.Struct, frozen=True):
        open: bool
        floor: int

    log.append(DoorSet(open=False, floor=0))

    assert everything(log)[0].stream == "door-False-0"


def test_a_value_that_does_not_fit_the_template_is_an_invalid_event(log: EventLog) -> None:
    """Fields are not checked by a Struct's constructor: a list where the template pads a number is found here."""
    wrong: Any = [7]

    with pytest.raises(InvalidEventError, match="stream"):
        log.append(TicketMoved(Cabin.FIRST, date(2013, 1, 2), wrong))


def test_a_class_can_be_declared_and_stays_as_it_was() -> None:
    class Landed(msgspec.Struct, frozen=True):
        at: datetime

    assert event("plane.landed")(Landed) is Landed
    declared = declared_for(Landed)
    assert declared is declared_as("plane.landed")
    assert (declared and (declared.name, declared.version)) == ("plane.landed", 1)


def test_a_type_has_one_class() -> None:
    @event("gate.opened")
    class GateOpened(msgspec.Struct):
        pass

    with pytest.raises(DeclarationError, match=r"'gate\.opened' is declared twice.*GateOpened.*Other"):

        @event("gate.opened")
        class Other(msgspec.Struct):
            pass

    declared = declared_as("gate.opened")
    assert declared is not None
    assert declared.data_class is GateOpened


def test_a_class_stands_for_one_type() -> None:
    @event("gate.closed")
    class GateClosed(msgspec.Struct):
        pass

    with pytest.raises(DeclarationError, match=r"as 'gate\.closed' and as 'gate\.shut'"):
        event("gate.shut")(GateClosed)


def test_a_module_that_is_imported_again_declares_its_classes_anew() -> None:
    def load() -> type:
        @event("gate.moved")
        class GateMoved(msgspec.Struct):
            pass

        return GateMoved

    load()
    latest = load()

    declared = declared_as("gate.moved")
    assert declared is not None
    assert declared.data_class is latest


def test_only_a_struct_can_be_declared() -> None:
    class Plain:
        pass

    with pytest.raises(DeclarationError, match="not a msgspec Struct"):
        event("plain.thing")(Plain)  # type: ignore[type-var]  # what a type checker would refuse too


def test_a_template_names_fields_of_the_class_only() -> None:
    with pytest.raises(DeclarationError, match="'numbr', which is no field") as refused:

        @event("gate.named", stream="gate-{numbr}")
        class GateNamed(msgspec.Struct):
            number: int

    assert "number" in refused.value.remedy


@pytest.mark.parametrize("template", ["gate-{number", "gate-}", "gate-{number:{width}}", "gate-{}", "gate-{0}", ""])
def test_a_template_that_cannot_be_filled_is_refused_at_declaration(template: str) -> None:
    with pytest.raises(DeclarationError):

        @event("gate.broken", stream=template)
        class GateBroken(msgspec.Struct):
            number: int


def test_tags_are_filled_from_the_fields_those_that_are_none_left_out(log: EventLog) -> None:
    @event("seat.taken", stream="course-{course}", tags=["course:{course}", "student:{student}", "seat:{row}-{number}"])
    class Taken(msgspec.Struct, frozen=True):
        course: str
        student: str | None
        row: int
        number: int

    first, second = log.append(
        Taken("c1", "s1", 3, 4), Event(Taken("c1", None, 1, 2), tags=["term:autumn"]), tags=["course:c1", "hall:2"]
    )

    assert first.tags == ("course:c1", "student:s1", "seat:3-4", "hall:2")
    assert second.tags == ("course:c1", "seat:1-2", "term:autumn", "hall:2")
    assert [recorded.tags for recorded in log.read()] == [first.tags, second.tags]


@pytest.mark.parametrize("template", ["gate:{number", "gate:{}", "gate:{nobody}", ""])
def test_a_tag_template_that_cannot_be_filled_is_refused_at_declaration(template: str) -> None:
    with pytest.raises(DeclarationError) as refused:

        @event("gate.tagged", tags=[template])
        class Gate(msgspec.Struct, frozen=True):
            number: int

    assert refused.value.remedy


def test_tags_declared_as_one_text_are_refused() -> None:
    with pytest.raises(DeclarationError, match="is a text"):

        @event("gate.tagged", tags="gate:{number}")
        class Gate(msgspec.Struct, frozen=True):
            number: int


@pytest.mark.parametrize("name", ["", " ", "a b", "a..b", ".a", "a.", "a.*", "**", "a\n", "a\0b", "x" * 201])
def test_a_name_that_cannot_be_a_type_is_refused_at_declaration(name: str) -> None:
    with pytest.raises(DeclarationError):
        event(name)(type("Odd", (msgspec.Struct,), {}))


@pytest.mark.parametrize("version", [0, -1])
def test_versions_of_a_type_begin_at_one(version: int) -> None:
    with pytest.raises(DeclarationError, match=f"version {version}"):

        @event("gate.versioned", version=version)
        class GateVersioned(msgspec.Struct):
            pass


def test_a_declared_class_cannot_be_appended_under_another_type(log: EventLog) -> None:
    with pytest.raises(InvalidEventError, match=r"declared as 'ticket\.moved', not 'ticket\.lost'"):
        log.append(Event(TicketMoved(Cabin.FIRST, date(2013, 1, 2)), type="ticket.lost"))


def test_what_is_neither_event_nor_declared_is_refused(log: EventLog) -> None:
    items: list[object] = [{"n": 1}, Fare(Decimal(1)), "text", 7, None, TicketMoved]
    for item in items:
        with pytest.raises(InvalidEventError, match="not declared as an event") as refused:
            log.append(item, stream="any")
        assert "@event" in refused.value.remedy


def test_an_event_without_a_type_is_refused(log: EventLog) -> None:
    with pytest.raises(InvalidEventError, match="the type of an event is None"):
        log.append(Event({"n": 1}, stream="any"))


@given(st.floats())
def test_a_float_is_written_exactly_or_refused(number: float) -> None:
    if math.isfinite(number):
        assert msgspec.json.decode(encode_data([number], event_type="t")) == [number]
    else:
        with pytest.raises(InvalidEventError, match="JSON cannot say"):
            encode_data([number], event_type="t")

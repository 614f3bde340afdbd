"""What goes with an event beside its data: metadata, the chain of causes, and the stream it belongs to."""

from typing import Any

import msgspec
import pytest

from eventlog.errors import InvalidEventError
from eventlog.event_types import event
from eventlog.events import Event, Recorded, caused_by
from eventlog.log import EventLog
from tests.log_support import everything, note


@event("parcel.sent", stream="parcel-{number}")
class ParcelSent(msgspec.Struct, frozen=True):
    """A type whose stream is named by a template."""

    number: int


@event("parcel.weighed")
class ParcelWeighed(msgspec.Struct, frozen=True):
    """A type whose stream the append names."""

    grams: int


def recorded(log: EventLog, **arguments: Any) -> Recorded[Any]:
    log.append(note("first"), **arguments)
    return everything(log)[-1]


def test_metadata_is_empty_where_none_is_given(log: EventLog) -> None:
    assert recorded(log).metadata == {}


def test_metadata_of_the_append_goes_with_every_event(log: EventLog) -> None:
    log.append(note("first"), note("second"), metadata={"user": "ada"})

    assert [event.metadata for event in log.read()] == [{"user": "ada"}] * 2


def test_metadata_of_the_event_goes_over_that_of_the_append(log: EventLog) -> None:
    own: Event[object] = Event({}, type="note.taken", stream="note-1", metadata={"user": "bob", "ip": "::1"})

    log.append(own, note("second"), metadata={"user": "ada", "request": 7})

    assert [event.metadata for event in log.read()] == [
        {"user": "bob", "ip": "::1", "request": 7},
        {"user": "ada", "request": 7},
    ]


def test_metadata_that_the_caller_changes_later_stays_as_it_was_recorded(log: EventLog) -> None:
    metadata = {"user": "ada"}
    (appended,) = log.append(note("first"), metadata=metadata)
    metadata["user"] = "eve"

    assert appended.metadata == everything(log)[0].metadata == {"user": "ada"}


def test_nested_metadata_is_read_as_it_was_written(log: EventLog) -> None:
    metadata = {"trace": {"id": "a-1", "flags": [1, None, True, 2.5]}, "ünïcode": "✓ 🛫"}

    assert recorded(log, metadata=metadata).metadata == metadata


def test_metadata_that_is_no_mapping_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    wrong: list[Any] = [["user"], "user", 7, [("user", "ada")]]
    for metadata in wrong:
        with subtests.test("of the append", metadata=metadata), pytest.raises(InvalidEventError, match="metadata"):
            log.append(note("first"), metadata=metadata)
        with subtests.test("of the event", metadata=metadata), pytest.raises(InvalidEventError, match="metadata"):
            log.append(Event({}, type="note.taken", stream="note-1", metadata=metadata))

    assert log.head() == 0


def test_the_first_event_of_a_chain_is_both_cause_and_beginning(log: EventLog) -> None:
    (first,) = log.append(note("first"))

    assert caused_by(first) == {"correlation_id": str(first.id), "causation_id": str(first.id)}


def test_a_chain_keeps_its_correlation_and_names_each_cause(log: EventLog) -> None:
    (first,) = log.append(note("first"), metadata={"correlation_id": "request-7"})
    (second,) = log.append(note("second"), metadata=caused_by(first))
    (third,) = log.append(note("third"), metadata=caused_by(everything(log)[-1]))

    assert second.metadata == {"correlation_id": "request-7", "causation_id": str(first.id)}
    assert third.metadata == {"correlation_id": "request-7", "causation_id": str(second.id)}
    assert log.get(third.position).metadata == third.metadata


def test_the_template_names_the_stream(log: EventLog) -> None:
    log.append(ParcelSent(7))

    assert everything(log)[0].stream == "parcel-7"


def test_the_stream_of_the_append_goes_before_the_template(log: EventLog) -> None:
    log.append(ParcelSent(7), Event(ParcelSent(8)), stream="parcels")

    assert [event.stream for event in log.read()] == ["parcels", "parcels"]


def test_the_stream_of_the_event_goes_before_that_of_the_append(log: EventLog) -> None:
    log.append(Event(ParcelSent(7), stream="own"), ParcelSent(8), stream="parcels")

    assert [event.stream for event in log.read()] == ["own", "parcels"]


def test_the_stream_of_the_append_serves_a_type_without_a_template(log: EventLog) -> None:
    log.append(ParcelWeighed(120), Event({"any": 1}, type="parcel.lost"), stream="parcel-7")

    assert [(event.stream, event.version) for event in log.read()] == [("parcel-7", 1), ("parcel-7", 2)]


def test_an_event_without_a_stream_is_refused_and_told_where_to_give_one(log: EventLog) -> None:
    with pytest.raises(InvalidEventError, match="the stream of an event is None") as refused:
        log.append(ParcelSent(7), ParcelWeighed(120))

    assert "append(..., stream=...)" in refused.value.remedy
    assert log.head() == 0


def test_an_empty_stream_is_refused_even_where_a_template_could_name_it(log: EventLog) -> None:
    with pytest.raises(InvalidEventError, match="stream"):
        log.append(Event(ParcelSent(7), stream=""))

    with pytest.raises(InvalidEventError, match="stream"):
        log.append(ParcelSent(7), stream="")

    assert log.head() == 0

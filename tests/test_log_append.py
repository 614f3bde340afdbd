"""Append: the order and the numbers of events, and what the caller may expect of a stream."""

from itertools import product
from typing import Any

import pytest

from eventlog.errors import UsageError, WrongExpectedVersionError
from eventlog.events import Event
from eventlog.log import EventLog
from tests.log_support import everything, note, notes, positions, said


def test_events_are_recorded_in_the_order_given(log: EventLog) -> None:
    log.append(note("first"), note("second"))
    log.append(note("third"))

    assert said(everything(log)) == ["first", "second", "third"]


def test_an_append_returns_the_events_as_they_are_read(log: EventLog) -> None:
    appended = log.append(note("first"), note("second", stream="note-2"))

    assert appended == everything(log)


def test_positions_rise_strictly_within_and_across_appends(log: EventLog) -> None:
    appended = [*log.append(*notes(3)), *log.append(*notes(2, stream="note-2")), *log.append(note("last"))]

    assert positions(appended) == sorted(set(positions(appended)))
    assert len(appended) == 6


def test_the_first_position_is_above_zero(log: EventLog) -> None:
    (first,) = log.append(note("first"))

    assert first.position > 0


def test_versions_count_from_one_without_gaps_in_each_stream(log: EventLog) -> None:
    log.append(note("a", stream="a"), note("b", stream="b"), note("a", stream="a"))
    log.append(note("b", stream="b"), note("a", stream="a"))

    assert [(event.stream, event.version) for event in everything(log)] == [
        ("a", 1),
        ("b", 1),
        ("a", 2),
        ("b", 2),
        ("a", 3),
    ]


def test_a_refused_append_leaves_no_gap_in_the_versions(log: EventLog) -> None:
    log.append(note("first"))
    with pytest.raises(WrongExpectedVersionError):
        log.append(note("refused"), expected=7)

    (second,) = log.append(note("second"), expected=1)

    assert second.version == 2


def test_a_batch_over_hundreds_of_interleaved_streams_keeps_order_and_versions(log: EventLog) -> None:
    batch = [note(f"{number}", stream=f"note-{number % 300}") for number in range(900)]

    appended = log.append(*batch)

    assert said(everything(log)) == [f"{number}" for number in range(900)]
    assert [event.version for event in appended] == [1 + number // 300 for number in range(900)]
    assert appended == everything(log)


def test_many_events_keep_whatever_separates_values_elsewhere(log: EventLog) -> None:
    """A batch is sent column by column: names and texts with commas, quotes, braces, control characters."""
    texts = ["\x1e", "a\x1eb\x1f", "tab\tand\nline", "null", "", "\\N", '{"a","b"}', "'); --"]
    streams = ["a,b", '"quoted"', "{brace}", "null", "\\N", "back\\slash", "%s", "'"]
    tags = [(), ("null",), ('a"b', "c,d"), ("{", "}"), ("\\",), (), ("x y",), ("%(ids)s",)]
    events = [
        Event({"text": text}, type="note.kept", stream=stream, metadata={"of": text}, tags=tag)
        for text, stream, tag in zip(texts, streams, tags, strict=True)
    ]

    log.append(*events)

    read = list(log.read())
    assert [(one.data["text"], one.stream, one.metadata["of"], one.tags) for one in read] == list(
        zip(texts, streams, texts, tags, strict=True)
    )


def test_an_append_of_nothing_records_nothing(log: EventLog) -> None:
    assert log.append() == []
    assert log.head() == 0


def test_streams_that_differ_in_case_or_accents_are_different(log: EventLog) -> None:
    names = ["order-1", "Order-1", "órder-1", "order-1.", "bestellung-ß"]

    appended = log.append(*[note("first", stream=name) for name in names])

    assert [event.version for event in appended] == [1] * len(names)
    assert [log.version(name) for name in names] == [1] * len(names)


def test_the_version_of_a_stream_without_events_is_zero(log: EventLog) -> None:
    log.append(note("other", stream="other"))

    assert log.version("note-1") == 0


def test_the_expected_version_lets_an_append_through(log: EventLog) -> None:
    log.append(*notes(2))

    (third,) = log.append(note("third"), expected=2)

    assert third.version == 3


def test_a_wrong_expected_version_is_refused_with_both_numbers(log: EventLog) -> None:
    log.append(*notes(2))

    for expected in (0, 1, 3, 5):
        with pytest.raises(WrongExpectedVersionError, match=rf"at version 2, expected {expected}") as refused:
            log.append(note("third"), expected=expected)
        assert (refused.value.stream, refused.value.expected, refused.value.actual) == ("note-1", expected, 2)
        assert refused.value.remedy

    assert len(everything(log)) == 2


def test_a_batch_with_a_wrong_expected_version_leaves_nothing(log: EventLog) -> None:
    log.append(note("first"))

    with pytest.raises(WrongExpectedVersionError, match="at version 1, expected 2"):
        log.append(*notes(5), expected=2)

    assert said(everything(log)) == ["first"]


def test_a_batch_with_the_expected_version_is_recorded(log: EventLog) -> None:
    log.append(note("first"))

    appended = log.append(*notes(3), expected=1)

    assert [event.version for event in appended] == [2, 3, 4]


def test_none_expects_that_the_stream_does_not_exist(log: EventLog) -> None:
    log.append(note("first"), expected="none")

    with pytest.raises(WrongExpectedVersionError, match="at version 1, expected 0") as refused:
        log.append(note("second"), expected="none")

    assert (refused.value.expected, refused.value.actual) == (0, 1)


def test_none_for_a_batch_expects_that_no_stream_of_it_exists(log: EventLog) -> None:
    log.append(note("first", stream="a"), note("first", stream="b"), expected="none")

    with pytest.raises(WrongExpectedVersionError, match="'b' is at version 1") as refused:
        log.append(note("second", stream="c"), note("second", stream="b"), expected="none")

    assert refused.value.stream == "b"
    assert log.version("c") == 0


def test_any_appends_whatever_the_version(log: EventLog) -> None:
    log.append(note("first"), expected="any")

    (second,) = log.append(note("second"), expected="any")

    assert second.version == 2


def test_a_version_cannot_be_expected_of_two_streams(log: EventLog) -> None:
    with pytest.raises(UsageError, match="2 streams"):
        log.append(note("a", stream="a"), note("b", stream="b"), expected=1)

    assert log.head() == 0


def test_what_cannot_be_an_expected_version_is_refused(log: EventLog) -> None:
    meant: list[Any] = [-1, True, 1.0, None, "1", "some"]
    for expected in meant:
        with pytest.raises(UsageError, match="neither a version nor"):
            log.append(note("first"), expected=expected)

    assert log.head() == 0


def test_a_version_no_stream_can_reach_is_refused_like_any_wrong_one(log: EventLog, subtests: pytest.Subtests) -> None:
    for count, expected in product((1, 2), (2**63 - 1, 2**63, 2**100)):
        with subtests.test(count=count, expected=expected), log.engine.begin() as connection:
            with pytest.raises((UsageError, WrongExpectedVersionError)):
                log.append(*notes(count), expected=expected, tx=connection)
            log.append(note("after", stream="after"), tx=connection)

    assert log.version("after") == 6


def test_a_large_append_is_recorded_in_one_call(log: EventLog) -> None:
    appended = log.append(*[Event({"n": n}, type="note.counted", stream=f"count-{n % 7}") for n in range(5_000)])

    assert [event.data["n"] for event in appended] == list(range(5_000))
    assert [event.data["n"] for event in log.read()] == list(range(5_000))

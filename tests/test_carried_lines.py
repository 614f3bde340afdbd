"""Lines that events are carried in: byte for byte what is stored, and nothing else is taken for one. No database."""

from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventlog.carried import BATCH_EVENTS_MAX, Carried, batches, event_line, read_line, same_content
from eventlog.errors import BrokenLineError
from eventlog.events import StoredEvent
from tests.carried_support import BEGINNING, line, lines

WHOLE = line(7, tags=["late", "customer:ada"], metadata={"user": "cyd"}, data={"total": 19.5, "lines": [1, None]})


def stored(data: str, **changes: Any) -> StoredEvent:
    values: dict[str, Any] = {
        "position": 7,
        "row_id": UUID(int=7),
        "stream": "note-1",
        "version": 3,
        "type": "note.taken",
        "type_version": 1,
        "data": data,
        "metadata": "{}",
        "row_time": BEGINNING,
    }
    return StoredEvent(**{**values, **changes})


@pytest.mark.parametrize(
    "data",
    ['{"b": 1,  "a":1.50, "a":2}', "1e999", "123456789012345678901234567890", '"\\u0000"', '"\u2028é\\u00e9"', "null"],
)
def test_data_is_carried_byte_for_byte(data: str) -> None:
    assert read_line(event_line(stored(data)), 1).data_text == data


def test_data_of_several_lines_is_carried_on_one() -> None:
    written = event_line(stored('{\r\n  "said": "a\\nb"\n}'))
    assert written.count(b"\n") == 0
    assert read_line(written, 1).data_text == '{    "said": "a\\nb" }'


def test_a_line_is_what_read_prints() -> None:
    printed = {"position", "id", "stream", "version", "type", "type_version", "data", "metadata", "recorded_at", "tags"}
    assert set(msgspec.json.decode(event_line(stored("1")))) == printed


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"position": 0}, "`$.position`"),
        ({"version": "1"}, "`$.version`"),
        ({"stream": ""}, "`$.stream`"),
        ({"stream": "s" * 501}, "`$.stream`"),
        ({"stream": "a\0b"}, "NUL"),
        ({"type": "t" * 201}, "`$.type`"),
        ({"type_version": 0}, "`$.type_version`"),
        ({"metadata": [1]}, "no JSON object"),
        ({"recorded_at": "2026-01-31T09:30:00"}, "timezone"),
        ({"recorded_at": "0001-01-01T00:00:00+14:00"}, "date value out of range"),
        ({"tags": ["t"] * 33}, "`$.tags"),
        ({"tags": [""]}, "`$.tags"),
        ({"colour": "red"}, "colour"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_a_line_that_no_log_can_hold_is_named_with_what_is_wrong(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(BrokenLineError, match=r"^line 12: ") as caught:
        read_line(line(1, **changes), 12)
    assert (caught.value.line, problem in str(caught.value)) == (12, True)


@pytest.mark.parametrize("broken", [b"\n{}", b"", b"[", b"\xff", b'{"data":"\xff"}', b"[" * 100_000, b"null", b"1"])
def test_what_is_no_json_is_a_broken_line(broken: bytes) -> None:
    with pytest.raises(BrokenLineError):
        read_line(broken, 1)


def test_names_that_an_append_would_refuse_are_carried_all_the_same() -> None:
    taken = read_line(line(1, stream="two\tcolumns", type="No Dots Here"), 1)
    assert (taken.stream, taken.type) == ("two\tcolumns", "No Dots Here")


@given(
    at=st.integers(0, len(WHOLE) - 1),
    put=st.binary(max_size=3),
    take=st.integers(0, 4),
    again=st.integers(0, len(WHOLE)),
)
@settings(max_examples=400)
def test_a_mutated_line_is_an_event_or_a_broken_line(at: int, put: bytes, take: int, again: int) -> None:
    """Whatever happens to a file on its way, nothing but our error comes of it."""
    mutated = WHOLE[:at] + put + WHOLE[at + take :]
    mutated = mutated[:again] + WHOLE[again:] if again < at else mutated
    try:
        event = read_line(mutated, 1)
    except BrokenLineError:
        return
    assert isinstance(event, Carried)
    assert msgspec.json.decode(event.metadata_text) is not None


def test_batches_are_bounded_by_their_events_and_by_their_bytes() -> None:
    assert [len(one) for one in batches(lines(BATCH_EVENTS_MAX + 1))] == [BATCH_EVENTS_MAX, 1]
    large = [line(position, data="x" * 5_000_000) for position in (1, 2, 3)]
    assert [len(one) for one in batches(large)] == [2, 1]


def test_empty_lines_are_passed_by_and_counted() -> None:
    (batch,) = batches([line(1), b"\n", b"  \n", line(2)])
    assert [one.number for one in batch] == [1, 4]


def test_a_line_beyond_all_bounds_is_not_read_on() -> None:
    with pytest.raises(BrokenLineError, match="more than 67,108,864 bytes"):
        list(batches([b"x" * 67_108_865]))


def test_the_same_event_is_told_by_its_content_whatever_its_place() -> None:
    one = read_line(line(1, data={"a": 1, "b": 2}, tags=["x", "y"], metadata={"by": "ada"}), 1)
    moved = read_line(line(9, id=1, version=4, tags=["y", "x"], data={"b": 2, "a": 1}), 1)
    other = read_line(line(1, data={"a": 1.0, "b": 2}, tags=["x", "y"]), 1)
    assert (same_content(one, moved), same_content(one, other)) == (True, False)

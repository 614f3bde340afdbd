"""Read: the order of positions, what a caller may ask for, and how little is fetched to answer."""

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog import reading
from eventlog.errors import DeclarationError, EventLogError, UnknownEventError, UsageError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.query import PageQuery
from tests.log_support import everything, note, notes, opened, positions, said

PAGE = 4
SEGMENTS = ["a", "b", "a.x", "a.y", "a.x.deep", "b.x"]
STREAMS = ["s1", "s2", "s3"]


@pytest.fixture
def pages(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many events each page held that was fetched, with pages of four."""
    fetched: list[int] = []
    ask = log.database.page

    def page(connection: Any, query: PageQuery) -> Sequence[Any]:
        found = ask(connection, query)
        fetched.append(len(found))
        return found

    monkeypatch.setattr(reading, "PAGE_EVENTS", PAGE)
    monkeypatch.setattr(log.database, "page", page)
    return fetched


def test_an_empty_log_has_nothing_to_read(log: EventLog) -> None:
    assert everything(log) == []
    assert (log.head(), log.high_water_mark()) == (0, 0)


def test_the_first_event_moves_head_and_high_water_mark_to_its_position(log: EventLog) -> None:
    (first,) = log.append(note("first"))

    assert log.head() == log.high_water_mark() == first.position


def test_the_marks_stand_at_the_last_event_when_nothing_is_on_its_way(log: EventLog) -> None:
    appended = log.append(*notes(5))

    assert log.head() == log.high_water_mark() == appended[-1].position


def test_after_leaves_out_and_until_takes_in(log: EventLog) -> None:
    appended = positions(log.append(*notes(6)))

    assert positions(list(log.read(after=appended[1], until=appended[4]))) == appended[2:5]


def test_until_beyond_the_high_water_mark_reads_up_to_it(log: EventLog) -> None:
    appended = log.append(*notes(3))

    assert list(log.read(until=10**12)) == appended


def test_after_the_high_water_mark_there_is_nothing(log: EventLog) -> None:
    appended = log.append(*notes(3))

    assert list(log.read(after=appended[-1].position)) == []
    assert list(log.read(after=10**12)) == []


def test_until_before_after_reads_nothing(log: EventLog) -> None:
    log.append(*notes(3))

    assert list(log.read(after=2, until=1)) == []


def test_a_limit_is_kept_exactly_and_no_more_is_fetched(log: EventLog, pages: list[int]) -> None:
    appended = log.append(*notes(9))

    for limit in [0, 1, 3, 4, 5, 9, 10, 10**9]:
        pages.clear()
        assert list(log.read(limit=limit)) == appended[:limit]
        assert sum(pages) == min(limit, 9)


def test_a_limit_counts_the_events_that_match_a_pattern(log: EventLog, pages: list[int]) -> None:
    log.append(*[Event({}, type="a.x" if n % 3 == 0 else "b.x", stream="s") for n in range(30)])

    assert [event.version for event in log.read(types=["a.*"], limit=4)] == [1, 4, 7, 10]
    assert len(pages) == 3


def test_reading_is_lazy(log: EventLog, pages: list[int]) -> None:
    log.append(*notes(20))
    events = log.read()
    assert pages == []

    next(events)
    assert pages == [PAGE]

    for _ in range(PAGE):
        next(events)
    assert pages == [PAGE, PAGE]


def test_no_connection_is_held_between_events(log: EventLog, pages: list[int]) -> None:
    log.append(*notes(9))
    held = [log.engine.pool.checkedout() for _ in log.read()]  # type: ignore[attr-defined]  # a QueuePool has it

    assert held == [0] * 9
    assert pages == [4, 4, 1]


def test_what_is_appended_while_reading_is_not_part_of_it(log: EventLog, pages: list[int]) -> None:
    before = log.append(*notes(6))
    events = log.read()
    first = next(events)

    log.append(*notes(6, stream="note-2"))

    assert [first, *events] == before
    assert pages == [4, 2]


def test_a_reading_that_has_not_begun_sees_what_is_appended_before_it_does(log: EventLog) -> None:
    events = log.read()
    appended = log.append(*notes(2))

    assert list(events) == appended


def test_two_readings_do_not_disturb_each_other(log: EventLog, pages: list[int]) -> None:
    appended = log.append(*notes(9))

    pairs = list(zip(log.read(), log.read(after=appended[1].position), strict=False))

    assert [one for one, _ in pairs] == appended[:7]
    assert [other for _, other in pairs] == appended[2:]
    assert pages


def test_many_pages_are_read_without_a_seam(log: EventLog, pages: list[int]) -> None:
    appended = log.append(*notes(41))

    assert everything(log) == appended
    assert len(pages) == 11


def test_one_stream_is_read_in_the_order_of_its_versions(log: EventLog, pages: list[int]) -> None:
    log.append(*[note(f"{n}", stream=f"note-{n % 3}") for n in range(30)])

    assert [event.version for event in log.read(stream="note-1")] == list(range(1, 11))
    assert {event.stream for event in log.read(stream="note-1")} == {"note-1"}
    assert sum(pages) == 20


def test_a_stream_that_cannot_be_or_is_not_there_has_no_events(log: EventLog, subtests: pytest.Subtests) -> None:
    log.append(note("first"))

    for stream in ("", "note-9", "note-1\0", "\ud800", "x" * 10_000):
        with subtests.test(stream=ascii(stream)[:40]):
            assert list(log.read(stream=stream)) == []
            assert log.version(stream) == 0


def test_types_can_be_exact_names_and_patterns_together(log: EventLog) -> None:
    log.append(*[Event({}, type=name, stream="s") for name in SEGMENTS])

    assert [event.type for event in log.read(types=["b", "a.*"])] == ["b", "a.x", "a.y"]
    assert [event.type for event in log.read(types=["a.y", "a"])] == ["a", "a.y"]
    assert [event.type for event in log.read(types=["**.x"])] == ["a.x", "b.x"]


def test_a_text_is_not_taken_for_a_list_of_types(log: EventLog) -> None:
    with pytest.raises(UsageError, match=r"types='a\.x' is a text") as refused:
        log.read(types="a.x")

    assert "['a.x']" in refused.value.remedy


def test_what_is_no_pattern_is_refused_before_anything_is_read(log: EventLog) -> None:
    for pattern in ["", "a*", "a..b", "a b", "a\0", "x" * 10_000]:
        with pytest.raises(DeclarationError, match="not a pattern"):
            log.read(types=["a", pattern])


def test_an_event_is_found_by_its_position_and_by_its_id(log: EventLog) -> None:
    _, second, _ = log.append(*notes(3))

    assert log.get(second.position) == log.get(second.id) == second


def test_a_position_without_an_event_is_unknown(log: EventLog, subtests: pytest.Subtests) -> None:
    log.append(*notes(3))

    for position in (-1, 0, 4, 10**12, 2**63 - 1, 2**63, 2**100):
        with subtests.test(position=position):
            with pytest.raises(UnknownEventError, match=f"no event {position}") as unknown:
                log.get(position)
            assert unknown.value.remedy


def test_an_id_that_is_not_recorded_is_unknown(log: EventLog) -> None:
    log.append(*notes(3))
    asked = uuid4()

    with pytest.raises(UnknownEventError, match=f"no event {asked}"):
        log.get(asked)


def test_what_is_neither_position_nor_id_is_answered_with_an_error_of_ours(
    log: EventLog, subtests: pytest.Subtests
) -> None:
    log.append(note("first"))

    questions: list[Any] = ["1", "one", b"1", 1.5, None, [1]]
    for asked in questions:
        with subtests.test(asked=asked), pytest.raises(EventLogError):
            log.get(asked)


def test_a_range_beyond_every_position_is_empty_or_complete(log: EventLog) -> None:
    appended = log.append(*notes(2))

    for huge in (2**63, 2**100):
        assert list(log.read(after=huge)) == []
        assert list(log.read(after=-huge, until=huge, limit=huge)) == appended


def test_arguments_that_cannot_be_meant_are_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    log.append(note("first"))

    asked: list[dict[str, Any]] = [{"limit": -1}, {"after": "1"}, {"until": "x"}, {"limit": 1.5}, {"stream": 7}]
    for arguments in asked:
        with subtests.test(arguments=arguments), pytest.raises(UsageError):
            list(log.read(**arguments))


def wanted(recorded: Recorded[Any], types: Sequence[str], stream: str | None) -> bool:
    prefixes = [pattern.removesuffix(".**") for pattern in types]
    of_type = not types or any(recorded.type == one or recorded.type.startswith(f"{one}.") for one in prefixes)
    return of_type and stream in (None, recorded.stream)


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "patterns"])
def test_any_question_is_answered_like_a_filter_over_everything(log: EventLog, pages: list[int], exact: bool) -> None:
    log.append(*[Event({"n": n}, type=SEGMENTS[n * 7 % 6], stream=STREAMS[n % 3]) for n in range(40)])
    recorded = everything(log)
    assert pages
    names = st.sampled_from([name for name in SEGMENTS if name not in ("a", "a.x", "b")] if exact else SEGMENTS)

    @given(
        after=st.integers(-2, 45),
        until=st.none() | st.integers(-2, 45),
        types=st.lists(names if exact else names.map(lambda name: f"{name}.**"), max_size=3),
        stream=st.none() | st.sampled_from([*STREAMS, "s4"]),
        limit=st.none() | st.integers(0, 45),
    )
    def is_answered(after: int, until: int | None, types: list[str], stream: str | None, limit: int | None) -> None:
        inside = [event for event in recorded if after < event.position <= (45 if until is None else until)]
        expected = [event for event in inside if wanted(event, types, stream)][:limit]
        assert list(log.read(after=after, until=until, types=types, stream=stream, limit=limit)) == expected

    is_answered()


def test_times_are_aware_and_rise_with_positions_of_one_writer(log: EventLog) -> None:
    for number in range(5):
        log.append(note(f"{number}"))

    times = [event.recorded_at for event in log.read()]

    assert times == sorted(times)
    assert all(time.utcoffset() is not None and not time.utcoffset() for time in times)


def test_a_log_reads_what_was_written_before_it_was_opened(database_url: str) -> None:
    with opened(database_url) as writer:
        writer.append(*notes(3))

    with opened(database_url) as reader:
        assert said(everything(reader)) == ["note-1 1", "note-1 2", "note-1 3"]

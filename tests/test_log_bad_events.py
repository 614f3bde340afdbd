"""What cannot be recorded: refused with a remedy before anything is sent, in and outside the caller's transaction."""

import math
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from eventlog.errors import InvalidEventError, UsageError
from eventlog.event_types import event
from eventlog.events import Event
from eventlog.limits import DATA_BYTES_MAX, METADATA_BYTES_MAX, STREAM_CHARACTERS_MAX, TYPE_CHARACTERS_MAX
from eventlog.log import EventLog
from tests.log_support import everything, note, said


class Inner(msgspec.Struct, frozen=True):
    """A Struct within another one."""

    ratio: float | None = None


@event("reading.taken", stream="reading")
class ReadingTaken(msgspec.Struct, frozen=True):
    """Places where a number can hide that JSON cannot say."""

    value: float | None = None
    inner: Inner = Inner()
    series: tuple[float | None, ...] = ()


def refuse(log: EventLog, *events: object, match: str, **arguments: Any) -> None:
    """Such events are refused with a remedy, alone and inside a transaction, and the transaction stays usable."""
    head = log.head()
    with pytest.raises(InvalidEventError, match=match) as refused:
        log.append(*events, **arguments)
    assert refused.value.remedy
    with log.engine.begin() as connection:
        with pytest.raises(InvalidEventError, match=match):
            log.append(note("beside"), *events, tx=connection, **arguments)
        log.append(note("after"), tx=connection)
    assert said(list(log.read(after=head))) == ["after"]


def plain(data: object, **fields: Any) -> Event[object]:
    return Event(data, **{"type": "odd.fact", "stream": "odd", **fields})


REFUSED = object()


def refused_or_read(log: EventLog, data: object) -> object:
    try:
        (appended,) = log.append(plain(data))
    except InvalidEventError:
        return REFUSED
    return log.get(appended.position).data


def test_a_number_json_cannot_say_is_refused_wherever_it_hides(log: EventLog, subtests: pytest.Subtests) -> None:
    for number in (math.nan, math.inf, -math.inf):
        for hidden, path in [
            (plain(number), r"at \$,"),
            (plain({"a": [None, {"b": number}]}), r"at \$\.a\[1\]\.b"),
            (plain((1.0, number)), r"at \$\[1\]"),
            (ReadingTaken(number), r"at \$\.value"),
            (ReadingTaken(1.0, Inner(number)), r"at \$\.inner\.ratio"),
            (ReadingTaken(None, series=(None, number)), r"at \$\.series\[1\]"),
        ]:
            with subtests.test(hidden=hidden):
                refuse(log, hidden, match=path)


def test_a_number_json_cannot_say_is_refused_in_metadata(log: EventLog) -> None:
    refuse(log, plain({}, metadata={"ratio": math.nan}), match=r"the metadata of odd\.fact holds nan at \$\.ratio")


def test_none_and_the_word_null_are_recorded(log: EventLog) -> None:
    log.append(ReadingTaken(None), plain({"a": None, "null": "null"}), plain(None), plain("NaN"))

    assert [event.data for event in log.read()] == [ReadingTaken(None), {"a": None, "null": "null"}, None, "NaN"]


@pytest.mark.parametrize(
    "data", [object(), {"a": object()}, {1, object()}, lambda: None, 1j, {("a", 1): 2}, ValueError]
)
def test_what_has_no_json_form_is_refused(log: EventLog, data: object) -> None:
    refuse(log, plain(data), match="cannot be written as JSON")


def test_data_that_contains_itself_is_refused(log: EventLog) -> None:
    endless: list[object] = []
    endless.append(endless)

    refuse(log, plain(endless), match="cannot be written as JSON")


def test_deeply_nested_data_is_refused_or_comes_back(log: EventLog, subtests: pytest.Subtests) -> None:
    for depth in (100, 400, 900, 5_000, 100_000):
        nested: object = None
        for _ in range(depth):
            nested = [nested]
        with subtests.test(depth=depth):
            read = refused_or_read(log, nested)
            assert read is REFUSED or msgspec.json.encode(read) == b"[" * depth + b"null" + b"]" * depth
            assert read is not REFUSED or depth > 100


def test_a_whole_number_beyond_64_bits_is_refused_or_comes_back(log: EventLog, subtests: pytest.Subtests) -> None:
    for number in (2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30, -(10**400)):
        with subtests.test(number=number):
            read = refused_or_read(log, number)
            assert read is REFUSED or (read, type(read)) == (number, int)


def test_raw_json_that_is_none_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    raws: list[bytes] = [b"not json", b"NaN", b'{"a":', b"", b"\xff", b'"\x00"', b"1 2"]
    for raw in raws:
        with subtests.test(raw=repr(raw)[:40]):
            refuse(log, plain({"raw": msgspec.Raw(raw)}), match="the data of odd.fact")


def test_raw_json_is_recorded_as_it_stands(log: EventLog) -> None:
    log.append(plain({"raw": msgspec.Raw(b'{"a": [null, 1.50]}')}), plain(msgspec.Raw(b"null")))

    assert [event.data for event in log.read()] == [{"raw": {"a": [None, 1.5]}}, None]


def test_a_nul_character_is_refused_wherever_it_hides(log: EventLog, subtests: pytest.Subtests) -> None:
    texts: list[str] = ["\0", "a\0b", "trailing\0"]
    for text in texts:
        with subtests.test(text=repr(text)[:40]):
            for hidden in (plain(text), plain({"a": [text]}), plain({text: 1}), plain({"a": {text: 1}})):
                with pytest.raises(InvalidEventError, match="holds a NUL character"):
                    log.append(hidden)

            refuse(log, plain({}, metadata={"note": text}), match="the metadata of .* holds a NUL")


def test_the_letters_of_an_escaped_nul_are_recorded(log: EventLog) -> None:
    texts = ["\\u0000", "\\\\u0000", "u0000", "\\0", "\u0001"]

    log.append(plain(texts))

    assert everything(log)[0].data == texts


def test_half_a_surrogate_pair_is_refused_wherever_it_hides(log: EventLog, subtests: pytest.Subtests) -> None:
    texts: list[str] = ["\ud800", "a\udfffb"]
    for text in texts:
        with subtests.test(text=repr(text)[:40]):
            for hidden in (plain(text), plain({text: 1}), plain({}, metadata={"a": text}), plain({}, stream=text)):
                with pytest.raises(InvalidEventError):
                    log.append(hidden)

            refuse(log, plain({}, type=text), match="type")


def test_text_beyond_the_basic_plane_is_recorded(log: EventLog) -> None:
    texts = ["🛫", "\U0001d518", "\U0010ffff", "\ufeff", "\u2028", "é", "e\u0301"]

    log.append(plain(texts))

    assert everything(log)[0].data == texts


def test_data_up_to_the_limit_is_recorded_and_a_byte_more_is_refused(log: EventLog) -> None:
    refuse(log, plain("x" * (DATA_BYTES_MAX - 1)), match=r"1,048,577 bytes as JSON; at most 1,048,576")

    (largest,) = log.append(plain("x" * (DATA_BYTES_MAX - 2)))

    assert len(log.get(largest.position).data) == DATA_BYTES_MAX - 2


def test_data_is_measured_in_bytes(log: EventLog) -> None:
    refuse(log, plain("é" * (DATA_BYTES_MAX // 2)), match="at most")


def test_metadata_up_to_the_limit_is_recorded_and_a_byte_more_is_refused(log: EventLog) -> None:
    fits = METADATA_BYTES_MAX - len('{"a":""}')
    refuse(log, plain({}, metadata={"a": "x" * (fits + 1)}), match=r"65,537 bytes as JSON; at most 65,536")

    (largest,) = log.append(plain({}, metadata={"a": "x" * fits}))

    assert len(log.get(largest.position).metadata["a"]) == fits


def test_a_stream_that_is_no_name_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    streams: list[str] = ["", "x" * 501, "x" * 10_000, "a\0", "\0", "a\nb", "\x1b[31m", "\ud800", "\u202e"]
    for stream in streams:
        with subtests.test(stream=repr(stream)[:40]):
            refuse(log, plain({}, stream=stream), match="stream")

            with pytest.raises(InvalidEventError, match="stream"):
                log.append(plain({}, stream=None), stream=stream)


def test_a_stream_that_is_no_text_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    streams: list[Any] = [7, True, b"odd", ["odd"], uuid4()]
    for stream in streams:
        with subtests.test(stream=repr(stream)[:40]):
            refuse(log, plain({}, stream=stream), match="the stream of an event is")


def test_a_type_that_is_no_name_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    names: list[str] = ["x" * 201, "x" * 10_000, "a\0", "a b", "a.*", "**", "a..b", "\t"]
    for name in names:
        with subtests.test(name=repr(name)[:40]):
            refuse(log, plain({}, type=name), match="type")


def test_a_type_that_is_no_text_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    names: list[Any] = [7, True, b"odd.fact", ["odd"]]
    for name in names:
        with subtests.test(name=repr(name)[:40]):
            refuse(log, plain({}, type=name), match="the type of an event is")


def test_a_type_version_that_is_no_number_from_one_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    versions: list[Any] = [0, -1, 2**31, 2**70, 1.5, "1", True]
    for version in versions:
        with subtests.test(version=repr(version)[:40]):
            refuse(log, plain({}, type_version=version), match="version")


def test_the_longest_names_of_the_widest_characters_are_recorded(log: EventLog) -> None:
    stream, name = "🛫" * STREAM_CHARACTERS_MAX, "🛫" * TYPE_CHARACTERS_MAX

    log.append(plain({}, stream=stream, type=name))

    assert [(event.stream, event.type) for event in log.read(stream=stream, types=[name])] == [(stream, name)]


def test_what_is_no_transaction_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    others: list[Any] = ["session", 7, object(), log.engine]
    for tx in others:
        with subtests.test(tx=repr(tx)[:40]):
            with pytest.raises(UsageError, match="tx is a"):
                log.append(note("first"), tx=tx)

            assert log.head() == 0


def test_of_a_batch_with_one_bad_event_nothing_is_recorded(log: EventLog) -> None:
    with pytest.raises(InvalidEventError):
        log.append(note("first"), plain(math.nan), note("third"))

    assert log.head() == 0

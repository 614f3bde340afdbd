"""What people type, read."""

from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventlog.cli import parsing
from eventlog.cli.options import Position
from eventlog.cli.parsing import expected_version, json_lines, pairs, since
from eventlog.errors import UsageError

NOW = datetime(2026, 2, 1, 12, 0, tzinfo=UTC)


@pytest.fixture
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parsing, "utc_now", lambda: NOW)


@pytest.mark.usefixtures("_now")
@pytest.mark.parametrize(
    ("text", "hours"), [("90m", 1.5), ("2h", 2), ("3d", 72), ("1w", 168), ("1h30m", 1.5), ("1.5h", 1.5), ("36s", 0.01)]
)
def test_a_duration_is_a_time_before_now(text: str, hours: float) -> None:
    assert since(text) == NOW - timedelta(hours=hours)


@pytest.mark.parametrize("text", ["2026-01-31T09:30:00+01:00", "2026-01-31T08:30:00Z", "2026-01-31 08:30+00:00"])
def test_a_time_with_an_offset_is_that_moment(text: str) -> None:
    assert since(text) == datetime(2026, 1, 31, 8, 30, tzinfo=UTC)


def test_a_time_without_an_offset_is_local() -> None:
    assert since("2026-01-31T08:30") == datetime(2026, 1, 31, 8, 30).astimezone()


@pytest.mark.parametrize("text", ["", "h", "2", "2y", "h2", "2h 3m", "-2h", "yesterday", "99999999999w", "0001-01-01"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="neither a duration nor a time"):
        since(text)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_is_refused(text: str) -> None:
    try:
        found = since(text)
    except UsageError:
        return
    assert found.tzinfo is UTC


@given(st.dictionaries(st.from_regex(r"[a-z_.]{1,9}", fullmatch=True), st.text(max_size=20), max_size=5))
def test_pairs_of_text_come_back_as_they_were(values: dict[str, str]) -> None:
    assert pairs([f"{key}={value}" for key, value in values.items()], option="-d") == values


def test_a_colon_before_the_equals_sign_means_json() -> None:
    assert pairs(["a:=[1, 2]", "b=[1, 2]", "c:=null"], option="-d") == {"a": [1, 2], "b": "[1, 2]", "c": None}


@pytest.mark.parametrize("pair", ["a", "=1", ":=1", "a:=", "a:={"])
def test_what_is_no_pair_is_refused(pair: str) -> None:
    with pytest.raises(UsageError):
        pairs([pair], option="-d")


def test_more_lines_than_one_append_holds_are_refused() -> None:
    assert json_lines([b"1\n", b"\n", b"2\n"], limit=2) == [1, 2]
    with pytest.raises(UsageError, match="3 events"):
        json_lines([b"1\n", b"2\n", b"3\n"], limit=2)


def test_bytes_that_are_no_text_are_refused_by_line() -> None:
    with pytest.raises(UsageError, match="line 2"):
        json_lines([b"1\n", b'"\xff"\n'], limit=2)


def test_a_position_may_be_copied_from_a_table() -> None:
    position = Position(min=1)
    assert [position.convert(text, None, None) for text in ("1234", "1,234", "12,345,678", 7)] == [
        1234,
        1234,
        12_345_678,
        7,
    ]
    for text in ("1,23", ",123", "1,,234", "0", "one"):
        with pytest.raises(click.BadParameter):
            position.convert(text, None, None)


def test_an_expected_version_is_a_number_or_one_of_two_words() -> None:
    assert [expected_version(text) for text in ("any", "none", "12")] == ["any", "none", 12]
    for text in ("-1", "1.5", "some", ""):
        with pytest.raises(UsageError):
            expected_version(text)

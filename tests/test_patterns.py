"""Patterns over event types, held against models that are too simple to be wrong."""

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventlog.errors import DeclarationError, InvalidEventError
from eventlog.patterns import check_pattern, check_type, covers, is_exact, overlap, specificity

names = st.sampled_from(["a", "b", "flight", "a-b", "ß", "x+y", "[c]", "$", "\\d", "1"])
types = st.lists(names, min_size=1, max_size=5).map(".".join)
patterns = st.lists(names | st.sampled_from(["*", "**"]), min_size=1, max_size=5).map(".".join)

ALL_SMALL_PATTERNS = [
    ".".join(parts) for length in range(1, 4) for parts in product(("a", "b", "*", "**"), repeat=length)
]
ALL_SMALL_TYPES = [".".join(parts) for length in range(1, 7) for parts in product("abc", repeat=length)]
"""Over a letter more than the patterns name, and as long as two of them together: enough to witness any overlap."""


def covered_by_model(pattern: list[str], segments: list[str]) -> bool:
    if not pattern:
        return not segments
    if pattern[0] == "**":
        return any(covered_by_model(pattern[1:], segments[taken:]) for taken in range(len(segments) + 1))
    return bool(segments) and pattern[0] in ("*", segments[0]) and covered_by_model(pattern[1:], segments[1:])


@given(patterns, types)
@example("**", "a")
@example("a.**", "a")
@example("**.a", "a")
@example("a.**.b", "a.b")
@example("**.**", "a")
@example("**.*", "a")
@example("**.**.a", "a")
@example("a.**.**", "a")
def test_a_pattern_covers_what_its_definition_says(pattern: str, event_type: str) -> None:
    assert covers(pattern, event_type) == covered_by_model(pattern.split("."), event_type.split("."))


@pytest.mark.parametrize(
    ("pattern", "event_type", "expected"),
    [
        ("flight.arrived", "flight.arrived", True),
        ("flight.arrived", "flight.arrivedx", False),
        ("flight.arrived", "flightxarrived", False),
        ("flight.*", "flight.arrived", True),
        ("flight.*", "flight", False),
        ("flight.*", "flight.gate.changed", False),
        ("flight.**", "flight", True),
        ("flight.**", "flight.gate.changed", True),
        ("flight.**", "flights.gate", False),
        ("**", "anything.at.all", True),
        ("*", "flight", True),
        ("*", "flight.arrived", False),
        ("**.changed", "flight.gate.changed", True),
        ("**.changed", "changed", True),
        ("**.changed", "unchanged", False),
        ("*.gate.*", "flight.gate.changed", True),
    ],
)
def test_examples_a_reader_would_expect(pattern: str, event_type: str, expected: bool) -> None:
    assert covers(pattern, event_type) is expected


@given(types)
def test_a_type_is_the_pattern_that_covers_it_alone(event_type: str) -> None:
    assert is_exact(event_type)
    assert covers(event_type, event_type)
    assert check_pattern(check_type(event_type)) == event_type


def test_two_patterns_overlap_if_some_type_is_covered_by_both() -> None:
    covered = {one: {name for name in ALL_SMALL_TYPES if covers(one, name)} for one in ALL_SMALL_PATTERNS}

    pairs = list(product(ALL_SMALL_PATTERNS, repeat=2))
    assert [overlap(*pair) for pair in pairs] == [not covered[one].isdisjoint(covered[other]) for one, other in pairs]


@given(patterns, patterns)
def test_overlap_does_not_depend_on_the_order(one: str, other: str) -> None:
    assert overlap(one, other) == overlap(other, one)


@given(patterns, types)
def test_a_type_overlaps_a_pattern_exactly_when_it_is_covered(pattern: str, event_type: str) -> None:
    assert overlap(pattern, event_type) == covers(pattern, event_type)


@pytest.mark.timeout(5)
def test_the_overlap_of_long_patterns_is_found_at_once() -> None:
    """A search that tries every way to split both would take hours."""
    many = ".".join(["**", "a"] * 20)

    assert overlap(many, f"{many}.b") is False


@given(types)
def test_an_exact_type_is_more_specific_than_any_pattern(event_type: str) -> None:
    segments = event_type.split(".")
    for place in range(len(segments)):
        for wild in ("*", "**"):
            assert specificity(".".join([*segments[:place], wild, *segments[place + 1 :]])) < specificity(event_type)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ("flight.arrived", "flight.*"),
        ("flight.*", "flight.**"),
        ("flight.**", "**"),
        ("flight.*.x", "flight.*.*"),
        ("*", "**"),
    ],
)
def test_more_named_segments_and_fewer_double_stars_are_more_specific(more: str, less: str) -> None:
    assert specificity(more) > specificity(less)


def test_two_patterns_can_be_equally_specific() -> None:
    assert specificity("a.*") == specificity("*.b")
    assert overlap("a.*", "*.b")


@pytest.mark.parametrize(
    "pattern", ["", ".", "a.", ".a", "a..b", "a.***", "a*", "*a", "a.b*.c", "a b", "a\n", "a\0", "\ud800", "x" * 201]
)
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(DeclarationError, match="not a pattern") as refused:
        check_pattern(pattern)

    assert refused.value.remedy


@pytest.mark.parametrize(
    "name",
    ["", ".", "a.", ".a", "a..b", "*", "a.*", "a.**", "a b", "a\n", "a\t", "a\0", "\ud800", "a.\udfff", "x" * 201],
)
def test_what_cannot_name_a_type_is_refused(name: str) -> None:
    with pytest.raises(InvalidEventError) as refused:
        check_type(name)

    assert refused.value.remedy


@pytest.mark.parametrize("name", ["a", "A.b-c_d", "flight.arrived", "Bestellung.geändert", "注文.作成", "x" * 200])
def test_what_can_name_a_type_is_let_through(name: str) -> None:
    assert check_type(name) == name

"""What a change of a class narrows: the rules one by one, and random pairs of classes held against msgspec itself."""

import dataclasses
import enum
import typing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Meta, Struct, UnsetType, defstruct

from eventlog.compatibility import narrowings
from eventlog.errors import DeclarationError
from eventlog.exact_schema import exact_schema


class Light(enum.Enum):
    RED = "red"
    GREEN = "green"


class MoreLight(enum.Enum):
    RED = "red"
    GREEN = "green"
    BLUE = "blue"


class Rank(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Point(Struct, frozen=True):
    x: int
    y: int = 0


class OpenPoint(Struct, frozen=True):
    """A Point that bears more."""

    x: float | str
    y: int | None = None
    z: int = 0


class ClosedPoint(Struct, frozen=True, forbid_unknown_fields=True):
    x: int


class Pair(Struct, frozen=True, array_like=True):
    first: int
    second: str = ""


class LongerPair(Struct, frozen=True, array_like=True):
    first: int
    second: str = ""
    third: bool = False


class ClosedPair(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    first: int


class Named(typing.NamedTuple):
    first: int
    second: str


class Titled(typing.TypedDict):
    title: str
    pages: typing.NotRequired[int]


@dataclasses.dataclass(frozen=True)
class Data:
    x: int
    at: list[datetime] = dataclasses.field(default_factory=list)


class Car(Struct, frozen=True, tag=True):
    wheels: int


class Ship(Struct, frozen=True, tag=True):
    masts: int = 1


class Tree(Struct, frozen=True):
    value: int
    branches: "list[Tree]" = []


class LooseTree(Struct, frozen=True):
    value: int | str
    branches: "list[LooseTree] | None" = None


class StrictTree(Struct, frozen=True):
    branches: "list[StrictTree]"
    value: int


MOMENT = datetime(2013, 1, 1, 12, 30)  # noqa: DTZ001 - one that may have an offset, or none
AWARE = MOMENT.replace(tzinfo=UTC)
SAMPLES: list[tuple[Any, list[Any]]] = [
    (int, [0, -7, 2**70]),
    (float, [0.0, 1.5, -1e300]),
    (str, ["", "a", "abcd", "red"]),
    (bool, [True, False]),
    (None, [None]),
    (Any, [None, 1, "a", [1, "b"], {"k": {}}]),
    (Decimal, [Decimal("1.10"), Decimal("-3")]),
    (UUID, [UUID(int=7)]),
    (bytes, [b"", b"\x00\xff"]),
    (date, [MOMENT.date()]),
    (timedelta, [timedelta(days=1, microseconds=1), timedelta(0)]),
    (datetime, [MOMENT, AWARE]),
    (Annotated[datetime, Meta(tz=True)], [AWARE]),
    (Annotated[datetime, Meta(tz=False)], [MOMENT]),
    (time, [MOMENT.time(), AWARE.timetz()]),
    (Annotated[time, Meta(tz=True)], [AWARE.timetz()]),
    (Annotated[time, Meta(tz=False)], [MOMENT.time()]),
    (Annotated[int, Meta(ge=0)], [0, 7]),
    (Annotated[int, Meta(gt=0, lt=10)], [1, 9]),
    (Annotated[int, Meta(ge=1, le=9)], [1, 9]),
    (Annotated[int, Meta(multiple_of=2)], [-4, 0, 6]),
    (Annotated[int, Meta(multiple_of=4)], [-4, 0, 8]),
    (Annotated[float, Meta(ge=0)], [0.0, 0.5]),
    (Annotated[str, Meta(min_length=2)], ["ab", "xyz"]),
    (Annotated[str, Meta(max_length=3)], ["", "xyz"]),
    (Annotated[str, Meta(pattern="^a")], ["a", "abc"]),
    (Annotated[bytes, Meta(min_length=2)], [b"ab", b"abcd"]),
    (Light, list(Light)),
    (MoreLight, list(MoreLight)),
    (Rank, list(Rank)),
    (Literal["red", 1], ["red", 1]),
    (Literal["red", None], ["red", None]),
    (Point, [Point(1), Point(-1, 5)]),
    (OpenPoint, [OpenPoint("a"), OpenPoint(1.5, None, 3)]),
    (ClosedPoint, [ClosedPoint(1)]),
    (Pair, [Pair(1), Pair(2, "b")]),
    (LongerPair, [LongerPair(1), LongerPair(2, "b", third=True)]),
    (ClosedPair, [ClosedPair(1)]),
    (Car, [Car(4)]),
    (Ship, [Ship(), Ship(3)]),
    (Tree, [Tree(1), Tree(1, [Tree(2), Tree(3, [Tree(4)])])]),
    (LooseTree, [LooseTree("a"), LooseTree(1, [LooseTree(2)])]),
    (StrictTree, [StrictTree([], 1), StrictTree([StrictTree([], 2)], 1)]),
    (Named, [Named(1, "a")]),
    (Titled, [{"title": "a"}, {"title": "b", "pages": 7}]),
    (Data, [Data(1), Data(1, [MOMENT])]),
]
"""Types, each with values it holds. They are put into one another, and one in the place of the other."""
KEYS: list[tuple[Any, list[Any]]] = [
    (str, ["", "k"]),
    (Annotated[str, Meta(min_length=2)], ["kk"]),
    (int, [1, -2]),
    (Annotated[int, Meta(ge=0)], [0, 3]),
    (float, [1.5]),
    (date, [MOMENT.date()]),
    (datetime, [MOMENT, AWARE]),
    (UUID, [UUID(int=7)]),
    (Light, list(Light)),
    (Literal["red", "k"], ["red", "k"]),
    (Any, ["k"]),
]


CLASSES_KEPT: list[type[Struct]] = []
"""The classes made on the way: msgspec 0.22 has crashed in the garbage collection of those nobody holds any more."""


@dataclasses.dataclass(frozen=True)
class Field:
    """A type that a field may have, what may stand in it, and what kinds of JSON that is."""

    annotation: Any
    values: st.SearchStrategy[Any]
    kinds: frozenset[type]


def leaf(annotation: Any, values: list[Any]) -> Field:
    kinds = frozenset(type(msgspec.to_builtins(value)) for value in values)
    return Field(annotation, st.sampled_from(values), kinds if annotation is not Any else frozenset([object]))


def union(one: Field, other: Field) -> Field | None:
    """One or the other, where msgspec can tell them apart.

    A union it cannot make, or of a limited number and a tuple of fixed length, can make msgspec 0.22 damage the memory
    of the process; so none of those is tried.
    """
    kinds = one.kinds | other.kinds
    if one.kinds & other.kinds or object in kinds or (list in kinds and kinds - {list, type(None)}):
        return None
    return Field(typing.Union.__getitem__((one.annotation, other.annotation)), one.values | other.values, kinds)


def containers(inner: st.SearchStrategy[Field]) -> st.SearchStrategy[Field]:
    def of_two(two: tuple[Field, Field]) -> st.SearchStrategy[Field]:
        one, other = two
        pair: Any = tuple.__class_getitem__((one.annotation, other.annotation))
        both = Field(pair, st.tuples(one.values, other.values), frozenset([list]))
        either = union(one, other)
        return st.sampled_from([both] if either is None else [both, either])

    def of_one(one: Field, key: tuple[Any, list[Any]]) -> st.SearchStrategy[Field]:
        keyed: Any = dict.__class_getitem__((key[0], one.annotation))
        several: Any = list.__class_getitem__(one.annotation)
        limited: Any = Annotated[several, Meta(min_length=1)]
        endless: Any = tuple.__class_getitem__((one.annotation, ...))
        lists = st.lists(one.values, max_size=2)
        optional = union(one, leaf(None, [None]))
        return st.sampled_from(
            [
                Field(keyed, st.dictionaries(st.sampled_from(key[1]), one.values, max_size=2), frozenset([dict])),
                Field(several, lists, frozenset([list])),
                Field(limited, st.lists(one.values, min_size=1, max_size=2), frozenset([list])),
                Field(endless, lists.map(tuple), frozenset([list])),
                *([optional] if optional is not None else ()),
            ]
        )

    single = st.tuples(inner, st.sampled_from(KEYS)).flatmap(lambda both: of_one(*both))
    return single | st.tuples(inner, inner).flatmap(of_two)


some_fields = st.recursive(st.sampled_from([leaf(*one) for one in SAMPLES]), containers, max_leaves=3)


@st.composite
def two_classes(draw: st.DrawFn) -> tuple[type[Struct], type[Struct], dict[str, Any]]:
    """A class, one that took its place, and the data of an instance of the first, optional fields left out or not."""
    old: dict[str, tuple[Field, bool]] = {}
    new: dict[str, tuple[Field, bool]] = {}
    data: dict[str, Any] = {}
    for name in "ab":
        field, required = draw(some_fields), draw(st.booleans())
        fate = draw(st.sampled_from(["kept", "loosened", "changed", "gone", "came"]))
        if fate != "came":
            old[name] = (field, required)
            if required or draw(st.booleans()):
                data[name] = draw(field.values)
        if fate == "kept":
            new[name] = (field, required)
        elif fate == "loosened":
            new[name] = (draw(containers(st.just(field))), draw(st.booleans()))
        elif fate in ("changed", "came"):
            new[name] = (draw(some_fields), draw(st.booleans()))
    forbids = draw(st.booleans())
    return made("Old", old, forbids=False), made("New", new, forbids=forbids), data


def made(name: str, fields: dict[str, tuple[Field, bool]], *, forbids: bool) -> type[Struct]:
    parts = [
        (name, field.annotation) if required else (name, typing.Union.__getitem__((field.annotation, UnsetType)), UNSET)
        for name, (field, required) in fields.items()
    ]
    made = defstruct(name, parts, kw_only=True, forbid_unknown_fields=forbids)
    CLASSES_KEPT.append(made)
    return made


def holding(annotation: Any) -> type[Struct]:
    return defstruct("Holding", [("field", annotation)])


def reads(data_class: type[Struct], text: bytes) -> bool:
    try:
        msgspec.json.decode(text, type=data_class)
    except msgspec.ValidationError:
        return False
    return True


def found(old: type[Struct], new: type[Struct]) -> list[str]:
    return [str(one) for one in narrowings(exact_schema(old), exact_schema(new))]


@settings(max_examples=400, suppress_health_check=list(HealthCheck))
@given(two_classes())
def test_what_is_called_harmless_reads_everything_the_old_class_wrote(
    case: tuple[type[Struct], type[Struct], dict[str, Any]],
) -> None:
    old, new, data = case
    text = msgspec.json.encode(data)
    assert reads(old, text)
    if not found(old, new):
        assert reads(new, text)


@pytest.mark.parametrize("old", range(len(SAMPLES)), ids=lambda place: str(SAMPLES[place][0]))
def test_a_field_of_one_type_called_harmless_in_the_place_of_another_reads_it(old: int) -> None:
    annotation, values = SAMPLES[old]
    for other, _values in SAMPLES:
        if not found(holding(annotation), holding(other)):
            for value in values:
                msgspec.json.decode(msgspec.json.encode({"field": value}), type=holding(other))


@pytest.mark.parametrize("old", range(len(KEYS)), ids=lambda place: str(KEYS[place][0]))
def test_a_key_of_one_type_called_harmless_in_the_place_of_another_reads_it(old: int) -> None:
    annotation, values = KEYS[old]
    for other, _values in KEYS:
        if not found(holding(dict[annotation, int]), holding(dict[other, int])):  # type: ignore[valid-type]
            for value in values:
                msgspec.json.decode(msgspec.json.encode({"field": {value: 1}}), type=holding(dict[other, int]))  # type: ignore[valid-type]


@pytest.mark.parametrize("annotation", [one for one, _values in SAMPLES], ids=str)
def test_a_class_reads_what_it_wrote_itself(annotation: Any) -> None:
    assert found(holding(annotation), holding(annotation)) == []


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (int, float),
        (int, Decimal),
        (float, Decimal),
        (int, int | None),
        (int, int | str),
        (int, Any),
        (Point, OpenPoint),
        (Point, dict[str, int]),
        (Pair, LongerPair),
        (LongerPair, Pair),
        (Tree, LooseTree),
        (StrictTree, Tree),
        (Car, Car | Ship),
        (Light, MoreLight),
        (Light, str),
        (Rank, int),
        (Literal["red", 1], str | int),
        (datetime, str),
        (Annotated[datetime, Meta(tz=True)], datetime),
        (UUID, str),
        (set[int], list[int]),
        (tuple[int, int], list[int]),
        (tuple[int, str], list[int | str]),
        (dict[int, int], dict[str, float]),
        (dict[Light, int], dict[str, int]),
        (Annotated[int, Meta(gt=0, lt=10)], Annotated[int, Meta(ge=0, le=10)]),
        (Annotated[int, Meta(multiple_of=4)], Annotated[int, Meta(multiple_of=2)]),
        (Annotated[str, Meta(min_length=2)], Annotated[str, Meta(min_length=1)]),
        (Annotated[str, Meta(min_length=2)], str),
    ],
    ids=str,
)
def test_widening_a_field_is_harmless(old: Any, new: Any) -> None:
    assert found(holding(old), holding(new)) == []


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        (float, int, "$.field: number is no longer read"),
        (int | None, int, "$.field: null is no longer read"),
        (str, datetime, "$.field: string is no longer read"),
        (str, UUID, "$.field: string is no longer read"),
        (datetime, Annotated[datetime, Meta(tz=True)], "$.field: string (date-time-or-local) is no longer read"),
        (bool, int, "$.field: boolean is no longer read"),
        (Any, str, "$.field: any value is no longer read"),
        (MoreLight, Light, "$.field: 'blue' is no longer read"),
        (str, Light, "$.field: string is no longer read"),
        (Car | Ship, Car, "$.field.type: 'Ship' is no longer read"),
        (OpenPoint, Point, "$.field.x: number is no longer read"),
        (Point, ClosedPoint, "$.field.y: is gone, and unknown fields are forbidden"),
        (Tree, StrictTree, "$.field.branches: is required now, and was optional before"),
        (ClosedPoint, StrictTree, "$.field.value: is required now, and did not exist before"),
        (dict[str, int], Point, "$.field: was a dict, and is an object with fields now"),
        (dict[str, int], dict[str, str], "$.field.*: integer is no longer read"),
        (dict[str, int], dict[int, int], "$.field (the keys): string is no longer read"),
        (list[int], set[int], "$.field: uniqueItems is True now"),
        (list[int], tuple[int, int], "$.field: minItems is 2 now"),
        (tuple[int, str], tuple[int, int], "$.field[1]: string is no longer read"),
        (list[int], list[str], "$.field[*]: integer is no longer read"),
        (int, Annotated[int, Meta(ge=0)], "$.field: minimum is 0 now"),
        (
            Annotated[str, Meta(max_length=9)],
            Annotated[str, Meta(max_length=3)],
            "$.field: maxLength is 3 now, and was 9",
        ),
    ],
    ids=str,
)
def test_narrowing_a_field_is_told_with_its_place(old: Any, new: Any, problem: str) -> None:
    assert problem in found(holding(old), holding(new))


def test_of_two_plain_types_in_a_union_the_limits_of_either_may_apply() -> None:
    """msgspec keeps one set of limits for all whole numbers of a union."""
    either = holding(typing.Union[int, Annotated[int, Meta(ge=1)]])  # noqa: UP007 - the same type twice

    assert not reads(either, b'{"field": 0}')
    assert found(holding(int), either) == ["$.field: integer is no longer read"]


def test_what_did_not_fit_once_is_told_at_every_place() -> None:
    """A pair is only taken to fit while it is being compared."""
    before = defstruct("Event", [("a", MoreLight), ("b", list[MoreLight])])
    after = defstruct("Event", [("a", Light), ("b", list[Light])])

    assert found(before, after) == ["$.a: 'blue' is no longer read", "$.b[*]: 'blue' is no longer read"]


def test_a_field_that_is_added_must_have_a_default() -> None:
    before = defstruct("Event", [("a", int)])
    with_default = defstruct("Event", [("a", int), ("b", int, 0)])
    without = defstruct("Event", [("a", int), ("b", int)])

    assert found(before, with_default) == []
    assert found(before, without) == ["$.b: is required now, and did not exist before"]


def test_a_class_with_the_same_fields_under_another_name_is_harmless() -> None:
    class Inner(Struct):
        x: int

    class Moved(Struct):
        x: int

    assert found(holding(list[Inner]), holding(list[Moved])) == []


def test_documentation_is_no_part_of_a_schema() -> None:
    class Said(Struct):
        """One thing."""

        title: Annotated[str, Meta(description="what it is called", examples=["x"])]

    class Unsaid(Struct):
        title: str

    said, unsaid = exact_schema(Said)["$defs"]["Said"], exact_schema(Unsaid)["$defs"]["Unsaid"]
    assert said == unsaid == {"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}


def test_two_classes_of_one_name_stay_apart() -> None:
    def inner(annotation: Any) -> type[Struct]:
        return defstruct("Inner", [("x", annotation)], module=f"one_{annotation.__name__}")

    both = defstruct("Both", [("a", inner(int)), ("b", inner(str))])
    swapped = defstruct("Both", [("a", inner(str)), ("b", inner(int))])

    assert found(both, both) == []
    assert len(found(both, swapped)) == 2


def test_a_type_that_json_cannot_describe_is_refused() -> None:
    class Odd(Struct):
        what: complex

    with pytest.raises(DeclarationError, match="Odd has no JSON Schema"):
        exact_schema(Odd)

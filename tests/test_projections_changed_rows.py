"""A row whose Struct is another one now: found out when the code starts, also where the column is the same."""

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from msgspec import Meta
from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.errors import DeclarationError, RefusedError, UsageError
from eventlog.projections import View
from eventlog.projections.columns import fields_of
from eventlog.subscribers.owned_tables import differences, takes_values
from eventlog.subscribers.registration import Registration
from eventlog.subscribers.retry import Retry
from eventlog.testing import given, recorded
from tests.subscribers_support import Bench, Sent


class Two(Enum):
    RED = "red"
    BLUE = "blue"


class Three(Enum):
    BLUE = "blue"
    GREEN = "green"
    RED = "red"


class Place(msgspec.Struct, frozen=True):
    name: str


class Spot(msgspec.Struct, frozen=True):
    """Another name, and something said about it; its values are written alike."""

    name: str


class Branch(msgspec.Struct, frozen=True):
    name: str
    under: "list[Branch]" = []


class Bough(msgspec.Struct, frozen=True):
    name: str
    under: "list[Bough]" = []


class Numbered(msgspec.Struct, frozen=True):
    name: str
    number: int


def view_of(kind: Any, default: Any = None, *, indexes: Sequence[str] = ()) -> View[Any]:
    row = msgspec.defstruct("Row", [("number", int), ("value", kind, default)], frozen=True)
    view = View("rows", row=row, key="number", indexes=indexes)

    def evolve(row_before: Any, sent: Sent) -> Any:
        return row_before or row(sent.number, default)

    view(evolve)
    return view


DIALECTS = (sqlite.dialect(), postgresql.dialect())  # type: ignore[no-untyped-call]


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Place, Numbered),
        (list[int], list[str]),
        (Branch, Place),
        (dict[str, Place], dict[str, Numbered]),
        (Place | None, Numbered | None),
        (Three, Two),
        (Three, Literal["blue", "green", "red"]),
        (Two, str),
        (Literal["a", "b"], Literal["a"]),
        (Literal[1, 2], int),
        (Decimal, str),
        (str, datetime),
        (int, timedelta),
    ],
)
def test_other_values_are_told_apart_also_in_a_column_of_the_same_type(before: Any, now: Any) -> None:
    for dialect in DIALECTS:
        stored, declared = view_of(before).subscriber.shape(dialect), view_of(now).subscriber.shape(dialect)

        assert not takes_values(declared, stored)
        assert "rows with" in differences(stored, declared)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (Place, Spot),
        (Branch, Bough),
        (dict[str, Place | None], dict[str, Spot | None]),
        (Two, Three),
        (Literal["a"], Literal["b", "a"]),
        (str, Annotated[str, Meta(description="what they call it")]),
        (list[Two], list[Two]),
    ],
)
def test_values_that_can_still_be_read_are_taken_over(before: Any, now: Any) -> None:
    for dialect in DIALECTS:
        assert takes_values(view_of(now).subscriber.shape(dialect), view_of(before).subscriber.shape(dialect))


def test_a_nested_struct_that_changed_asks_for_a_version_before_a_row_cannot_be_read(bench: Bench) -> None:
    app = bench.app()
    app.add(view_of(Place, Place("here")))
    bench.send(1)
    app.drain()
    later = bench.app()
    later.add(view_of(Numbered, Numbered("here", 1)))

    with pytest.raises(RefusedError, match="rows with other values in value") as refused:
        later.register()
    assert "version=2" in refused.value.remedy


def test_an_enum_that_gains_a_member_goes_on_and_code_that_does_not_know_it_does_not(bench: Bench) -> None:
    old, new = bench.app(), bench.app()
    old.add(view_of(Two, Two.RED))
    old.register()
    new.add(view_of(Three, Three.GREEN))

    assert new.register() == {"rows": Registration.UNCHANGED}
    bench.send(1)
    assert new.drain().handled == 1
    with pytest.raises(RefusedError, match="other values in value"):
        old.register()


def test_an_index_that_is_declared_later_is_missed_by_name(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    app = bench.app()
    app.add(view_of(int, 0))
    app.register()
    later = bench.app()
    later.add(view_of(int, 0, indexes=["value"]))
    with caplog.at_level(logging.WARNING, "eventlog.worker"):
        later.register()
        assert "index ix_rows_value is declared and not there" in caplog.text
        with bench.transaction() as connection:
            connection.exec_driver_sql("create index by_hand on rows (value)")
        caplog.clear()
        later.register()
        assert caplog.text == ""


class Unwritable:
    pass


@pytest.mark.parametrize("kind", [Unwritable, list[Unwritable], complex, int | msgspec.UnsetType])
def test_what_cannot_be_written_is_refused_when_it_is_declared(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="field 'value' of Row cannot be kept"):
        fields_of(msgspec.defstruct("Row", [("value", kind)]))


class Strange(Enum):
    RED = "red"
    GREEN = "green"


@pytest.mark.parametrize(
    ("kind", "value", "said"),
    [
        (Two, "red", "'red', and its values are Two"),
        (Two, Strange.RED, "<Strange.RED: 'red'>, and its values are Two"),
        (Two, Strange.GREEN, "its values are Two"),
        (Literal["a", "b"], "c", "'c', and its values are 'a', 'b'"),
        (Literal[1, 2], 3, "3, and its values are 1, 2"),
        (str, 5, "5, and its values are str"),
        (bool, 5, "5, and its values are bool"),
        (bool, 1, "its values are bool"),
        (bytes, "x", "its values are bytes"),
        (date, datetime(2020, 1, 1, 5, tzinfo=UTC), "its values are date"),
        (datetime, "2020-01-01", "its values are datetime"),
        (float, "1.5", "its values are float"),
        (Decimal, 0.5, "its values are Decimal or int"),
        (Decimal, "1.5", "its values are Decimal"),
        (int, "7", "'7': 'str' object cannot be interpreted as an integer"),
        (UUID, "x", "its values are UUID"),
        (timedelta, 5, "its values are timedelta"),
        (list[int], ["x"], "could not be read again"),
        (Place, Numbered("x", 1).name, "could not be read again"),
        (dict[str, Two], {"x": "violet"}, "could not be read again"),
    ],
)
def test_a_value_of_another_type_is_refused_with_its_row_and_field(
    bench: Bench, kind: Any, value: Any, said: str
) -> None:
    app = bench.app()
    row = msgspec.defstruct("Row", [("number", int), ("value", kind | None, None)], frozen=True)
    view = app.add(View("rows", row=row, key="number", retry=Retry(attempts=1)))

    @view
    def evolve(row_before: Any, sent: Sent) -> Any:
        return row(sent.number, value if sent.number == 2 else None)

    bench.send(3)
    app.drain()

    message = bench.entries("rows")[0].message
    assert "the row of number=2 cannot be kept: value is " in message
    assert said in message
    assert (bench.states("rows"), bench.position("rows")) == ({2: "parked"}, 1)


class Word(StrEnum):
    HERE = "here"


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [(str, Word.HERE, "here"), (float, 1, 1.0), (Decimal, 1, Decimal(1)), (int, True, 1), (Literal[1, 2], 2, 2)],
)
def test_a_value_of_a_class_that_says_the_same_is_kept(bench: Bench, kind: Any, value: Any, kept: Any) -> None:
    app = bench.app()
    row = msgspec.defstruct("Row", [("number", int), ("value", kind | None, None)], frozen=True)
    view = app.add(View("rows", row=row, key="number"))

    @view
    def evolve(row_before: Any, sent: Sent) -> Any:
        return row(sent.number, value)

    bench.send(1)
    app.drain()

    assert bench.rows(select(view.table.c.value)) == [(kept,)]


@pytest.mark.parametrize(("kind", "key"), [(str, 5), (int, 1.0), (int, True), (Two, "red"), (datetime, "2020-01-01")])
def test_a_key_of_another_class_is_refused_since_its_row_would_not_be_found_again(kind: Any, key: Any) -> None:
    row = msgspec.defstruct("Row", [("key", kind), ("sums", int, 0)], frozen=True)
    view = View("rows", row=row, key="key")

    @view.on(key=lambda sent: [key])
    def add(before: Any, sent: Sent) -> Any:
        return row(key)

    with pytest.raises(UsageError, match=f"is no key of a row, which is of: {kind.__qualname__}"):
        given(view, Sent(1))


def test_moments_that_are_equal_are_one_row_in_one_partition() -> None:
    row = msgspec.defstruct("Row", [("at", datetime)], frozen=True)
    view = View("rows", row=row, key="at", partitions=3)
    noon = datetime(2020, 1, 1, 12, tzinfo=UTC)

    @view.on(key=lambda sent: noon.astimezone(timezone(timedelta(hours=sent.number))))
    def add(before: Any, sent: Sent) -> Any:
        return before

    first, second = recorded(Sent(0), Sent(2))
    assert view._ordering_key(first) == view._ordering_key(second)

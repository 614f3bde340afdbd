"""The columns of a view: whatever type a field has, its values come out of both databases as they went in."""

from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Meta
from sqlalchemy import Connection, select

from eventlog.errors import DeclarationError
from eventlog.projections.columns import check_value, fields_of
from eventlog.projections.rows import Rows
from eventlog.projections.view import View
from tests.subscribers_support import Bench


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    SMALL = 1
    LARGE = 2


class Inner(msgspec.Struct, frozen=True):
    name: str
    tags: tuple[str, ...] = ()


class Everything(msgspec.Struct, frozen=True):
    key: UUID
    day: date
    flag: bool
    number: int
    real: float
    text: str
    raw: bytes
    money: Decimal
    moment: datetime
    naive: Annotated[datetime, Meta(tz=False)]
    hour: time
    span: timedelta
    colour: Colour
    size: Size
    word: Literal["a", "b"]
    inner: Inner
    counts: dict[str, int]
    maybe: Decimal | None = None
    maybe_inner: Inner | None = None
    union: int | str | None = None
    anything: Any = None


TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=8)
INNER = st.builds(Inner, TEXT, st.lists(TEXT, max_size=2).map(tuple))
MONEY = st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12)
FIRST, LAST = datetime.fromisoformat("1900-01-02T00:00"), datetime.fromisoformat("9999-01-01T00:00")
MOMENTS = st.datetimes(FIRST, LAST, timezones=st.sampled_from([UTC, timezone(timedelta(hours=5.5))]))
ROWS = st.builds(
    Everything,
    key=st.uuids(),
    day=st.dates(),
    flag=st.booleans(),
    number=st.integers(-(2**63), 2**63 - 1),
    real=st.floats(allow_nan=False, allow_infinity=False),
    text=TEXT,
    raw=st.binary(max_size=8),
    money=MONEY,
    moment=MOMENTS,
    naive=st.datetimes(FIRST, LAST),
    hour=st.times(),
    span=st.timedeltas(timedelta(days=-(10**6)), timedelta(days=10**6)),
    colour=st.sampled_from(Colour),
    size=st.sampled_from(Size),
    word=st.sampled_from(["a", "b"]),
    inner=INNER,
    counts=st.dictionaries(TEXT, st.integers(-(2**60), 2**60), max_size=2),
    maybe=st.none() | MONEY,
    maybe_inner=st.none() | INNER,
    union=st.none() | st.integers(-9, 9) | TEXT,
    anything=st.none() | st.lists(st.integers(0, 9), max_size=2),
)


@pytest.fixture
def everything(bench: Bench) -> Iterator[tuple[Connection, View[Everything]]]:
    view = View("everything", row=Everything, key=("key", "day"))
    with bench.log.engine.connect() as connection:
        view.table.create(connection)
        yield connection, view
        connection.rollback()


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROWS, min_size=1, max_size=3, unique_by=lambda row: (row.key, row.day)))
def test_every_value_comes_out_as_it_went_in(
    everything: tuple[Connection, View[Everything]], rows: list[Everything]
) -> None:
    connection, view = everything
    store: Rows[Everything] = view._rows

    store.write(connection, rows)
    store.write(connection, rows)

    found = store.read(connection, [(row.key, row.day) for row in rows])
    assert found == {(row.key, row.day): row for row in rows}
    store.delete(connection, list(found))
    assert store.read(connection, list(found)) == {}


def test_whoever_queries_the_table_finds_the_values_and_not_how_they_are_kept(
    everything: tuple[Connection, View[Everything]],
) -> None:
    connection, view = everything
    row = Everything(
        key=UUID(int=7),
        day=date(2013, 1, 2),
        flag=True,
        number=1,
        real=1.5,
        text="a",
        raw=b"\x00",
        money=Decimal("1.10"),
        moment=datetime(2013, 1, 2, 3, 4, 5, 678901, UTC),
        naive=datetime.fromisoformat("2013-01-02T03:04"),
        hour=time(3, 4),
        span=timedelta(hours=-1, microseconds=1),
        colour=Colour.RED,
        size=Size.LARGE,
        word="b",
        inner=Inner("x", ("y",)),
        counts={"z": 1},
    )
    view._rows.write(connection, [row])

    table = view.table
    found = connection.execute(select(table).where(table.c.moment == row.moment, table.c.key == row.key)).one()

    assert (found.money, found.moment, found.naive, found.span) == (row.money, row.moment, row.naive, row.span)
    assert (found.day, found.hour, found.flag, found.key) == (row.day, row.hour, row.flag, row.key)
    assert (found.colour, found.size, found.inner) == ("red", 2, {"name": "x", "tags": ["y"]})


@pytest.mark.parametrize("row", [int, dict, msgspec.Struct, type("Empty", (msgspec.Struct,), {})])
def test_what_is_no_struct_with_fields_is_no_row(row: Any) -> None:
    with pytest.raises(DeclarationError, match="no Struct with fields"):
        fields_of(row)


@pytest.mark.parametrize("kind", [Annotated[datetime | None, Meta(tz=False)], "Nowhere"])
def test_a_type_that_nobody_can_read_is_refused_with_what_would_do(kind: Any) -> None:
    with pytest.raises(DeclarationError, match="fields of Row cannot be read") as refused:
        fields_of(msgspec.defstruct("Row", [("at", kind)]))
    assert "Annotated[datetime, Meta(tz=False)] | None" in refused.value.remedy


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("number", 2**63, "64 bits"),
        ("text", "a\x00", "NUL"),
        ("text", "a\ud800", "no Unicode"),
        ("inner", Inner("\x00"), "NUL"),
        ("moment", FIRST, "no time zone"),
        ("naive", datetime(2013, 1, 1, tzinfo=UTC), "has a time zone"),
        ("hour", time(1, tzinfo=UTC), "has a time zone"),
        ("flag", None, "None where"),
        ("real", float("nan"), "null"),
        ("number", 1.5, "integer"),
        ("anything", object(), "unsupported"),
        ("money", Decimal(1), None),
        ("maybe", None, None),
    ],
)
def test_a_value_that_cannot_be_kept_is_told_apart(name: str, value: Any, said: str | None) -> None:
    field = next(one for one in fields_of(Everything) if one.name == name)

    problem = check_value(field, value)

    assert problem is None if said is None else said in str(problem)

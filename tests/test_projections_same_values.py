"""Values that are equal and not the same: a view holds what its last event made, however its events came in pages.

`1 == True`, `1.0 == 1.00`, `0.0 == -0.0`: a row that such a value comes into is another row. The events of a history
come in pages of any sizes, each touches several rows, and a rebuild, which is given all of them at once, makes the same
table of them to the last character. `EVENTLOG_SOAK=N` in the environment runs a fifth of so many histories.
"""

import os
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import count
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from sqlalchemy import select, text

from eventlog.event_types import event
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.projections.view import View
from tests.subscribers_support import Bench

HISTORIES = int(os.environ.get("EVENTLOG_SOAK", "125")) // 5
NUMBERS = count(1)
NOON = datetime(2020, 1, 1, 12, tzinfo=UTC)
ELSEWHERE = NOON.astimezone(timezone(timedelta(hours=2)))

VALUES: dict[str, Sequence[Any]] = {
    "money": (Decimal("1"), Decimal("1.0"), Decimal("1.00"), Decimal("0"), Decimal("-0"), 1, None),
    "real": (0.0, -0.0, 1.0, 1, 0),
    "flag": (True, False),
    "number": (1, 0, True),
    "moment": (NOON, ELSEWHERE, None),
    "either": (1, True, 1.0, 0, False, 0.0, -0.0, None),
    "anything": (1, True, 1.0, [1, 0.0], [True, -0.0], {"x": 1, "y": 2}, {"y": 2, "x": 1}, {"x": True, "y": 2}, None),
    "counts": ({}, {"x": 1}, {"x": True}, {"x": [NOON]}, {"x": [ELSEWHERE]}),
}


@event("value.put")
class Put(msgspec.Struct, frozen=True):
    rows: list[int]
    field: str
    value: int
    in_place: bool = False


class Values(msgspec.Struct, frozen=True):
    number_of_row: int
    money: Decimal | None = None
    real: float = 0.0
    flag: bool = False
    number: int = 0
    moment: datetime | None = None
    either: int | bool | float | None = None
    anything: Any = None
    counts: dict[str, Any] = {}
    trail: list[str] = []


def put(row: Values | None, put: Put, number: int) -> Values:
    row = row or Values(number)
    if put.in_place:
        row.trail.append(put.field)
        return row
    return replace(row, **{put.field: VALUES[put.field][put.value]})


@st.composite
def puts(draw: Callable[..., Any]) -> Put:
    field = draw(st.sampled_from(sorted(VALUES)))
    value = draw(st.integers(0, len(VALUES[field]) - 1))
    rows = draw(st.lists(st.integers(1, 3), min_size=1, max_size=3, unique=True))
    return Put(rows, field, value, draw(st.integers(0, 9)) == 0)


PAGES = st.lists(st.lists(puts(), min_size=1, max_size=4), min_size=1, max_size=8)


class Stored:
    """One view on one database, and the text of what its table holds."""

    def __init__(self, bench: Bench, row: Any, function: Any) -> None:
        self.bench, self.app = bench, bench.app()
        self.name = f"values_{next(NUMBERS)}"
        self.view: View[Any] = self.app.add(View(self.name, row=row, key=row.__struct_fields__[0], start="now"))
        self.view.on(key=lambda put: put.rows)(function)
        self.app.register()

    def page(self, events: Sequence[Any]) -> str:
        self.bench.log.append(*events, stream="values")
        assert self.app.drain().failed == 0
        return self.text()

    def rebuilt(self) -> str:
        rebuild_in_place(self.bench.log.database, self.name)
        assert self.app.drain().failed == 0
        return self.text()

    def text(self) -> str:
        columns = ", ".join(f"cast({one.name} as text)" for one in self.view.table.columns)
        rows = self.bench.rows(text(f"select {columns} from {self.name} order by 1"))
        return "\n".join(map(repr, map(tuple, rows)))


@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(pages=PAGES)
def test_however_its_events_came_in_pages_a_view_holds_the_same_values(bench: Bench, pages: list[list[Put]]) -> None:
    stored = Stored(bench, Values, put)

    incremental = [stored.page(page) for page in pages]

    assert incremental[-1] == stored.rebuilt()


@pytest.mark.parametrize(
    ("field", "first", "second"),
    [
        ("anything", 1, True),
        ("anything", {"x": 1}, {"x": True}),
        ("either", 1, True),
        ("either", True, 1.0),
        ("money", Decimal("1.0"), Decimal("1.00")),
    ],
)
def test_a_value_that_is_equal_to_the_one_before_and_another_is_written(
    bench: Bench, field: str, first: Any, second: Any
) -> None:
    values = iter([first, second])

    def take(row: Values | None, put: Put, number: int) -> Values:
        return Values(number, **{field: next(values)})

    stored = Stored(bench, Values, take)
    before = stored.page([Put([1], field, 0)])

    assert stored.page([Put([1], field, 0)]) != before


def test_a_row_that_is_changed_in_place_is_written_as_it_is_then(bench: Bench) -> None:
    stored = Stored(bench, Values, put)
    stored.page([Put([1], "real", 0)])

    stored.page([Put([1], "real", 0, in_place=True)])

    trail = bench.rows(select(stored.view.table.c.trail))
    assert trail == [(["real"],)]

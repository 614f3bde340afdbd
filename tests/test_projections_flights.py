"""Read models of real flights, against plain SQL over the log: by a view and by hand, made once and made anew."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from sqlalchemy import BigInteger, Column, MetaData, Table, Text, insert, select, text

from eventlog.cli.demo.flights import read_flights
from eventlog.event_types import event
from eventlog.projections.view import View
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from tests.subscribers_support import Bench

FLIGHTS = 2_000


@event("week.landed", stream="week-{carrier}-{number}-{day}-{origin}")
class Landed(msgspec.Struct, frozen=True):
    carrier: str
    number: int
    day: str
    origin: str
    dest: str
    minutes: int


@event("week.cancelled", stream="week-{carrier}-{number}-{day}-{origin}")
class Cancelled(msgspec.Struct, frozen=True):
    carrier: str
    number: int
    day: str
    origin: str
    dest: str


class Delay(msgspec.Struct, frozen=True):
    airport: str
    flights: int = 0
    minutes: int = 0
    worst: int = 0
    cancelled: int = 0


BY_HAND = Table(
    "carriers",
    MetaData(),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("carrier", Text, nullable=False),
    Column("minutes", BigInteger, nullable=False),
)


def happened() -> Iterator[Landed | Cancelled]:
    for flight in list(read_flights())[-FLIGHTS:]:
        which = (flight.carrier, flight.number, flight.day.isoformat(), flight.origin, flight.dest)
        if flight.arrival is None:
            yield Cancelled(*which)
        else:
            yield Landed(*which, minutes=max(flight.arrival.delay or 0, 0))


def delays(version: int) -> View[Delay]:
    view = View("delays", row=Delay, key="airport", version=version)

    @view.on(key="dest")
    def land(row: Delay | None, landed: Landed) -> Delay:
        row = row or Delay(landed.dest)
        worst = max(row.worst, landed.minutes)
        return replace(row, flights=row.flights + 1, minutes=row.minutes + landed.minutes, worst=worst)

    @view.on(key="dest")
    def cancel(row: Delay | None, cancelled: Cancelled) -> Delay:
        row = row or Delay(cancelled.dest)
        return replace(row, cancelled=row.cancelled + 1)

    return view


def app_of(bench: Bench, version: int) -> App:
    app = bench.app()
    app.add(delays(version))
    carriers = app.projection("carriers", tables=[BY_HAND], version=version)

    @carriers
    def land(landings: list[Landed], ctx: Context) -> None:
        rows = [
            {"position": event.position, "carrier": landed.carrier, "minutes": landed.minutes}
            for event, landed in zip(ctx.events, landings, strict=True)
        ]
        ctx.connection.execute(insert(BY_HAND), rows)

    return app


def by_sql(bench: Bench, key: str) -> list[tuple[Any, ...]]:
    """Sum up the log itself, without any of our code."""
    events = bench.log.database.tables.sql_name("events")
    field = "data ->> '{}'" if bench.postgres else "json_extract(data, '$.{}')"
    minutes = f"cast(coalesce({field.format('minutes')}, '0') as bigint)"
    question = f"""
        select {field.format(key)} as key, sum(case when type = 'week.landed' then 1 else 0 end),
            sum({minutes}), max({minutes}), sum(case when type = 'week.cancelled' then 1 else 0 end)
        from {events} group by 1 order by 1
    """
    return [(key, int(a), int(b), int(c), int(d)) for key, a, b, c, d in bench.rows(text(question))]


def carriers(bench: Bench) -> list[tuple[Any, ...]]:
    question = "select carrier, count(*), sum(minutes), max(minutes) from carriers group by carrier order by carrier"
    return [(key, int(a), int(b), int(c)) for key, a, b, c in bench.rows(text(question))]


@pytest.mark.parametrize("pieces", [3])
def test_sums_of_real_flights_are_those_of_plain_sql_also_when_they_are_made_anew(bench: Bench, pieces: int) -> None:
    events = list(happened())
    size = len(events) // pieces + 1
    app = app_of(bench, version=1)
    for start in range(0, len(events), size):
        bench.log.append(*events[start : start + size])
        app.drain()
    for version in (1, 2):
        app_of(bench, version).drain()
        table = delays(version).table
        rows = [tuple(row) for row in bench.rows(select(table).order_by(table.c.airport))]
        assert sorted(rows) == sorted(by_sql(bench, "dest"))
        assert sorted(carriers(bench)) == sorted(row[:4] for row in by_sql(bench, "carrier") if row[1])
    assert [one.state for one in read_rebuilds(bench.log.database)] == [RebuildState.DONE, RebuildState.DONE]

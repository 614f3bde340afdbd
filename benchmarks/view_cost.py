"""What a view costs beside a projection that does the same by hand with lists, as ratios within one run.

    python -m benchmarks.view_cost                  a SQLite file, and the server of the tests

Events are folded into few rows (100) or many (as many as events). By hand is what one would write without views: a list
handler that adds up in a dictionary and upserts what it has, by SQLAlchemy. The kinds alternate, the best round counts.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec
from msgspec.structs import replace
from sqlalchemy import BigInteger, Column, MetaData, Numeric, Table, Text
from sqlalchemy.dialects import postgresql, sqlite

from eventlog.event_types import event
from eventlog.projections.view import View
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from tests.postgres_server import postgres_server

EVENTS = 20_000
ROUNDS = 3


@event("bench.arrived", stream="bench-{number}")
class Arrived(msgspec.Struct, frozen=True):
    number: int
    few: str
    delay: Decimal


class Delay(msgspec.Struct, frozen=True):
    place: str
    flights: int = 0
    minutes: Decimal = Decimal(0)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(f"sqlite:///{folder}/events.db")
    with postgres_server() as url:
        measure(url)


def measure(url: str) -> None:
    app = App(url)
    app.log.init()
    arrivals = [Arrived(number, f"place-{number % 100}", Decimal(number % 7)) for number in range(EVENTS)]
    for start in range(0, EVENTS, 1_000):
        app.log.append(*arrivals[start : start + 1_000])
    seconds: dict[str, list[float]] = {}
    for round_number in range(ROUNDS):
        for name, declare in KINDS.items():
            fresh = App(app.engine)
            declare(fresh, f"{name.replace(' ', '_')}_{round_number}")
            fresh.register()
            begun = time.perf_counter()
            fresh.drain()
            seconds.setdefault(name, []).append((time.perf_counter() - begun) / EVENTS)
    base = min(seconds["nothing"])
    for name, measured in seconds.items():
        best = min(measured)
        sys.stdout.write(
            f"{app.engine.dialect.name:11} {name:14} {1 / best:9,.0f} events/s"
            f"   {best / min(seconds['by hand ' + name.split()[-1]]) if 'view' in name else best / base:5.2f}"
            f" of {'by hand' if 'view' in name else 'an empty handler of lists'}\n"
        )
    app.engine.dispose()


def view_of(key: Callable[[Arrived], str]) -> Callable[[App, str], None]:
    def declare(app: App, name: str) -> None:
        view = View(name, row=Delay, key="place")

        @view.on(key=key)
        def add(row: Delay | None, arrived: Arrived) -> Delay:
            row = row or Delay(key(arrived))
            return replace(row, flights=row.flights + 1, minutes=row.minutes + arrived.delay)

        app.add(view)

    return declare


def by_hand_of(key: Callable[[Arrived], str]) -> Callable[[App, str], None]:
    def declare(app: App, name: str) -> None:
        exact = Numeric().with_variant(Numeric(asdecimal=False), "sqlite")
        table = Table(
            name,
            MetaData(),
            Column("place", Text, primary_key=True),
            Column("flights", BigInteger, nullable=False),
            Column("minutes", exact, nullable=False),
        )
        insert = sqlite.insert if app.engine.dialect.name == "sqlite" else postgresql.insert
        statement = insert(table)
        added = statement.on_conflict_do_update(
            index_elements=["place"],
            set_={one: table.c[one] + statement.excluded[one] for one in ("flights", "minutes")},
        )

        @app.projection(name, tables=[table])(batch=True)
        def add(arrivals: list[Arrived], ctx: Context) -> None:
            flights: dict[str, int] = {}
            minutes: dict[str, Decimal] = {}
            for one in arrivals:
                place = key(one)
                flights[place] = flights.get(place, 0) + 1
                minutes[place] = minutes.get(place, Decimal(0)) + one.delay
            rows = [{"place": one, "flights": flights[one], "minutes": minutes[one]} for one in flights]
            ctx.connection.execute(added, rows)

    return declare


def nothing(app: App, name: str) -> None:
    @app.projection(name)(batch=True)
    def look(arrivals: Sequence[Arrived]) -> None: ...


KINDS: dict[str, Callable[[App, str], None]] = {
    "nothing": nothing,
    "by hand few": by_hand_of(lambda one: one.few),
    "view few": view_of(lambda one: one.few),
    "by hand many": by_hand_of(lambda one: str(one.number)),
    "view many": view_of(lambda one: str(one.number)),
}

if __name__ == "__main__":
    main()

"""Node appends, by the function and by plain INSERTs; Python's readers and subscribers miss nothing of it."""

from collections.abc import Iterator

import msgspec
import pytest

from benchmarks.lost_events.adapters.rewindlog import Pages
from benchmarks.lost_events.node_writer import NodeWriter
from benchmarks.lost_events.race import enough, run_race
from benchmarks.lost_events.writing import WRITER_NAME
from eventlog.event_types import event
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from tests.clients import Clients
from tests.log_support import THREAD_SECONDS_MAX, everything, new_seed, note, opened, said

WRITERS = 3
RACE_SECONDS = 2.0

CONNECT = """
import pg from "pg";
import { createInterface } from "node:readline";

const client = new pg.Client();
await client.connect();
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const insert = "insert into eventlog.events (id, stream, version, type, data) values ($1, $2, $3, $4, $5)";
const append = "select * from eventlog.append(stream => $1, type => $2, data => $3, id => $4)";
"""

STAND_IN_A_TRANSACTION = (
    CONNECT
    + """
await client.query("begin");
await client.query(insert, [crypto.randomUUID(), "early", 1, "note.taken", { said: "early" }]);
console.log("inserted");
const asked = await lines.next();
await client.query(asked.value);
console.log("ended");
await client.end();
process.stdin.destroy();
"""
)

SHIP = (
    CONNECT
    + """
await client.query(insert, [crypto.randomUUID(), "parcel-1", 1, "parcel.shipped", { number: 1, to: "Köln" }]);
await client.query(append, ["parcel-2", "parcel.shipped", { number: 2, to: "注文" }, null]);
await client.query(append, ["parcel-3", "parcel.shipped", { number: "three" }, null]);
await client.end();
process.stdin.destroy();
"""
)

ROLL_BACK = (
    CONNECT
    + """
await client.query("create table orders (number integer)");
await client.query("begin");
await client.query("insert into orders values (1)");
await client.query(append, ["order-1", "order.placed", {}, null]);
await client.query("rollback");
const orders = await client.query("select count(*) from orders");
console.log(orders.rows[0].count);
await client.end();
process.stdin.destroy();
"""
)


@event("parcel.shipped")
class Shipped(msgspec.Struct, frozen=True):
    number: int
    to: str = ""


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.mark.parametrize(("outcome", "seen"), [("commit", ["early", "late"]), ("rollback", ["late"])])
def test_an_open_insert_by_node_holds_later_events_back(
    log: EventLog, postgres_clients: Clients, outcome: str, seen: list[str]
) -> None:
    with postgres_clients.start_node(STAND_IN_A_TRANSACTION) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "inserted\n"
        log.append(note("late"))
        assert (log.head(), log.high_water_mark(), everything(log)) == (2, 0, [])

        printed, errors = node.communicate(f"{outcome}\n", timeout=THREAD_SECONDS_MAX)
        assert (printed, errors) == ("ended\n", "")

    assert said(everything(log)) == seen


def test_a_rollback_in_node_takes_row_and_event_away(log: EventLog, postgres_clients: Clients) -> None:
    assert postgres_clients.node(ROLL_BACK) == "0\n"
    assert (log.head(), everything(log)) == (1, [])


def test_what_node_appends_is_delivered_and_what_cannot_be_read_is_in_the_ledger(
    postgres_database_url: str, postgres_clients: Clients
) -> None:
    app = App(postgres_database_url)
    delivered: list[Shipped] = []

    @app.subscriber("mail")
    def send(parcel: Shipped) -> None:
        delivered.append(parcel)

    try:
        postgres_clients.node(SHIP)
        drained = app.drain()
    finally:
        app.engine.dispose()

    assert delivered == [Shipped(1, "Köln"), Shipped(2, "注文")]
    assert (drained.handled, drained.failed) == (2, 1)


def test_writers_in_node_and_python_race_and_a_follower_misses_nothing(
    postgres_database_url: str, postgres_clients: Clients
) -> None:
    seed = new_seed()
    nodes = [
        NodeWriter(clients=postgres_clients, name=f"{WRITER_NAME}-node-{number}", seed=seed + number)
        for number in range(WRITERS)
    ]

    race = run_race(
        Pages(postgres_database_url),
        writers=WRITERS,
        seconds=RACE_SECONDS,
        seed=seed,
        beside=nodes,
        until=lambda _: all(enough(20)([node]) for node in nodes),
    )

    assert race.verdict.faults == {}, race

"""Node appends, by the function and by plain INSERTs; Python's readers and subscribers miss nothing of it."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest

from eventlog.event_types import event
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from tests.clients import Clients
from tests.log_support import THREAD_SECONDS_MAX, everything, note, opened, said
from tests.log_writers import run_race
from tests.test_log_safe_order import new_seed, told

WRITERS = 3
RACE_SECONDS = 3.0

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

WRITE_UNTIL_TOLD_TO_STOP = (
    CONNECT
    + """
const [number, seed] = process.argv.slice(2).map(Number);
let drawn = seed;
const random = () => (drawn = (drawn * 48271) % 2147483647) / 2147483647;
const pause = () => random() < 0.15 && new Promise((resolve) => setTimeout(resolve, random() * 20));
let stopped = false;
lines.next().then(() => (stopped = true));

let version = 0;
while (!stopped) {
  if (random() < 0.4) {
    const id = crypto.randomUUID();
    await client.query(append, [`shared-${Math.floor(random() * 5)}`, "race.run", {}, id]);
    console.log(`committed ${id}`);
    continue;
  }
  const ids = [];
  let next = version;
  await client.query("begin");
  for (let left = 1 + Math.floor(random() * 4); left > 0; left -= 1) {
    const id = crypto.randomUUID();
    if (random() < 0.5) await client.query(insert, [id, `node-plain-${number}`, (next += 1), "race.run", "{}"]);
    else await client.query(append, [`node-own-${number}`, "race.run", {}, id]);
    ids.push(id);
    await pause();
  }
  const outcome = random() < 0.8 ? "commit" : "rollback";
  await client.query(outcome);
  if (outcome === "commit") version = next;
  for (const id of ids) console.log(`${outcome === "commit" ? "committed" : "rolled_back"} ${id}`);
}
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


@dataclass(slots=True, kw_only=True)
class NodeWriter:
    clients: Clients
    number: int
    seed: int
    committed: set[UUID] = field(default_factory=set)
    rolled_back: set[UUID] = field(default_factory=set)
    failures: list[Exception] = field(default_factory=list)

    def run(self, stop: threading.Event) -> None:
        arguments = (f"{self.number}", f"{self.seed % 2**30 + self.number + 1}")
        process = self.clients.start_node(WRITE_UNTIL_TOLD_TO_STOP, *arguments, name=f"writer{self.number}")
        reader = threading.Thread(target=self._read, args=[process.stdout], daemon=True)
        reader.start()
        stop.wait()
        assert process.stdin is not None
        assert process.stderr is not None
        with process:
            process.stdin.close()
            reader.join(THREAD_SECONDS_MAX)
            if errors := process.stderr.read():
                self.failures.append(RuntimeError(errors))

    def _read(self, lines: Iterator[str]) -> None:
        for line in lines:
            outcome, event_id = line.split()
            (self.committed if outcome == "committed" else self.rolled_back).add(UUID(event_id))


def test_writers_in_node_and_python_race_and_a_follower_misses_nothing(
    postgres_database_url: str, postgres_clients: Clients
) -> None:
    seed = new_seed()
    nodes = [NodeWriter(clients=postgres_clients, number=number, seed=seed) for number in range(WRITERS)]

    race = run_race(postgres_database_url, writers=WRITERS, seconds=RACE_SECONDS, seed=seed, beside=nodes)

    assert race.missed == frozenset(), told(race)
    assert list(race.positions) == sorted(set(race.positions)), told(race)
    assert not race.rolled_back & set(race.seen), told(race)
    for node in nodes:
        assert min(len(node.committed), len(node.rolled_back)) > 20, told(race)

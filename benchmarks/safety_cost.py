"""What it costs that no event is skipped: append rates with and without, and with what others do for it.

    python -m benchmarks.safety_cost [--seconds 3] [--rounds 3] [--json build/safety_cost.json]

Lone appends into tables of the same columns and indexes, by writers that run inside the server, which leaves out what a
client costs and is therefore the worst case for what a trigger does:

unguarded     no trigger at all: a reader skips events
guarded       as this project does it: the in-flight mark, and a look at the doorbell
with-worker   the same, while a worker handles what is appended
table-lock    LOCK TABLE ... IN EXCLUSIVE MODE before each INSERT, as others keep the order
always-notify no order kept, but a trigger that notifies at each INSERT, and somebody who listens

S-1, S-8 and S-32 are so many writers; S-open is 32 writers of which each stays in its transaction for another 5 ms, as
a service does that appends among other things.
"""

import argparse
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import psycopg

from benchmarks import sizes
from benchmarks.contestants.rewindlog import Rewindlog
from benchmarks.results import Collected, Results, about, show
from benchmarks.server import bench_server, empty_database
from benchmarks.titles import TITLES
from eventlog.events import Recorded
from eventlog.subscribers.app import App

SECONDS = 3.0
INSERTS_IN_ONE_CALL = 20
BASE = "unguarded"
TYPE = "benchmark.noted"

TABLES = """
create schema plain;
create table plain.events (like eventlog.events including all);
create schema notifying;
create table notifying.events (like eventlog.events including all);
create function notifying.tell() returns trigger language plpgsql as $$
begin
    perform pg_notify('appended', '');
    return null;
end
$$;
create trigger tell after insert on notifying.events for each statement execute function notifying.tell();
"""
WRITE = """
do $$ begin
    for number in 1..{count} loop
        {before}
        insert into {table} (id, stream, version, type, data)
        values (uuidv7(), 'writer-' || gen_random_uuid(), 1, '{type}', '1');
        {after}
        commit;
    end loop;
end $$
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to append, and what is there beside the writers."""

    table: str
    before: str = ""
    beside: Callable[[str], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many writers, and how long each stays in its transaction after the INSERT."""

    writers: int
    open_seconds: float = 0.0


@contextmanager
def worker(url: str) -> Iterator[None]:
    """Run a worker of one subscriber."""
    app = App(url)
    subscriber = app.subscriber("follower", start="now")

    @subscriber.on(TYPE)
    def note(recorded: Recorded[object]) -> None: ...

    with app.worker():
        yield
    app.engine.dispose()


@contextmanager
def listener(url: str) -> Iterator[None]:
    """Listen, so that a notification reaches somebody."""
    stop = threading.Event()

    def listen() -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("listen appended")
            while not stop.is_set():
                for _ in connection.notifies(timeout=0.1):
                    pass

    thread = threading.Thread(target=listen)
    thread.start()
    yield
    stop.set()
    thread.join()


WAYS = {
    BASE: Way(table="plain.events"),
    "guarded": Way(table="eventlog.events"),
    "with-worker": Way(table="eventlog.events", beside=worker),
    "table-lock": Way(table="plain.events", before="lock table plain.events in exclusive mode;"),
    "always-notify": Way(table="notifying.events", beside=listener),
}
LOADS = {
    "S-1": Load(writers=1),
    "S-8": Load(writers=8),
    "S-32": Load(writers=32),
    "S-open": Load(writers=32, open_seconds=0.005),
}


def main() -> None:
    """Measure all ways in turns, print and keep the figures."""
    parser = argparse.ArgumentParser(description="append rates with and without what keeps events from being skipped")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="how long each rate is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path("build/safety_cost.json"))
    sizes.add_option(parser)
    options = parser.parse_args()
    sizes.take_option(options)
    logging.getLogger("eventlog").setLevel(logging.ERROR)
    collected = {name: Collected(name) for name in LOADS}
    with bench_server() as server:
        here = about(server, packages=Rewindlog.packages, rounds=options.rounds)
        print(here, flush=True)
        for number in range(options.rounds):
            with empty_database(server, f"safety_{number}") as url:
                _create(url)
                for name, load in LOADS.items():
                    for called, way in WAYS.items():
                        rate = _rate(url, way, load, sizes.seconds(options.seconds))
                        collected[name].add(called, {"rate": rate})
    found = [one for some in collected.values() for one in some.measured()]
    for name in LOADS:
        print(f"\n{name:7}{TITLES[name]}")
        those = {one.contestant: one for one in found if one.workload == name}
        for one in those.values():
            print(show(one, those[BASE]))
    Results(script="safety_cost", about=here, measured=found).write(options.json)


def _create(url: str) -> None:
    app = App(url)
    app.log.init()
    app.engine.dispose()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(TABLES)


def _rate(url: str, way: Way, load: Load, seconds: float) -> float:
    """Events appended per second."""
    after = f"perform pg_sleep({load.open_seconds});" if load.open_seconds else ""
    statement = WRITE.format(
        count=INSERTS_IN_ONE_CALL, table=way.table, type=TYPE, before=way.before, after=after
    ).encode()
    stop, counts = threading.Event(), [0] * load.writers
    go = threading.Barrier(load.writers + 1)

    def write(writer: int) -> None:
        with psycopg.connect(url, autocommit=True) as connection:
            go.wait()
            while not stop.is_set():
                connection.execute(statement)
                counts[writer] += INSERTS_IN_ONE_CALL

    with ExitStack() as stack:
        stack.enter_context(way.beside(url))
        threads = [threading.Thread(target=write, args=[writer]) for writer in range(load.writers)]
        for thread in threads:
            thread.start()
        go.wait()
        began = time.perf_counter()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began)


if __name__ == "__main__":
    main()

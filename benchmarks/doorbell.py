"""What the doorbell gains and costs, against the two things it is instead of: polling, and notifying for every append.

    python -m benchmarks.doorbell [--url postgresql://...] [--seconds 3] [--rounds 2]

Three ways of waking one worker, in turns (A B C A B C), in one run on one server:

polling     the worker asks every 5 to 250 ms, and appends notify nobody
always      every append notifies: a connection beside the worker keeps the bell out all the time
doorbell    an append notifies if the worker sleeps

Measured are the time from the return of a lone append to the call of the handler, while the worker is idle; and how
many events per second 1, 8 and 32 writers append that do not pause, which keeps the worker busy. Only the ratios mean
anything: the server of the tests, which serves if no --url is given, does not wait for its disk.
"""

import argparse
import logging
import random
import secrets
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import psycopg
import sqlalchemy

from eventlog.events import Event, Recorded
from eventlog.subscribers.app import App
from tests.log_support import wait_until
from tests.postgres_server import postgres_server

WAYS = ("polling", "always", "doorbell")
WRITERS = (1, 8, 32)
APPENDS_FOR_LATENCY = 60
PAUSE_SECONDS = (0.3, 0.6)
"""Between two lone appends, at random: long enough for the worker to be idle when the next one comes."""
EVENTS_IN_ONE_CALL = 50
NOWHERE = "postgresql://127.0.0.1:1/nowhere"

WRITE = """
do $$ begin
    for number in 1..{count} loop
        insert into {schema}.events (id, stream, version, type, data)
        values (gen_random_uuid(), 'writer-' || gen_random_uuid(), 1, 'benchmark.noted', '1');
        commit;
    end loop;
end $$
"""

Handled = dict[int, float]
"""When the handler was called, by position."""


def main() -> None:
    """Run both measurements, and print them."""
    parser = argparse.ArgumentParser(description="idle latency and write rate of three ways of waking a worker")
    parser.add_argument("--url", help="a PostgreSQL database to make a schema in; without it, the tests' server")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each write rate is measured")
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    logging.getLogger("eventlog").setLevel(logging.ERROR)
    with ExitStack() as stack:
        url = options.url or stack.enter_context(postgres_server())
        schema = stack.enter_context(_log_of_its_own(url))
        _show_latency(_in_turns(options.rounds, lambda way: _latency(url, schema, way)))
        for writers in WRITERS:

            def rate(way: str, writers: int = writers) -> list[float]:
                return [_rate(url, schema, way, writers=writers, seconds=options.seconds)]

            _show_rate(writers, _in_turns(options.rounds, rate))


def _in_turns(rounds: int, measure: Callable[[str], list[float]]) -> dict[str, list[float]]:
    results: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(rounds):
        for way in WAYS:
            results[way] += measure(way)
    return results


def _latency(url: str, schema: str, way: str) -> list[float]:
    """Seconds from the return of each lone append to the call of its handler."""
    latencies = []
    draw = random.Random(APPENDS_FOR_LATENCY)
    with _worker(url, schema, way) as (app, handled):
        for _ in range(APPENDS_FOR_LATENCY):
            time.sleep(draw.uniform(*PAUSE_SECONDS))
            position = app.log.append(Event(1, type="benchmark.noted", stream=f"lone-{secrets.token_hex(8)}"))[
                0
            ].position
            returned = time.perf_counter()
            wait_until(lambda position=position: position in handled, what="it is handled")  # type: ignore[misc]
            latencies.append(max(0.0, handled[position] - returned))
    return latencies


def _rate(url: str, schema: str, way: str, *, writers: int, seconds: float) -> float:
    """Events appended per second by so many writers, which run inside the server and commit each one by itself."""
    with _worker(url, schema, way):
        stop, counts = threading.Event(), [0] * writers

        def write(writer: int) -> None:
            with psycopg.connect(_plain(url), autocommit=True) as connection:
                while not stop.is_set():
                    connection.execute(WRITE.format(count=EVENTS_IN_ONE_CALL, schema=schema).encode())
                    counts[writer] += EVENTS_IN_ONE_CALL

        threads = [threading.Thread(target=write, args=[writer]) for writer in range(writers)]
        began = time.perf_counter()
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - began)


@contextmanager
def _worker(url: str, schema: str, way: str) -> Iterator[tuple[App, Handled]]:
    """Run a worker with one subscriber that begins now, woken in one of the ways."""
    app = App(url, schema=schema, listen_url=NOWHERE if way == "polling" else None)
    handled: Handled = {}
    subscriber = app.subscriber(f"{way}-{secrets.token_hex(4)}", start="now")

    @subscriber.on("benchmark.noted")
    def note(recorded: Recorded[object]) -> None:
        handled[recorded.position] = time.perf_counter()

    with ExitStack() as stack:
        stack.callback(app.engine.dispose)
        if way == "always":
            bell = stack.enter_context(psycopg.connect(_plain(url), autocommit=True))
            bell.execute(f"select pg_advisory_lock_shared({schema}.doorbell_key())".encode())
        stack.enter_context(app.worker())
        yield app, handled


@contextmanager
def _log_of_its_own(url: str) -> Iterator[str]:
    schema = f"benchmark_{secrets.token_hex(4)}"
    app = App(url, schema=schema)
    app.log.init()
    try:
        yield schema
    finally:
        with app.engine.begin() as connection:
            connection.execute(sqlalchemy.text(f"drop schema {schema} cascade"))
        app.engine.dispose()


def _plain(url: str) -> str:
    return sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def _show_latency(latencies: dict[str, list[float]]) -> None:
    print("lone append to handler, worker idle          p50        p99   p50 in parts of polling's")
    halves = {way: statistics.median(found) for way, found in latencies.items()}
    for way, found in latencies.items():
        late = statistics.quantiles(found, n=100)[98]
        print(f"  {way:<36} {halves[way] * 1e3:7.1f} ms {late * 1e3:7.1f} ms   {halves[way] / halves['polling']:.3f}")


def _show_rate(writers: int, rates: dict[str, list[float]]) -> None:
    means = {way: statistics.mean(found) for way, found in rates.items()}
    print(f"appends of {writers} writer{'s' if writers > 1 else ''}, worker busy")
    for way, found in rates.items():
        each = ", ".join(f"{rate:,.0f}" for rate in found)
        print(f"  {way:<36} {means[way]:7,.0f}/s ({each})   {means[way] / means['polling']:.2f} of polling's")


if __name__ == "__main__":
    main()

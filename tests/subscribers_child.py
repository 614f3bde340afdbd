"""A service in a process of its own, for tests that kill it: a projection and an effect over crates.

    python -m tests.subscribers_child URL KIND ON_FAILURE MODE [DEED NUMBER]

KIND is `board` (a projection, a row for each call of its handler), `books` (an effect that is transactional, the same
row), `mail` (at least once, a line on standard output for each call) or `once` (at most once, the same line). How many
partitions it has is said by PARTITIONS in the environment, the version of the projection by VERSION, another database
for it by HOME_URL, how many events a page of the log has by PAGE_EVENTS, by how many seconds the clock of its machine
is wrong by CLOCK_IS_OFF. MODE is `run` (a worker, until SIGTERM) or
`drain`. DEED is what the handler does within the event of that number: `stand` (say so, and wait for a line on standard
input) or `die` (end the process).
"""

import os
import signal
import sys
import time
from collections.abc import Callable

from eventlog.subscribers import delivery, feed
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Sent, applied_table, note, runtime_of

APPLIED = applied_table()
RETRY = Retry(attempts=3, first_seconds=0)

Deed = Callable[[int], None]


def nothing(_number: int) -> None:
    """What a service without a bug does besides its work."""


def service(app: App, kind: str, *, deed: Deed = nothing, on_failure: str = "park") -> App:
    """Declare the subscriber; the deed is done within an event, after the handler's own work."""
    partitions = int(os.environ.get("PARTITIONS", "1"))
    if kind == "board":
        version = int(os.environ.get("VERSION", "1"))
        subscriber = app.projection(
            kind,
            tables=[APPLIED],
            on_failure=on_failure,
            retry=RETRY,
            partitions=partitions,
            version=version,
            database=os.environ.get("HOME_URL"),
        )
    else:
        mode = {"books": "transactional", "once": "at-most-once"}.get(kind, "at-least-once")
        subscriber = app.subscriber(kind, delivery=mode, on_failure=on_failure, retry=RETRY, partitions=partitions)

    @subscriber
    def handle(crate: Sent, ctx: Context) -> None:
        if kind in ("mail", "once"):
            say(f"call {crate.number} {ctx.redelivery}")
        else:
            note(ctx, APPLIED)
        deed(crate.number)

    return app


def say(line: str) -> None:
    os.write(1, f"{line}\n".encode())


def stand(number: int) -> None:
    say(f"inside {number}")
    sys.stdin.readline()


def die(_number: int) -> None:
    os._exit(9)


def set_clock(off_by: float) -> None:
    """Have Python's clock of the day be wrong by so many seconds."""
    seconds, nanoseconds = time.time, time.time_ns
    time.time = lambda: seconds() + off_by
    time.time_ns = lambda: nanoseconds() + int(off_by * 1e9)


def main(url: str, kind: str, on_failure: str, mode: str, deed_name: str = "", number: str = "0") -> None:
    set_clock(float(os.environ.get("CLOCK_IS_OFF", "0")))
    deed = {"": nothing, "stand": stand, "die": die}[deed_name]
    # What a batch holds when it is killed is not to depend on how long it took to come so far.
    delivery.TRANSACTION_SECONDS.update(dict.fromkeys(delivery.TRANSACTION_SECONDS, 60.0))
    feed.PAGE_EVENTS = int(os.environ.get("PAGE_EVENTS", feed.PAGE_EVENTS))
    app = App(url, lease_seconds=2.0)
    service(app, kind, on_failure=on_failure, deed=lambda now: deed(now) if now == int(number) else None)
    if mode == "drain":
        app.drain()
    else:
        runtime = runtime_of(app)

        def stop(_number: int, _frame: object) -> None:
            runtime.stop.set()
            say("stopping")

        signal.signal(signal.SIGTERM, stop)
        worker = app.make_worker(runtime=runtime)
        say("ready")
        worker.run()
    app.engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])

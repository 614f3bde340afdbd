"""`run`: the handlers of an app, until the log has no more for them (`--drain`) or until somebody stops it.

SIGTERM and ^C ask a worker to stop: it finishes the events at hand, releases its leases, and the command ends with 0
for SIGTERM and 130 for ^C. The second signal ends it at once; what was in hand is then delivered again.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import click

from eventlog.cli.exits import Exit
from eventlog.cli.opening import opened_app
from eventlog.cli.options import shared_options
from eventlog.cli.output import Column, counted, number, say, show_json, show_table
from eventlog.cli.settings import Settings, read_settings
from eventlog.clock import SystemClock
from eventlog.errors import UsageError
from eventlog.shown_urls import shown_url
from eventlog.subscribers.app import App
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.worker import Drained

logger = logging.getLogger("eventlog.worker")

STOPPING = b"Stopping after the events at hand; once more to stop at once.\n"

LOOK_SECONDS = 0.1
"""How often the waiting main thread looks whether the worker has ended."""


@click.command()
@click.option("--only", metavar="NAME", multiple=True, help="Only this subscriber; may be given several times.")
@click.option("--drain", "drains", is_flag=True, help="Deliver what there is, with the retries that are due, and end.")
@shared_options
def run(only: tuple[str, ...], drains: bool) -> None:
    """Run the handlers of an app.

    Until it is stopped: ^C and SIGTERM let it finish the events at hand. Several may run at once, on several machines.

    Events whose handler failed are in the ledger, and are no reason to fail here: --drain ends with 0 and says how many
    there were.

    \b
      eventlog run --app shop:app
      eventlog run --app shop:app --only mail --drain
    """
    settings = read_settings()
    with _log_on_stderr(_level(settings, drains=drains)), opened_app(settings) as app:
        if not app.chosen(only):
            raise UsageError("the app declares no subscribers", remedy="declare one: app.subscriber(...)")
        runtime = app.runtime()
        with signals_stop(runtime) as stopped_by:
            done = _drain(app, only, runtime) if drains else _work(app, only, runtime)
    _show_done(done, settings, drained=drains)
    if signal.SIGINT in stopped_by:
        raise click.exceptions.Exit(Exit.INTERRUPTED)


def _drain(app: App, only: tuple[str, ...], runtime: Runtime) -> Drained:
    told: set[str] = set()

    def waiting(name: str) -> None:
        if name not in told:
            told.add(name)
            say(f"{name}: another worker runs it; waiting until it has come as far, or is gone")

    return app.drain(only, waiting=waiting, runtime=runtime)


def _work(app: App, only: tuple[str, ...], runtime: Runtime) -> Drained:
    worker = app.make_worker(only, runtime=runtime)
    place = shown_url(app.engine.url)
    logger.info("running %s on %s as %s", ", ".join(worker.counts), place, runtime.owner)
    worker.start()
    try:
        _wait_for(runtime.stop)
    finally:
        worker.stop()
    logger.info("stopped, all leases released")
    return Drained(
        handled=sum(one.handled for one in worker.counts.values()),
        failed=sum(one.failed for one in worker.counts.values()),
        subscribers=worker.counts,
    )


def _wait_for(stop: threading.Event) -> None:
    """Wait until the worker was told to stop, or has ended by itself, which sets the same event.

    Waits on another event than `stop`: a signal handler runs in this thread, and could not set an event whose lock this
    thread holds.
    """
    clock, never = SystemClock(), threading.Event()
    while not stop.is_set():
        clock.wait(never, LOOK_SECONDS)


@contextmanager
def signals_stop(runtime: Runtime) -> Iterator[list[int]]:
    """Have SIGTERM and ^C stop the worker gently, and the second of them at once; lend the list of those that came."""
    came: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        runtime.stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        os.write(sys.__stderr__.fileno() if sys.__stderr__ else 2, STOPPING)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _show_done(done: Drained, settings: Settings, *, drained: bool) -> None:
    if settings.json:
        show_json(done)
    elif drained:
        columns = [Column(title="subscriber"), Column(title="handled", right=True), Column(title="failed", right=True)]
        show_table(columns, [(name, number(one.handled), number(one.failed)) for name, one in done.subscribers.items()])
    if done.failed:
        say(f"{counted(done.failed, 'attempt')} failed; `eventlog failures` shows what stands in the ledger.")


def _level(settings: Settings, *, drains: bool) -> int:
    """A worker tells what happens, one line each; a drain sums up at its end, unless it is asked to tell as well."""
    if settings.verbose:
        return logging.DEBUG
    return logging.ERROR if drains else logging.INFO


@contextmanager
def _log_on_stderr(level: int) -> Iterator[None]:
    """Write our log and the handlers' on stderr, unless the app has set up logging by itself."""
    logging.basicConfig(stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s", level=logging.WARNING)
    ours = logging.getLogger("eventlog")
    before = ours.level
    ours.setLevel(level)
    try:
        yield
    finally:
        ours.setLevel(before)

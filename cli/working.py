"""A worker in this process, until it is stopped: what the main thread does meanwhile.

It waits for signals and keeps the health file fresh, as long as the worker's loop gets answers of the database.
"""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from eventlog.cli.health import HealthFile
from eventlog.clock import SystemClock, utc_now
from eventlog.shown_urls import shown_url
from eventlog.subscribers.app import App
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.worker import Drained, Worker, Workers

logger = logging.getLogger("eventlog.worker")

LOOK_SECONDS = 0.1
"""How often the waiting main thread looks whether the worker has ended."""


def work(
    app: App,
    only: tuple[str, ...],
    runtime: Runtime,
    *,
    health_file: Path | None,
    gone: Callable[[], bool] | None = None,
) -> Drained:
    """Run a worker until the runtime's stop is set, or `gone` says that whoever keeps this process running is gone.

    One that is kept so leaves its health file behind, with what it has done.
    """
    health = None if health_file is None else HealthFile(health_file)
    worker = app.make_worker(only, runtime=runtime)
    place = shown_url(app.engine.url)
    logger.info("running %s on %s as %s", ", ".join(worker.counts), place, runtime.owner)
    worker.start()
    try:
        _wait_for(runtime, worker, health, gone=gone)
    finally:
        worker.stop()
    logger.info("stopped, all leases released")
    done = _done_by(worker)
    if health is not None:
        if gone is not None:
            health.write(_healthy(runtime, done, state="stopped"))
        else:
            health.remove()
    return done


def _wait_for(
    runtime: Runtime, worker: Worker | Workers, health: HealthFile | None, *, gone: Callable[[], bool] | None
) -> None:
    """Wait until the worker was told to stop, or has ended by itself, which sets the same event; or until whoever
    keeps this process running is gone. Meanwhile keep the health file fresh, as long as the worker gets answers.

    Waits on another event than `stop`: a signal handler runs in this thread, and could not set an event whose lock this
    thread holds.
    """
    clock, never = SystemClock(), threading.Event()
    written_for: float | None = None
    while not runtime.stop.is_set() and not (gone is not None and gone()):
        if health is not None and health.is_due and worker.seen_at != written_for:
            written_for = worker.seen_at
            health.write(_healthy(runtime, _done_by(worker), state="running"))
        clock.wait(never, LOOK_SECONDS)


def _healthy(runtime: Runtime, done: Drained, *, state: str) -> dict[str, object]:
    return {
        "state": state,
        "at": utc_now(),
        "process": os.getpid(),
        "owner": runtime.owner,
        "handled": done.handled,
        "failed": done.failed,
        "subscribers": done.subscribers,
    }


def _done_by(worker: Worker | Workers) -> Drained:
    counts = dict(worker.counts)
    return Drained(
        handled=sum(one.handled for one in counts.values()),
        failed=sum(one.failed for one in counts.values()),
        subscribers=counts,
    )

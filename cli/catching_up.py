"""`--wait`: until a subscriber has come to the end of the log as it was when it was moved."""

import threading

from eventlog.cli.output import is_terminal, number, say
from eventlog.cli.progress import shown_progress
from eventlog.clock import Clock, SystemClock
from eventlog.database import Database, translated
from eventlog.errors import CheckFailedError
from eventlog.subscribers.standing import Standing, read_standing

LOOK_SECONDS = 0.25
NO_WORKER_SECONDS = 15.0
"""How long nobody may run the subscriber: workers let go and take over within a lease."""


def wait_until_caught_up(
    database: Database, name: str, *, timeout_seconds: float | None, clock: Clock | None = None
) -> None:
    """Wait, and show how far it is. Raises `CheckFailedError` when nobody runs it, when it stands, and after a time."""
    clock, never = clock or SystemClock(), threading.Event()
    with translated(database):
        first = now = read_standing(database, name)
        began = alive_at = clock.monotonic()
        say(f"Waiting until {name} has come to {number(first.until)}; ^C ends the waiting, the move stands")
        with shown_progress(max(1, first.until - first.checkpoint), what="positions") as progress:
            while not now.caught_up:
                time = clock.monotonic()
                alive_at = time if now.workers else alive_at
                _refuse_to_wait(now, without_worker=time - alive_at, waited=time - began, timeout=timeout_seconds)
                clock.wait(never, LOOK_SECONDS)
                now = read_standing(database, name, until=first.until)
                progress.reached(now.checkpoint - first.checkpoint)
    say(f"{name} has caught up" + ("" if is_terminal() else f": checkpoint {number(now.checkpoint)}"))


def _refuse_to_wait(now: Standing, *, without_worker: float, waited: float, timeout: float | None) -> None:
    stands = f"its checkpoint is at {now.checkpoint:,} of {now.until:,}; the move stands"
    if now.state in ("paused", "halted"):
        ways = {
            "paused": f"`eventlog resume {now.name}` lets it go on",
            "halted": f"`eventlog failures {now.name}` shows what it halts at; retry or skip it",
        }
        raise CheckFailedError(f"{now.name} is {now.state}: {stands}", remedy=ways[now.state])
    timed_out = timeout is not None and waited >= timeout
    if without_worker >= NO_WORKER_SECONDS or (timed_out and not now.workers):
        raise CheckFailedError(
            f"nobody has run {now.name} for {min(without_worker, waited):.0f} s: {stands}",
            remedy="start a worker: `eventlog run --app module:app`; it goes on from there",
        )
    if timed_out:
        raise CheckFailedError(
            f"{now.name} has not caught up in {timeout:g} s: {stands}",
            remedy="`eventlog status` tells how far it is; wait longer with --timeout",
        )

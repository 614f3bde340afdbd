"""How much is done in one run. `EVENTLOG_BENCH_SCALE` (1 if not set) makes it less, for a short look and for tests.

An environment variable and not an argument, because the processes of a workload start processes themselves.
"""

import argparse
import os

VARIABLE = "EVENTLOG_BENCH_SCALE"
CALL_EVENTS = 1_000
"""In one call, where many events are appended at a time."""
SECONDS_MIN = 0.2


def scale() -> float:
    """Return what part of the full size is wanted."""
    return float(os.environ.get(VARIABLE, "1"))


def add_option(parser: argparse.ArgumentParser) -> None:
    """Let a script be told how much to do."""
    parser.add_argument("--scale", type=float, help="what part of the full size is done, for a short look")


def take_option(options: argparse.Namespace) -> None:
    """Do so much from now on, also in processes that are started."""
    if options.scale is not None:
        os.environ[VARIABLE] = str(options.scale)


def seconds(full: float) -> float:
    """Scale a duration, down to what can still be measured."""
    return max(SECONDS_MIN, full * scale())


def events(full: int, *, least: int = CALL_EVENTS) -> int:
    """Scale a number of events, down to full calls and at least one."""
    wanted = round(full * scale() / least) * least
    return min(full, max(least, wanted))

"""SIGTERM and ^C: the first one stops gently, the second one at once."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from eventlog.subscribers.runtime import Runtime

STOPPING = "Stopping after the events at hand; once more to stop at once."


@contextmanager
def signals_stop(runtime: Runtime, *, line: Callable[[str], bytes] | None = None) -> Iterator[list[int]]:
    """Have SIGTERM and ^C stop the worker gently, and the second of them at once; lend the list of those that came.

    `line` writes what is said then; stderr is written to without a lock, which the interrupted thread might hold.
    """
    came: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        runtime.stop.set()
        for each, handler in before.items():
            signal.signal(each, handler)
        stop_line = f"{STOPPING}\n".encode() if line is None else line(STOPPING)
        os.write(2, stop_line)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

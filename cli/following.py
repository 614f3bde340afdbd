"""`read --follow`: events as they come, until somebody ends it.

^C and SIGTERM end it where no statement is interrupted, the second one at once; so does the reader of stdout who goes
away, also while nothing comes. A database that stops answering does not end it: reading goes
on after the last event that was printed, so that none is skipped or shown twice.
"""

import logging
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain
from types import FrameType
from typing import Unpack

from eventlog.cli.event_output import json_line, table_lines
from eventlog.cli.output import number, say, show
from eventlog.clock import SystemClock
from eventlog.errors import DatabaseUnreachableError, EventLogError
from eventlog.events import StoredEvent
from eventlog.log import EventLog
from eventlog.reading import Filters

SHOWN_FIRST = 10
"""How many of the last events are shown where nobody says where to begin, as `tail` does it."""

WAIT_SECONDS_MIN = 0.25
WAIT_SECONDS_MAX = 5.0
"""How long a database that does not answer is left alone: at first, and when it has not answered for a while."""

_LOOK_SECONDS = 0.1


def follow(log: EventLog, *, after: int | None, last: int | None, as_json: bool, **filters: Unpack[Filters]) -> None:
    """Print the last events that are there, then each one that comes, at once.

    `after` says where to begin, None that nobody said it. `last` is how many of those that are there already are
    printed; None stands for all of them from `after` or `since` on, and for ten where neither says where to begin.
    """
    # A database that is away is told of here, once; whoever has set up logging has the doorbell's word as well.
    logging.getLogger("eventlog.doorbell").addHandler(logging.NullHandler())
    begins = after is not None or filters.get("since") is not None
    count = last if last is not None or begins else SHOWN_FIRST
    with ending_gently() as ending:
        mark = log.high_water_mark()
        there = _last(log, after=after or 0, until=mark, count=count, filters=filters)
        start = after or 0 if count is None else max(mark, after or 0)
        coming = chain(there, _as_they_come(log, after=start, mark=mark, ending=ending, filters=filters))
        lines = map(json_line, coming) if as_json else table_lines(coming, measured=len(there))
        for line in lines:
            show(line)
            sys.stdout.flush()
            if ending.interrupted:
                break
    if ending.interrupted:
        raise KeyboardInterrupt


def _last(log: EventLog, *, after: int, until: int, count: int | None, filters: Filters) -> list[StoredEvent]:
    """Read the last events up to a high-water mark; whoever goes on after that mark misses none."""
    if not count:
        return []
    return list(log.read_stored(after=after, until=until, limit=count, backwards=True, **filters))[::-1]


def _as_they_come(log: EventLog, *, after: int, mark: int, ending: "Ending", filters: Filters) -> Iterator[StoredEvent]:
    done = after
    while not ending.is_set():
        try:
            for event in log.follow_stored(after=done, stop=ending, **filters):
                done = event.position
                yield event
        except DatabaseUnreachableError as error:
            say(f"{error}\n  waiting for it; reading goes on after position {number(done)}")
            _wait_for_database(log, ending)
            if not ending.is_set():
                _refuse_earlier_log(log, done if done > after else mark)


def _wait_for_database(log: EventLog, ending: "Ending") -> None:
    seconds = WAIT_SECONDS_MIN
    while not ending.is_set():
        ending.wait_for(seconds)
        seconds = min(WAIT_SECONDS_MAX, seconds * 2)
        with suppress(DatabaseUnreachableError):
            log.high_water_mark()
            say("  it answers again")
            return


def _refuse_earlier_log(log: EventLog, seen: int) -> None:
    """What was restored to an earlier point gives positions out again: reading on would pass the new events by."""
    head = log.head()
    if head < seen:
        raise EventLogError(
            f"the log ends at {number(head)} now, and it has been read up to {number(seen)}: it was restored to an"
            " earlier point",
            remedy=f"decide what becomes of what was read, and begin anew: --after {head}",
        )


class Ending(threading.Event):
    """Set when it is time to end; unlike a plain Event a signal handler may set it, since that takes no lock."""

    asked = False
    interrupted = False

    def is_set(self) -> bool:
        return self.asked or _nobody_reads()

    def wait_for(self, seconds: float) -> None:
        """Wait so long, or until it is set."""
        clock = SystemClock()
        deadline = clock.monotonic() + seconds
        while not self.is_set() and clock.monotonic() < deadline:
            clock.wait(self, _LOOK_SECONDS)


@contextmanager
def ending_gently() -> Iterator[Ending]:
    """Have SIGTERM and ^C set what is lent, the first time; the second time they end the process as always."""
    ending = Ending()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        ending.asked = True
        ending.interrupted = ending.interrupted or number == signal.SIGINT
        signal.signal(number, before[number])

    before: dict[int, signal._HANDLER] = {
        number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield ending
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _nobody_reads() -> bool:
    """Tell whether whoever read our pipe has gone; a write would say so as well, but none may come."""
    if not hasattr(select, "poll"):
        return False
    looking = select.poll()
    try:
        looking.register(sys.stdout.fileno(), 0)
    except OSError:
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in looking.poll(0))

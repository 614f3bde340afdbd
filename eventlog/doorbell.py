"""Sleeping beside a log until something may be new, without asking again and again, and without missing a wake-up.

A wake-up is a hint, never the truth: whoever wakes looks. What must be right is that nobody sleeps on while there is
something to be seen. On PostgreSQL an append rings only if it finds the bell out, so the steps of going to sleep are:

    the bell is out            appends that mark after this ring when they commit
    look: head, marks, rows    something to do: the sleeper returns and works
                               an append is in flight: it may have come before the bell, and is waited for by polling
    the head again             it has moved: an append that came before the bell has allocated and committed between
                               our reading the head and the marks. Look again.
    sleep                      until it rings, something is due, or the slow poll; then from the look

Each step is needed: `tests/models/doorbell.py` is run through in every interleaving, and through what is missed without
it. The slow poll is a net under all this, for what cannot be known: a notification lost, a session that may not notify.

All sleepers of a process share one connection and the thread that listens on it. It is there while there are sleepers,
comes back by itself when it is lost, and while it is away, or where none can be had, sleepers poll. A sleeper at work
does not keep the bell out, so writers notify nobody while everybody is busy.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from eventlog.bell import Bell, Look, SilentBellError
from eventlog.clock import Clock, SystemClock
from eventlog.database import Database
from eventlog.errors import DatabaseError

logger = logging.getLogger("eventlog.doorbell")

POLL_SECONDS_MIN = 0.005
POLL_SECONDS_MAX = 0.25
IN_FLIGHT_SECONDS_MIN = 0.001
"""How soon to look again for an append that is in flight: a lone one takes less than that. Longer each time."""
SLOW_POLL_SECONDS = 5.0
PUT_OUT_SECONDS_MAX = 0.05
PUT_OUT_AGAIN_SECONDS = 0.01
RECONNECT_SECONDS_MIN = 0.1
RECONNECT_SECONDS_MAX = 30.0
TEST_AGAIN_SECONDS = 60.0
LISTEN_SECONDS_MAX = 3600.0
NOTICE_STOP_SECONDS = 0.1
LEAVE_SECONDS_MAX = 10.0
"""How long the last sleeper waits for the connection to be given up, which may just be in the making."""

Allowance = Callable[[Look], float]
"""Tells, at a look, for how many seconds one may sleep at the most; 0 when there is something to do."""


class Doorbell:
    """Where the sleepers of one process wait for one log. Make one per log; nothing is connected before the first.

    `listen_url` leads to the same database as the log, past any pooler; None means the way the log itself takes.
    Raises `UsageError` for one that cannot be used.
    """

    def __init__(
        self,
        database: Database,
        *,
        listen_url: str | None = None,
        slow_poll_seconds: float = SLOW_POLL_SECONDS,
        clock: Clock | None = None,
    ) -> None:
        self.slow_poll_seconds = slow_poll_seconds
        self._database = database
        self._make_bell = database.bell_maker(listen_url)
        self._clock: Clock = clock or SystemClock()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._sleepers = 0
        self._asleep = 0
        self._bell: Bell | None = None
        self._out = False
        self._rings = 0
        self._said: str | None = None

    @contextmanager
    def sleeper(self, stop: threading.Event) -> Iterator["Sleeper"]:
        """Be one who sleeps here, for the length of the block. `stop` ends every sleep, within a tenth of a second."""
        with self._changed:
            self._sleepers += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="eventlog-doorbell", daemon=True)
                self._thread.start()
        try:
            yield Sleeper(self, stop)
        finally:
            self._leave()

    def look(self) -> Look:
        """Read the head, then the marks."""
        with self._database.quick() as connection:
            return self._database.look(connection)

    def head(self) -> int:
        with self._database.quick() as connection:
            return self._database.head(connection)

    @property
    def rings(self) -> int:
        """How often it has rung; a connection lost or regained counts. Read before a look it tells what came after."""
        return self._rings

    @property
    def is_out(self) -> bool:
        """Whether appends ring at this moment."""
        return self._out

    @contextmanager
    def put_out(self) -> Iterator[None]:
        """Have the bell out during the block, if that can be had within a moment: `is_out` tells."""
        with self._changed:
            self._asleep += 1
            self._nudge()
            self._changed.wait_for(lambda: self._out or self._bell is None, PUT_OUT_SECONDS_MAX)
        try:
            yield
        finally:
            with self._changed:
                self._asleep -= 1
                self._nudge()

    def wait(self, enough: Callable[[], bool], *, seconds: float) -> None:
        """Wait until `enough` is true, at most so long. It is asked after each ring and each `wake_up`."""
        ends = self._clock.monotonic() + seconds
        with self._changed:
            while not enough():
                left = ends - self._clock.monotonic()
                if left <= 0:
                    return
                self._changed.wait(min(left, NOTICE_STOP_SECONDS))

    def wake_up(self) -> None:
        """Have everybody who waits ask whether that was enough."""
        with self._changed:
            self._changed.notify_all()

    def _leave(self) -> None:
        with self._changed:
            self._sleepers -= 1
            self._nudge()
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._thread is None or self._sleepers > 0, LEAVE_SECONDS_MAX)

    def _nudge(self) -> None:
        if self._bell is not None:
            self._bell.nudge()

    def _run(self) -> None:
        """Keep a bell while there are sleepers. The thread's only loop."""
        back_off = RECONNECT_SECONDS_MIN
        while self._is_wanted():
            try:
                bell = self._make_bell()
                try:
                    self._has_come(bell)
                    back_off = RECONNECT_SECONDS_MIN
                    self._attend(bell)
                finally:
                    self._has_gone()
                    bell.close()
            except SilentBellError as error:
                self._say_once(error)
                self._pause(TEST_AGAIN_SECONDS)
            except DatabaseError as error:
                self._say_once(error)
                self._pause(back_off)
                back_off = min(RECONNECT_SECONDS_MAX, back_off * 2)
            except Exception:
                logger.exception("the doorbell has a fault; sleepers poll")
                self._pause(RECONNECT_SECONDS_MAX)

    def _is_wanted(self) -> bool:
        with self._changed:
            if self._sleepers == 0:
                self._thread = None
                self._changed.notify_all()
            return self._sleepers > 0

    def _attend(self, bell: Bell) -> None:
        """Put the bell out when the first one goes to sleep, take it in when the last one is up, pass on every ring."""
        while self._sleepers > 0:
            if self._asleep > 0 and not self._out:
                self._set_out(bell.put_out())
            elif self._is_out_for_nobody():
                bell.take_in()
            tries_again = self._asleep > 0 and not self._out
            if bell.listen(PUT_OUT_AGAIN_SECONDS if tries_again else LISTEN_SECONDS_MAX):
                self._ring()

    def _is_out_for_nobody(self) -> bool:
        """It is said to be in before it is taken in, or the next one who goes to sleep would rely on it."""
        with self._changed:
            idle = self._out and self._asleep == 0
            if idle:
                self._out = False
            return idle

    def _set_out(self, out: bool) -> None:
        with self._changed:
            self._out = out
            self._changed.notify_all()

    def _ring(self) -> None:
        with self._changed:
            self._rings += 1
            self._changed.notify_all()

    def _has_come(self, bell: Bell) -> None:
        with self._changed:
            self._bell = bell
            self._ring()
            if self._said is not None:
                logger.info("woken by the doorbell again")
                self._said = None

    def _has_gone(self) -> None:
        """Nothing rings any more; whoever sleeps must look, and then poll."""
        with self._changed:
            self._bell = None
            self._out = False
            self._ring()

    def _pause(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._sleepers == 0, seconds)

    def _say_once(self, error: DatabaseError) -> None:
        """One line an outage, whatever the reason is the second time."""
        if self._said is None:
            logger.warning(
                "not woken by the doorbell, looking every %g s: %s; %s", POLL_SECONDS_MAX, error, error.remedy
            )
        self._said = str(error)


class Sleeper:
    """One who sleeps beside a log: in one thread; `wake` may be called from any."""

    def __init__(self, doorbell: Doorbell, stop: threading.Event) -> None:
        self._doorbell = doorbell
        self._stop = stop
        self._woken = False

    def sleep(self, allowance: Allowance) -> None:
        """Sleep until `allowance` finds something to do, `wake` is called, or `stop` is set.

        `allowance` is called with the bell out, again and again: at first, after each ring, when the seconds it has
        allowed are over, and every few seconds in any case. It must look at everything its caller could be woken for.
        Where there is no bell this returns after a quarter of a second, without having called it.

        Costs, for each look, one small query, and one more before it sleeps. Raises what the database does.
        """
        try:
            with self._doorbell.put_out():
                self._sleep(allowance)
        finally:
            self._woken = False

    def wait(self, seconds: float) -> None:
        """Wait so long, or until `wake` is called or `stop` is set; whatever rings."""
        self._doorbell.wait(self._is_up, seconds=seconds)
        self._woken = False

    def wake(self) -> None:
        """End `sleep` or `wait`, or the next one of them: for what this process knows by itself."""
        self._woken = True
        self._doorbell.wake_up()

    def _sleep(self, allowance: Allowance) -> None:
        doorbell, pause = self._doorbell, IN_FLIGHT_SECONDS_MIN
        while not self._is_up():
            rings = doorbell.rings
            if not doorbell.is_out:
                self._rest(POLL_SECONDS_MAX, rings=rings)
                return
            look = doorbell.look()
            seconds = allowance(look)
            if seconds <= 0:
                return
            if look.in_flight:
                self._rest(min(pause, seconds), rings=rings)
                pause = min(POLL_SECONDS_MAX, pause * 2)
            elif doorbell.head() == look.head:
                self._rest(min(doorbell.slow_poll_seconds, seconds), rings=rings)
                pause = IN_FLIGHT_SECONDS_MIN

    def _rest(self, seconds: float, *, rings: int) -> None:
        self._doorbell.wait(lambda: self._is_up() or self._doorbell.rings != rings, seconds=seconds)

    def _is_up(self) -> bool:
        return self._woken or self._stop.is_set()

"""`run --processes`: one process that keeps others running, and ends with them.

    starting --comes up--> running --dies--> waiting, longer each time it did not last --> starting
        any --SIGTERM, SIGINT: passed on--> stopping --last one ends--> the supervisor ends
        stopping --a second signal: passed on, then SIGKILL--> the supervisor ends by that signal

Each runs `eventlog run` by itself: a worker like any other, whose partitions go to the others when it dies. They stand
in process groups of their own, so that ^C on a terminal reaches the supervisor alone, and each of them once. One that
finds its supervisor gone stops as if told to. What they have done is read from their health files.
"""

import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol

import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.health import FRESH_SECONDS, HealthFile, age_of
from eventlog.cli.logs import Logs
from eventlog.cli.metrics_server import FOLDER_VARIABLE, exported_of_several
from eventlog.cli.output import show_json
from eventlog.cli.run_options import Asked
from eventlog.cli.settings import Settings
from eventlog.cli.stopping import STOPPING
from eventlog.cli.supervised import Child, environment_of
from eventlog.clock import Clock, SystemClock, utc_now, wall_milliseconds
from eventlog.errors import UsageError
from eventlog.subscribers.app import App
from eventlog.subscribers.worker import Counts, Drained, all_drained

logger = logging.getLogger("eventlog.supervisor")

LOOK_SECONDS = 0.1
RESTART_SECONDS_MIN = 0.5
RESTART_SECONDS_MAX = 30.0
LASTED_SECONDS = 60.0
"""A process that ran for so long is started again without much delay, whatever was before."""

_IN_ORDER = (Exit.OK, Exit.INTERRUPTED, -signal.SIGTERM, -signal.SIGINT)
"""The exit codes of a process that was asked to end."""

END_SECONDS_MAX = 5.0
"""How long a process has to end after the second signal."""


def supervise(app: App, asked: Asked, settings: Settings, logs: Logs) -> int:
    """Keep the processes running until a signal comes, and return the exit code. Dies by the signal when two came."""
    if os.name != "posix":
        raise UsageError("--processes needs a POSIX system", remedy="start several commands instead")
    app.engine.dispose()
    with tempfile.TemporaryDirectory(prefix="eventlog-") as name, ExitStack() as stack:
        folder = Path(name)
        health = None if asked.health_file is None else HealthFile(asked.health_file)
        if asked.metrics is not None:
            stack.enter_context(exported_of_several(app, folder, host=asked.metrics.host, port=asked.metrics.port))
        starts = _Starts(asked=asked, settings=settings, form=logs.form, folder=folder)
        supervisor = Supervisor(starts, health)
        came = stack.enter_context(_signals(logs))
        supervisor.run(came)
        if health is not None:
            health.remove()
    if len(came) > 1:
        _die_by(came[-1])
    if settings.json:
        show_json(supervisor.told())
    if supervisor.failed:
        return Exit.FAILED
    return Exit.INTERRUPTED if signal.SIGINT in came else Exit.OK


class Starts(Protocol):
    """How processes are started, and where each says what it has done."""

    @property
    def asked(self) -> Asked: ...

    def start(self, number: int) -> "subprocess.Popen[bytes]": ...

    def health_file(self, number: int) -> Path: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class _Starts:
    """How the processes are started."""

    asked: Asked
    settings: Settings
    form: str | None
    folder: Path

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(self._words(), env=self._environment(number), stdin=subprocess.DEVNULL, process_group=0)

    def health_file(self, number: int) -> Path:
        return self.folder / f"health-{number}.json"

    def _words(self) -> list[str]:
        """-P: a folder of the service that is called `eventlog` is not what is meant."""
        words = [sys.executable, "-P", "-m", "eventlog.cli", "run"]
        for name in self.asked.only:
            words += ["--only", name]
        return words + (["--verbose"] if self.settings.verbose else [])

    def _environment(self, number: int) -> dict[str, str]:
        """What the command line says goes there too: others can read a process's words, but not its environment."""
        settings, asked = self.settings, self.asked
        child = Child(supervisor=os.getpid(), number=number, measures=asked.metrics is not None)
        given = {
            "EVENTLOG_URL": settings.url,
            "EVENTLOG_APP": settings.app,
            "EVENTLOG_SCHEMA": settings.schema,
            "EVENTLOG_OUTPUT": None,
            "EVENTLOG_LISTEN_URL": asked.listen_url,
            "EVENTLOG_LOG": self.form,
            "EVENTLOG_LOG_LEVEL": asked.level,
            "EVENTLOG_METRICS_PORT": None,
            "EVENTLOG_HEALTH_FILE": str(self.health_file(number)),
            FOLDER_VARIABLE: str(self.folder) if child.measures else os.environ.get(FOLDER_VARIABLE),
        }
        kept = {name: value for name, value in os.environ.items() if name not in given}
        return {**kept, **environment_of(child), **{name: value for name, value in given.items() if value}}


class Process:
    """One process, and those that were it before."""

    def __init__(self, number: int, starts: Starts, clock: Clock) -> None:
        self.number = number
        self.restarts = 0
        self._starts = starts
        self._clock = clock
        self._running: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0
        self._start_at = 0.0
        self._wait_seconds = RESTART_SECONDS_MIN
        self._before: list[Drained] = []
        self.last_code = 0

    @property
    def runs(self) -> bool:
        return self._running is not None

    @property
    def done(self) -> Drained:
        """What it has done, those before it included."""
        return _summed([*self._before, *([self._told()] if self.runs else [])])

    def keep(self) -> None:
        """Look after it: start it when its time has come, and note when it has ended."""
        if self._running is None:
            if self._clock.monotonic() >= self._start_at:
                self._start()
        elif self.has_ended():
            self._plan_restart(f"has died after {self._age():.0f} s ({_told_code(self.last_code)})")

    def has_ended(self) -> bool:
        """Whether it does not run, or has just ended; note what it had done."""
        if self._running is None:
            return True
        code = self._running.poll()
        if code is None:
            return False
        self.last_code = code
        self._before = [_summed([*self._before, self._told()])]
        self._starts.health_file(self.number).unlink(missing_ok=True)
        self._running = None
        return True

    def signal(self, number: int) -> None:
        if self._running is not None:
            self._running.send_signal(number)

    def is_well(self) -> bool:
        """Whether its health file is fresh, and not that of one before it."""
        age = age_of(self._starts.health_file(self.number), now=wall_milliseconds() / 1000)
        return self.runs and age is not None and age <= min(FRESH_SECONDS, self._age())

    def _age(self) -> float:
        return self._clock.monotonic() - self._started_at

    def _start(self) -> None:
        self._started_at = self._clock.monotonic()
        try:
            self._running = self._starts.start(self.number)
        except OSError as error:
            self._plan_restart(f"could not be started: {error.strerror}")
        else:
            logger.info("process %d is pid %d", self.number, self._running.pid)

    def _plan_restart(self, what: str) -> None:
        """Start it again in a while; until then there is nothing of it that could fail to end in order."""
        if self._age() >= LASTED_SECONDS:
            self._wait_seconds = RESTART_SECONDS_MIN
        self.restarts += 1
        self.last_code = 0
        self._start_at = self._clock.monotonic() + self._wait_seconds
        logger.error("process %d %s; started again in %.1f s", self.number, what, self._wait_seconds)
        self._wait_seconds = min(RESTART_SECONDS_MAX, self._wait_seconds * 2)

    def _told(self) -> Drained:
        try:
            return msgspec.json.decode(self._starts.health_file(self.number).read_bytes(), type=Drained)
        except (OSError, msgspec.MsgspecError):
            return Drained(handled=0, failed=0, subscribers={})


class Supervisor:
    """Keeps processes running until a signal comes, and ends them then."""

    def __init__(self, starts: Starts, health: HealthFile | None) -> None:
        self._clock = SystemClock()
        self._never = threading.Event()
        self._health = health
        self._processes = [Process(number, starts, self._clock) for number in range(1, starts.asked.processes + 1)]

    @property
    def failed(self) -> bool:
        """Whether one of them did not end as it was asked to. One that was only starting has died by the signal."""
        return any(process.last_code not in _IN_ORDER for process in self._processes)

    def run(self, came: Sequence[int]) -> None:
        """Keep them running until a signal has come, and end them then."""
        while not came:
            for process in self._processes:
                process.keep()
            self._write_health()
            self._clock.wait(self._never, LOOK_SECONDS)
        self._pass_on(came[0])
        while not self._have_ended() and len(came) < 2:
            self._clock.wait(self._never, LOOK_SECONDS)
        if len(came) > 1:
            self._pass_on(came[1])
            self._kill_the_rest()
        logger.info("stopped, with all processes")

    def told(self) -> dict[str, object]:
        """What all of them have done."""
        return {
            **msgspec.structs.asdict(_summed([process.done for process in self._processes])),
            "processes": len(self._processes),
            "restarts": sum(process.restarts for process in self._processes),
        }

    def _pass_on(self, number: int) -> None:
        for process in self._processes:
            process.signal(number)

    def _have_ended(self) -> bool:
        return all(process.has_ended() for process in self._processes)

    def _kill_the_rest(self) -> None:
        ends = self._clock.monotonic() + END_SECONDS_MAX
        while not self._have_ended():
            if self._clock.monotonic() > ends:
                self._pass_on(signal.SIGKILL)
            self._clock.wait(self._never, LOOK_SECONDS)

    def _write_health(self) -> None:
        """All of them have to be well: one that hangs would never be noticed otherwise."""
        if self._health is not None and self._health.is_due and all(one.is_well() for one in self._processes):
            self._health.write({"state": "running", "at": utc_now(), "process": os.getpid(), **self.told()})


@contextmanager
def _signals(logs: Logs) -> Iterator[list[int]]:
    """Lend the list of the signals that came; the loop passes them on."""
    came: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            os.write(2, logs.line(STOPPING))

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _die_by(number: int) -> None:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


def _summed(several: Sequence[Drained]) -> Drained:
    subscribers: dict[str, Counts] = {}
    for one in several:
        for name, counts in one.subscribers.items():
            before = subscribers.get(name, Counts())
            subscribers[name] = Counts(handled=before.handled + counts.handled, failed=before.failed + counts.failed)
    return msgspec.structs.replace(all_drained(several), subscribers=subscribers)


def _told_code(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

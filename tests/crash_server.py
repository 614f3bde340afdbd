"""Forks a process for each step of a deed of the crash matrix: a point costs milliseconds, and no start of Python.

Run as `python -m tests.crash_server`. It reads a line of JSON for each step, a `Request`, and writes one, an `Answer`,
when the process it has forked for it has ended. It has one thread and nothing open: a process that is forked is as good
as one that was started. It has done a deed itself before, so that what Python and SQLAlchemy make at the first time is
made once and not in every process.
"""

import gc
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import msgspec

import eventlog.postgres
import eventlog.schema.migrate_steps
import eventlog.sqlite  # noqa: F401 - imported once here, and not in every process that needs them
from tests.crash_deeds import Deed, deed
from tests.crash_points import Points, watch
from tests.crash_service import Site, state_of

STEP_SECONDS_MAX = 100.0
"""What hangs is ended by SIGTERM, which tells it from what was killed at its point."""
POLL_SECONDS = 0.0005
FAILED = 70
"""The exit code of a step that has raised."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A step that is to be done. Watched, its process counts points, and is killed at `kill_at`, or after so many
    seconds, wherever it is then; without either it writes down its points (`points.json`), and `with_states` also what
    was committed each time (`states.json`).
    """

    number: int
    deed: str
    step: str
    url: str
    folder: str
    watched: bool = False
    kill_at: int | None = None
    kill_after_seconds: float | None = None
    with_states: bool = False


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How the process of a step has ended: its exit code, or minus the signal that killed it; and what it said."""

    number: int
    ended: int
    said: str
    seconds: float


def main() -> None:
    _do_one_deed()
    gc.freeze()
    gc.disable()
    for line in sys.stdin:
        answer = _carried_out(msgspec.json.decode(line, type=Request))
        sys.stdout.write(msgspec.json.encode(answer).decode() + "\n")
        sys.stdout.flush()


def _do_one_deed() -> None:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        site = Site(url=f"sqlite:///{folder}/log.db", folder=Path(folder))
        for step in (deed("migrate empty").act, deed("deliver mail").prepare, deed("deliver mail").act):
            step(site)
    logging.disable(logging.NOTSET)
    gc.collect()


def _carried_out(request: Request) -> Answer:
    said, began = Path(request.folder) / "said", time.monotonic()
    process = os.fork()
    if process == 0:
        os._exit(_within_child(request, said))
    ended = _wait(process)
    return Answer(
        number=request.number,
        ended=ended,
        said=said.read_text() if said.exists() else "",
        seconds=time.monotonic() - began,
    )


def _wait(process: int) -> int:
    ends = time.monotonic() + STEP_SECONDS_MAX
    while True:
        found, status = os.waitpid(process, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(process, signal.SIGTERM)
            os.waitpid(process, 0)
            return -signal.SIGTERM
        time.sleep(POLL_SECONDS)


def _within_child(request: Request, said: Path) -> int:
    output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    try:
        _do(deed(request.deed), request)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return FAILED
    return 0


def _do(chosen: Deed, request: Request) -> None:
    step = {"prepare": chosen.prepare, "act": chosen.act, "recover": chosen.recover}[request.step]
    folder = Path(request.folder)
    if not request.watched:
        step(Site(url=request.url, folder=folder))
        return
    states: list[list[str]] = []
    points = Points(
        kill_at=request.kill_at,
        after_commit=lambda: states.append(state_of(request.url)) if request.with_states else None,
    )
    watch(points)
    if request.kill_after_seconds is not None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, request.kill_after_seconds)
    step(Site(url=request.url, folder=folder, point=points.here))
    if request.kill_at is None:
        (folder / "points.json").write_bytes(msgspec.json.encode(points.passed))
        (folder / "states.json").write_bytes(msgspec.json.encode(states))


if __name__ == "__main__":
    main()

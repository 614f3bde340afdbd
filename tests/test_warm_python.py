"""Processes that begin warm are processes like any other: these claims hold for both kinds."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import warm_python

Start = Callable[..., "subprocess.Popen[str]"]

PROGRAM = """
import atexit, json, os, signal, sys, threading, time, warnings

deed, *words = sys.argv[1:]


def is_open(number):
    try:
        return os.fstat(number) is not None
    except OSError:
        return False


if deed == "tell":
    print(json.dumps({
        "arguments": words, "folder": os.getcwd(), "name": __name__, "path": sys.path[0], "variables": dict(os.environ),
        "terminals": [os.isatty(number) for number in range(3)], "session": os.getsid(0) == os.getpid(),
        "descriptors": [number for number in range(3, 100) if is_open(number)],
        "threads": threading.active_count(), "read": sys.stdin.read(),
    }))
    print("and talks", file=sys.stderr)
elif deed == "end":
    atexit.register(print, "at the end")
    threading.Thread(target=lambda: (time.sleep(0.05), print("a thread"))).start()
    sys.exit(json.loads(words[0]))
elif deed == "raise":
    raise ValueError(words)
elif deed == "warn":
    warnings.warn("is heard")
elif deed == "wait":
    print("waits", flush=True)
    time.sleep(60)
elif deed == "say late":
    sys.stdin.read()
    print("late")
"""


def cold(*words: str, **options: Any) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, *words], **options)


@pytest.fixture(params=["warm", "cold"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Start the program above, by each way."""
    (tmp_path / "deeds.py").write_text(PROGRAM)
    way: Start = {"warm": warm_python.started, "cold": cold}[request.param]

    def start(*words: str, before: tuple[str, ...] = (), **options: Any) -> "subprocess.Popen[str]":
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return way(*before, "-m", "deeds", *words, cwd=tmp_path, text=True, **pipes, **options)

    return start


def test_a_process_is_told_its_words_folder_and_variables(start: Start, tmp_path: Path) -> None:
    variables = {**os.environ, "EVENTLOG_WARM": "x"}
    with (
        tempfile.TemporaryFile() as more,
        start("tell", "a b", "--c", env=variables, start_new_session=True, pass_fds=[more.fileno()]) as process,
    ):
        number = more.fileno()
        out, err = process.communicate("given")

    assert (process.returncode, err) == (0, "and talks\n")
    assert json.loads(out) == {
        "arguments": ["a b", "--c"],
        "folder": str(tmp_path),
        "name": "__main__",
        "path": str(tmp_path),
        "variables": variables,
        "terminals": [False] * 3,
        "session": True,
        "descriptors": [number],
        "threads": 1,
        "read": "given",
    }


@pytest.mark.parametrize(("given", "code", "said"), [(None, 0, ""), (3, 3, ""), (False, 0, ""), ("no", 1, "no\n")])
def test_an_exit_code_arrives_after_threads_and_what_is_called_at_the_end(
    start: Start, given: object, code: int, said: str
) -> None:
    with start("end", json.dumps(given)) as process:
        out, err = process.communicate()
    assert (process.returncode, out, err) == (code, "a thread\nat the end\n", said)


def test_an_exception_ends_a_process_with_its_traceback(start: Start) -> None:
    with start("raise", "this") as process:
        _, err = process.communicate()
    assert process.returncode == 1
    assert err.splitlines()[-1] == "ValueError: ['this']"


def test_warnings_are_errors_where_that_is_asked_for(start: Start) -> None:
    for before, code in (((), 0), (("-W", "error"), 1)):
        with start("warn", before=before) as process:
            _, err = process.communicate()
        assert process.returncode == code
        assert "UserWarning: is heard" in err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_a_process_as_python_does(start: Start, number: signal.Signals) -> None:
    with start("wait") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waits\n"
        assert process.poll() is None
        os.kill(process.pid, number)
        assert process.wait(30) == -number


@pytest.mark.parametrize(("unbuffered", "code"), [("", 120), ("1", 1)])
def test_a_process_whose_reader_is_gone_ends_with_an_error(
    start: Start, monkeypatch: pytest.MonkeyPatch, unbuffered: str, code: int
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    with start("say late") as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.close()
        process.stdin.close()
        assert process.wait(30) == code


def test_a_warm_process_begins_many_times_faster() -> None:
    """What it is for: of both, the fastest of three."""

    def fastest(way: Start) -> float:
        seconds = []
        for _ in range(3):
            before = time.monotonic()
            with way("-m", "eventlog.cli", "--version", stdout=subprocess.DEVNULL) as process:
                assert process.wait(30) == 0
            seconds.append(time.monotonic() - before)
        return min(seconds)

    assert fastest(warm_python.started) * 2 < fastest(cold)

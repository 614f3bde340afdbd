"""Python processes that begin with their modules loaded: imports are most of what a short process costs.

`started(...)` is `subprocess.Popen` of `python WORDS`, and gives one: a process of its own and a child of this one,
with its own number, signals, exit code and descriptors. It is not made from nothing but forked from a process without
threads that has imported libraries and `eventlog`, and done nothing else (`warm_python_parent.py`; one for each way
that the environment tells Python to begin).

The child is forked twice and so orphaned at once; Linux gives orphans to the nearest ancestor that asks for them, and
for that moment this process does. Elsewhere, and where coverage is measured, processes begin cold. A test whose point
is how a process begins takes `subprocess` itself.
"""

import atexit
import contextlib
import ctypes
import functools
import inspect
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PARENT = Path(__file__).with_name("warm_python_parent.py")
ANSWER_BYTES_MAX = 64
ANSWER_SECONDS_MAX = 110.0
ON_TERMINAL = 'exec "$@" <"$0" >"$0" 2>&1'
PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
PR_SET_CHILD_SUBREAPER = 36

_one_at_a_time = threading.Lock()


def started(*words: str, terminal: str | None = None, **options: Any) -> "subprocess.Popen[str]":
    """Start `python [-W error] -m MODULE ARGUMENTS...`, with the options of `subprocess.Popen`.

    With the path of a terminal, the process leads a session of its own, and has it as its controlling terminal and its
    three standard descriptors. What changes the account of the process is not supported.
    """
    if terminal is not None:
        options["start_new_session"] = True
    if sys.platform.startswith("linux") and "COVERAGE_PROCESS_CONFIG" not in os.environ:
        return _Warm([sys.executable, *words], terminal=terminal, **options)
    opening = [] if terminal is None else ["sh", "-c", ON_TERMINAL, terminal]
    return subprocess.Popen([*opening, sys.executable, *words], **options)


class _Parent:
    """The process that all others are forked from."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._requests.settimeout(ANSWER_SECONDS_MAX)
        with theirs:
            words = [sys.executable, str(PARENT), f"{theirs.fileno()}"]
            self._process = subprocess.Popen(
                words, env=environment, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )

    def fork(self, request: Mapping[str, Any], descriptors: list[int]) -> int:
        """Start a process, and return its number once it is a child of this process."""
        with _one_at_a_time, _orphans_come_here():
            socket.send_fds(self._requests, [json.dumps(request).encode()], descriptors)
            answer = self._requests.recv(ANSWER_BYTES_MAX)
        if not answer:
            raise RuntimeError(f"{PARENT} has ended")
        return int(answer)

    def end(self) -> None:
        self._requests.close()
        self._process.wait()


@contextlib.contextmanager
def _orphans_come_here() -> Iterator[None]:
    """Adopt what is orphaned within the block; what is orphaned at another time is nobody's here to wait for."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    if prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the system gives no orphans to this process")
    try:
        yield
    finally:
        prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _parent_for(environment: Mapping[str, str]) -> _Parent:
    """The parent that Python was told to begin in the same way as in this environment."""
    told = {name: value for name, value in environment.items() if name.startswith(("PYTHON", "LC_", "LANG"))}
    return _parent(tuple(sorted(told.items())))


@functools.cache
def _parent(told: tuple[tuple[str, str], ...]) -> _Parent:
    parent = _Parent(dict(told))
    atexit.register(parent.end)
    return parent


class _Warm(subprocess.Popen[str]):
    """A process whose beginning is asked of the parent; for all that follows it is like any other."""

    def __init__(self, words: list[str], *, terminal: str | None, **options: Any) -> None:
        self._terminal = terminal
        super().__init__(words, **options)

    def _execute_child(self, *given: Any) -> None:
        """Do what the method of the standard library does, whose arguments differ between versions of Python."""
        asked = inspect.signature(subprocess.Popen._execute_child).bind(self, *given).arguments  # type: ignore[attr-defined]
        if asked["preexec_fn"] or asked["shell"]:
            raise NotImplementedError("a warm process begins by itself")
        environment = dict(os.environ if asked["env"] is None else asked["env"])
        request = {
            "words": asked["args"][1:],
            "folder": os.fspath(asked["cwd"] or Path.cwd()),
            "environment": environment,
            "leads_session": asked["start_new_session"],
            "terminal": self._terminal,
            "numbers": [0, 1, 2, *asked["pass_fds"]],
        }
        standard = (asked["p2cread"], asked["c2pwrite"], asked["errwrite"])
        descriptors = [own if one == -1 else one for own, one in enumerate(standard)] + list(asked["pass_fds"])
        self.pid = _parent_for(environment).fork(request, descriptors)
        self._child_created = True
        self._close_pipe_fds(*(asked[name] for name in PIPES))  # type: ignore[attr-defined]

"""The process that `warm_python.py` forks Python processes from. It has no thread, and has only imported.

    python warm_python_parent.py DESCRIPTOR

DESCRIPTOR is a socket that requests come by, each one packet with the descriptors of the process that is asked for, the
three standard ones first; its number is the answer. When the other side is closed, this process ends; its children do
not.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import signal
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

MODULES = (
    "alembic.autogenerate",
    "alembic.config",
    "click",
    "eventlog.cli.log_commands",
    "eventlog.cli.main",
    "eventlog.cli.run_command",
    "eventlog.cli.subscriber_commands",
    "eventlog.schema.autogenerate",
    "eventlog.schema.migrate_steps",
    "eventlog.subscribers.app",
    "eventlog.testing",
    "fastapi",
    "logging.config",
    "mako.template",
    "msgspec.json",
    "psycopg",
    "psycopg.types.json",
    "rich.console",
    "rich.progress",
    "rich.table",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite.pysqlite",
    "sqlalchemy.ext.asyncio",
    "sqlalchemy.orm",
    "uvicorn.main",
)
REQUEST_BYTES_MAX = 1 << 20
DESCRIPTORS_MAX = 16
NUMBER_OF_NOBODY = 1_000
"""Descriptors are numbered from here until all of them have the numbers they are asked for with."""
NUMBER_BYTES_MAX = 64

exit_codes: list[object] = []
"""That of the module that has run here; of a process that only forks, none."""


def main(requests: socket.socket) -> None:
    """Fork as long as somebody asks. In a process that was forked this returns when that has run what it is for."""
    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, REQUEST_BYTES_MAX, DESCRIPTORS_MAX)
        if not message:
            return
        number = _orphan()
        if number == 0:
            requests.detach()
            _become(json.loads(message), descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)
        requests.send(str(number).encode())


def _orphan() -> int:
    """Fork a process whose parent has ended when this returns: 0 in that process, its number here."""
    reading, writing = os.pipe()
    between = os.fork()
    if between == 0:
        number = os.fork()
        if number == 0:
            return 0
        os.write(writing, str(number).encode())
        os._exit(0)
    os.waitpid(between, 0)
    number = int(os.read(reading, NUMBER_BYTES_MAX))
    os.close(reading)
    os.close(writing)
    return number


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Be a process that Python has just been started in, and run its module to the end."""
    if request["leads_session"]:
        os.setsid()
    if request["terminal"] is not None:
        descriptors = [os.open(request["terminal"], os.O_RDWR)] * 3
    _have(dict(zip(request["numbers"], descriptors, strict=True)))
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _open_standard_streams()
    _run(request["words"])


def _have(descriptors: dict[int, int]) -> None:
    """Have each of these descriptors by the number it has in this table, and no others."""
    aside = {number: fcntl.fcntl(one, fcntl.F_DUPFD, NUMBER_OF_NOBODY) for number, one in descriptors.items()}
    os.closerange(0, NUMBER_OF_NOBODY)
    for number, one in aside.items():
        os.dup2(one, number)
    os.closerange(NUMBER_OF_NOBODY, os.sysconf("SC_OPEN_MAX"))


def _open_standard_streams() -> None:
    """Open the descriptors as Python does."""
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = _written(1, line_buffering=os.isatty(1))
    sys.stderr = _written(2, line_buffering=True, errors="backslashreplace")


def _written(descriptor: int, **options: Any) -> io.TextIOWrapper:
    at_once = bool(os.environ.get("PYTHONUNBUFFERED"))
    stream = open(descriptor, "wb", buffering=0 if at_once else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(stream, write_through=at_once, **options)


def _run(words: list[str]) -> None:
    """Run `[-W error] -m MODULE ARGUMENTS...`."""
    if words[:2] == ["-W", "error"]:
        words = words[2:]
        sys.warnoptions.append("error")
        warnings.simplefilter("error")
    option, module, *arguments = words
    if option != "-m":
        raise NotImplementedError(f"a warm process runs a module, not {option}")
    sys.argv = [module, *arguments]
    sys.path[0] = str(Path.cwd())
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        exit_codes.append(0)
    except SystemExit as end:
        exit_codes.append(0 if end.code is None else end.code)
        raise


def _end() -> None:
    """End without taking apart, object by object, what was forked: that costs more than most of these processes do.

    What ends in another way than with a number, or cannot be written, is left to Python.
    """
    with contextlib.suppress(OSError, ValueError):
        for code in exit_codes:
            if isinstance(code, int):
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code & 0xFF)


if __name__ == "__main__":
    atexit.register(_end)  # the first one to be registered is the last one to be called
    main(socket.socket(fileno=int(sys.argv[1])))

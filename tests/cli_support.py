"""Running the command line in tests: in this process, as a process of its own, and on a terminal.

Most tests call `main` in this process, which is what the installed script does. A process of its own is for what only
one has: signals, exit codes, closed pipes. A terminal is for what asks.
"""

import dataclasses
import os
import pty
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import msgspec
import pytest

from eventlog.cli.main import main
from eventlog.clock import SystemClock
from eventlog.events import Event
from tests import warm_python
from tests.log_support import engine_of, opened

DEADLINE_SECONDS = 30.0

SHOP = '''"""A shop: mails about orders, and counts them. Orders of a negative total are more than it can bear."""

import os

import msgspec
from sqlalchemy import Column, Integer, MetaData, Table, insert

from eventlog import App, Context, Retry, event

app = App(os.environ["SHOP_URL"])
totals = Table("shop_totals", MetaData(), Column("number", Integer))
mail = app.subscriber("mail", retry=Retry(attempts=1))
board = app.projection("board", tables=[totals])


@event("clishop.placed", stream="clishop-{number}")
class Placed(msgspec.Struct, frozen=True):
    number: int
    total: float = 1.0


@mail
def send(placed: Placed) -> None:
    if placed.total < 0 and "FIXED" not in os.environ:
        raise ValueError(f"a total of {placed.total}")


@board
def add(placed: Placed, ctx: Context) -> None:
    ctx.connection.execute(insert(totals).values(number=placed.number))


def make():
    return app
'''


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left: its exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return msgspec.json.decode(self.out)

    @property
    def lines(self) -> list[Any]:
        """The lines of JSON on stdout."""
        return [msgspec.json.decode(line) for line in self.out.splitlines()]

    @property
    def error(self) -> Any:
        """The error on stderr, which must be its only line there."""
        (line,) = self.err.splitlines()
        return msgspec.json.decode(line)["error"]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """A folder with an app, and a log for it: where a test's commands run."""

    folder: Path
    url: str
    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    @classmethod
    def open(
        cls, folder: Path, url: str, *, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> Self:
        """Make the folder the current one, for this process and those it starts."""
        for name in ("URL", "APP", "SCHEMA", "OUTPUT"):
            monkeypatch.delenv(f"EVENTLOG_{name}", raising=False)
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("SHOP_URL", url)
        monkeypatch.setenv("EVENTLOG_URL", url)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.chdir(folder)
        shop = cls(folder=folder, url=url, monkeypatch=monkeypatch, capsys=capsys)
        shop.module("shop", SHOP)
        return shop

    def module(self, name: str, text: str) -> None:
        """Write a module that commands can import, whatever this process has imported by that name before."""
        (self.folder / f"{name}.py").write_text(text)
        self.monkeypatch.setitem(sys.modules, name, ModuleType(name))
        self.monkeypatch.delitem(sys.modules, name)

    def cli(self, *arguments: str | int) -> Ran:
        """Run a command in this process."""
        self.capsys.readouterr()
        code = main([str(one) for one in arguments])
        printed = self.capsys.readouterr()
        return Ran(code=code, out=printed.out, err=printed.err)

    def json(self, *arguments: str | int) -> Any:
        """Run a command that must succeed, and return its document."""
        ran = self.cli(*arguments, "--output", "json")
        assert ran.code == 0, ran.err
        return ran.json

    def orders(self, *totals: float) -> list[int]:
        """Append an order for each total; return their positions. Events may stand before them, holes between."""
        with opened(self.url) as log:
            events = [
                Event({"number": number, "total": total}, type="clishop.placed", stream=f"clishop-{number}")
                for number, total in enumerate(totals, start=1)
            ]
            return [one.position for one in log.append(*events)] if events else []

    def drain(self) -> Any:
        """Run all handlers until nothing is left to do."""
        return self.json("run", "--app", "shop:app", "--drain")

    def checkpoint(self, name: str) -> int:
        found: int = self.status(name)["checkpoint"]
        return found

    def status(self, name: str) -> Any:
        return next(one for one in self.json("status")["subscribers"] if one["name"] == name)

    def rows(self) -> int:
        """How many rows the board's table has."""
        with engine_of(self.url) as engine, engine.connect() as connection:
            return int(connection.exec_driver_sql("select count(*) from shop_totals").scalar_one())


def command(*arguments: str | int) -> list[str]:
    """The words that run a command as a process that begins with nothing: most tests take `as_process` or `started`."""
    return [sys.executable, *_words(*arguments)]


def _words(*arguments: str | int) -> list[str]:
    return ["-m", "eventlog.cli", *(str(one) for one in arguments)]


def as_process(*arguments: str | int, cwd: Path, **environment: str) -> Ran:
    """Run a command as a process of its own, without a terminal."""
    with started(
        *arguments,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            out, err = process.communicate(timeout=DEADLINE_SECONDS)
        finally:
            process.kill()
    return Ran(code=process.returncode, out=out, err=err)


def started(*arguments: str | int, **options: Any) -> "subprocess.Popen[str]":
    """Start a command as a process of its own, with the options of `subprocess.Popen`."""
    return warm_python.started(*_words(*arguments), **options)


def ran_to_end(words: Sequence[str], *, cwd: Path, **environment: str) -> Ran:
    """Run any program without a terminal."""
    done = subprocess.run(
        words,
        cwd=cwd,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE_SECONDS,
    )
    return Ran(code=done.returncode, out=done.stdout, err=done.stderr)


def on_terminal(*arguments: str | int, cwd: Path, asked: str = "", answer: bytes = b"", columns: int = 80) -> Ran:
    """Run a command on a pseudo-terminal; type `answer` once `asked` stands on the screen. `out` is the screen."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "LINES": "40", "TERM": "dumb"}
    process = started(*arguments, cwd=cwd, env=environment, terminal=os.ttyname(theirs))
    try:
        screen = _talk(ours, process, asked=asked, answer=answer)
        code = process.wait(timeout=DEADLINE_SECONDS)
    finally:
        process.kill()
        process.wait()
        os.close(theirs)
        os.close(ours)
    return Ran(code=code, out=screen.replace("\r\n", "\n"), err="")


def _talk(terminal: int, process: "subprocess.Popen[str]", *, asked: str, answer: bytes) -> str:
    """Read the screen until the command has ended, answering on the way."""
    clock = SystemClock()
    deadline = clock.monotonic() + DEADLINE_SECONDS
    screen, answered = b"", not asked
    while clock.monotonic() < deadline:
        ended = process.poll() is not None
        while select.select([terminal], [], [], 0.05)[0]:
            screen += os.read(terminal, 65536)
        if ended:
            return screen.decode()
        if not answered and asked.encode() in screen:
            os.write(terminal, answer)
            answered = True
    raise AssertionError(f"the command did not end; on its screen: {screen.decode()}")

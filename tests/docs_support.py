"""Pages of documentation, done as a reader would: files written, commands typed, Python run, what they print compared.

A page is its blocks in their order, in one folder that is empty at first:

- ```` ```python ```` and ```` ```toml ```` whose first line is `# name.py` are files, `# name.py, from LINE on` the end
  of one; ```` ```diff ```` whose first line is `# name.py` changes one line of it.
- ```` ```python ```` without a name runs in the page's one interpreter, which remembers what was defined before. A
  ```` ```text ```` block after it is what it prints; without one it prints nothing.
- ```` ```console ```` holds commands after `$`, and what they print on a terminal 100 columns wide.

What differs from run to run (times, ids) is made the same on both sides. A page's test is one line:

    assert_page_holds(DOCS / "evolution.md", tmp_path)

After a change of what is printed, `python -m tests.docs_support docs/evolution.md` writes today's output into the page;
read the difference before you commit it.
"""

import contextlib
import fcntl
import functools
import json
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+)(?:, from (.+) on)?\n")
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "2026-11-23T12:00:00Z"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "2026-11-23 12:00:00,000"),
    (
        re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"),
        "01a20a22-0000-7000-8000-000000000000",
    ),
    (re.compile(r"(?<=\d)   [ \d]\d [smhd](?=   )"), "    5 s"),
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"[ \t\r]+$", re.MULTILINE), ""),
)


INTERPRETER = """
import contextlib, io, json, os, sys, traceback

import alembic.command, sqlalchemy.orm
import eventlog.projections, eventlog.schema.migrate, eventlog.subscribers.app, eventlog.subscribers.control

commands, answers = sys.stdin, sys.stdout

def play(page):
    os.chdir(page["folder"])
    os.environ.clear()
    os.environ.update(page["environment"])
    names = {"__name__": "__main__"}
    while (code := json.loads(commands.readline() or "null")) is not None:
        printed = io.StringIO()
        error = None
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                exec(compile(code, "<the page>", "exec"), names)
            except BaseException:
                error = traceback.format_exc()
        print(json.dumps({"printed": printed.getvalue(), "error": error}), file=answers, flush=True)

while page := commands.readline():
    print("begun", file=answers, flush=True)
    child = os.fork()
    if not child:
        play(json.loads(page))
        os._exit(0)
    os.waitpid(child, 0)
    print("over", file=answers, flush=True)
"""
"""Forks for each page, so that what it declares stays out of the next one, and what all of them import is imported
once; then runs one block of Python after the other, and answers with what each has printed. Nobody sends a line before
the one before it was answered, so nothing of one process is left in the buffer of the other.
"""


def assert_page_holds(page: Path, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
    """Do what a page says, and compare what it says is printed. The environment is added to that of the commands."""
    text = page.read_text()
    assert BLOCK.search(text), f"{page.name} has no blocks"
    assert text == played(text, folder, environment=environment)


def played(text: str, folder: Path, *, environment: Mapping[str, str] | None = None) -> str:
    """Do what a page says, and return the page as it would read with the output of today."""
    with _interpreter(folder, environment or {}) as run:
        reader = Reader(folder, environment=environment)
        printed = ""

        def play(block: re.Match[str]) -> str:
            nonlocal printed
            kind, said = block[1], block[2]
            if kind == "text":
                done, printed = printed, ""
            elif kind == "python" and not FILE.match(said):
                assert not printed, f"a block prints, and no text block tells what: {printed}"
                done, printed = said, _same(run(said))
            else:
                done = reader.plays(kind, said)
            return f"```{kind}\n{done}```"

        result = BLOCK.sub(play, text)
        assert not printed, f"the last block prints, and no text block tells what: {printed}"
        return result


class Reader:
    """Somebody who types a page in its order, beginning in an empty folder."""

    def __init__(self, folder: Path, *, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.environment = environment or {}

    def plays(self, kind: str, text: str) -> str:
        """Do what a block says, and return the block as it would read with the output of today."""
        named = FILE.match(text)
        if named is not None and kind in ("python", "toml"):
            _write(self.folder / named[1], text[named.end() :], begins=named[2])
        elif named is not None and kind == "diff":
            _change(self.folder / named[1], text[named.end() :])
        elif kind == "sh" and text.startswith("eventlog "):
            for command in text.splitlines():
                self.types(command)
        elif kind == "console":
            commands = re.findall(r"^\$ (.*)\n", text, re.MULTILINE)
            return "".join(f"$ {command}\n{_same(self.types(command))}" for command in commands)
        return text

    def types(self, command: str) -> str:
        if command.startswith("cd "):
            self.folder /= command.removeprefix("cd ")
            return ""
        return _run(command, self.folder, self.environment)


def _write(file: Path, text: str, *, begins: str | None) -> None:
    if begins is not None:
        before, found, _after = file.read_text().partition(f"{begins}\n")
        assert found, f"{file.name} has no line {begins!r}"
        text = before + text
    file.write_text(text)


def _change(file: Path, difference: str) -> None:
    """Replace the line that a difference takes away by the one it puts there."""
    gone, come = difference.splitlines()
    before = file.read_text()
    assert before.count(f"\n{gone[1:]}\n") == 1, f"{file.name} has no line {gone[1:]!r}"
    file.write_text(before.replace(f"\n{gone[1:]}\n", f"\n{come[1:]}\n"))


def _run(command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a command in a terminal 100 columns wide, and return what appeared on it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        command, shell=True, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=_environment(environment)
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # Linux ends a terminal whose other side is closed with an error
        while chunk := os.read(ours, 65536):
            shown += chunk
    os.close(ours)
    process.wait(timeout=30)
    return shown.decode()


def _same(text: str) -> str:
    for varying, fixed in VARYING:
        text = varying.sub(fixed, text)
    return f"{text.rstrip()}\n" if text.strip() else ""


@contextlib.contextmanager
def _interpreter(folder: Path, environment: Mapping[str, str]) -> Iterator[Any]:
    """Lend a function that runs Python in a process of the page: what it declares stays out of the other tests."""
    process = _started_interpreter()
    assert process.stdin is not None
    assert process.stdout is not None
    sent, answers = process.stdin, process.stdout

    def send(message: Any) -> None:
        sent.write(f"{json.dumps(message)}\n")
        sent.flush()

    def run(code: str) -> str:
        send(code)
        answer = json.loads(answers.readline())
        assert answer["error"] is None, f"{code}\n{answer['error']}"
        return str(answer["printed"])

    send({"folder": str(folder.resolve()), "environment": _environment(environment)})
    assert answers.readline() == "begun\n", "the interpreter of the pages has not begun one"
    try:
        yield run
    finally:
        send(None)
        over = answers.readline()
    assert over == "over\n", f"the interpreter of the pages has ended: {over!r}"


@functools.cache
def _started_interpreter() -> subprocess.Popen[str]:
    """One for all pages of this process; it ends with it, when nothing more can come from its stdin."""
    return subprocess.Popen(
        [sys.executable, "-c", INTERPRETER],
        env=_environment({}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _environment(added: Mapping[str, str]) -> dict[str, str]:
    """The shell of somebody who has installed the project and set nothing."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**kept, "PATH": path, "NO_COLOR": "1", "TERM": "dumb", **added}


def _rewrite(page: Path) -> None:
    """Write today's output into a page."""
    with tempfile.TemporaryDirectory() as folder:
        page.write_text(played(page.read_text(), Path(folder)))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        _rewrite(Path(name))

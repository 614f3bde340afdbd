"""The README is typed here as a reader would: its files written, its commands run in a terminal, their output compared.

What differs from run to run (times, ids) is made the same on both sides. After a change of what commands print,
`python -m tests.test_readme` writes today's output into the README; read the difference before you commit it.
"""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w.]+)(?:, from (.+) on)?\n")
VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "2026-11-23T12:00:00Z"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), "2026-11-23 12:00:00,000"),
    (
        re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}"),
        "01a20a22-0000-7000-8000-000000000000",
    ),
    (re.compile(r"\x1b\[[0-9;?]*[A-Za-z]"), ""),
    (re.compile(r"[ \t\r]+$", re.MULTILINE), ""),
)

PRELUDE = """
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from app import OrderPlaced, app
from eventlog import Context

class Base(DeclarativeBase):
    pass

class Order(Base):
    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str]

Base.metadata.create_all(app.engine)
board_table = Table("board", MetaData(), Column("number", Integer, primary_key=True))
"""
EPILOGUE = """
app.drain(only=["board"])
with app.engine.connect() as connection:
    print(list(connection.scalars(board_table.select().order_by("number"))))
app.engine.dispose()
"""


def test_the_readme_does_what_it_prints(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    blocks = [(text, reader.plays(kind, text)) for kind, text in BLOCK.findall(README.read_text())]
    assert [said for said, _done in blocks] == [done for _said, done in blocks]


def test_the_code_for_a_service_runs_as_it_stands(tmp_path: Path) -> None:
    quick_start, _, service = README.read_text().partition("## In your service")
    reader = Reader(tmp_path)
    for kind, text in BLOCK.findall(quick_start):
        reader.plays(kind, text)
    code = [text for kind, text in BLOCK.findall(service) if kind == "python"]
    (tmp_path / "service.py").write_text(PRELUDE + "\n".join(code) + EPILOGUE)

    done = subprocess.run([sys.executable, "service.py"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("[1, 2, 3, 4]\n", "")


class Reader:
    """Somebody who types the README in its order, beginning in an empty folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

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
        return _run(command, self.folder)


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


def _run(command: str, folder: Path) -> str:
    """Run a command in a terminal 100 columns wide, and return what appeared on it."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")} | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }
    process = subprocess.Popen(
        command, shell=True, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
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


def _rewrite() -> None:
    """Write today's output into the README."""
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        readme = BLOCK.sub(lambda block: f"```{block[1]}\n{reader.plays(block[1], block[2])}```", README.read_text())
    README.write_text(readme)


if __name__ == "__main__":
    _rewrite()

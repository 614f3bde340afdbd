"""The README is typed here as a reader would: its files written, its commands run in a terminal, their output compared.

What differs from run to run (times, ids) is made the same on both sides. After a change of what commands print,
`python -m tests.test_readme` writes today's output into the README; read the difference before you commit it.
"""

import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.docs_support import BLOCK, Reader

SERVICE = "## In your service"
LINK = re.compile(r"\]\((docs/[^)]+)\)")
README = Path(__file__).parent.parent / "README.md"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What each block of the README says and what it did, and the folder as it was after the quick start."""

    said: list[str]
    done: list[str]
    after_quick_start: Path


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Played:
    folder = tmp_path_factory.mktemp("reader")
    reader = Reader(folder)
    quick_start, _, rest = README.read_text().partition(SERVICE)
    done = [reader.plays(kind, text) for kind, text in BLOCK.findall(quick_start)]
    copy = shutil.copytree(folder, tmp_path_factory.mktemp("service") / "folder")
    done += [reader.plays(kind, text) for kind, text in BLOCK.findall(rest)]
    said = [text for _kind, text in BLOCK.findall(README.read_text())]
    return Played(said=said, done=done, after_quick_start=copy)


def test_the_readme_does_what_it_prints(played: Played) -> None:
    assert played.said == played.done


def test_every_page_of_the_documentation_has_a_line_in_the_list() -> None:
    listed = README.read_text().partition("## All pages\n")[2].partition("\n## ")[0]
    lines = [line for line in listed.splitlines() if line.startswith("| [")]
    named = [LINK.findall(line)[0] for line in lines]
    assert sorted(named) == sorted(f"docs/{page.name}" for page in (README.parent / "docs").glob("*.md"))
    assert all(len(line.split(" | ")[1]) > len("| ") for line in lines)


def test_the_code_for_a_service_runs_as_it_stands(played: Played) -> None:
    folder = played.after_quick_start
    code = [text for kind, text in BLOCK.findall(README.read_text().partition(SERVICE)[2]) if kind == "python"]
    (folder / "service.py").write_text(PRELUDE + "\n".join(code) + EPILOGUE)

    done = subprocess.run([sys.executable, "service.py"], cwd=folder, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("[1, 2, 3, 4]\n", "")


def _rewrite() -> None:
    """Write today's output into the README."""
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        readme = BLOCK.sub(lambda block: f"```{block[1]}\n{reader.plays(block[1], block[2])}```", README.read_text())
    README.write_text(readme)


if __name__ == "__main__":
    _rewrite()

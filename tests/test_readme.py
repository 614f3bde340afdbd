"""The README is typed here as a reader would: its files written, its commands run in a terminal, their output compared.

What differs from run to run (times, ids) is made the same on both sides. After a change of what commands print,
`python -m tests.test_readme` writes today's output into the README; read the difference before you commit it.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.docs_support import BLOCK, Reader

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


def _rewrite() -> None:
    """Write today's output into the README."""
    with tempfile.TemporaryDirectory() as folder:
        reader = Reader(Path(folder))
        readme = BLOCK.sub(lambda block: f"```{block[1]}\n{reader.plays(block[1], block[2])}```", README.read_text())
    README.write_text(readme)


if __name__ == "__main__":
    _rewrite()

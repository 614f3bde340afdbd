"""docs/migrations.md is done here as it is told: its files written, its commands run, what they print compared."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.schema_support import libpq_url, postgres_programs, sqlite_shell

PAGE = Path(__file__).parent.parent / "docs" / "migrations.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# ([\w./]+)\n")
REVISION_ID = re.compile(r"^[0-9a-f]{12}\b", re.MULTILINE)
FILE_MADE = re.compile(r"^Generating .*\n", re.MULTILINE)
DEED = re.compile(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the reader begins: Alembic's template of a revision is all that is not on the page."""
    (tmp_path / "migrations" / "versions").mkdir(parents=True)
    import alembic

    template = Path(alembic.__file__).parent / "templates" / "generic" / "script.py.mako"
    (tmp_path / "migrations" / "script.py.mako").write_text(template.read_text())
    return tmp_path


def test_the_page_on_migrations_does_what_it_says(
    folder: Path, postgres_empty_url: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    programs = [Path(sys.executable).parent, postgres_programs(), sqlite_shell(tmp_path_factory.mktemp("bin")).parent]
    environment = os.environ | {
        "SHOP_URL": postgres_empty_url,
        "DATABASE_URL": libpq_url(postgres_empty_url),
        "PATH": os.pathsep.join([*map(str, programs), os.environ["PATH"]]),
    }
    told, done = [], []
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind != "console":
            _written(folder, text)
            continue
        for command, output in DEED.findall(text):
            ran = subprocess.run(
                ["bash", "-o", "pipefail", "-c", command],
                cwd=folder,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert ran.returncode == 0, f"{command}\n{ran.stderr}"
            told.append((command, _comparable(command, output)))
            done.append((command, _comparable(command, ran.stdout)))
    assert told == done
    assert len(told) > 10


def test_the_tables_of_the_page_that_refer_to_events_are_as_it_says(folder: Path, postgres_database_url: str) -> None:
    for kind, text in BLOCK.findall(PAGE.read_text()):
        if kind != "console":
            _written(folder, text)
    program = (
        "import letters, os, sqlalchemy\n"
        "from alembic.autogenerate import compare_metadata\n"
        "from alembic.runtime.migration import MigrationContext\n"
        "with sqlalchemy.create_engine(os.environ['SHOP_URL']).connect() as connection:\n"
        "    letters.Base.metadata.create_all(connection)\n"
        "    options = {'include_schemas': True, 'compare_server_default': True}\n"
        "    context = MigrationContext.configure(connection, opts=options)\n"
        "    print(compare_metadata(context, letters.Base.metadata))\n"
    )
    environment = os.environ | {"SHOP_URL": postgres_database_url}
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert (ran.stdout, ran.stderr) == ("[]\n", "")


def _written(folder: Path, text: str) -> None:
    named = FILE.match(text)
    assert named, f"this block names no file: {text[:40]}"
    (folder / named[1]).write_text(text)


def _comparable(command: str, output: str) -> str:
    told = REVISION_ID.sub("0e4d5a17ac01", FILE_MADE.sub("", output))
    # Two branches have no order: Alembic tells their heads as the table happens to hold them.
    return "".join(sorted(told.splitlines(keepends=True))) if command == "alembic current" else told

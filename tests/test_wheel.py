"""What gets installed: everything of the five folders, under the one name `eventlog`, and nothing else.

The wheel is built from a copy of the project, once straight and once by way of the sdist, as an installer does that
finds no wheel. Building writes beside the sources, and leftovers of an earlier build would be packed: hence the copy.
"""

import dataclasses
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = {
    "eventlog": "eventlog",
    "schema": "eventlog/schema",
    "subscribers": "eventlog/subscribers",
    "projections": "eventlog/projections",
    "cli": "eventlog/cli",
}
"""Where each folder is installed."""

NOT_SOURCES = shutil.ignore_patterns(
    ".git", ".venv", ".*_cache", ".hypothesis", ".coverage*", "__pycache__", "*.egg-info", "build", "dist", "*.db*"
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Built:
    """The files of the three archives by name, and what the builder said."""

    wheel: dict[str, bytes]
    wheel_of_sdist: dict[str, bytes]
    sdist: set[str]
    output: str


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    directory = tmp_path_factory.mktemp("wheel")
    project = directory / "project"
    shutil.copytree(ROOT, project, symlinks=True, ignore=NOT_SOURCES)
    by_way_of_sdist, straight = directory / "by_way_of_sdist", directory / "straight"
    output = _build(project, by_way_of_sdist) + _build(project, straight, "--wheel")
    return Built(
        wheel=_files_of_wheel(straight),
        wheel_of_sdist=_files_of_wheel(by_way_of_sdist),
        sdist=_files_of_sdist(by_way_of_sdist),
        output=output,
    )


def test_the_wheel_puts_one_name_into_site_packages(built: Built) -> None:
    top_level = {name.split("/")[0] for name in built.wheel}
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert top_level == {"eventlog", f"rewindlog-{version}.dist-info"}


def test_the_wheel_carries_every_file_of_the_folders(built: Built) -> None:
    """Every module, SQL file, template and data file: a new kind of file has to be declared, or this fails."""
    installed = {name: content for name, content in built.wheel.items() if name.startswith("eventlog/")}
    assert sorted(installed) == sorted(_sources())
    assert installed == _sources()


def test_the_wheel_built_from_the_sdist_is_the_same(built: Built) -> None:
    assert sorted(built.wheel_of_sdist) == sorted(built.wheel)
    assert built.wheel_of_sdist == built.wheel


def test_the_sdist_carries_the_tests_and_what_runs_them(built: Built) -> None:
    tests = {f"tests/{path.name}" for path in (ROOT / "tests").glob("*.py")}
    assert tests | {"Makefile", "constraints.txt", "LICENSE", "pyproject.toml"} <= built.sdist


def test_the_wheel_says_that_it_is_typed_and_brings_the_command(built: Built) -> None:
    metadata = {name.split("/")[1]: content for name, content in built.wheel.items() if ".dist-info/" in name}
    assert "eventlog/py.typed" in built.wheel
    assert b"eventlog = eventlog.cli.main:main" in metadata["entry_points.txt"]


def test_the_wheel_carries_the_flights_of_the_demo(built: Built) -> None:
    assert [name for name in built.wheel if name.startswith("eventlog/cli/demo/") and name.endswith(".csv.gz")]


def test_the_builder_has_nothing_to_warn_about(built: Built) -> None:
    assert "would be ignored" not in built.output
    assert "Deprecat" not in built.output


def _build(project: Path, into: Path, *options: str) -> str:
    command = [sys.executable, "-m", "build", "--no-isolation", *options, "--outdir", str(into), str(project)]
    process = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert process.returncode == 0, process.stdout
    return process.stdout


def _files_of_wheel(directory: Path) -> dict[str, bytes]:
    [path] = directory.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _files_of_sdist(directory: Path) -> set[str]:
    [path] = directory.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return {member.name.split("/", 1)[1] for member in archive if member.isfile()}


def _sources() -> dict[str, bytes]:
    return {
        f"{installed}/{path.relative_to(ROOT / folder).as_posix()}": path.read_bytes()
        for folder, installed in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

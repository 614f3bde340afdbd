"""Every deed, killed at every point between two statements, and at some moments that may lie within one.

In `make test` a sample of that: on SQLite after each commit of every kind of deed, and at a few points more; on
PostgreSQL a few points of a few deeds. In `make soak` all points of all deeds on both. What must hold is in
`crash_checks.py`: no event is skipped, no failure is silent, only the owner commits; what operators do is done or not;
a redelivery is called one.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.crash_checks import DEEDS, check
from tests.crash_matrix import SOAK, Databases, Files, Forks, Matrix
from tests.crash_points import named

SOME = 1
DEEDS_ON_POSTGRESQL = len(DEEDS) if SOAK else 4

FAMILIES = tuple(dict.fromkeys(deed.partition(" ")[0] for deed in DEEDS))
DRAWN = {"retry": 1, "replay": 1, "rebuild": 1, "operator": 7}
"""How many deeds of a family are drawn for a short run; of the others all."""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    forks = Forks()
    yield forks
    forks.close()


@pytest.mark.timeout(0 if SOAK else 240)
@pytest.mark.parametrize("family", FAMILIES)
def test_killed_on_sqlite(family: str, forks: Forks, sqlite_template: Path, tmp_path: Path) -> None:
    matrix = Matrix(forks=forks, databases=Files(sqlite_template), folder=tmp_path)
    deeds = [deed for deed in DEEDS if deed.partition(" ")[0] == family]
    for deed in deeds if SOAK else matrix.dice.sample(deeds, DRAWN.get(family, len(deeds))):
        # A worker's threads commit too often for all of it, and not twice at the same points.
        assert check(matrix, deed, some=SOME, commits=family != "worker") >= SOME


@pytest.mark.timeout(0 if SOAK else 240)
def test_killed_on_postgresql(
    forks: Forks, postgres_url: str, postgres_template: str, postgres_server_of_tests: Any, tmp_path: Path
) -> None:
    databases = Databases(postgres_url, postgres_template, options=postgres_server_of_tests.options)
    matrix = Matrix(forks=forks, databases=databases, folder=tmp_path)
    try:
        for deed in matrix.dice.sample(DEEDS, DEEDS_ON_POSTGRESQL):
            assert check(matrix, deed, some=SOME, commits=False) >= SOME
    finally:
        databases.close()


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("UPDATE eventlog.checkpoints SET position=%s", "update checkpoints"),
        ("insert into events (id) values (?)", "insert events"),
        ("\n-- why\nselect failures.state FROM eventlog.failures", "select failures"),
        ("select eventlog.head()", "select head"),
        ("begin immediate", "begin"),
        ("alter table applied rename to applied__k3", "alter table applied"),
        (b"select 1", "select"),
    ],
)
def test_points_bear_the_names_of_what_they_stand_before(statement: str | bytes, name: str) -> None:
    assert named(statement) == name

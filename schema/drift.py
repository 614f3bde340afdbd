"""How the tables of a log in a database differ from what the revisions make.

What is missing or changed keeps the log from being safe, or code from running; what is there besides (an index that an
operator has added) is told apart. Nothing is changed, and nothing is made in the database that is looked at.
"""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Connection, create_engine, text

from eventlog.schema.declared import EPOCHS
from eventlog.schema.tables import Tables
from eventlog.schema.version import VERSION_TABLE


class DifferenceKind(StrEnum):
    """How something in the database differs."""

    MISSING = "missing"
    CHANGED = "changed"
    EXTRA = "extra"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing that differs: `thing` names it, `detail` says how, and `repair` is SQL that mends it, where it can."""

    kind: DifferenceKind
    thing: str
    detail: str = ""
    repair: str = ""


def differences(connection: Connection, log: Tables, *, schema: str) -> list[Difference]:
    """Compare the tables, columns, indexes, constraints, triggers and functions of a log at the newest revision.

    Costs about ten queries of the catalogue on PostgreSQL; on SQLite one, and a log made in memory to compare with.
    """
    if connection.dialect.name == "sqlite":
        return _on_sqlite(connection, log, schema=schema)
    from eventlog.schema.drift_postgres import differences_on_postgres

    return differences_on_postgres(connection, log, schema=schema)


def _on_sqlite(connection: Connection, log: Tables, *, schema: str) -> list[Difference]:
    found, expected = _statements(connection, log), _expected_on_sqlite(log, schema=schema)
    differing = [
        Difference(
            kind=DifferenceKind.CHANGED if thing in found else DifferenceKind.MISSING,
            thing=thing,
            detail="" if thing not in found else "its statement is another one",
            repair="" if thing in found and not thing.startswith("trigger") else _repair(thing, sql, found),
        )
        for thing, sql in expected.items()
        if _spaced(found.get(thing, "")) != _spaced(sql)
    ]
    return differing + [
        Difference(kind=DifferenceKind.EXTRA, thing=thing) for thing in sorted(found.keys() - expected.keys())
    ]


def _statements(connection: Connection, log: Tables) -> dict[str, str]:
    """The statements that made the tables of a log, and what belongs to them, by what they made."""
    names = {table.name for table in log.metadata.tables.values()}
    names |= {log.sql_name(VERSION_TABLE), log.sql_name(EPOCHS)}
    rows = connection.execute(text("select type, name, tbl_name, sql from sqlite_master where sql is not null"))
    return {f"{kind} {name}": sql for kind, name, table, sql in rows if table in names}


def _expected_on_sqlite(log: Tables, *, schema: str) -> dict[str, str]:
    from eventlog.schema.migrate import upgrade

    engine = create_engine("sqlite://")
    try:
        upgrade(engine, schema=schema)
        with engine.connect() as connection:
            return _statements(connection, log)
    finally:
        engine.dispose()


def _repair(thing: str, sql: str, found: dict[str, str]) -> str:
    """A table that is missing has taken its rows with it: what is made in its place is an empty one."""
    if thing.startswith("table"):
        return ""
    drop = f"drop {thing}; " if thing in found else ""
    return f"{drop}{_spaced(sql)};"


def _spaced(sql: str) -> str:
    """Spaces and line breaks say nothing."""
    return " ".join(sql.split())

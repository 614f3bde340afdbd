"""The tables of a log on PostgreSQL, compared with what the revisions make.

Tables are compared by what `declared.py` says of them. Triggers and functions are read off the SQL of the revisions,
which is what made them; a function is the same if its text is, whatever the server makes of it.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    ForeignKeyConstraint,
    MetaData,
    Table,
    UniqueConstraint,
    inspect,
    text,
)
from sqlalchemy.engine.reflection import Inspector

from eventlog.schema.declared import declare_log
from eventlog.schema.drift import Difference, DifferenceKind
from eventlog.schema.migrate_sql import upgrade_sql
from eventlog.schema.tables import Tables

_FUNCTION = re.compile(r"^create (?:or replace )?function [\w.]+?\.(\w+)\((.*?)^as \$\$(.*?)\$\$;$", re.M | re.S)
_TRIGGER = re.compile(
    r"^create trigger (\w+)\n(before|after) ([\w ]+?) on \w+\.(\w+)\nfor each (row|statement)\s*"
    r"(?:when \((.*?)\)\s*)?execute function \w+\.(\w+)\(\);$",
    re.M | re.S,
)
_ALWAYS = re.compile(r"^alter table \w+\.(\w+) enable always trigger (\w+);$", re.M)
_CHECK = re.compile(r"CONSTRAINT (\w+) CHECK")

_WHEN = re.compile(r" WHEN (\(.*\)) EXECUTE FUNCTION ", re.S)
_CAST = re.compile(r"::\s*\w+")
_WORD = re.compile(r"'(?:[^']|'')*'|[\w.]+|[<>=!+*/-]+")

_KINDS = {"row": 1, "before": 2, "insert": 4, "delete": 8, "update": 16, "truncate": 32}
"""The bits of pg_trigger.tgtype."""

_ENABLE = {"A": "always trigger", "O": "trigger"}

_TRIGGERS = """
select c.relname, t.tgname, t.tgenabled::text, t.tgtype, p.proname, pg_get_triggerdef(t.oid)
from pg_trigger as t
join pg_class as c on c.oid = t.tgrelid
join pg_proc as p on p.oid = t.tgfoid
where not t.tgisinternal and c.relnamespace = cast(:schema as regnamespace)
"""
_FUNCTIONS = """
select proname, prosrc, prosecdef, coalesce(array_to_string(proconfig, ','), '')
from pg_proc
where pronamespace = cast(:schema as regnamespace) and prokind = 'f'
"""
_INVALID_INDEXES = """
select c.relname, i.indrelid::regclass::text
from pg_index as i
join pg_class as c on c.oid = i.indexrelid
where not i.indisvalid and c.relnamespace = cast(:schema as regnamespace)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """A trigger: when it fires, and whether it does so for every role and replica (`A`) or as usual (`O`).

    The words of its condition are compared, not the text: the server writes parentheses and casts of its own into it.
    """

    enabled: str
    kind: int
    function: str
    condition: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """A function: its text, whose rights it has, and where it looks names up."""

    body: str
    definer: bool
    has_search_path: bool


def differences_on_postgres(connection: Connection, log: Tables, *, schema: str) -> list[Difference]:
    """Compare a log at the newest revision with what the revisions make."""
    script = upgrade_sql(dialect="postgresql", schema=schema)
    return [
        *_of_tables(connection, schema=schema, checks=set(_CHECK.findall(script))),
        *_of_triggers(connection, expected_triggers(script), schema=schema),
        *_of_functions(connection, expected_functions(script), schema=schema),
    ]


def expected_triggers(script: str) -> dict[tuple[str, str], Trigger]:
    """Read the triggers off the SQL of the revisions, by table and name."""
    always = set(_ALWAYS.findall(script))
    return {
        (table, name): Trigger(
            enabled="A" if (table, name) in always else "O",
            kind=sum(_KINDS[word] for word in (*events.split(" or "), when, each) if word in _KINDS),
            function=function,
            condition=_words(condition or ""),
        )
        for name, when, events, table, each, condition, function in _TRIGGER.findall(script)
    }


def expected_functions(script: str) -> dict[str, Function]:
    """Read the functions off the SQL of the revisions, as the last of them leaves each."""
    return {
        name: Function(
            body=_spaced(body), definer="security definer" in head, has_search_path="set search_path" in head
        )
        for name, head, body in _FUNCTION.findall(script)
    }


def _of_triggers(
    connection: Connection, expected: Mapping[tuple[str, str], Trigger], *, schema: str
) -> Iterator[Difference]:
    found = {
        (table, name): Trigger(enabled=enabled, kind=kind, function=function, condition=_condition_of(definition))
        for table, name, enabled, kind, function, definition in connection.execute(text(_TRIGGERS), {"schema": schema})
    }
    for (table, name), trigger in expected.items():
        thing, there = f"trigger {name} on {table}", found.get((table, name))
        if there is None:
            yield Difference(kind=DifferenceKind.MISSING, thing=thing)
        elif there.enabled != trigger.enabled:
            yield Difference(
                kind=DifferenceKind.CHANGED,
                thing=thing,
                detail=_told_enabled(there.enabled),
                repair=f"alter table {schema}.{table} enable {_ENABLE[trigger.enabled]} {name};",
            )
        elif there.condition != trigger.condition:
            yield Difference(kind=DifferenceKind.CHANGED, thing=thing, detail="its condition is another one")
        elif there != trigger:
            yield Difference(
                kind=DifferenceKind.CHANGED, thing=thing, detail="it fires otherwise, or calls another function"
            )
    for table, name in sorted(found.keys() - expected.keys()):
        yield Difference(kind=DifferenceKind.EXTRA, thing=f"trigger {name} on {table}")


def _condition_of(definition: str) -> tuple[str, ...]:
    found = _WHEN.search(definition)
    return _words(found[1]) if found else ()


def _words(condition: str) -> tuple[str, ...]:
    """Take a condition apart, without what the server adds to it or leaves out."""
    plain = _CAST.sub("", condition.replace('"', ""))
    return tuple(one if one.startswith("'") else one.lower() for one in _WORD.findall(plain))


def _told_enabled(enabled: str) -> str:
    told = {"D": "it is disabled", "O": "it does not fire on a replica's connections", "R": "it fires on replicas only"}
    return told.get(enabled, "it fires always")


def _of_functions(connection: Connection, expected: Mapping[str, Function], *, schema: str) -> Iterator[Difference]:
    found: dict[str, list[Function]] = {}
    for name, body, definer, settings in connection.execute(text(_FUNCTIONS), {"schema": schema}):
        function = Function(body=_spaced(body), definer=definer, has_search_path="search_path=" in settings)
        found.setdefault(name, []).append(function)
    for name, function in expected.items():
        there = found.get(name, [])
        if not there:
            yield Difference(kind=DifferenceKind.MISSING, thing=f"function {name}")
        elif function not in there:
            detail = (
                "its text is another one"
                if function.body not in {one.body for one in there}
                else "its rights are others"
            )
            yield Difference(kind=DifferenceKind.CHANGED, thing=f"function {name}", detail=detail)
    for name in sorted(found.keys() - expected.keys()):
        yield Difference(kind=DifferenceKind.EXTRA, thing=f"function {name}")


def _of_tables(connection: Connection, *, schema: str, checks: set[str]) -> Iterator[Difference]:
    inspector = inspect(connection)
    declared = MetaData()
    declare_log(declared, dialect="postgresql", schema=schema)
    tables = {table.name: table for table in declared.tables.values()}
    found = set(inspector.get_table_names(schema=schema))
    yield from _named(found, tables, "table", extra=True)
    there = [table for name, table in tables.items() if name in found]
    yield from _of_columns(inspector, connection, there, schema=schema)
    yield from _of_constraints(inspector, there, schema=schema, checks=checks)
    yield from _of_indexes(inspector, connection, there, schema=schema)


def _of_columns(
    inspector: Inspector, connection: Connection, tables: Iterable[Table], *, schema: str
) -> Iterator[Difference]:
    reflected = inspector.get_multi_columns(schema=schema)
    for table in tables:
        found: dict[str, Any] = {one["name"]: one for one in reflected[schema, table.name]}
        yield from _named(found, table.columns.keys(), f"column of {table.name}:", extra=False)
        for column in table.columns:
            if column.name in found and (how := _differs(column, found[column.name], connection)):
                thing = f"column of {table.name}: {column.name}"
                yield Difference(kind=DifferenceKind.CHANGED, thing=thing, detail=how)
        for name in found.keys() - set(table.columns.keys()):
            if not found[name]["nullable"] and found[name]["default"] is None:
                how = "it must be filled, and nothing of ours does that"
                yield Difference(kind=DifferenceKind.CHANGED, thing=f"column of {table.name}: {name}", detail=how)
            else:
                yield Difference(kind=DifferenceKind.EXTRA, thing=f"column of {table.name}: {name}")


def _differs(declared: "Column[Any]", found: Any, connection: Connection) -> str:
    dialect = connection.dialect
    types = [one.compile(dialect=dialect) for one in (declared.type, found["type"])]
    if types[0] != types[1]:
        return f"it is {types[1].lower()}, not {types[0].lower()}"
    if declared.nullable != found["nullable"]:
        return "it may be null" if found["nullable"] else "it may not be null"
    if (declared.identity is not None) != ("identity" in found):
        return "it does not number the rows"
    has_default = found["default"] is not None
    return (
        ""
        if (declared.server_default is not None) in (has_default, "identity" in found)
        else "its default is another one"
    )


def _of_constraints(
    inspector: Inspector, tables: Iterable[Table], *, schema: str, checks: set[str]
) -> Iterator[Difference]:
    unique = inspector.get_multi_unique_constraints(schema=schema)
    foreign = inspector.get_multi_foreign_keys(schema=schema)
    primary = inspector.get_multi_pk_constraint(schema=schema)
    check = inspector.get_multi_check_constraints(schema=schema)
    for table in tables:
        key = (schema, table.name)
        wanted = [one for one in table.constraints if isinstance(one, UniqueConstraint | ForeignKeyConstraint)]
        found = {one["name"]: _columns_of(one) for one in (*unique[key], *foreign[key])}
        for one in wanted:
            thing = f"constraint {one.name} of {table.name}"
            if one.name not in found:
                yield Difference(kind=DifferenceKind.MISSING, thing=thing)
            elif found[str(one.name)] != [column.name for column in one.columns]:
                yield Difference(kind=DifferenceKind.CHANGED, thing=thing, detail="it is over other columns")
        if primary[key]["constrained_columns"] != [column.name for column in table.primary_key]:
            yield Difference(kind=DifferenceKind.MISSING, thing=f"primary key of {table.name}")
        named = {name for name in checks if name.startswith(f"{table.name}_")}
        yield from _named({str(one["name"]) for one in check[key]}, named, f"check of {table.name}:", extra=False)


def _columns_of(reflected: Any) -> list[str]:
    columns: list[str] = reflected.get("column_names") or reflected.get("constrained_columns") or []
    return columns


def _of_indexes(
    inspector: Inspector, connection: Connection, tables: Iterable[Table], *, schema: str
) -> Iterator[Difference]:
    reflected = inspector.get_multi_indexes(schema=schema)
    for table in tables:
        found: dict[str, Any] = {
            str(one["name"]): one for one in reflected[schema, table.name] if "duplicates_constraint" not in one
        }
        yield from _named(found, [str(index.name) for index in table.indexes], f"index of {table.name}:", extra=True)
        for index in table.indexes:
            there = found.get(str(index.name))
            if there is not None and there["column_names"] != [column.name for column in index.columns]:
                thing = f"index of {table.name}: {index.name}"
                yield Difference(kind=DifferenceKind.CHANGED, thing=thing, detail="it is over other columns")
    for name, table_name in connection.execute(text(_INVALID_INDEXES), {"schema": schema}):
        yield Difference(
            kind=DifferenceKind.CHANGED,
            thing=f"index of {table_name}: {name}",
            detail="it is not valid, and not used",
            repair=f"reindex index {schema}.{name};",
        )


def _named(found: Iterable[str], expected: Iterable[str], what: str, *, extra: bool) -> Iterator[Difference]:
    there, wanted = set(found), set(expected)
    for name in sorted(wanted - there):
        yield Difference(kind=DifferenceKind.MISSING, thing=f"{what} {name}")
    for name in sorted(there - wanted) if extra else ():
        yield Difference(kind=DifferenceKind.EXTRA, thing=f"{what} {name}")


def _spaced(body: str) -> str:
    return " ".join(body.split())

"""Examines a log: whether what keeps it safe is in place, and what to do where it is not.

Nothing is changed. Each examination is a question of its own and comes to findings: `ok`, a `note` (worth knowing, and
nothing is broken), or `wrong`. One that the role may not make is a note; one that fails otherwise is wrong.
"""

from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError

from eventlog.ahead import ahead_of_log
from eventlog.database import Database
from eventlog.errors import DatabaseError, EventLogError, PermissionDeniedError, first_line
from eventlog.schema.drift import Difference, DifferenceKind, differences
from eventlog.schema.migrate import SchemaState, current_revision, known_revisions, schema_state


class FindingStatus(StrEnum):
    """How grave a finding is."""

    OK = "ok"
    NOTE = "note"
    WRONG = "wrong"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What an examination has found; `remedy` is what to do about it."""

    check: str
    status: FindingStatus
    said: str
    remedy: str = ""


def ok(check: str, said: str) -> Finding:
    return Finding(check=check, status=FindingStatus.OK, said=said)


def note(check: str, said: str, *, remedy: str) -> Finding:
    return Finding(check=check, status=FindingStatus.NOTE, said=said, remedy=remedy)


def wrong(check: str, said: str, *, remedy: str) -> Finding:
    return Finding(check=check, status=FindingStatus.WRONG, said=said, remedy=remedy)


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """An examination that is to be made."""

    name: str
    make: Callable[[Connection], Iterator[Finding]]


def examine(database: Database, *, listen_url: str | None = None, quick_check: bool = False) -> Iterator[Finding]:
    """Make every examination, and yield what it finds as it comes.

    `listen_url` is the way that workers listen by, if it is another one; `quick_check` reads all of a SQLite file.
    """
    for examination in _examinations(database, listen_url=listen_url, quick_check=quick_check):
        yield from _found(database, examination)


def examine_structure(database: Database) -> Iterator[Finding]:
    """Examine what keeps the log's events as they are: revision, tables, indexes and triggers, and the positions."""
    for examination in _of_structure(database):
        yield from _found(database, examination)


def _examinations(database: Database, *, listen_url: str | None, quick_check: bool) -> list[Examined]:
    common = [
        *_of_structure(database),
        Examined(name="checkpoints", make=lambda connection: _checkpoints(connection, database)),
    ]
    if database.engine.dialect.name == "postgresql":
        from eventlog.postgres_doctor import examinations

        return [*common, *examinations(database, listen_url=listen_url)]
    from eventlog.sqlite_doctor import examinations as of_file

    return [*common, *of_file(database, quick_check=quick_check)]


def _of_structure(database: Database) -> list[Examined]:
    return [
        Examined(name="schema", make=lambda connection: _schema(connection, database)),
        Examined(name="tables", make=lambda connection: _tables(connection, database)),
        Examined(name="positions", make=lambda connection: _positions(connection, database)),
    ]


def _found(database: Database, examination: Examined) -> Iterator[Finding]:
    try:
        with database.reader() as connection:
            yield from examination.make(connection)
    except (DBAPIError, DatabaseError) as error:
        ours: EventLogError | None = error if isinstance(error, DatabaseError) else database.translate(error)
        said = first_line(ours or error)
        if isinstance(ours, PermissionDeniedError):
            yield note(examination.name, f"this role may not look: {said}", remedy="ask with a role that may")
        else:
            remedy = ours.remedy if ours is not None else "--verbose shows more"
            yield wrong(examination.name, f"it cannot be examined: {said}", remedy=remedy)


def _schema(connection: Connection, database: Database) -> Iterator[Finding]:
    revision, newest = current_revision(connection, schema=database.schema), known_revisions()[-1]
    match schema_state(connection, schema=database.schema):
        case SchemaState.CURRENT:
            yield ok("schema", f"at revision {revision or newest}, the newest that this release knows")
        case SchemaState.NEWER:
            yield wrong(
                "schema", f"at revision {revision}, and this release knows {newest}", remedy="upgrade rewindlog here"
            )
        case _:
            yield wrong("schema", f"at revision {revision}, behind {newest}", remedy="run `eventlog init`")


def _tables(connection: Connection, database: Database) -> Iterator[Finding]:
    """What the revisions make is known of the newest one alone."""
    if schema_state(connection, schema=database.schema) is not SchemaState.CURRENT:
        yield note("tables", "they are those of another release, and were not compared", remedy="run `eventlog init`")
        return
    found = differences(connection, database.tables, schema=database.schema)
    grave = [one for one in found if one.kind is not DifferenceKind.EXTRA]
    for one in grave:
        yield wrong("tables", _told(one), remedy=one.repair or _repair_of(one, database))
    extra = [one.thing for one in found if one.kind is DifferenceKind.EXTRA]
    if extra:
        yield note(
            "tables",
            f"not made by us: {', '.join(extra)}",
            remedy="nothing, if you know it: triggers run in every append",
        )
    if not grave:
        yield ok("tables", "tables, indexes, triggers and functions are what the revisions make")


def _told(one: Difference) -> str:
    return f"{one.thing} is missing" if one.kind is DifferenceKind.MISSING else f"{one.thing}: {one.detail}"


def _repair_of(one: Difference, database: Database) -> str:
    dialect = database.engine.dialect.name
    if one.thing.startswith("table"):
        return "restore it from a backup: its rows are gone"
    return f"make it as it is in `eventlog schema sql --dialect {dialect}`"


def _positions(connection: Connection, database: Database) -> Iterator[Finding]:
    events = database.tables.events
    head = database.head(connection)
    last = connection.scalar(select(func.max(events.c.position))) or 0
    if last > head:
        yield wrong(
            "positions",
            f"there are events up to {last:,}, and positions were given out up to {head:,} only: nobody reads what is"
            " beyond, and appends will be refused",
            remedy=f"with all workers stopped: select setval('{events.fullname}_position_seq', {last});",
        )
    else:
        yield ok("positions", f"the last event is {last:,}, the head {head:,}")


def _checkpoints(connection: Connection, database: Database) -> Iterator[Finding]:
    """A checkpoint beyond the log: events that come there are taken for done."""
    found = ahead_of_log(connection, database)
    for one in found:
        yield wrong("checkpoints", one.said, remedy=one.remedy)
    if not found:
        yield ok("checkpoints", "none stands beyond the log")

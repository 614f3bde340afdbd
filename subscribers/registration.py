"""Writing what code declares into the database, and telling whether the two still agree.

A worker may only run what is registered: older code that does not know a type another release handles would move the
checkpoint past it. So code that declares more registers it by itself when it starts, which gives the partitions new
epochs and stops the older code; code that declares less, or otherwise, needs somebody's word.
"""

import logging
from enum import StrEnum
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError, ProgrammingError

from eventlog.database import Database, events_of, shown
from eventlog.errors import DamagedRowError, DeclarationError, RefusedError, UnknownSubscriberError
from eventlog.nearest import did_you_mean
from eventlog.subscribers.declaration import Declaration, Subscriber, decode_declaration
from eventlog.subscribers.fitting_tables import misfit, rows_before
from eventlog.subscribers.operations import Operation, record
from eventlog.subscribers.owned_tables import (
    create_tables,
    differences,
    has_columns,
    lacking_indexes,
    missing,
    shape_in_database,
    takes_values,
)

logger = logging.getLogger("eventlog.worker")

SHADOW_MARK = "@"
"""Stands in the names of shadows, and can stand in no other."""


class SubscriberRow(msgspec.Struct, frozen=True, kw_only=True):
    """A registered subscriber."""

    name: str
    kind: str
    start: str
    start_position: int
    state: str
    state_reason: str | None
    declaration: Declaration
    first_name: str | None
    version: int = 1
    shape: str | None = None
    log: str | None = None
    """Which log it follows, where that is in another database."""

    @property
    def is_shadow(self) -> bool:
        """Whether it is a projection that is being made anew beside the live one."""
        return SHADOW_MARK in self.name


class Registration(StrEnum):
    """What registering did. With `OUTDATED` nothing: the tables are of an earlier version, and have to be made anew."""

    CREATED = "created"
    EXTENDED = "extended"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    OUTDATED = "outdated"


def register(database: Database, subscriber: Subscriber, *, consent_to_change: bool = False) -> Registration:
    """Register a subscriber, or bring what is registered to what code declares now.

    The first time, its checkpoint is set where it starts, and the tables of a projection are created; those that are
    there must be empty, and be such as code can write. Later, more event types are taken over; they begin at the
    checkpoint. Raises `RefusedError` where code declares fewer types or another way of delivery, unless
    `consent_to_change` says that this is meant; where it declares an earlier version of a projection, or other columns
    at the same version; and for tables that cannot become the projection's.
    """
    if not subscriber.routes.patterns:
        raise DeclarationError(
            f"subscriber {subscriber.name!r} has no handlers",
            remedy="decorate a function with it before it is registered or run",
        )
    try:
        return _register(database, subscriber, consent_to_change)
    except (IntegrityError, ProgrammingError):
        # Somebody registered it, or made its tables, between our look and our write: look again.
        return _register(database, subscriber, consent_to_change)


class RowLock(StrEnum):
    """How a subscriber's row is held until the transaction ends; neither keeps foreign keys out."""

    NONE = "none"
    SHARED = "shared"
    EXCLUSIVE = "exclusive"


def read_subscriber(
    connection: Connection, database: Database, name: str, *, lock: RowLock = RowLock.NONE
) -> SubscriberRow:
    """Read a registered subscriber. Raises `UnknownSubscriberError`."""
    found = _find(connection, database, name, lock=lock)
    if found is None:
        raise unknown(connection, database, name)
    return found


def is_registered(connection: Connection, database: Database, name: str) -> bool:
    """Tell whether a subscriber of this name is registered."""
    return _find(connection, database, name, lock=RowLock.NONE) is not None


def unknown(connection: Connection, database: Database, name: str) -> UnknownSubscriberError:
    """Make the error for a name that is not registered, with the names that are."""
    names = list(connection.scalars(select(database.tables.subscribers.c.name).order_by("name").limit(50)))
    registered = f"registered are: {', '.join(names)}" if names else "none is registered yet"
    hint = did_you_mean(name, names)
    return UnknownSubscriberError(
        f"no subscriber {name!r} is registered.{hint}" if hint else f"no subscriber {name!r} is registered",
        remedy=f"{registered}; `eventlog register --app module:app` adds yours; with --app one is found whose rows are"
        " in another database",
    )


def check_contract(row: SubscriberRow, subscriber: Subscriber, database: Database) -> None:
    """Raise `RefusedError` unless the code's contract is the one registered, and its tables those that are there."""
    _check_declared(row, subscriber.declaration)
    if row.version != subscriber.version:
        raise _other_version(row, subscriber)
    declared = subscriber.shape(database.engine.dialect)
    if row.shape not in (None, declared):
        raise _other_shape(row, declared)


def _check_declared(row: SubscriberRow, code: Declaration) -> None:
    if row.declaration.contract != code.contract:
        raise RefusedError(
            f"subscriber {row.name!r} is registered with {_differences(row.declaration, code)}",
            remedy=_remedy(row, code),
        )


def may_run(stored: Row[Any], subscriber: Subscriber, database: Database) -> bool:
    """Tell whether the code would be given a lease, from a row's `declaration`, `version` and `shape`.

    It is for whoever asks for the lease to say why not.
    """
    contract = decode_declaration(stored.declaration).contract
    as_declared = contract == subscriber.declaration.contract and (stored.version or 1) == subscriber.version
    return as_declared and stored.shape in (None, subscriber.shape(database.engine.dialect))


def _other_version(row: SubscriberRow, subscriber: Subscriber) -> RefusedError:
    said = f"projection {row.name!r} is at version {row.version}, this code declares version {subscriber.version}"
    if subscriber.version < row.version:
        return RefusedError(
            said,
            remedy=f"deploy the newest code; `eventlog rebuild {row.name} --back` goes back to tables that were kept",
        )
    return RefusedError(
        said,
        remedy=f"its workers make it anew beside the live one, once; `eventlog rebuilds {row.name}` tells what came of"
        f" that, and `eventlog rebuild {row.name} --app module:app` begins it again",
    )


def _other_shape(row: SubscriberRow, declared: str | None) -> RefusedError:
    return RefusedError(
        f"projection {row.name!r} was made with other columns than this code declares:"
        f" {differences(row.shape, declared)}",
        remedy=f"declare version={row.version + 1} and its workers make it anew beside the live one, or do so by hand:"
        f" `eventlog rebuild {row.name} --app module:app`",
    )


def _remedy(row: SubscriberRow, code: Declaration) -> str:
    if row.declaration.partitions != code.partitions:
        change = f"`eventlog partitions {row.name} {code.partitions}`"
    else:
        change = f"`eventlog register {row.name} --app module:app --drop-types`"
    return f"deploy the newest code; if this is the newest, run {change}"


def _register(database: Database, subscriber: Subscriber, consent_to_change: bool) -> Registration:
    with database.transaction() as connection:
        row = _find(connection, database, subscriber.name, lock=RowLock.NONE)
        if row is not None and subscriber.version > row.version:
            return Registration.OUTDATED
        # Tables before the subscriber's row: the order of locks that holds everywhere.
        first, unfit = row is None, None
        if row is None or row.shape is None:
            create_tables(connection, subscriber.tables)
            unfit = misfit(connection, subscriber) or (rows_before(connection, subscriber) if first else None)
        elif absent := missing(connection, subscriber.tables):
            raise without_tables(row, absent)
        row = _find(connection, database, subscriber.name, lock=RowLock.EXCLUSIVE)
        if row is None:
            refuse_owned(connection, database, subscriber)
        # Somebody may have registered it meanwhile, and filled the tables since.
        if unfit is not None and (row is None or not first):
            raise unfit
        if row is None:
            insert_subscriber(
                connection, database, subscriber, position=_start_position(connection, database, subscriber)
            )
            return Registration.CREATED
        return _bring_up(connection, database, subscriber, row, consent_to_change)


def without_tables(row: SubscriberRow, absent: list[str]) -> RefusedError:
    """Make the error for a projection whose tables are gone."""
    return RefusedError(
        f"projection {row.name!r} has come to its checkpoint, and its table {', '.join(absent)} is gone",
        remedy=f"`eventlog rebuild {row.name} --app module:app --in-place` makes it anew",
    )


def refuse_owned(connection: Connection, database: Database, subscriber: Subscriber) -> None:
    """Raise `RefusedError` for a table that is somebody else's: another projection's, of any service, or the log's."""
    mine = {_in_database(connection, name): name for name in subscriber.table_names}
    logs = [str(table.fullname) for table in database.tables.metadata.tables.values()]
    for name in mine.keys() & {_in_database(connection, one) for one in logs}:
        raise RefusedError(
            f"table {mine[name]!r} of projection {subscriber.name!r} is one of the log's own",
            remedy="give it another table; a view's is named by table=",
        )
    table = database.tables.subscribers
    others = select(table.c.name, table.c.declaration).where(table.c.name != subscriber.name)
    for other in connection.execute(others):
        theirs = decode_declaration(other.declaration).tables
        for name in mine.keys() & {_in_database(connection, one) for one in theirs}:
            raise RefusedError(
                f"table {mine[name]!r} of projection {subscriber.name!r} is owned by projection {other.name!r} already",
                remedy=f"give it another table; was it renamed, run `eventlog rename {other.name} {subscriber.name}`",
            )


def _in_database(connection: Connection, fullname: str) -> str:
    """What a table's name stands for: PostgreSQL has a schema for every table, SQLite does not tell cases apart."""
    if connection.dialect.name == "sqlite":
        return fullname.lower()
    return fullname if "." in fullname else f"{connection.dialect.default_schema_name}.{fullname}"


def _find(connection: Connection, database: Database, name: str, *, lock: RowLock) -> SubscriberRow | None:
    table = database.tables.subscribers
    question = select(table).where(table.c.name == name)
    if lock is not RowLock.NONE:
        shared = lock is RowLock.SHARED
        question = question.with_for_update(read=shared, key_share=not shared)
    row = connection.execute(question).one_or_none()
    if row is None:
        return None
    return SubscriberRow(
        name=row.name,
        kind=row.kind,
        start=row.start,
        start_position=row.start_position,
        state=row.state,
        state_reason=row.state_reason,
        declaration=decode_declaration(row.declaration),
        first_name=row.first_name,
        version=row.version or 1,
        shape=row.shape,
        log=row.log,
    )


def insert_subscriber(connection: Connection, database: Database, subscriber: Subscriber, *, position: int) -> None:
    """Write the rows of a subscriber that is not there yet, its checkpoints at a position, and put it on record."""
    connection.execute(
        insert(database.tables.subscribers).values(
            name=subscriber.name,
            kind=subscriber.kind,
            start=str(subscriber.start),
            start_position=position,
            partitions=subscriber.partitions,
            declaration=subscriber.declaration.encode(),
            version=subscriber.version,
            shape=subscriber.shape(database.engine.dialect),
            log=None if database.follows is None else shown(database.follows),
        )
    )
    for partition in range(subscriber.partitions):
        connection.execute(
            insert(database.tables.checkpoints).values(
                subscriber=subscriber.name,
                partition=partition,
                position=position,
                in_hand=position,
                handled_through=0,
                epoch=database.next_epoch(connection),
            )
        )
    after = {"positions": [position] * subscriber.partitions, "patterns": subscriber.declaration.patterns}
    record(
        connection,
        database.tables,
        Operation(action="register", subscriber=subscriber.name, before=None, after=after),
    )


def _start_position(connection: Connection, database: Database, subscriber: Subscriber) -> int:
    """`now` is the high-water mark and not the head, which passes what is still on its way."""
    if subscriber.start == "beginning":
        return 0
    with events_of(database, connection) as (log, events):
        mark = log.high_water_mark(events)
    if subscriber.start == "now":
        return mark
    assert isinstance(subscriber.start, int)
    if subscriber.start > mark:
        raise RefusedError(
            f"subscriber {subscriber.name!r} starts after position {subscriber.start}, the log ends at {mark}",
            remedy="start it at a position that exists, at 'beginning' or 'now'",
        )
    return subscriber.start


def _bring_up(
    connection: Connection,
    database: Database,
    subscriber: Subscriber,
    row: SubscriberRow,
    consent_to_change: bool,
) -> Registration:
    code, stored = subscriber.declaration, row.declaration
    if code.tables != stored.tables:
        refuse_owned(connection, database, subscriber)
    _check_checkpoints(connection, database, row)
    _bring_up_shape(connection, database, subscriber, row)
    _say_lacking_indexes(connection, subscriber)
    if code == stored and row.kind == subscriber.kind:
        return Registration.UNCHANGED
    if code.partitions != stored.partitions or not (consent_to_change or _extends(code, stored)):
        _check_declared(row, code)
    if code.key != stored.key:
        _refuse_apart(connection, database, row, code)
    table = database.tables.subscribers
    connection.execute(
        update(table).where(table.c.name == row.name).values(kind=subscriber.kind, declaration=code.encode())
    )
    if code.contract == stored.contract:
        return Registration.UNCHANGED
    _change_epochs(connection, database, row.name)
    record(
        connection,
        database.tables,
        Operation(
            action="register",
            subscriber=row.name,
            before={"patterns": stored.patterns, "delivery": stored.delivery},
            after={
                "patterns": code.patterns,
                "delivery": code.delivery,
                "positions": _places(connection, database, row.name),
            },
        ),
    )
    return Registration.EXTENDED if _extends(code, stored) else Registration.CHANGED


def _check_checkpoints(connection: Connection, database: Database, row: SubscriberRow) -> None:
    """Raise `DamagedRowError` where a partition has no checkpoint: a worker would have nothing to go on from."""
    table = database.tables.checkpoints
    there = connection.scalars(select(table.c.partition).where(table.c.subscriber == row.name)).all()
    if sorted(there) != list(range(row.declaration.partitions)):
        raise DamagedRowError(
            f"subscriber {row.name!r} has {row.declaration.partitions} partitions, and checkpoints of {sorted(there)}",
            remedy="put its rows back from a backup, or remove it and register anew",
        )


def _bring_up_shape(connection: Connection, database: Database, subscriber: Subscriber, row: SubscriberRow) -> None:
    """Take over the shape of tables that an earlier release registered, or that somebody has changed by hand since."""
    if subscriber.version < row.version:
        raise _other_version(row, subscriber)
    declared = subscriber.shape(database.engine.dialect)
    if declared == row.shape:
        return
    if row.shape is not None and not _is_kept_so(connection, subscriber, row.shape, declared):
        raise _other_shape(row, declared)
    table = database.tables.subscribers
    connection.execute(update(table).where(table.c.name == row.name).values(shape=declared, version=row.version))


def _is_kept_so(connection: Connection, subscriber: Subscriber, stored: str, declared: str | None) -> bool:
    """With the same columns what is in them must be readable; with others somebody must have changed the tables."""
    if has_columns(stored, declared):
        return takes_values(declared, stored)
    return has_columns(declared, shape_in_database(connection, subscriber.tables))


def _say_lacking_indexes(connection: Connection, subscriber: Subscriber) -> None:
    """To make one may take long, and would hold up the worker that runs: it is for somebody to say when."""
    for index in lacking_indexes(connection, subscriber.tables):
        logger.warning(
            "%s: index %s is declared and not there; create it, or have a higher version made", subscriber.name, index
        )


def redeclare(connection: Connection, database: Database, row: SubscriberRow, subscriber: Subscriber) -> None:
    """Take over what code declares of a projection whose tables have been made anew. Raises `RefusedError`."""
    code = subscriber.declaration
    if code.partitions != row.declaration.partitions or subscriber.version < row.version:
        check_contract(row, subscriber, database)
    table = database.tables.subscribers
    shape = subscriber.shape(database.engine.dialect)
    declared = update(table).where(table.c.name == row.name)
    connection.execute(declared.values(declaration=code.encode(), version=subscriber.version, shape=shape))


def _refuse_apart(connection: Connection, database: Database, row: SubscriberRow, code: Declaration) -> None:
    """With another key events go to other partitions: what one of them has done, another would do again."""
    table = database.tables.checkpoints
    places = connection.scalars(select(table.c.position).where(table.c.subscriber == row.name)).all()
    if len(set(places)) > 1:
        raise RefusedError(
            f"subscriber {row.name!r} cannot change its key from {row.declaration.key} to {code.key} while its"
            f" partitions stand apart, from {min(places):,} to {max(places):,}",
            remedy="let workers with the old code come to the end of the log, stop them, and register it then",
        )


def _places(connection: Connection, database: Database, name: str) -> list[int]:
    """Where the partitions stand, in their order: types that are taken on begin there."""
    table = database.tables.checkpoints
    mine = select(table.c.position).where(table.c.subscriber == name).order_by(table.c.partition)
    return list(connection.scalars(mine))


def _extends(code: Declaration, stored: Declaration) -> bool:
    return set(code.patterns) > set(stored.patterns) and code.contract[1:] == stored.contract[1:]


def _change_epochs(connection: Connection, database: Database, name: str) -> None:
    table = database.tables.checkpoints
    mine = select(table.c.partition).where(table.c.subscriber == name).order_by(table.c.partition)
    for partition in connection.scalars(mine).all():
        connection.execute(
            update(table)
            .where(table.c.subscriber == name, table.c.partition == partition)
            .values(epoch=database.next_epoch(connection), owner=None, expires_at=None)
        )


def _differences(stored: Declaration, code: Declaration) -> str:
    missing = sorted(set(stored.patterns) - set(code.patterns))
    added = sorted(set(code.patterns) - set(stored.patterns))
    said = []
    if missing:
        said.append(f"types this code does not handle ({', '.join(missing)})")
    if added:
        said.append(f"no handler for {', '.join(added)}, which this code has")
    if stored.delivery != code.delivery:
        said.append(f"{stored.delivery} delivery, this code says {code.delivery}")
    if (stored.key, stored.partitions) != (code.key, code.partitions):
        said.append(f"{stored.partitions} partitions by {stored.key}, this code says {code.partitions} by {code.key}")
    return " and ".join(said) or "another declaration"

"""Whether a subscriber has done what the three sentences promise, as far as what is stored can tell.

What can be proven: no event of its types at or below its checkpoint is above everything that was ever handed out, but
for those that are in its ledger or that an operator had passed over; each entry of the ledger points at an event, and
is where a worker looks for it; nothing has passed a halt; no checkpoint stands beyond the log; the rows are whole.

What cannot: that a handler did what it should; that an event below the highest one handed out was handled, and not lost
by a fault of ours, for nothing is stored of an event that was handled. The three sentences are held by what moves a
checkpoint (`fence.py`), and by the tests.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, select

from eventlog.ahead import Ahead, ahead_of_log
from eventlog.database import Database, events_of, translated
from eventlog.doctor import Finding, note, ok, wrong
from eventlog.errors import DamagedRowError
from eventlog.patterns import covers
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.accounting import EVENTS_READ_AT_ONCE, POSITIONS_NAMED, Account, Accounting, Place
from eventlog.subscribers.control.checkpoints import refuse_without_log
from eventlog.subscribers.declaration import OnFailure
from eventlog.subscribers.keys import STREAM, KeyRule, partition_of
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.owned_tables import missing_names
from eventlog.subscribers.passed_over import History, read_history
from eventlog.subscribers.registration import SubscriberRow, read_subscriber

TRIES = 3
"""Whoever moves checkpoints meanwhile makes one look at them not fit the next; after so many it is told as it is."""

Told = Callable[[int], None]

_STATES = frozenset(map(str, EntryState))


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """What is found of one subscriber; `accounts` are the first one of all partitions, and one for each farther on.

    There are none where the rows do not say where it stands. `entries` are those of its ledger, in whatever state.
    """

    name: str
    kind: str
    checkpoint: int | None
    places: tuple[Place, ...]
    accounts: tuple[Account, ...]
    entries: int
    findings: tuple[Finding, ...]


def audit_subscriber(database: Database, name: str, *, key: KeyRule | None = None, reached: Told) -> Audit:
    """Account for a subscriber, and look through its rows; nothing is changed, and workers need not be stopped.

    `key` is the rule its app declares, for one whose partitions go by something else than the stream. `reached` is told
    how many positions have been gone through. Reads its ledger once, and of the log what lies below its checkpoint.
    Raises `UnknownSubscriberError`, and `RefusedError` where the log is not known.
    """
    for left in reversed(range(TRIES)):
        with translated(database), database.reader() as connection:
            found, before = _audited(connection, database, name, key=key, reached=reached)
            if not left or all(one.status != "wrong" for one in found.findings):
                return found
            if _stands(connection, database, name) == before:
                return found
    raise AssertionError("the last try returns")


def checkpoint_range(database: Database, name: str) -> int:
    """Tell how many positions there are to go through. Raises `UnknownSubscriberError`."""
    with translated(database), database.reader() as connection:
        table = database.tables.checkpoints
        places = connection.scalars(select(table.c.position).where(table.c.subscriber == name)).all()
        start = select(database.tables.subscribers.c.start_position).where(database.tables.subscribers.c.name == name)
        return max(0, max(places, default=0) - int(connection.scalar(start) or 0))


def _audited(
    connection: Connection, database: Database, name: str, *, key: KeyRule | None, reached: Told
) -> tuple[Audit, object]:
    before = _stands(connection, database, name)
    try:
        row = read_subscriber(connection, database, name)
        refuse_without_log(row, database)
        history = read_history(connection, database.tables, name)
    except DamagedRowError as error:
        return _unreadable(name, str(error), error.remedy), before
    rows = connection.execute(_checkpoints(database, name)).all()
    places = tuple(_place(one) for one in rows)
    ahead = [one for one in ahead_of_log(connection, database) if one.subscriber == name]
    found = [*_of_rows(connection, database, row, places), *_of_ahead(ahead)]
    accounts: tuple[Account, ...] = ()
    entries = 0
    if [one.partition for one in places] == list(range(row.declaration.partitions)):
        with events_of(database, connection) as (log, there):
            accounting = Accounting(
                connection,
                database,
                log=log,
                there=there,
                row=row,
                places=places,
                history=history,
                key=KeyRule(None) if row.declaration.key == STREAM else key,
            )
            accounts = accounting.draw_up(head=log.head(there), reached=reached)
            ledger = _Ledger(row, places, history)
            found += ledger.findings(connection, database, log, there)
            entries = ledger.entries
        found += _of_accounts(row, accounts, key)
    audit = Audit(
        name=name,
        kind=row.kind,
        checkpoint=min((one.position for one in places), default=None),
        places=places,
        accounts=accounts,
        entries=entries,
        findings=tuple(found),
    )
    return audit, before


def _stands(connection: Connection, database: Database, name: str) -> object:
    """What an operator changes when he moves something: the epochs, and the last operation."""
    epochs = connection.execute(_checkpoints(database, name)).all()
    table = database.tables.operations
    last = select(table.c.id).where(table.c.subscriber == name).order_by(table.c.id.desc()).limit(1)
    return [(one.partition, one.epoch) for one in epochs], connection.scalar(last)


def _checkpoints(database: Database, name: str) -> Any:
    table = database.tables.checkpoints
    return select(table).where(table.c.subscriber == name).order_by(table.c.partition)


def _place(row: Row[Any]) -> Place:
    return Place(
        partition=row.partition,
        position=row.position,
        in_hand=row.in_hand,
        handled_through=row.handled_through,
        epoch=row.epoch,
    )


def _unreadable(name: str, said: str, remedy: str) -> Audit:
    finding = wrong("rows", f"{name}: {said}", remedy=remedy)
    return Audit(name=name, kind="", checkpoint=None, places=(), accounts=(), entries=0, findings=(finding,))


def _of_rows(
    connection: Connection, database: Database, row: SubscriberRow, places: Sequence[Place]
) -> Iterator[Finding]:
    """Whether the rows of a subscriber fit each other, and its tables are there."""
    declared = row.declaration.partitions
    numbers = [one.partition for one in places]
    table = database.tables.subscribers
    kept = connection.scalar(select(table.c.partitions).where(table.c.name == row.name))
    wrongs = []
    if numbers != list(range(declared)) or kept != declared:
        wrongs.append(
            wrong(
                "rows",
                f"{row.name} declares {declared} partitions, its row says {kept}, and it has checkpoints of {numbers}",
                remedy="put its rows in subscribers and checkpoints back from a backup, or remove it and register anew",
            )
        )
    wrongs += [
        wrong(
            "rows",
            f"{row.name}/{one.partition} has {one.in_hand:,} in hand, below its checkpoint {one.position:,}",
            remedy=f"`eventlog rewind {row.name} --from {one.in_hand + 1}`, if its checkpoint was moved by hand",
        )
        for one in places
        if one.in_hand < one.position
    ]
    wrongs += [
        wrong(
            "tables",
            f"{row.name}: its table {name} is gone",
            remedy=f"`eventlog rebuild {row.name} --app module:app` makes it anew",
        )
        for name in missing_names(connection, row.declaration.tables)
    ]
    yield from wrongs or [ok("rows", f"{row.name}: its rows fit each other")]


def _of_ahead(ahead: Sequence[Ahead]) -> Iterator[Finding]:
    for one in ahead:
        yield wrong("checkpoints", one.said, remedy=one.remedy)


def _of_accounts(row: SubscriberRow, accounts: Sequence[Account], key: KeyRule | None) -> Iterator[Finding]:
    by_stream = row.declaration.key == STREAM or row.declaration.partitions == 1
    if not by_stream and key is None:
        yield note(
            "accounts",
            f"{row.name}: its partitions go by {row.declaration.key}, which only its app knows: whose an event is was"
            " not looked at",
            remedy="say --app module:app",
        )
    lost = [one for one in accounts if one.unaccounted]
    for one in lost:
        first = one.unaccounted_at[0]
        where = row.name if one.partition is None else f"{row.name}/{one.partition}"
        yield wrong(
            "accounts",
            f"{where}: {one.unaccounted:,} events of its types between {one.after + 1:,} and {one.until:,} were handed"
            f" to nobody, are not in the ledger, and no operator had them passed over: {_some(one.unaccounted_at)}",
            remedy=f"`eventlog rewind {row.name} --from {first}` has them delivered; `eventlog doctor` tells whether"
            " what keeps the log safe is in place",
        )
    if not lost:
        events = sum(one.until - one.after - one.unused for one in accounts[:1])
        yield ok("accounts", f"{row.name}: every one of {events:,} events is accounted for")


def _some(positions: Sequence[int]) -> str:
    more = ", ..." if len(positions) == POSITIONS_NAMED else ""
    return ", ".join(f"{one:,}" for one in positions) + more


class _Ledger:
    """The ledger of one subscriber, looked through once."""

    def __init__(self, row: SubscriberRow, places: Sequence[Place], history: History) -> None:
        self._row, self._history = row, history
        self._at = {one.partition: one.position for one in places}
        self._halts = row.declaration.on_failure is OnFailure.HALT
        self._found: dict[str, list[int]] = {}
        self.entries = 0

    def findings(
        self, connection: Connection, database: Database, log: Database, there: Connection
    ) -> Iterator[Finding]:
        """Read the entries with their events, some at a time, and tell what is wrong with any."""
        table, events = database.tables.failures, log.tables.events
        columns = (table.c.position, table.c.partition, table.c.key, table.c.state)
        question = select(*columns).where(table.c.subscriber == self._row.name).order_by(table.c.position)
        after = -(2**63)
        while some := connection.execute(question.where(table.c.position > after).limit(EVENTS_READ_AT_ONCE)).all():
            asked = select(events.c.position, events.c.type).where(
                events.c.position.in_([one.position for one in some])
            )
            types = {row.position: row.type for row in there.execute(asked)}
            for entry in some:
                self._look_at(entry, types.get(entry.position))
            self.entries += len(some)
            after = some[-1].position
        yield from self._told()

    def _look_at(self, entry: Any, event_type: str | None) -> None:
        is_open = entry.state in OPEN_STATES
        if entry.state not in _STATES:
            self._note("state", entry.position)
        if event_type is None:
            self._note("dangling", entry.position)
        elif is_open and not any(covers(one, event_type) for one in self._row.declaration.patterns):
            self._note("outside", entry.position)
        if entry.partition != partition_of(entry.key, partitions=self._row.declaration.partitions):
            self._note("partition", entry.position)
        elif (
            self._halts
            and is_open
            and entry.position <= self._at[entry.partition]
            and not self._history.passed_over(entry.position, entry.key)
        ):
            self._note("halt", entry.position)

    def _note(self, what: str, position: int) -> None:
        self._found.setdefault(what, []).append(position)
        if len(self._found[what]) > POSITIONS_NAMED:
            self._found[what].pop()

    def _told(self) -> Iterator[Finding]:
        name = self._row.name
        remedies = {
            "state": ("the state of an entry is none", "put it right by hand, in the table of failures"),
            "dangling": (
                "an entry of the ledger points at no event, which was taken out, or is not in a restored log",
                f"`eventlog skip {name} POSITION --reason ...` closes it",
            ),
            "partition": (
                "an entry is not in the partition of its key, where a worker looks for it",
                "put its partition right by hand: partition_of(key, partitions)",
            ),
            "halt": (
                "the checkpoint has passed an open entry, and the subscriber halts at failures",
                f"`eventlog rewind {name} --from POSITION` brings it back to the first of them",
            ),
        }
        for what, (said, remedy) in remedies.items():
            if what in self._found:
                yield wrong("ledger", f"{name}: {said}: {_some(self._found[what])}", remedy=remedy)
        if "outside" in self._found:
            yield note(
                "ledger",
                f"{name}: an open entry is of a type that it does not handle any more: {_some(self._found['outside'])}",
                remedy=f"`eventlog skip {name} POSITION --reason ...`, or have code handle the type again",
            )
        if not self._found:
            yield ok("ledger", f"{name}: each of {self.entries:,} entries points at an event of the log")

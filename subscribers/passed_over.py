"""What operators had passed over, and since when a subscriber has had each of its types: read from its operations.

An event at or below a checkpoint that was never handed out is either somebody's word or a loss. The operations tell
which: an advance passes over, a rewind brings back, an undo makes it as it was, a rebuild begins anew.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from eventlog.damage import readable
from eventlog.schema.tables import Tables
from eventlog.subscribers.keys import partition_of

_MOVES = ("rewind", "advance", "seek", "undo")
_READ = (*_MOVES, "register", "rename", "rebuild", "exchange", "go-back")


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator passed over: after < position <= until, of one partition of so many."""

    partitions: int
    partition: int
    after: int
    until: int


class History(msgspec.Struct, frozen=True, kw_only=True):
    """What the operations on one subscriber come to.

    `since` is where its partitions stood when it took on a pattern, None where that is not on record. What was declared
    when it was `exchanged`, its tables made anew, it has had from its start.
    """

    spans: tuple[Span, ...]
    since: dict[str, tuple[int, ...] | None]
    exchanged: bool

    def may_precede(self, position: int, pattern: str) -> bool:
        """Tell whether an event may have been passed before the subscriber took on a pattern that covers its type."""
        at = self.since.get(pattern, () if self.exchanged else None)
        return at is None or position <= max(at, default=0)

    def passed_over(self, position: int, key: str) -> bool:
        """Tell whether somebody had an event passed over."""
        return any(
            one.after < position <= one.until and partition_of(key, partitions=one.partitions) == one.partition
            for one in self.spans
        )


def read_history(connection: Connection, tables: Tables, name: str) -> History:
    """Read the operations on a subscriber since it was registered, also under the names that it had before.

    Raises `DamagedRowError` for one that cannot be read.
    """
    told = _Told()
    rows = _rows(connection, tables, name)
    for row in rows:
        with readable(f"operation {row.id}, a {row.action} of {name!r},"):
            told.tell(row.id, row.action, msgspec.json.decode(row.before), msgspec.json.decode(row.after))
    return History(spans=tuple(told.spans), since=told.since, exchanged=told.exchanged)


def _rows(connection: Connection, tables: Tables, name: str) -> list[Any]:
    """The operations, the first one first, back to the one that made the subscriber."""
    table = tables.operations
    found: list[Any] = []
    before: int | None = None
    while True:
        question = select(table.c.id, table.c.action, table.c.before, table.c.after).where(
            table.c.subscriber == name, table.c.action.in_(_READ)
        )
        if before is not None:
            question = question.where(table.c.id < before)
        renamed = None
        for row in connection.execute(question.order_by(table.c.id.desc())).all():
            found.append(row)
            if row.action == "register" and row.before == "null":
                return found[::-1]
            if row.action == "rename":
                renamed = row
                break
        if renamed is None:
            return found[::-1]
        name, before = _name_before(renamed), renamed.id


def _name_before(row: Any) -> str:
    with readable(f"operation {row.id}"):
        return str(msgspec.json.decode(row.before)["name"])


class _Told:
    """What the operations told so far come to."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.since: dict[str, tuple[int, ...] | None] = {}
        self.exchanged = False
        self._as_before: dict[int, list[Span]] = {}
        self._replaced: list[Span] = []

    def tell(self, number: int, action: str, before: Any, after: Any) -> None:
        match action:
            case "register":
                self._registers(before, after)
            case "undo":
                self.spans = self._as_before.get(before["operation"], self.spans)
            case "rebuild" if "positions" in after:
                self.spans = []
            case "exchange":
                self._replaced, self.spans = self.spans, []
                self.since, self.exchanged = {}, True
            case "go-back":
                self.spans = self._replaced
            case "rewind" | "advance" | "seek":
                self._as_before[number] = self.spans
                self._moves(before["positions"], after["positions"])

    def _registers(self, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> None:
        places = after.get("positions")
        at = None if places is None else tuple(int(one) for one in places)
        patterns = [str(one) for one in after["patterns"]]
        if before is None:
            self.spans, self.since = [], {}
        self.since = {one: self.since.get(one, at) for one in patterns}

    def _moves(self, before: Sequence[int], after: Sequence[int]) -> None:
        partitions = len(after)
        kept = []
        for one in self.spans:
            until = min(one.until, after[one.partition] if one.partitions == partitions else max(after))
            if until > one.after:
                kept.append(msgspec.structs.replace(one, until=until))
        forward = (
            Span(partitions=partitions, partition=place, after=was, until=goes)
            for place, (was, goes) in enumerate(zip(before, after, strict=True))
            if goes > was
        )
        self.spans = [*kept, *forward]

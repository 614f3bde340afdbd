"""The fence: the one statement that moves a checkpoint, and does so only for its owner.

Epoch, owner and the position that was read from stand in its WHERE, so a worker that was overtaken, or whose checkpoint
an operator has moved, changes no row. So do, on a server, the witnesses of what was read (`seen.py`).

Its text is made once for each form that it has (`fixed.py`): it is run for each batch, delivered at most once for each
event, and SQLAlchemy takes longer to make it than a database to run it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Update,
    Uuid,
    bindparam,
    exists,
    func,
    select,
    update,
)

from eventlog.database import Database, Lent
from eventlog.fixed import Fixed
from eventlog.schema.timestamps import seconds_from_now
from eventlog.subscribers.seen import Stretch


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a partition stands: what it is done with, what it has announced, and what it ever handed to a handler.

    `witnesses` is what was read between the position before and this one: the log must have it there.
    """

    position: int
    in_hand: int
    handled_through: int
    witnesses: tuple[Stretch, ...] = ()

    @property
    def is_beyond(self) -> bool:
        """Whether it passes positions that nothing had come to, and no event after them was read."""
        return any(one.is_open for one in self.witnesses)


class Fence:
    """The fence of one partition and one owner."""

    def __init__(self, database: Database, *, subscriber: str, partition: int, owner: str, seconds: float) -> None:
        self._database = database
        self._tables = database.tables
        self._given: Mapping[str, object] = {
            "of_subscriber": subscriber,
            "of_partition": partition,
            "of_owner": owner,
            "seconds": seconds,
        }
        self._can_lose_what_was_read = database.follows is None and database.engine.dialect.name == "postgresql"
        """A SQLite file does not; and where the log is elsewhere it is asked when the lease is taken."""
        self._made: dict[tuple[bool, bool], Fixed] = {}

    def passes(
        self, connection: Lent, progress: Progress, *, epoch: int, before: int, event: Mapping[str, str | None]
    ) -> bool:
        """Move the checkpoint from the position `before`, and renew the lease; tell whether the row was still ours.

        `event` is the id of the event that the checkpoint keeps, where it keeps one. Beyond the last event that was
        read it is a transaction that has to be lent: the mark is asked for first, and what is below it can be seen in
        the statement after.
        """
        asks = self._can_lose_what_was_read and progress.position > before and bool(progress.witnesses)
        if asks and progress.is_beyond and self._database.high_water_mark(connection) < progress.position:
            return False
        values: dict[str, object] = {
            **self._given,
            **event,
            "of_epoch": epoch,
            "from_position": before,
            "to_position": progress.position,
            "to_in_hand": progress.in_hand,
            "to_handled_through": progress.handled_through,
        }
        if asks:
            values["afters"] = [one.after for one in progress.witnesses]
            values["throughs"] = [one.through for one in progress.witnesses]
            values["lasts"] = [one.last for one in progress.witnesses]
        return self._database.change(connection, self._statement(asks=asks, keeps_event=bool(event)), values) == 1

    def _statement(self, *, asks: bool, keeps_event: bool) -> Fixed:
        found = self._made.get((asks, keeps_event))
        if found is None:
            made = Fixed(self._make(asks=asks, keeps_event=keeps_event), self._database.engine.dialect)
            found = self._made[asks, keeps_event] = made
        return found

    def _witnessed(self) -> ColumnElement[bool]:
        """Whether the last event in each stretch is the one that was read last."""
        events = self._tables.events
        positions, ids = ARRAY(BigInteger()), ARRAY(Uuid())
        given = func.unnest(
            bindparam("afters", type_=positions), bindparam("throughs", type_=positions), bindparam("lasts", type_=ids)
        )
        read = given.table_valued("after", "through", "last", name="stretch").render_derived()
        within = (events.c.position > read.c.after) & (events.c.position <= read.c.through)
        last = select(events.c.id).where(within).order_by(events.c.position.desc()).limit(1).scalar_subquery()
        return ~exists().select_from(read).where(last.is_distinct_from(read.c.last))

    def _make(self, *, asks: bool, keeps_event: bool) -> Update:
        table = self._tables.checkpoints
        values: dict[str, Any] = {
            "position": bindparam("to_position"),
            "in_hand": bindparam("to_in_hand"),
            "handled_through": bindparam("to_handled_through"),
            "expires_at": seconds_from_now(bindparam("seconds")),
        }
        if keeps_event:
            values["event_id"] = bindparam("at_event")
        return (
            update(table)
            .where(
                table.c.subscriber == bindparam("of_subscriber"),
                table.c.partition == bindparam("of_partition"),
                table.c.epoch == bindparam("of_epoch"),
                table.c.owner == bindparam("of_owner"),
                table.c.position == bindparam("from_position"),
                *([self._witnessed()] if asks else []),
            )
            .values(**values)
        )

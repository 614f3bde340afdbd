"""Checkpoints that stand beyond the log: it was restored to an earlier point, and they were not.

A copy of one database has events and checkpoints as they were at one moment. They come apart where only some of the
tables are put back, and where a projection's rows are in another database than the log. The events of today would then
be taken for those that are gone, and passed by. Beside the log a checkpoint is ahead when it is above the head.
Elsewhere it keeps the id of the event that it stands at, which also tells of a log that has grown past it again.
"""

from collections.abc import Iterator, Sequence

import msgspec
from sqlalchemy import Connection, select

from eventlog.database import Database, events_of

ASKED_AT_ONCE = 500


class Ahead(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber one of whose checkpoints is at an event that the log does not have; its head is at `head`.

    `event_id` is the event it was, where the checkpoint keeps that; `elsewhere` is whether its rows are in another
    database than the log.
    """

    subscriber: str
    kind: str
    partition: int
    position: int
    head: int
    event_id: str | None
    elsewhere: bool

    @property
    def said(self) -> str:
        stands = f"{self.subscriber} stands at {self.position:,}"
        if self.position > self.head:
            return (
                f"{stands}, beyond the head {self.head:,}: the log was restored to an earlier point, and events that"
                f" come up to {self.position:,} would be passed by"
            )
        return (
            f"{stands}, at event {self.event_id}, and the log has another one there: it was restored to an earlier"
            " point, or is another log"
        )

    @property
    def remedy(self) -> str:
        """What brings it back: a projection is made anew, an effect goes on at the end of the log."""
        name = self.subscriber.partition("@")[0]
        if self.elsewhere:
            back = f"`eventlog rewind {name} --to-start --app module:app`"
            return f"make it anew: {back}, then `eventlog resume {name} --app module:app` if it was paused"
        if self.kind == "projection":
            back = f"`eventlog rebuild {name} --app module:app`"
        else:
            back = f"`eventlog rewind {name} --from {self.head + 1} --resend`"
        return f"before anything is appended: {back}, then `eventlog resume {name}` if it was paused"


def ahead_of_log(connection: Connection, database: Database) -> list[Ahead]:
    """Find the checkpoints in a database that stand beyond the log they follow, the farthest of each subscriber.

    Where the log is elsewhere it must be known (`database.follows`): of others nothing can be told. Two queries, and
    one of the log for each five hundred checkpoints.
    """
    with events_of(database, connection) as (log, there):
        head = log.head(there)
        found: dict[str, Ahead] = {}
        for one in _suspects(connection, database, log, there, head):
            kept = found.get(one.subscriber)
            if kept is None or one.position > kept.position:
                found[one.subscriber] = one
    return [found[name] for name in sorted(found)]


def _suspects(
    connection: Connection, database: Database, log: Database, there: Connection, head: int
) -> Iterator[Ahead]:
    subscribers, checkpoints = database.tables.subscribers, database.tables.checkpoints
    question = (
        select(subscribers.c.name, subscribers.c.kind, checkpoints)
        .join(checkpoints, checkpoints.c.subscriber == subscribers.c.name)
        .order_by(subscribers.c.name, checkpoints.c.partition)
    )
    if database.follows is None:
        question = question.where(subscribers.c.log.is_(None), checkpoints.c.position > head)
    rows = connection.execute(question).all()
    ids = {} if database.follows is None else _ids(log, there, [row.position for row in rows])
    for row in rows:
        replaced = database.follows is not None and row.event_id not in (None, ids.get(row.position))
        if row.position > head or replaced:
            yield Ahead(
                subscriber=row.name,
                kind=row.kind,
                partition=row.partition,
                position=row.position,
                head=head,
                event_id=row.event_id,
                elsewhere=database.follows is not None,
            )


def _ids(log: Database, there: Connection, positions: Sequence[int]) -> dict[int, str]:
    events = log.tables.events
    asked = sorted(set(positions))
    found: dict[int, str] = {}
    for start in range(0, len(asked), ASKED_AT_ONCE):
        some = asked[start : start + ASKED_AT_ONCE]
        rows = there.execute(select(events.c.position, events.c.id).where(events.c.position.in_(some)))
        found.update({position: str(one) for position, one in rows})
    return found

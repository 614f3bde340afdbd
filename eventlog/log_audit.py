"""Whether the log is whole: what it promises of its events, held against every one of them.

Positions, ids and versions each once, the versions of each stream from 1 on without a hole, documents that can be
read, tags that are found; beside it what keeps it so, as `doctor` examines it: triggers, indexes, the sequence. The
events are gone through in stretches, in the order of two indexes: what is held does not grow with the log.
"""

from collections.abc import Callable, Iterator

import msgspec
from sqlalchemy import Connection, func, select, text

from eventlog.database import Database, translated
from eventlog.doctor import Finding, examine_structure, ok, wrong

EVENTS_AT_ONCE = 50_000
EXAMPLES = 5

Told = Callable[[int], None]

_LACKING_TAGS = {
    "postgresql": "select distinct e.position from {events} e cross join lateral unnest(e.tags) as carried(tag)"
    " where e.position > :after and e.position <= :until"
    " and not exists (select from {tags} i where i.tag = carried.tag and i.position = e.position and i.type = e.type)",
    "sqlite": "select distinct e.position from {events} e,"
    " json_each(case when json_valid(e.tags) then e.tags else '[]' end) carried"
    " where e.tags is not null and e.position > :after and e.position <= :until"
    " and not exists"
    " (select 1 from {tags} i where i.tag = carried.value and i.position = e.position and i.type = e.type)",
}
_FOREIGN_TAGS = {
    "postgresql": "select distinct i.position from {tags} i left join {events} e on e.position = i.position"
    " where e.position is null or e.tags is null or not i.tag = any (e.tags) order by 1 limit {limit}",
    "sqlite": "select distinct i.position from {tags} i left join {events} e on e.position = i.position"
    " where e.position is null or e.tags is null or i.tag not in"
    " (select value from json_each(case when json_valid(e.tags) then e.tags else '[]' end)) order by 1 limit {limit}",
}
_UNREADABLE = (
    "select position from {events} where position > :after and position <= :until and not (json_valid(data)"
    " and json_valid(metadata) and (tags is null or json_valid(tags))"
    " and id glob '????????-????-????-????-????????????'"
    " and replace(id, '-', '') not glob '*[^0-9a-fA-F]*')"
)
"""On SQLite alone: PostgreSQL keeps nothing else in columns of these types."""


class LogAccount(msgspec.Struct, frozen=True, kw_only=True):
    """What the log holds, up to the high-water mark; `unused` positions were given out and have no event."""

    events: int
    streams: int
    first: int | None
    last: int | None
    unused: int
    head: int
    high_water_mark: int


class LogAudit(msgspec.Struct, frozen=True, kw_only=True):
    """What the log holds, and what is found."""

    account: LogAccount
    findings: tuple[Finding, ...]


def audit_log(database: Database, *, reached: Told) -> LogAudit:
    """Hold the log against what it promises; nothing is changed, and nobody has to be stopped.

    Reads the log three times from end to end: twice in stretches, and once in the index of ids. `reached` is told how
    many events have been gone through, of twice their number.
    """
    findings = list(examine_structure(database))
    with translated(database), database.reader() as connection:
        head = database.head(connection)
        mark = database.high_water_mark(connection)
        by_position = _ByPosition(connection, database)
        findings += by_position.findings(mark, reached)
        by_stream = _ByStream(connection, database)
        findings += by_stream.findings(lambda done: reached(by_position.events + done))
        findings += _ids(connection, database, mark)
        findings += _foreign_tags(connection, database)
        findings += _mark(connection, database, mark)
    account = LogAccount(
        events=by_position.events,
        streams=by_stream.streams,
        first=by_position.first,
        last=by_position.last,
        unused=mark - by_position.events if mark >= by_position.events else 0,
        head=head,
        high_water_mark=mark,
    )
    return LogAudit(account=account, findings=tuple(findings))


def _some(positions: list[int], count: int) -> str:
    return ", ".join(f"{one:,}" for one in positions) + (", ..." if count > len(positions) else "")


class _ByPosition:
    """The events in the order of their positions, each of them once."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection, self._database = connection, database
        self._dialect = database.engine.dialect.name
        self.events = 0
        self.first: int | None = None
        self.last: int | None = None
        self._bad: dict[str, tuple[int, list[int]]] = {}

    def findings(self, mark: int, reached: Told) -> Iterator[Finding]:
        after = -(2**63)
        while (until := self._end_of(after, mark)) is not None:
            self._go_through(after, until)
            reached(self.events)
            after = until
        yield from self._told()

    def _end_of(self, after: int, mark: int) -> int | None:
        events = self._database.tables.events
        some = select(events.c.position).where(events.c.position > after, events.c.position <= mark)
        stretch = some.order_by(events.c.position).limit(EVENTS_AT_ONCE).subquery()
        end = self._connection.scalar(select(func.max(stretch.c.position)))
        return None if end is None else int(end)

    def _go_through(self, after: int, until: int) -> None:
        events = self._database.tables.events
        within = (events.c.position > after) & (events.c.position <= until)
        position = events.c.position
        counts = select(func.count(), func.count(position.distinct()), func.min(position)).where(within)
        count, distinct, first = self._connection.execute(counts).one()
        self.first = first if self.first is None else self.first
        self.last = until
        self.events += distinct
        if count != distinct:
            twice = select(position).where(within).group_by(position).having(func.count() > 1)
            self._note("twice", list(self._connection.scalars(twice)))
        if first < 1:
            below = select(position).where(within, position < 1)
            self._note("below", list(self._connection.scalars(below)))
        self._note("tags", self._asked(_LACKING_TAGS[self._dialect], after, until))
        if self._dialect == "sqlite":
            self._note("unreadable", self._asked(_UNREADABLE, after, until))

    def _asked(self, statement: str, after: int, until: int) -> list[int]:
        tables = self._database.tables
        sql = statement.format(events=tables.sql_name("events"), tags=tables.sql_name("event_tags"))
        return [int(one) for one in self._connection.scalars(text(sql), {"after": after, "until": until})]

    def _note(self, what: str, found: list[int]) -> None:
        if found:
            count, kept = self._bad.get(what, (0, []))
            self._bad[what] = (count + len(found), sorted([*kept, *found])[:EXAMPLES])

    def _told(self) -> Iterator[Finding]:
        said = {
            "twice": ("positions that several events have", "restore a backup: readers cannot tell them apart"),
            "below": ("positions below 1, which no reader comes to", "restore a backup"),
            "tags": (
                "events whose tags are not in the index of tags: decisions by them do not see these events",
                "write them anew: insert into event_tags (tag, position, type) values ...",
            ),
            "unreadable": (
                "events whose id, data, metadata or tags are no document that can be read",
                "restore these rows from a backup; `eventlog show POSITION` tells what they are",
            ),
        }
        for what, (count, kept) in self._bad.items():
            yield wrong("events", f"{count:,} {said[what][0]}: {_some(kept, count)}", remedy=said[what][1])
        if not self._bad:
            yield ok("events", f"{self.events:,} events, each at a position of its own, can be read and found")


class _ByStream:
    """The events in the order of their streams and versions."""

    def __init__(self, connection: Connection, database: Database) -> None:
        self._connection, self._events = connection, database.tables.events
        self.streams = 0
        self._holes = 0
        self._examples: list[str] = []

    def findings(self, reached: Told) -> Iterator[Finding]:
        """Go through the index of versions, so many rows at a time; a stream may go on in the next ones."""
        stream, version, done = "", 0, 0
        while rows := self._next(stream, version):
            for name, count, least, most in rows:
                goes_on = name == stream
                self.streams += not goes_on
                expected = version + 1 if goes_on else 1
                if (least, most) != (expected, expected + count - 1):
                    self._note(name, count, least, most, expected)
                stream, version = name, most
                done += count
            reached(done)
        yield from self._told()

    def _next(self, stream: str, version: int) -> list[tuple[str, int, int, int]]:
        events = self._events
        place = (events.c.stream > stream) | ((events.c.stream == stream) & (events.c.version > version))
        some = (
            select(events.c.stream, events.c.version)
            .where(events.c.stream >= stream, place)
            .order_by(events.c.stream, events.c.version)
            .limit(EVENTS_AT_ONCE)
            .subquery()
        )
        question = (
            select(some.c.stream, func.count(), func.min(some.c.version), func.max(some.c.version))
            .group_by(some.c.stream)
            .order_by(some.c.stream)
        )
        return [(row[0], row[1], row[2], row[3]) for row in self._connection.execute(question)]

    def _note(self, stream: str, count: int, least: int, most: int, expected: int) -> None:
        self._holes += 1
        if len(self._examples) < EXAMPLES:
            self._examples.append(f"{stream!r} has {count:,} from {least:,} to {most:,} where {expected:,} comes next")

    def _told(self) -> Iterator[Finding]:
        if not self._holes:
            yield ok("streams", f"the versions of {self.streams:,} streams have no hole")
            return
        yield wrong(
            "streams",
            f"the versions of {self._holes:,} streams have holes, or two of one: {'; '.join(self._examples)}",
            remedy="events were taken out or put in by hand: restore them from a backup; folds and expected versions of"
            " these streams are not to be relied on",
        )


def _ids(connection: Connection, database: Database, mark: int) -> Iterator[Finding]:
    events = database.tables.events
    twice = select(events.c.id).where(events.c.position <= mark).group_by(events.c.id).having(func.count() > 1)
    found = [str(one) for one in connection.scalars(twice.limit(EXAMPLES))]
    if not found:
        yield ok("ids", "each id is there once")
        return
    yield wrong(
        "ids",
        f"several events have the same id: {', '.join(found)}{', ...' if len(found) == EXAMPLES else ''}",
        remedy="`eventlog doctor` tells which index is gone; restore the rows whose id was copied from a backup",
    )


def _foreign_tags(connection: Connection, database: Database) -> Iterator[Finding]:
    tables = database.tables
    statement = _FOREIGN_TAGS[database.engine.dialect.name]
    sql = statement.format(events=tables.sql_name("events"), tags=tables.sql_name("event_tags"), limit=EXAMPLES + 1)
    found = [int(one) for one in connection.scalars(text(sql))]
    if not found:
        yield ok("tags", "the index of tags has nothing but the tags of events")
        return
    yield wrong(
        "tags",
        "the index of tags has rows of events that do not carry them, or are not there:"
        f" {_some(found[:EXAMPLES], len(found))}",
        remedy="delete these rows of event_tags, if the events are as they should be",
    )


def _mark(connection: Connection, database: Database, mark: int) -> Iterator[Finding]:
    """Whether readers come to every event. What has been appended meanwhile is above a mark read before it."""
    events = database.tables.events
    holders = database.held_back_by(connection)
    last = connection.scalar(select(func.max(events.c.position))) or 0
    now = database.high_water_mark(connection)
    if holders or last <= max(mark, now):
        held = f", held back by {len(holders)} open appends" if holders else ""
        yield ok("high-water mark", f"it is at {now:,}{held}, and readers come to every event")
        return
    yield wrong(
        "high-water mark",
        f"it is at {now:,}, below the last event {last:,}, and nobody holds it back: readers do not come to that",
        remedy="`eventlog doctor` examines the sequence that it is read from",
    )

"""Importing: events of another log, line by line, into this one.

Each batch is one transaction, and an event that is here already is passed by, so an import that was cut off goes on
when it is run again. What was written is read back before its transaction commits: id, version, position and content of
each event are then those of its line, or nothing of the batch is there.

Positions are kept where that is safe: in a log that holds nothing but the beginning of the same import. Everybody who
reads it is then at or below its last event, and every event comes in above that. In between no append may come: one
that is in flight is waited for, and one that came between two batches ends the import. Everywhere else events get new
positions, as if they had been appended. Versions are kept, or the import ends at the first that does not follow.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from enum import StrEnum
from itertools import chain
from uuid import UUID

import msgspec
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from eventlog.carried import Carried, Line, batches, carried, same_content
from eventlog.database import Database, translated
from eventlog.errors import BrokenLineError, CheckFailedError, ConflictError, RefusedError
from eventlog.events import StoredEvent
from eventlog.query import POSITION_MAX, PageQuery

TRIES_MAX = 100
"""How often a batch runs again because others appended to its streams meanwhile."""
CLOCK_STEP = timedelta(milliseconds=1)
"""How finely SQLite keeps times."""


class Positions(StrEnum):
    """What becomes of the positions that events had in the log they come from."""

    KEPT = "kept"
    NEW = "new"


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What an import has done so far. `known` counts events that were here already; `first` and `last` are the
    positions, in this log, of the first and the last event that was imported.
    """

    read: int = 0
    imported: int = 0
    known: int = 0
    first: int | None = None
    last: int | None = None

    def after(self, batch: int, written: Sequence[int]) -> "Imported":
        """Add a batch of so many events, of which some were written, at these positions."""
        return Imported(
            read=self.read + batch,
            imported=self.imported + len(written),
            known=self.known + batch - len(written),
            first=self.first if self.first is not None else min(written, default=None),
            last=max(written, default=self.last),
        )


class Importing:
    """One import. Made, it has read the first batch of the lines and looked at the log; nothing is written yet.

    `into_empty` is whether there was no event in the log. With `new_positions` none is kept; with `new_versions` events
    are numbered within their streams as they come, which lets in what is only a part of a stream. Raises
    `BrokenLineError`.
    """

    def __init__(
        self, database: Database, lines: Iterable[bytes], *, new_positions: bool = False, new_versions: bool = False
    ) -> None:
        self.done = Imported()
        self._database = database
        self._new_versions = new_versions
        self._batches = batches(lines)
        self._first = next(self._batches, [])
        self._last_kept = 0
        self._moved: Line | None = None
        with translated(database), database.reader() as connection:
            self.into_empty, keeps = self._look(connection)
        self.positions = Positions.KEPT if keeps and not new_positions else Positions.NEW

    def run(self) -> Iterator[Imported]:
        """Import, and yield what has been done after each batch.

        Raises `BrokenLineError` for a line that is no event, that another event's id or version keeps out, or that the
        database refuses; `RefusedError` where positions cannot be kept any longer; `CheckFailedError`. What was yielded
        before is in the log then.
        """
        for batch in chain([self._first], self._batches):
            if batch:
                with translated(self._database):
                    written = self._import(batch)
                self.done = self.done.after(len(batch), written)
                yield self.done

    def dry_run(self) -> Iterator[Imported]:
        """Read all lines and look for what is here already, without writing; versions are not compared."""
        for batch in chain([self._first], self._batches):
            if batch:
                with translated(self._database), self._database.reader() as connection:
                    fresh = self._fresh(connection, batch)
                self.done = self.done.after(len(batch), [one.event.position for one in fresh])
                yield self.done

    def _look(self, connection: Connection) -> tuple[bool, bool]:
        """Whether the log is empty, and whether it holds nothing, or the first event of the file at its own place."""
        lowest = self._page(connection, after=0)
        if not self._first:
            return not lowest, False
        first = self._first[0].event
        if lowest:
            return False, (lowest[0].id, lowest[0].position) == (first.id, first.position)
        return True, self._database.head(connection) < first.position

    def _import(self, batch: list[Line]) -> list[int]:
        with self._database.reader() as connection:
            if not self._fresh(connection, batch):
                return []
        for _ in range(TRIES_MAX):
            try:
                written = self._try(batch)
            except DBAPIError as error:
                if self._database.was_rolled_back(error):
                    continue
                if self._database.passing(error) or self._database.translate(error) is not None:
                    raise
                raise self._refused(batch, error) from error
            if written is not None:
                return written
        raise ConflictError(
            f"lines {batch[0].number:,} to {batch[-1].number:,}: others appended to the same streams {TRIES_MAX} times",
            remedy="run the import again, which goes on here",
        )

    def _try(self, batch: list[Line]) -> list[int] | None:
        """Write a batch in a transaction; None where somebody else has taken an id or a version meanwhile."""
        keeps = self.positions is Positions.KEPT
        with self._database.transaction() as connection:
            head = self._hold(connection, batch) if keeps else 0
            events = self._prepared(connection, batch, head)
            if not self._database.carry(connection, events, keep_positions=keeps):
                connection.rollback()
                return None
            written = self._check(connection, events)
        self._last_kept = events[-1].position
        return written

    def _prepared(self, connection: Connection, batch: list[Line], head: int) -> list[Carried]:
        fresh = self._fresh(connection, batch)
        if self.positions is Positions.KEPT:
            self._check_places(connection, fresh, head)
        return self._numbered(connection, fresh)

    def _hold(self, connection: Connection, batch: list[Line]) -> int:
        return self._database.hold_positions(connection, sorted({tag for one in batch for tag in one.event.tags}))

    def _fresh(self, connection: Connection, batch: list[Line]) -> list[Line]:
        """The lines whose events are not in the log yet. Raises `BrokenLineError` for an id that means another one."""
        known = self._database.find(connection, {one.event.id for one in batch})
        fresh: list[Line] = []
        seen: dict[UUID, Line] = {}
        for one in batch:
            stored = known.get(one.event.id)
            before = seen.setdefault(one.event.id, one)
            if stored is not None:
                self._note_known(one, stored)
            elif before is one:
                fresh.append(one)
            elif not same_content(before.event, one.event):
                raise BrokenLineError(one.number, f"its id is that of line {before.number:,}, its content is another")
        return fresh

    def _note_known(self, line: Line, stored: StoredEvent) -> None:
        if not same_content(carried(stored), line.event):
            raise BrokenLineError(
                line.number,
                f"id {line.event.id} is recorded already, at position {stored.position:,}, with other content",
                remedy="one of the two logs is not what it seems: `eventlog show` shows what is recorded here",
            )
        if stored.position == line.event.position:
            self._last_kept = max(self._last_kept, stored.position)
        else:
            self._moved = self._moved or line

    def _check_places(self, connection: Connection, fresh: list[Line], head: int) -> None:
        """Positions are held: see that nothing but this file's events is here, and that the next ones come above."""
        foreign = self._page(connection, after=self._last_kept)
        if foreign or self._moved is not None:
            where = f"position {foreign[0].position:,}" if foreign else "new positions"
            raise RefusedError(
                f"line {fresh[0].number:,}: this log has got other events since the import began, at {where}:"
                " positions cannot be kept any longer",
                remedy="--new-positions gives those that are still to come new ones; or import into an empty log while"
                " nothing appends to it",
            )
        last = max(head, self._last_kept)
        for one in fresh:
            if one.event.position <= last:
                raise BrokenLineError(
                    one.number,
                    f"position {one.event.position:,} does not come after {last:,}",
                    remedy="lines stand in the order of their positions; --new-positions takes them as they stand",
                )
            last = one.event.position

    def _numbered(self, connection: Connection, fresh: list[Line]) -> list[Carried]:
        """Hold versions against those of the log, or number the events anew."""
        at = self._database.versions(connection, {one.event.stream for one in fresh})
        numbered = []
        for one in fresh:
            event = one.event
            version = at.get(event.stream, 0) + 1
            if event.version != version and not self._new_versions:
                raise BrokenLineError(
                    one.number,
                    f"{event.stream!r} is at version {version - 1:,} here, and the event is version {event.version:,}",
                    remedy="the file has a part of the stream only, or the log has a stream of that name:"
                    " --new-versions numbers events as they come",
                )
            at[event.stream] = version
            numbered.append(msgspec.structs.replace(event, version=version))
        return numbered

    def _check(self, connection: Connection, events: Sequence[Carried]) -> list[int]:
        """Read back what was written, and return where it is."""
        found = self._database.find(connection, [one.id for one in events])
        for event in events:
            stored = found.get(event.id)
            if stored is None or not self._survived(event, stored):
                raise CheckFailedError(
                    f"event {event.id} was not written as it came: {_told(event)} became"
                    f" {_told(carried(stored)) if stored is not None else 'nothing'}",
                    remedy="something in this database changes what is inserted, a trigger perhaps; its batch is not in"
                    " the log",
                )
        return [found[one.id].position for one in events]

    def _survived(self, event: Carried, stored: StoredEvent) -> bool:
        keeps = self.positions is Positions.KEPT
        came, is_here = (
            (one.version, one.position if keeps else 0, one.stream, one.type, one.type_version, tuple(one.tags))
            for one in (event, carried(stored))
        )
        texts = (event.data_text, event.metadata_text) == (stored.data, stored.metadata)
        return came == is_here and texts and abs(stored.recorded_at - event.recorded_at) < CLOCK_STEP

    def _refused(self, batch: list[Line], error: DBAPIError) -> Exception:
        """Find the line that the database refuses, by writing the batch once more, one by one, and taking it back."""
        said = str(error.orig).strip().splitlines()[0]
        keeps = self.positions is Positions.KEPT
        with self._database.transaction() as connection:
            head = self._hold(connection, batch) if keeps else 0
            events = {one.id: one for one in self._prepared(connection, batch, head)}
            for one in (one for one in batch if one.event.id in events):
                try:
                    self._database.carry(connection, [events[one.event.id]], keep_positions=keeps)
                except DBAPIError:
                    connection.rollback()
                    return BrokenLineError(one.number, f"the database refuses it: {said}")
            connection.rollback()
        return error

    def _page(self, connection: Connection, *, after: int) -> list[StoredEvent]:
        return self._database.page(connection, PageQuery(after=after, until=POSITION_MAX, limit=1))


def _told(event: Carried) -> str:
    return f"position {event.position:,}, {event.stream!r} version {event.version:,}"

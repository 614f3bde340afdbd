"""Snapshots: what a fold has come to, kept so that the next one need not begin at the first event.

A snapshot is a copy and never the truth: it may be deleted at any time, all of them may. It is passed over when it is
of another version of the fold, of another type (a digest of it is kept beside the state: what has nothing but defaults
could be read from any), when it cannot be read, or when its last event is not in the stream (a log that was restored to
an earlier point). Of two that are written at the same time the later state stays.
"""

import logging
from typing import Any, Generic, TypeVar

import msgspec
from sqlalchemy import Connection, Row, or_, select
from sqlalchemy.exc import SQLAlchemyError

from eventlog.database import Transaction, connection_of
from eventlog.errors import DeclarationError, EventLogError
from eventlog.log import EventLog
from eventlog.projections.digests import digest_of
from eventlog.projections.fold import Folded
from eventlog.schema.inserts import insert_into
from eventlog.schema.timestamps import database_now

logger = logging.getLogger("eventlog.snapshots")

S = TypeVar("S")


class Snapshots(msgspec.Struct, frozen=True, kw_only=True):
    """When to keep a state, and as what: every so many events, as the type `state`, which msgspec can write and read.

    Raise `version` whenever `evolve` or the type changes: states of before are then made anew from their events. That
    the type is another one is found out all the same; that `evolve` is, is not.
    """

    state: Any
    every: int = 100
    version: int = 1

    def __post_init__(self) -> None:
        if self.every < 1 or self.version < 1:
            raise DeclarationError(f"every={self.every}, version={self.version}", remedy="give whole numbers above 0")
        try:
            msgspec.json.Decoder(self.state)
            digest_of(self.state)
        except (TypeError, ValueError) as error:
            raise DeclarationError(
                f"state={self.state!r} is no type that can be read from JSON: {error}", remedy="give a Struct"
            ) from error


class Found(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """The snapshot of a stream: at which version it is, and the state, None where that is to be passed over."""

    version: int
    state: Folded[S] | None


class _Written(msgspec.Struct, frozen=True, kw_only=True):
    """The text of a snapshot. `type` is the digest of its state's type, which the first ones were written without."""

    state: msgspec.Raw
    version: int
    id: str | None
    type: str | None = None


class SnapshotStore(Generic[S]):
    """The snapshots of one fold, by stream."""

    def __init__(self, fold: str, declared: Snapshots) -> None:
        self._fold = fold
        self._declared = declared
        self._type = digest_of(declared.state)
        self._read = msgspec.json.Decoder(_Written).decode
        self._read_state = msgspec.json.Decoder(declared.state).decode

    def read(self, log: EventLog, stream: str, *, tx: Transaction | None) -> Found[S] | None:
        """Read the snapshot of a stream, None where there is none of this version. One query."""
        table = log.database.tables.snapshots
        question = select(table.c.stream_version, table.c.state).where(
            table.c.fold == self._fold, table.c.stream == stream, table.c.fold_version == self._declared.version
        )
        if tx is not None:
            return self._found(connection_of(tx).execute(question).one_or_none(), stream)
        with log.database.reader() as connection:
            return self._found(connection.execute(question).one_or_none(), stream)

    def is_due(self, *, kept_version: int, now: int) -> bool:
        """Tell whether a stream has come far enough beyond its snapshot."""
        return now - kept_version >= self._declared.every

    def write(
        self,
        log: EventLog,
        stream: str,
        state: Folded[S],
        *,
        tx: Transaction | None,
        replaces: int | None = None,
    ) -> None:
        """Keep a state. A failure is logged and goes no further: what was appended stands, with or without it.

        `replaces` is the version of one that was passed over: later or not, it goes.
        """
        try:
            if tx is None:
                with log.database.transaction() as connection:
                    self._upsert(connection, log, stream, state, replaces)
            else:
                connection = connection_of(tx)
                with connection.begin_nested():
                    self._upsert(connection, log, stream, state, replaces)
        except (SQLAlchemyError, EventLogError, TypeError, ValueError) as error:
            logger.warning("no snapshot of %s at version %d: %s", stream, state.version, error)

    def _upsert(
        self, connection: Connection, log: EventLog, stream: str, state: Folded[S], replaces: int | None
    ) -> None:
        table = log.database.tables.snapshots
        statement = insert_into(connection, table).values(
            fold=self._fold,
            stream=stream,
            fold_version=self._declared.version,
            stream_version=state.version,
            state=self._text(state),
            at=database_now(),
        )
        new = statement.excluded
        later = or_(new.stream_version > table.c.stream_version, table.c.stream_version == replaces)
        connection.execute(
            statement.on_conflict_do_update(
                index_elements=["fold", "stream"],
                set_={name: new[name] for name in ("fold_version", "stream_version", "state", "at")},
                where=or_(new.fold_version > table.c.fold_version, (new.fold_version == table.c.fold_version) & later),
            )
        )

    def _text(self, state: Folded[S]) -> str:
        written = msgspec.Raw(msgspec.json.encode(state.state))
        return msgspec.json.encode(
            _Written(state=written, version=state.version, id=state.id, type=self._type)
        ).decode()

    def _found(self, row: Row[Any, Any] | None, stream: str) -> Found[S] | None:
        return None if row is None else Found(version=row.stream_version, state=self._decoded(row.state, stream))

    def _decoded(self, text: str, stream: str) -> Folded[S] | None:
        try:
            written = self._read(text)
            if written.type == self._type:
                return Folded(state=self._read_state(written.state), version=written.version, id=written.id)
        except msgspec.DecodeError as error:
            logger.warning("the snapshot of %s is made anew, it cannot be read: %s", stream, error)
            return None
        if written.type is not None:
            logger.warning(
                "the snapshot of %s is made anew, it is of another type of state and of the same version=%d of %r:"
                " raise it",
                stream,
                self._declared.version,
                self._fold,
            )
        return None

"""What a handler may know and do besides its event."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from eventlog.database import Database
from eventlog.errors import UsageError
from eventlog.events import Recorded, caused_by
from eventlog.log import EventLog
from eventlog.query import Query
from eventlog.subscribers.call_events import CallEvents
from eventlog.subscribers.receipts import Once


class Context:
    """Handed to a handler that takes a second parameter; valid during that call only.

    `event` is the recorded event; a handler of lists finds all of its call's in `events`, and the last one in `event`.
    `attempt` counts the calls for this event since it was last delivered live, from 1. `redelivery` is False when the
    event was certainly never handed to this subscriber before, True when it perhaps was, or one of a list; do not drop
    work on the flag alone. In transactional delivery a call whose transaction was rolled back does not count: nothing
    of it is left. `epoch` rises with every change of owner, and can fence a system that compares numbers. `replay` is
    the number of the replay that the call belongs to, None in live delivery.
    """

    __slots__ = (
        "_connection",
        "_database",
        "_events",
        "_key_name",
        "_key_suffix",
        "_log",
        "_stop",
        "attempt",
        "epoch",
        "redelivery",
        "replay",
        "subscriber",
    )

    def __init__(
        self,
        *,
        events: CallEvents,
        subscriber: str,
        attempt: int,
        redelivery: bool,
        epoch: int,
        connection: Connection | None,
        log: EventLog,
        stop: threading.Event,
        database: Database | None = None,
        key_name: str | None = None,
        key_suffix: str = "",
        replay: int | None = None,
    ) -> None:
        self._events = events
        self.subscriber = subscriber
        self.attempt = attempt
        self.redelivery = redelivery
        self.epoch = epoch
        self.replay = replay
        self._connection = connection
        self._log = log
        self._database = database or log.database
        self._stop = stop
        self._key_name = key_name or subscriber
        self._key_suffix = key_suffix

    @property
    def events(self) -> Sequence[Recorded[Any]]:
        return self._events.recorded()

    @property
    def event(self) -> Recorded[Any]:
        return self._events.recorded()[-1]

    @property
    def idempotency_key(self) -> str:
        """The same text whenever this subscriber handles this event: pass it on to services that drop repeats.

        It stays when the subscriber is renamed. Raises `UsageError` for a list of several events, which would be
        another list the next time: ask `idempotency_key_of` for each.
        """
        return self.idempotency_key_of(self._only_event("ctx.idempotency_key_of(event)"))

    def idempotency_key_of(self, event: Recorded[Any]) -> str:
        """The idempotency key of one event of a list."""
        return f"{self._key_name}:{event.id}{self._key_suffix}"

    @property
    def connection(self) -> Connection:
        """The connection whose transaction also moves the checkpoint; neither commit nor roll it back.

        Raises `UsageError` where delivery is not transactional.
        """
        if self._connection is None:
            raise UsageError(
                f"subscriber {self.subscriber!r} is not delivered to in a transaction, so ctx.connection has none",
                remedy='declare it with delivery="transactional", or open a connection of your own',
            )
        return self._connection

    @property
    def stopping(self) -> bool:
        """Whether the worker has been asked to stop: a long handler may want to end early, by raising."""
        return self._stop.is_set()

    def append(
        self,
        *events: object,
        stream: str | None = None,
        expected: int | str = "any",
        metadata: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        unless: Query | Sequence[Query] = (),
        cause: Recorded[Any] | None = None,
    ) -> list[Recorded[Any]]:
        """Append events caused by this one: `EventLog.append`, with causation and correlation ids in the metadata.

        In transactional delivery they commit together with the checkpoint, else in a transaction of their own. A
        handler of lists names the event that is the cause. Raises what `EventLog.append` raises, and `UsageError`.
        """
        if self._database.follows is not None:
            raise UsageError(
                f"{self.subscriber!r} writes to another database than the log's: an append would not commit with it",
                remedy="append from a subscriber whose rows are beside the log",
            )
        cause = cause or self._only_event("cause=event")
        return self._log.append(
            *events,
            stream=stream,
            expected=expected,
            tx=self._connection,
            metadata={**caused_by(cause), **(metadata or {})},
            tags=tags,
            unless=unless,
        )

    def once(self, key: str) -> Once:
        """Do a step once: `with ctx.once("charge") as first_time`, or `async with`.

        `first_time` is False when this subscriber has a receipt for the key. One is written when the block ends without
        an error. Keys belong to the subscriber and not to the event: put the event's id or an order's number in. What a
        receipt does not do, and how to be rid of some, is told in `receipts.py`. One or two queries. Raises
        `UsageError` for what is no key.
        """
        return Once(
            self._database,
            subscriber=self.subscriber,
            key=key,
            position=self.event.position,
            connection=self._connection,
        )

    def _only_event(self, remedy: str) -> Recorded[Any]:
        if len(self._events.items) == 1:
            return self.event
        raise UsageError(
            f"the call is for {len(self._events.items)} events, not for one", remedy=f"say which: {remedy}"
        )

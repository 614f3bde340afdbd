"""What a handler may know and do besides its event."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from eventlog.errors import UsageError
from eventlog.events import Recorded, caused_by
from eventlog.log import EventLog
from eventlog.query import Query


class Context:
    """Handed to a handler that takes a second parameter; valid during that call only.

    `event` is the recorded event. `attempt` counts the calls for this event since it was last delivered live, from 1.
    `redelivery` is False when the event was certainly never handed to this subscriber before, True when it perhaps was;
    do not drop work on the flag alone. In transactional delivery a call whose transaction was rolled back does not
    count: nothing of it is left. `epoch` rises with every change of owner, and can fence a system that compares
    numbers.
    """

    __slots__ = ("_connection", "_log", "_stop", "attempt", "epoch", "event", "redelivery", "subscriber")

    def __init__(
        self,
        *,
        event: Recorded[Any],
        subscriber: str,
        attempt: int,
        redelivery: bool,
        epoch: int,
        connection: Connection | None,
        log: EventLog,
        stop: threading.Event,
    ) -> None:
        self.event = event
        self.subscriber = subscriber
        self.attempt = attempt
        self.redelivery = redelivery
        self.epoch = epoch
        self._connection = connection
        self._log = log
        self._stop = stop

    @property
    def idempotency_key(self) -> str:
        """The same text whenever this subscriber handles this event: pass it on to services that drop repeats."""
        return f"{self.subscriber}:{self.event.id}"

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
    ) -> list[Recorded[Any]]:
        """Append events caused by this one: `EventLog.append`, with causation and correlation ids in the metadata.

        In transactional delivery they commit together with the checkpoint, else in a transaction of their own.
        """
        return self._log.append(
            *events,
            stream=stream,
            expected=expected,
            tx=self._connection,
            metadata={**caused_by(self.event), **(metadata or {})},
            tags=tags,
            unless=unless,
        )

"""`eventsourcing`, by its application recorder: a table lock makes writers queue, and a subscription follows.

Its maker on why there is the lock: "so that readers don't pass over gaps that are filled in later".
"""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

from eventsourcing.persistence import PersistenceError, StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from sqlalchemy import make_url, text

from benchmarks.lost_events.adapters.adapter import See
from benchmarks.lost_events.adapters.call_adapter import Call, CallAdapter
from benchmarks.lost_events.audit import Delivery
from benchmarks.lost_events.writing import EVENT_TYPE, READER_NAME, NewEvent

TABLE = "stored_events"


class Datastore(PostgresDatastore):  # type: ignore[misc]  # without annotations here
    """Its connections call themselves as they are told."""

    def __init__(self, url: str, name: str) -> None:
        place = make_url(url)
        self._name = name
        super().__init__(
            dbname=place.database,
            host=place.host,
            port=place.port or 5432,
            user=place.username,
            password=place.password or "",
            max_overflow=5,
        )

    def after_connect_func(self) -> Callable[[Any], None]:
        theirs, name = super().after_connect_func(), self._name

        def after_connect(connection: Any) -> None:
            theirs(connection)
            connection.execute(f"set application_name = '{name}'")

        return after_connect


class Eventsourcing(CallAdapter):
    """Each stored event's state is its id."""

    name = "eventsourcing"
    about = "its application recorder, `subscribe`"
    packages = ("eventsourcing",)
    uncertain = (PersistenceError,)

    def create(self) -> None:
        with Datastore(self.url, "lost-create") as datastore:
            PostgresApplicationRecorder(datastore, events_table_name=TABLE).create_table()

    @contextmanager
    def caller(self, name: str) -> Iterator[Call]:
        versions: Counter[str] = Counter()
        with Datastore(self.url, name) as datastore:
            recorder = PostgresApplicationRecorder(datastore, events_table_name=TABLE)

            def call(events: Sequence[NewEvent]) -> None:
                recorder.insert_events([_stored(one, versions[one.stream] + n) for n, one in enumerate(events, 1)])
                versions[events[0].stream] += len(events)

            yield call

    def follow(self, see: See, stop: threading.Event) -> None:
        with (
            Datastore(self.url, READER_NAME) as datastore,
            PostgresApplicationRecorder(datastore, events_table_name=TABLE).subscribe() as subscription,
        ):
            threading.Thread(target=lambda: (stop.wait(), subscription.stop()), daemon=True).start()
            for one in subscription:
                see(Delivery(id=UUID(bytes=bytes(one.state)), position=one.id, stream=str(one.originator_id)))

    def recorded(self) -> dict[UUID, int]:
        with self.observer() as engine, engine.connect() as connection:
            rows = connection.execute(text(f"select state, notification_id from {TABLE}")).all()
        return {UUID(bytes=bytes(state)): int(position) for state, position in rows}


def _stored(event: NewEvent, version: int) -> Any:
    originator = uuid5(NAMESPACE_OID, event.stream)
    return StoredEvent(originator_id=originator, originator_version=version, topic=EVENT_TYPE, state=event.id.bytes)

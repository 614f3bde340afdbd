"""`eventsourcing`: its PostgreSQL recorder, subscription and projection runner, as its documentation shows them.

Events are immutable msgspec Structs with the mapper of its example "aggregate 9", which it measures as its fastest.
They are put into the application's event store without aggregates around them, their versions known beforehand: less
than an application has to do. Statements are prepared by its own code; each client has a pool of one connection, as in
its own benchmarks. As shipped, the recorder locks the table for each append and notifies in it.

A projection tracks each event in a transaction with what it writes: that is its exactly once, and its way to catch up
durably (`W4` tracks and writes nothing else). It asks for the topics it handles only. The caller's Session is not
supported by the package itself, so there is no W1t.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag
from typing import Any, ClassVar
from uuid import uuid4

import msgspec
import psycopg
import sqlalchemy
from eventsourcing.application import Application
from eventsourcing.persistence import Mapper, StoredEvent, Tracking, Transcoder
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.utils import get_topic, resolve_topic
from psycopg import sql

from benchmarks.contestants.contestant import APPENDS, CATCHES_UP, FLOWS, Append, Contestant, Handle
from benchmarks.flights import Arrived, Cancelled, Departed, FlightEvent, Scheduled

UPSERT = """
insert into board values (%s, 1, %s)
on conflict (carrier) do update set arrived = board.arrived + 1, last = excluded.last
"""
WAIT_SECONDS_MAX = 600.0


class FlightScheduled(Scheduled, frozen=True, kw_only=True):
    """As the flight's event, with what the package asks of its domain events. So are those below."""

    originator_id: str
    originator_version: int


class FlightDeparted(Departed, frozen=True, kw_only=True):
    originator_id: str
    originator_version: int


class FlightArrived(Arrived, frozen=True, kw_only=True):
    originator_id: str
    originator_version: int


class FlightCancelled(Cancelled, frozen=True, kw_only=True):
    originator_id: str
    originator_version: int


DOMAIN_EVENTS: dict[type[Any], type[Any]] = {
    Scheduled: FlightScheduled,
    Departed: FlightDeparted,
    Arrived: FlightArrived,
    Cancelled: FlightCancelled,
}


class MsgspecMapper(Mapper):
    """Maps Structs to their JSON and back."""

    def to_stored_event(self, domain_event: Any) -> StoredEvent:
        return StoredEvent(
            originator_id=domain_event.originator_id,
            originator_version=domain_event.originator_version,
            topic=get_topic(type(domain_event)),
            state=msgspec.json.encode(domain_event),
        )

    def to_domain_event(self, stored_event: StoredEvent) -> Any:
        return msgspec.json.decode(stored_event.state, type=resolve_topic(stored_event.topic))


class NoTranscoder(Transcoder):
    """The mapper does without one, but the application wants one."""

    def encode(self, obj: Any) -> bytes:
        raise NotImplementedError

    def decode(self, data: bytes) -> Any:
        raise NotImplementedError


class Flights(Application):
    """The flights' events, and nothing made of them."""

    name = "flights"
    env: ClassVar[dict[str, str]] = {
        "MAPPER_TOPIC": get_topic(MsgspecMapper),
        "TRANSCODER_TOPIC": get_topic(NoTranscoder),
    }


class Places(PostgresTrackingRecorder):
    """A materialised view: the board, and how far it is made."""

    def __init__(self, datastore: Any, **given: Any) -> None:
        super().__init__(datastore, **given)
        self.sql_create_statements.append(
            sql.SQL("create table if not exists board (carrier text primary key, arrived bigint, last bigint)")
        )

    def arrive(self, arrived: FlightArrived, tracking: Tracking) -> None:
        """Count one arrival, once."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(UPSERT, (arrived.carrier, arrived.minutes), prepare=True)


class Eventsourcing(Contestant):
    """With its settings as they are shipped."""

    name = "eventsourcing"
    workloads = APPENDS | CATCHES_UP | FLOWS | {"W6"}
    packages = ("eventsourcing", "psycopg", "msgspec")
    bulk_events = 50_000
    catch_up_events = 20_000
    flow_events = 20_000
    settings: ClassVar[dict[str, str]] = {}

    def create(self) -> None:
        Flights(self.env(pool=1)).close()

    @contextmanager
    def appender(self) -> Iterator[Append]:
        # Each application creates what there is already, and two that do so at once fail.
        with psycopg.connect(self.url) as connection:
            connection.execute("select pg_advisory_xact_lock(1)")
            application = Flights(self.env(pool=1))

        def append(events: Sequence[FlightEvent]) -> None:
            application.events.put([domain_event_of(event) for event in events])

        yield append
        application.close()

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        projection = _handing_to(handle)
        with self._running(projection, PostgresTrackingRecorder):
            ready()
            stop.wait()

    def catch_up(self, events: int, handle: Handle) -> None:
        done = threading.Event()
        left = events

        def count_down() -> None:
            nonlocal left
            left -= 1
            if not left:
                done.set()

        with self._running(_handing_to(handle, count_down), PostgresTrackingRecorder) as runner:
            _wait(done, runner)

    def project(self, events: int) -> None:
        with self._running(BoardProjection, Places) as runner:
            arrivals = runner.app.recorder.select_notifications(start=None, limit=events, topics=BoardProjection.topics)
            runner.wait(arrivals[-1].id, timeout=WAIT_SECONDS_MAX)

    def _running(self, projection: Any, view: Any) -> Any:
        return ProjectionRunner(
            application_class=Flights, projection_class=projection, view_class=view, env=self.env(pool=3)
        )

    def env(self, *, pool: int) -> dict[str, str]:
        """Name the database in the package's words."""
        url = sqlalchemy.make_url(self.url)
        return {
            "PERSISTENCE_MODULE": "eventsourcing.postgres",
            "ORIGINATOR_ID_TYPE": "text",
            "POSTGRES_DBNAME": str(url.database),
            "POSTGRES_HOST": str(url.host),
            "POSTGRES_PORT": str(url.port),
            "POSTGRES_USER": str(url.username),
            "POSTGRES_PASSWORD": str(url.password or ""),
            "POSTGRES_POOL_SIZE": str(pool),
            "POSTGRES_MAX_OVERFLOW": "0",
            **self.settings,
        }


class BoardProjection(Projection):
    """Counts the arrivals; other events are not even read."""

    name = "boarding"
    topics = (get_topic(FlightArrived),)

    def process_event(self, domain_event: FlightArrived, tracking: Tracking) -> None:
        self.view.arrive(domain_event, tracking)


def domain_event_of(event: FlightEvent) -> Any:
    """Give an event a place in a stream. The version is random, which saves looking it up."""
    values = {name: getattr(event, name) for name in event.__struct_fields__}
    return DOMAIN_EVENTS[type(event)](originator_id=event.flight, originator_version=uuid4().int >> 66, **values)


def _handing_to(handle: Handle, after: Callable[[], None] = lambda: None) -> type[Projection]:
    class Handing(Projection):
        """Handles each event, and tracks it."""

        name = "handing"

        def process_event(self, domain_event: Any, tracking: Tracking) -> None:
            handle(domain_event)
            self.view.insert_tracking(tracking)
            after()

    return Handing


def _wait(done: threading.Event, runner: Any) -> None:
    while not done.wait(0.05):
        runner.run_forever(timeout=0)


CONTESTANT = Eventsourcing

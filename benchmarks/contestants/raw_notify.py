"""The limit for latency: an INSERT with NOTIFY, and a SELECT at each notification."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from threading import Event as Flag

from benchmarks.contestants.contestant import Append, Handle
from benchmarks.contestants.raw import INSERT, PAGE, Raw, decoded, row_of
from benchmarks.flights import FlightEvent


class RawNotify(Raw):
    """As `Raw`, and nothing is polled for."""

    name = "raw-notify"
    workloads = frozenset({"W6", "W7-1"})

    @contextmanager
    def appender(self) -> Iterator[Append]:
        statement = f"with told as (select pg_notify('events', '')) {INSERT} returning (select count(*) from told)"
        with self.connected() as connection, connection.cursor() as cursor:

            def append(events: Sequence[FlightEvent]) -> None:
                cursor.execute(statement.encode(), row_of(events[0]))

            yield append

    def follow(self, handle: Handle, *, ready: Callable[[], None], stop: Flag) -> None:
        with self.reading() as connection, self.connected() as listener:
            listener.execute("listen events")
            at = self.head(connection)
            ready()
            while not stop.is_set():
                for row in connection.execute(PAGE, [at]).fetchall():
                    handle(decoded(row))
                    at = row[0]
                for _ in listener.notifies(timeout=0.2, stop_after=1):
                    pass


CONTESTANT = RawNotify

"""What `eventlog show` costs, and what an index on the causation id would cost every append instead.

    python -m benchmarks.show_cost [--events 100000]

On PostgreSQL and SQLite, in one run. A look through events of which none, or every one, belongs to the one that is
shown is given in parts of the time it takes to read those events; an append with the index in parts of one without it.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from uuid import UUID

import sqlalchemy

from eventlog.events import CAUSATION_ID, Event
from eventlog.ids import new_id
from eventlog.lineage import lineage
from eventlog.log import EventLog
from tests.postgres_server import postgres_server

BATCH = 10_000
ROUNDS = 4
INDEX = {
    "postgresql": "create index by_cause on eventlog.events ((metadata ->> 'causation_id'))",
    "sqlite": "create index by_cause on events (json_extract(metadata, '$.causation_id'))",
}
DROP = {"postgresql": "drop index eventlog.by_cause", "sqlite": "drop index by_cause"}


def main() -> None:
    """Measure both databases."""
    parser = argparse.ArgumentParser(description="the cost of show, and of an index it does without")
    parser.add_argument("--events", type=int, default=100_000)
    events = parser.parse_args().events
    with postgres_server() as url:
        _measure(EventLog(url), events)
    with tempfile.TemporaryDirectory() as folder:
        _measure(EventLog(f"sqlite:///{Path(folder) / 'log.db'}"), events)


def _measure(log: EventLog, events: int) -> None:
    kind = log.engine.dialect.name
    log.init()
    cause, other = (recorded.id for recorded in log.append(*_caused(new_id(), 2)))
    for _ in range(events // BATCH):
        log.append(*_caused(cause, BATCH))
    read = _seconds(lambda: sum(1 for _ in log.read_stored()))
    print(f"{kind}: read {events:,} events in {read:.2f} s")
    for what, shown in (("every one an effect", cause), ("none of them", other)):
        looked = _seconds(partial(lineage, log.database, log.get_stored(shown)))
        print(f"  show, {what:<22} {looked / read:5.2f} of that")
    plain, indexed = _appends(log, kind)
    print(f"  appends of {BATCH:,} with the index  {indexed / plain:5.2f} of those without")
    log.engine.dispose()


def _appends(log: EventLog, kind: str) -> tuple[float, float]:
    """Without and with the index in turns; the best round of each."""
    plain, indexed = [], []
    for _ in range(ROUNDS):
        plain.append(_seconds(lambda: log.append(*_caused(new_id(), BATCH))))
        _execute(log, INDEX[kind])
        indexed.append(_seconds(lambda: log.append(*_caused(new_id(), BATCH))))
        _execute(log, DROP[kind])
    return min(plain), min(indexed)


def _caused(cause: UUID, count: int) -> list[Event[object]]:
    metadata = {CAUSATION_ID: str(cause)}
    return [Event({"n": n}, type="note.taken", stream=f"note-{new_id()}", metadata=metadata) for n in range(count)]


def _execute(log: EventLog, statement: str) -> None:
    with log.engine.begin() as connection:
        connection.execute(sqlalchemy.text(statement))


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()

"""The workers that are alive, and which partitions each of them ought to have.

There is no coordinator. Every worker keeps a row that says which subscribers it can run, and computes the same shares
from the same rows: it takes a free partition when that is its share, and gives one up that is somebody else's. Leases
and epochs decide who really runs it; where two workers have seen different rows, that only costs a little time.

The shares are sticky: a partition stays with its living owner unless that is unfair. Fair is, for each subscriber, that
no worker has two partitions more than another that can run it; and in total, as even as that allows.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, Row, Select, delete, insert, literal, select, update

from eventlog.bell import ring
from eventlog.damage import readable
from eventlog.database import Database, translated
from eventlog.schema.tables import Tables
from eventlog.schema.timestamps import database_now, seconds_from_now

FORGOTTEN_SECONDS = 3_600.0
"""How long the row of a worker that died is kept, so that `eventlog workers` can name it."""


class Place(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One partition, and who has a valid lease on it."""

    subscriber: str
    partition: int
    owner: str | None = None


class WorkerRow(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it stands in the table. `alive` is whether it has been heard of within a lease."""

    owner: str
    process: int
    subscribers: tuple[str, ...]
    started_at: datetime
    expires_at: datetime
    alive: bool


class Membership:
    """One worker's own row: written when it joins, with each heartbeat, and whenever what it can run changes."""

    def __init__(self, database: Database, *, owner: str, seconds: float, subscribers: Collection[str]) -> None:
        self.owner = owner
        self._database = database
        self._seconds = seconds
        self._subscribers = tuple(sorted(set(subscribers)))

    def join(self) -> None:
        """Write the row, forget those that died long ago, and wake the others: they have something to give up."""
        table = self._database.tables.workers
        with translated(self._database), self._database.transaction() as connection:
            long_ago = seconds_from_now(literal(-FORGOTTEN_SECONDS))
            connection.execute(delete(table).where(table.c.expires_at < long_ago))
            self.renew(connection)
            ring(connection, self._database.tables)

    def renew(self, connection: Connection) -> None:
        """Say that it is alive, also when the row was taken for one of the dead and is gone."""
        table = self._database.tables.workers
        said = {
            "subscribers": _text(self._subscribers),
            "expires_at": seconds_from_now(literal(self._seconds)),
        }
        renewed = connection.execute(update(table).where(table.c.owner == self.owner).values(**said))
        if renewed.rowcount == 0:
            connection.execute(insert(table).values(owner=self.owner, process=os.getpid(), **said))

    def can_run(self, subscribers: Collection[str]) -> None:
        """Say which subscribers the worker can run now, if they are others than before."""
        now = tuple(sorted(set(subscribers)))
        if now == self._subscribers:
            return
        self._subscribers = now
        with self._database.transaction() as connection:
            self.renew(connection)
            ring(connection, self._database.tables)

    def leave(self) -> None:
        """Take the row away, and wake the others."""
        table = self._database.tables.workers
        with translated(self._database), self._database.transaction() as connection:
            connection.execute(delete(table).where(table.c.owner == self.owner))
            ring(connection, self._database.tables)


def read_workers(connection: Connection, database: Database, *, alive_only: bool) -> list[WorkerRow]:
    """Read the workers' rows, by their owners' names."""
    tables = database.tables
    return workers_of(connection.execute(living_workers(tables) if alive_only else _workers(tables)))


def living_workers(tables: Tables) -> Select[Any]:
    """Make the question for the rows of the workers that are alive; `workers_of` reads the answer."""
    return _workers(tables).where(tables.workers.c.expires_at > database_now())


def workers_of(rows: Iterable[Row[Any]]) -> list[WorkerRow]:
    return [_worker(row) for row in rows]


def _workers(tables: Tables) -> Select[Any]:
    table = tables.workers
    return select(table, (table.c.expires_at > database_now()).label("alive")).order_by(table.c.owner)


def _worker(row: Row[Any]) -> WorkerRow:
    with readable(f"the row of worker {row.owner!r}"):
        subscribers = msgspec.json.decode(row.subscribers, type=tuple[str, ...])
    return WorkerRow(
        owner=row.owner,
        process=row.process,
        subscribers=subscribers,
        started_at=row.started_at,
        expires_at=row.expires_at,
        alive=bool(row.alive),
    )


def shares(workers: Mapping[str, Collection[str]], places: Sequence[Place]) -> dict[tuple[str, int], str]:
    """Compute who ought to have each partition: the owner by (subscriber, partition), nobody where nobody can run it.

    `workers` are the subscribers that each living worker can run. Pure, and the same for whoever computes it.
    """
    return _Shares(workers, places).even()


class _Shares:
    def __init__(self, workers: Mapping[str, Collection[str]], places: Sequence[Place]) -> None:
        self._able = {
            subscriber: sorted(owner for owner, can in workers.items() if subscriber in can)
            for subscriber in {place.subscriber for place in places}
        }
        self._places = sorted(places)
        self._owners: dict[tuple[str, int], str] = {}
        self._count: dict[tuple[str, str], int] = {}
        self._total = dict.fromkeys(sorted(workers), 0)

    def even(self) -> dict[tuple[str, int], str]:
        for place in self._places:
            if place.owner is not None and place.owner in self._able[place.subscriber]:
                self._give((place.subscriber, place.partition), place.owner)
        for place in self._places:
            key = (place.subscriber, place.partition)
            if key not in self._owners and self._able[place.subscriber]:
                self._give(key, min(self._able[place.subscriber], key=lambda one: self._load(place.subscriber, one)))
        for subscriber in sorted(self._able):
            self._even_within(subscriber)
        self._even_in_total()
        return self._owners

    def _even_within(self, subscriber: str) -> None:
        able = self._able[subscriber]
        while able:
            least = min(able, key=lambda one: self._load(subscriber, one))
            most = max(able, key=lambda one: self._load(subscriber, one))
            if self._has(subscriber, most) - self._has(subscriber, least) < 2:
                return
            self._move(subscriber, most, least)

    def _even_in_total(self) -> None:
        while self._even_a_little():
            pass

    def _even_a_little(self) -> bool:
        """Move one partition from a worker to another that has at least two less, where its subscriber allows it."""
        by_load = sorted(self._total, key=lambda owner: (self._total[owner], owner))
        for least in by_load:
            for most in reversed(by_load):
                if self._total[most] - self._total[least] < 2:
                    break
                for subscriber in sorted(self._able):
                    if least in self._able[subscriber] and self._has(subscriber, most) > self._has(subscriber, least):
                        self._move(subscriber, most, least)
                        return True
        return False

    def _load(self, subscriber: str, owner: str) -> tuple[int, int, str]:
        return self._has(subscriber, owner), self._total[owner], owner

    def _has(self, subscriber: str, owner: str) -> int:
        return self._count.get((subscriber, owner), 0)

    def _give(self, key: tuple[str, int], owner: str) -> None:
        before = self._owners.get(key)
        if before is not None:
            self._count[key[0], before] -= 1
            self._total[before] -= 1
        self._owners[key] = owner
        self._count[key[0], owner] = self._has(key[0], owner) + 1
        self._total[owner] += 1

    def _move(self, subscriber: str, giver: str, taker: str) -> None:
        """Of the giver's partitions the last one goes."""
        mine = (key for key, owner in self._owners.items() if key[0] == subscriber and owner == giver)
        self._give(max(mine), taker)


def _text(subscribers: Collection[str]) -> str:
    return msgspec.json.encode(list(subscribers)).decode()

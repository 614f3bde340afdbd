"""The service of the crash matrix: what runs in a process that is killed, and in the fresh one after it.

Six crates in three streams. Number 2 fails at its first attempt, number 3 asks for an operator, and what comes later
of their streams waits behind them; so a plain drain goes through delivery, ledger, blocking and retries. Once it
`heals`, everything succeeds.

Each call of a handler is a line in the file `calls` of its folder: `kind number redelivery replay outcome`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Table, select

from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.outcomes import Park
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import BugError, Lost, Sent, applied_table, note

CRATES = 6
STREAMS = 3
FAILS_FIRST = 2
IS_PARKED = 3
LEASE_SECONDS = 60.0
"""So long that no heartbeat comes between two points; nobody waits for its end."""

DELIVERY = {"mail": "at-least-once", "once": "at-most-once", "books": "transactional"}
KINDS = ("board", "books", "mail", "once")
APPLIED = {kind: applied_table(f"applied_{kind}") for kind in ("board", "books", "away")}

VOLATILE = frozenset(
    [
        *("at", "recorded_at", "registered_at", "expires_at", "started_at", "ended_at", "outage_since"),
        *("next_attempt_at", "first_failed_at", "last_failed_at"),
        *("owner", "worker", "process", "duration_seconds", "traceback"),
    ]
)
"""Columns that differ from run to run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where one process of the matrix works: its database, its folder, its points."""

    url: str
    folder: Path
    point: Callable[[str], None] = lambda _name: None

    @property
    def home_url(self) -> str:
        """Another database, for a projection that lives away from the log."""
        return f"sqlite:///{self.folder / 'home.db'}"

    def say(self, line: str) -> None:
        """Write a line that outlives the process."""
        file = os.open(self.folder / "calls", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{line}\n".encode())
        os.close(file)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMade:
    """One call of a handler."""

    kind: str
    number: int
    redelivery: bool
    replay: bool
    outcome: str


def calls_in(folder: Path) -> list[CallMade]:
    """Read the calls that were made, in order."""
    file = folder / "calls"
    lines = file.read_text().splitlines() if file.exists() else []
    return [
        CallMade(kind=kind, number=int(number), redelivery=flag == "True", replay=replay == "True", outcome=outcome)
        for kind, number, flag, replay, outcome in map(str.split, lines)
    ]


def service(
    site: Site,
    *kinds: str,
    heals: bool = False,
    broken: bool = False,
    first_seconds: float = 0,
    version: int = 1,
    partitions: int = 1,
) -> App:
    """Declare the subscribers. `broken`: number 2 fails at every attempt."""
    app = App(site.url, lease_seconds=LEASE_SECONDS)
    for kind in kinds:
        _declare(app, site, kind, _fails(heals, broken), first_seconds, version, partitions)
    return app


def _fails(heals: bool, broken: bool) -> Callable[[int, int], BaseException | None]:
    def outcome(number: int, attempt: int) -> BaseException | None:
        if heals:
            return None
        if number == FAILS_FIRST and (broken or attempt == 1):
            return BugError()
        return Park("an operator is to look at it") if number == IS_PARKED else None

    return outcome


def _declare(
    app: App,
    site: Site,
    kind: str,
    fails: Callable[[int, int], BaseException | None],
    first_seconds: float,
    version: int,
    partitions: int,
) -> None:
    retry = Retry(attempts=5, first_seconds=first_seconds)
    table = APPLIED.get(kind)
    if kind in DELIVERY:
        subscriber = app.subscriber(kind, delivery=DELIVERY[kind], retry=retry, partitions=partitions)
    else:
        home = site.home_url if kind == "away" else None
        owned = [] if table is None else [table]
        subscriber = app.projection(kind, tables=owned, retry=retry, version=version, database=home)

    @subscriber
    def handle(crate: Sent, ctx: Context) -> None:
        site.point(f"at the begin of handler {crate.number}")
        if table is not None:
            note(ctx, table, f"v{version}")
        failure = fails(crate.number, ctx.attempt)
        outcome = "ok" if failure is None else "failed"
        site.say(f"{kind} {crate.number} {ctx.redelivery} {ctx.replay is not None} {outcome}")
        site.point(f"at the end of handler {crate.number}")
        if failure is not None:
            raise failure


def declare_more(app: App) -> App:
    """Have the mailer handle a second type, as the next release of the service would."""

    @app.subscribers["mail"]
    def lost(_crate: Lost) -> None:
        return

    return app


def send(site: Site, count: int = CRATES, *, first: int = 1) -> None:
    """Append crates, and make the tables that effects write."""
    app = App(site.url)
    with app.log.database.transaction() as connection:
        APPLIED["books"].create(connection, checkfirst=True)
    for number in range(first, first + count):
        app.log.append(Sent(number), stream=f"stream-{number % STREAMS}")
    app.engine.dispose()


def expire_leases(url: str) -> None:
    """Let the leases of whoever was killed run out."""
    engine = sqlalchemy.create_engine(url)
    schema = "eventlog." if engine.dialect.name == "postgresql" else ""
    with engine.begin() as connection:
        for table in ("checkpoints", "replays", "workers"):
            connection.exec_driver_sql(
                f"update {schema}{table} set expires_at = '2001-01-01T00:00:00.000Z' where expires_at is not null"
            )
    engine.dispose()


def applied(url: str, table: Table) -> list[tuple[int, str]]:
    """Read which positions were applied, and by which version."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        rows = connection.execute(select(table.c.position, table.c.note).order_by(table.c.position))
        found = [(row.position, row.note) for row in rows]
    engine.dispose()
    return found


def state_of(url: str) -> list[str]:
    """Everything that is in a database but what differs from run to run: a line for each row, and for each table."""
    engine = sqlalchemy.create_engine(url)
    with engine.connect() as connection:
        lines = sorted(_lines(connection))
    engine.dispose()
    return lines


def _lines(connection: sqlalchemy.Connection) -> Iterator[str]:
    schemas: Sequence[str | None] = [None, "eventlog"] if connection.dialect.name == "postgresql" else [None]
    inspector = sqlalchemy.inspect(connection)
    for schema in schemas:
        for name in inspector.get_table_names(schema=schema):
            yield f"table {name}"
            place = name if schema is None else f"{schema}.{name}"
            for row in connection.execute(sqlalchemy.text(f"select * from {place}")).mappings():
                yield f"{name} {_steady(row)}"


def _steady(row: Any) -> dict[str, str]:
    return {name: str(value) for name, value in sorted(row.items()) if name not in VOLATILE}

"""A subscriber as code declares it: a name, how events are delivered to it, and its handlers."""

import copy
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, Protocol, TypeVar, overload

import msgspec
from sqlalchemy import Dialect, Engine, Table
from sqlalchemy.engine import URL

from eventlog.errors import DamagedRowError, DeclarationError
from eventlog.subscribers.keys import KeyFunction, KeyRule
from eventlog.subscribers.owned_tables import shape_of
from eventlog.subscribers.problems import Redact
from eventlog.subscribers.renaming import TableNames
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.routing import HandlerFunction, Routes, check_is_pattern, handler_of

F = TypeVar("F", bound=HandlerFunction)

OUTAGE_AFTER = 20
"""So many failures of one handler in a row, with no success between, are an outage and not the events' doing."""
FAILURES_MAX = 10_000
"""With so many open failures a partition waits for an operator. They are kept in memory by the worker that runs it."""
PARTITIONS_MAX = 1_024
CONCURRENCY_MAX = 1_000
TIMEOUT_SECONDS_MAX = 366 * 86_400
VERSION_MAX = 2**31 - 1

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Kind(StrEnum):
    """Whether a subscriber touches the outside world, or writes a read model that can be made anew."""

    EFFECT = "effect"
    PROJECTION = "projection"


class Delivery(StrEnum):
    """How checkpoint and handlers stand to each other; see `delivery.py`.

    transactional   handlers' writes and checkpoint commit together: exactly once
    at-least-once   handlers, then checkpoint: a crash repeats what was in hand, and says so
    at-most-once    checkpoint, then handlers: a crash leaves what was in hand to an operator
    """

    TRANSACTIONAL = "transactional"
    AT_LEAST_ONCE = "at-least-once"
    AT_MOST_ONCE = "at-most-once"


class OnFailure(StrEnum):
    """What happens at an event whose handler failed: go on without it, or stay there."""

    PARK = "park"
    HALT = "halt"


class Declaration(msgspec.Struct, frozen=True, kw_only=True):
    """What of a subscriber is kept in the database.

    The first four are its contract: a worker whose code says otherwise gets no lease. The others describe it to
    operators, and follow the code that started last.
    """

    patterns: tuple[str, ...]
    key: str
    partitions: int
    delivery: Delivery
    on_failure: OnFailure
    tables: tuple[str, ...]
    idempotent: bool
    failures_max: int = FAILURES_MAX

    @property
    def contract(self) -> tuple[object, ...]:
        return (self.patterns, self.key, self.partitions, self.delivery)

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


@lru_cache(maxsize=1_000)
def decode_declaration(text: str) -> Declaration:
    """Read a declaration kept in the database. Raises `DamagedRowError`."""
    try:
        return msgspec.json.decode(text, type=Declaration)
    except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as error:
        raise DamagedRowError(
            f"a subscriber's declaration cannot be read: {error}; it is {str(text)[:200]!r}",
            remedy="`eventlog verify --all` names the subscriber; put its row in the table of subscribers back from a"
            " backup, or delete it and register anew",
        ) from error


class Subscriber:
    """A named reader of the log. Use it as a decorator: `@mail` on a function makes that a handler.

    The function is returned as it was. Its first parameter says by its annotation which events it wants; see `on` for
    patterns.
    """

    def __init__(
        self,
        name: str,
        *,
        kind: Kind,
        start: str | int,
        delivery: str,
        on_failure: str,
        retry: Retry | None = None,
        partitions: int = 1,
        key: KeyFunction | KeyRule | str | None = None,
        tables: Sequence[Table] = (),
        version: int = 1,
        database: str | URL | Engine | None = None,
        idempotent: bool = False,
        concurrency: int = 1,
        timeout_seconds: float | None = None,
        outage_after: int = OUTAGE_AFTER,
        failures_max: int = FAILURES_MAX,
        redact: Redact = False,
    ) -> None:
        self.name = check_name(name)
        self.kind = kind
        self.start = _check_start(start)
        self.delivery = _member(Delivery, delivery, what="delivery")
        self.on_failure = _member(OnFailure, on_failure, what="on_failure")
        self.retry = _check_retry(retry)
        self.partitions = _within("partitions", partitions, most=PARTITIONS_MAX)
        self.key = key if isinstance(key, KeyRule) else KeyRule(key)
        self.tables = _check_tables(tables)
        self.database = self._check_database(database)
        self.renamed_tables: TableNames = {}
        self._shapes: dict[str, str | None] = {}
        self.version = _within("version", version, most=VERSION_MAX)
        self.idempotent = _check_flag("idempotent", idempotent)
        self.concurrency = _within("concurrency", concurrency, most=CONCURRENCY_MAX)
        self.timeout_seconds = _check_timeout(timeout_seconds)
        self.outage_after = _within("outage_after", outage_after, most=FAILURES_MAX)
        self.failures_max = _within("failures_max", failures_max, most=10 * FAILURES_MAX)
        self.redact = redact if callable(redact) else _check_flag("redact", redact, other=", or a function of the text")
        self.routes = Routes()
        self._check_concurrency()

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: None = ..., /, *, batch: bool = ...) -> Callable[[F], F]: ...
    def __call__(self, function: F | None = None, /, *, batch: bool = False) -> F | Callable[[F], F]:
        """Register a handler for the classes its first parameter is annotated with. Raises `DeclarationError`.

        `@mail(batch=True)`, or an annotation `list[...]`, makes it a handler of lists: it is called with events that
        follow each other, at most a page of them.
        """
        if function is None:
            return lambda given: self._register(given, pattern=None, batch=batch)
        return self._register(function, pattern=None, batch=batch)

    def on(self, pattern: str, *, batch: bool = False) -> Callable[[F], F]:
        """Register a handler for the types a pattern covers: `flight.*` one segment more, `flight.**` any number.

        The handler is given the `Recorded` event, or the data if its first parameter is annotated with `dict` or with
        declared classes; a list of them with `batch`. Raises `DeclarationError`.
        """
        check_is_pattern(pattern, example="@subscriber.on('order.*')")
        return lambda function: self._register(function, pattern=pattern, batch=batch)

    def _register(self, function: F, *, pattern: str | None, batch: bool) -> F:
        handler = handler_of(function, pattern=pattern, batch=batch)
        if handler.takes_list and self.concurrency > 1:
            raise DeclarationError(
                f"handler {handler.name} takes lists, and {self.name!r} has concurrency={self.concurrency}",
                remedy="a list is handled in one call: leave concurrency out, or take one event at a time",
            )
        self.routes.add(handler)
        return function

    def _check_database(self, database: str | URL | Engine | None) -> str | URL | Engine | None:
        if database is not None and self.kind is not Kind.PROJECTION:
            raise DeclarationError(
                f"{self.name!r} is an effect, and says database=: its rows are beside the log",
                remedy="only a projection may live in another database, with its tables",
            )
        if database is not None and not isinstance(database, str | URL | Engine):
            raise DeclarationError(
                f"{self.name!r}: database={database!r} is no database", remedy="give its URL, or an SQLAlchemy engine"
            )
        return database

    def _check_concurrency(self) -> None:
        if self.concurrency == 1:
            return
        if self.delivery is Delivery.TRANSACTIONAL:
            raise DeclarationError(
                f"{self.name!r}: a transaction has one connection, which handlers cannot share (concurrency=)",
                remedy="use partitions= to have several workers share the events",
            )
        if self.on_failure is OnFailure.HALT:
            raise DeclarationError(
                f"{self.name!r}: with on_failure='halt' nothing passes a failure, with concurrency= others would have",
                remedy="leave concurrency out, or use on_failure='park'",
            )

    @property
    def is_shadow(self) -> bool:
        """Whether its handlers fill tables beside those that they name; see `control/rebuilds.py`."""
        return bool(self.renamed_tables)

    @property
    def table_names(self) -> tuple[str, ...]:
        """The full names of its tables in the database."""
        return tuple(self._name_in_database(table) for table in self.tables)

    def shape(self, dialect: Dialect) -> str | None:
        """The shape of its tables, as code declares them; see `owned_tables.py`."""
        if dialect.name not in self._shapes:
            self._shapes[dialect.name] = shape_of(self.tables, dialect)
        return self._shapes[dialect.name]

    def beside_log(self) -> "Subscriber":
        """Return the same subscriber with its rows in the log's own database."""
        if self.database is None:
            return self
        beside = copy.copy(self)
        beside.database = None
        return beside

    def shadow(self, name: str, renamed: TableNames) -> "Subscriber":
        """Make the same subscriber under another name, whose handlers write to tables of other names."""
        shadow = copy.copy(self)
        shadow.name = name
        shadow.renamed_tables = renamed
        return shadow

    def _name_in_database(self, table: Table) -> str:
        name = self.renamed_tables.get((table.schema, table.name), table.name)
        return f"{table.schema}.{name}" if table.schema else str(name)

    @property
    def declaration(self) -> Declaration:
        return Declaration(
            patterns=self.routes.patterns,
            key=self.key.name,
            partitions=self.partitions,
            delivery=self.delivery,
            on_failure=self.on_failure,
            tables=self.table_names,
            idempotent=self.idempotent,
            failures_max=self.failures_max,
        )


class DeclaresSubscriber(Protocol):
    """What is no subscriber itself and makes one, as a view does."""

    @property
    def subscriber(self) -> Subscriber:
        """The subscriber that delivers to it."""
        ...


def check_name(name: object) -> str:
    """Return the name if it can name a subscriber; raise `DeclarationError` otherwise."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return name
    raise DeclarationError(
        f"{str(name)[:120]!r} cannot name a subscriber",
        remedy="use letters, digits, '.', '_' and '-', beginning with a letter or digit, at most 100",
    )


def _check_start(start: str | int) -> str | int:
    if start in ("beginning", "now") or (isinstance(start, int) and not isinstance(start, bool) and start >= 0):
        return start
    raise DeclarationError(
        f"start={start!r} is no place in the log", remedy="give 'beginning', 'now', or the position to begin after"
    )


def _within(name: str, value: Any, *, most: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most:
        return value
    raise DeclarationError(f"{name}={value!r} is out of range", remedy=f"give a whole number from 1 to {most:,}")


def _check_timeout(seconds: Any) -> float | None:
    if seconds is None:
        return None
    if isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= TIMEOUT_SECONDS_MAX:
        return float(seconds)
    raise DeclarationError(
        f"timeout_seconds={seconds!r} is no time limit",
        remedy=f"give seconds above 0, up to {TIMEOUT_SECONDS_MAX:,}, or leave it out for no limit",
    )


def _check_retry(retry: Any) -> Retry:
    if retry is None or isinstance(retry, Retry):
        return retry or Retry()
    raise DeclarationError(
        f"retry={retry!r} does not say how to try again", remedy="give Retry(attempts=3), of eventlog, or leave it out"
    )


def _check_tables(tables: Any) -> tuple[Table, ...]:
    if isinstance(tables, list | tuple | set | frozenset) and all(isinstance(one, Table) for one in tables):
        return tuple(tables)
    raise DeclarationError(
        f"tables={tables!r} are no tables", remedy="give a list of SQLAlchemy tables: tables=[totals]"
    )


def _check_flag(name: str, value: Any, *, other: str = "") -> bool:
    if isinstance(value, bool):
        return value
    raise DeclarationError(f"{name}={value!r} is neither yes nor no", remedy=f"give True or False{other}")


M = TypeVar("M", bound=StrEnum)


def _member(enum: type[M], value: Any, *, what: str) -> M:
    try:
        return enum(value)
    except ValueError as error:
        raise DeclarationError(
            f"{what}={value!r} is not known", remedy=f"use one of {', '.join(repr(one.value) for one in enum)}"
        ) from error

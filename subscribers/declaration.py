"""A subscriber as code declares it: a name, how events are delivered to it, and its handlers."""

import re
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from sqlalchemy import Table

from eventlog.errors import DeclarationError
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.routing import HandlerFunction, Routes, handler_of

F = TypeVar("F", bound=HandlerFunction)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Kind(StrEnum):
    """Whether a subscriber touches the outside world, or writes a read model that can be made anew."""

    EFFECT = "effect"
    PROJECTION = "projection"


class Delivery(StrEnum):
    """How checkpoint and handler stand to each other; see `delivery.py`."""

    TRANSACTIONAL = "transactional"
    AT_LEAST_ONCE = "at-least-once"


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

    @property
    def contract(self) -> tuple[object, ...]:
        return (self.patterns, self.key, self.partitions, self.delivery)

    def encode(self) -> str:
        return msgspec.json.encode(self).decode()


def decode_declaration(text: str) -> Declaration:
    """Read a declaration kept in the database."""
    return msgspec.json.decode(text, type=Declaration)


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
        retry: Retry,
        partitions: int,
        key: Callable[..., str] | str | None,
        tables: Sequence[Table],
        idempotent: bool,
    ) -> None:
        self.name = _check_name(name)
        self.kind = kind
        self.start = _check_start(start)
        self.delivery = _member(Delivery, delivery, what="delivery")
        self.on_failure = _member(OnFailure, on_failure, what="on_failure")
        self.retry = retry
        self.partitions = _check_partitions(partitions)
        self.tables = tuple(tables)
        self.idempotent = idempotent
        self.routes = Routes()
        if key is not None:
            raise DeclarationError("key= is not supported yet: failures are kept per stream", remedy="leave key out")

    def __call__(self, function: F) -> F:
        """Register a handler for the classes its first parameter is annotated with. Raises `DeclarationError`."""
        self.routes.add(handler_of(function))
        return function

    def on(self, pattern: str) -> Callable[[F], F]:
        """Register a handler for the types a pattern covers: `flight.*` one segment more, `flight.**` any number.

        The handler is given the `Recorded` event, or the data if its first parameter is annotated with `dict` or with
        declared classes. Raises `DeclarationError`.
        """

        def register(function: F) -> F:
            self.routes.add(handler_of(function, pattern=pattern))
            return function

        return register

    @property
    def declaration(self) -> Declaration:
        return Declaration(
            patterns=self.routes.patterns,
            key="stream",
            partitions=self.partitions,
            delivery=self.delivery,
            on_failure=self.on_failure,
            tables=tuple(str(table.fullname) for table in self.tables),
            idempotent=self.idempotent,
        )


def _check_name(name: object) -> str:
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


def _check_partitions(partitions: int) -> int:
    if partitions != 1:
        raise DeclarationError(
            f"partitions={partitions!r}: a subscriber has one partition for now", remedy="leave partitions out"
        )
    return partitions


M = TypeVar("M", bound=StrEnum)


def _member(enum: type[M], value: Any, *, what: str) -> M:
    try:
        return enum(value)
    except ValueError as error:
        raise DeclarationError(
            f"{what}={value!r} is not known", remedy=f"use one of {', '.join(repr(one.value) for one in enum)}"
        ) from error

"""Views: read models whose rows are made by pure functions, and whose table is made from the row.

A view is one subscriber with one handler of lists, whatever number of functions it has: so events of all its types come
in the order of the log, and a page of them in one call. A call reads the rows of all keys that its events touch, folds
the events into them in memory, and writes what came of it: three statements at the most, for any number of events.

The functions know nothing of the database, and see the same rows whether events come one by one, in batches, again
after a crash, or all at once in a rebuild.
"""

import re
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from enum import Enum
from operator import attrgetter
from typing import Any, Generic, TypeVar, overload

import msgspec
from sqlalchemy import Connection, Engine, Index, MetaData, Table
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from eventlog.errors import DeclarationError, UsageError
from eventlog.events import Recorded
from eventlog.projections.columns import RowField, check_value, fields_of
from eventlog.projections.evolving import Evolver, KeyOf, evolver_of
from eventlog.projections.rows import Key, Rows
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import FAILURES_MAX, OUTAGE_AFTER, Delivery, Kind, OnFailure, Subscriber
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.keys import KeyRule
from eventlog.subscribers.problems import Redact
from eventlog.subscribers.results import EventFailedError
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.routing import Handler, Routes, Wants, check_is_pattern

R = TypeVar("R", bound=msgspec.Struct)
F = TypeVar("F", bound=Callable[..., Any])

_Touched = tuple[int, Evolver, Any, Sequence[Key]]
"""An event's position, its function, what that is given, and the keys of its rows."""


class View(Generic[R]):
    """A read model of rows: `row` is a Struct, `key` names its key, and functions fold events into rows.

        delays = View("delays", row=Delay, key="airport")

        @delays.on(key=lambda arrival: arrival.dest)
        def add(row: Delay | None, arrival: Arrived) -> Delay | None: ...

        app.add(delays)

    A function is given the row of the event's key, None where there is none, and the event; it returns the row as it is
    to be from then on, None for none. It must be pure: give a new row (`msgspec.structs.replace`), do not change the
    one given, and touch nothing else. `table` is the SQLAlchemy table, made when the view is registered, and to be
    queried like any other; `subscriber` is what delivers to it.

    `key` may be a tuple of names. The table is called like the view unless `table` names it otherwise; `indexes` are
    fields, or tuples of fields. A Struct that changes wants another `version`; see `App.projection` for that and the
    rest. With several `partitions` an event may touch one row only. Raises `DeclarationError`.
    """

    def __init__(
        self,
        name: str,
        *,
        row: type[R],
        key: str | Sequence[str],
        table: str | None = None,
        table_schema: str | None = None,
        indexes: Sequence[str | Sequence[str]] = (),
        version: int = 1,
        database: str | URL | Engine | None = None,
        start: str | int = "beginning",
        on_failure: str = OnFailure.HALT,
        retry: Retry | None = None,
        partitions: int = 1,
        timeout_seconds: float | None = None,
        outage_after: int = OUTAGE_AFTER,
        failures_max: int = FAILURES_MAX,
        redact: Redact = False,
    ) -> None:
        self.row = row
        self.key = _names(key, f"key={key!r}")
        self._fields = fields_of(row)
        self.table = _table(table or _plain(name), table_schema, self._fields, self.key, indexes)
        self._rows = Rows(row, self.table, self._fields, self.key)
        kinds = {field.name: field.kind.key for field in self._fields}
        self._key_types = {name: kind for name in self.key if (kind := kinds[name]) is not None}
        self._read_key = attrgetter(*self.key)
        self._skips_same = row.__struct_config__.frozen
        self._routes = Routes()
        self._evolvers: dict[Handler, Evolver] = {}
        self._by_type: dict[str, Evolver] = {}
        """Those found so far: it is asked for each event."""
        self._deliver = self._fold_items
        self.subscriber = Subscriber(
            name,
            kind=Kind.PROJECTION,
            start=start,
            delivery=Delivery.TRANSACTIONAL,
            on_failure=on_failure,
            retry=retry,
            partitions=partitions,
            key=KeyRule(self._ordering_key, name="row"),
            tables=(self.table,),
            version=version,
            database=database,
            timeout_seconds=timeout_seconds,
            outage_after=outage_after,
            failures_max=failures_max,
            redact=redact,
        )

    @overload
    def __call__(self, function: F, /) -> F: ...
    @overload
    def __call__(self, function: None = ..., /) -> Callable[[F], F]: ...
    def __call__(self, function: F | None = None, /) -> F | Callable[[F], F]:
        """Register a function whose events have fields called like the key's; see `on`."""
        return self.on() if function is None else self._register(function, pattern=None, key=None)

    def on(self, pattern: str | None = None, *, key: KeyOf = None) -> Callable[[F], F]:
        """Register a function `evolve(row, event)` for the events that its second parameter is annotated with.

        `key` tells the rows that an event touches: a function of the event, or the name of its field, or several names.
        It gives one key (a tuple where the row's key has several fields), a list or set of keys for several rows, or
        None for no row. A function of three parameters is given the key as well. Left out, the event's fields called
        like those of the row's key are taken. `pattern` chooses types by name, for functions of `Recorded` or `dict`.
        Raises `DeclarationError`.
        """
        if pattern is not None:
            check_is_pattern(pattern, example="@view.on()")
        return lambda function: self._register(function, pattern=pattern, key=key)

    def _register(self, function: F, *, pattern: str | None, key: KeyOf) -> F:
        evolver = evolver_of(function, pattern=pattern, key=key, row_key=self._key_types)
        self._routes.add(evolver.handler)
        self._evolvers[evolver.handler] = evolver
        self._by_type.clear()
        self.subscriber.routes.add(
            msgspec.structs.replace(
                evolver.handler, function=self._deliver, wants=Wants.ITEMS, takes_context=True, takes_list=True
            )
        )
        return function

    def fold(self, events: Sequence[Recorded[Any]]) -> list[R]:
        """Return the rows that come of these events and of nothing before them, without any database. For tests.

        Raises what a function raises, and `UsageError` for one that changes the row it is given in place.
        """
        touched = []
        for event in events:
            evolver = self._evolver(event.type).watched()
            given = evolver.event(event)
            touched.append((event.position, evolver, given, self._keys(evolver, given)))
        try:
            return [row for row in self._folded(touched, {}).values() if row is not None]
        except EventFailedError as failed:
            raise failed.error from failed.error.__cause__

    def key_of(self, row: R) -> Key:
        """Return the key of a row, as a tuple."""
        found = self._read_key(row)
        return found if len(self.key) > 1 else (found,)

    def _fold_items(self, items: Sequence[FeedItem], ctx: Context) -> None:
        """Fold a list of events into the rows that they touch: one read, one write, one delete at the most.

        In a call for many events an error says at which one; in a call for one it speaks for itself.
        """
        lone = len(items) == 1
        touched = [self._touched(item, lone=lone) for item in items]
        keys = dict.fromkeys(key for _, _, _, keys in touched for key in keys)
        if not keys:
            return
        before = self._rows.read(ctx.connection, keys)
        as_read = self._as_read(before)
        after = self._folded(touched, before)
        self._write(ctx.connection, before, after, as_read)

    def _touched(self, item: FeedItem, *, lone: bool) -> _Touched:
        evolver = self._evolver(item.stored.type)
        try:
            event = item.data() if evolver.wants_data else item.recorded()
            keys = self._keys(evolver, event)
        except Exception as error:
            if lone:
                raise
            raise EventFailedError(item.position, error) from error
        return item.position, evolver, event, keys

    def _keys(self, evolver: Evolver, event: Any) -> Sequence[Key]:
        keys = evolver.keys(event)
        if len(keys) > 1 and self.subscriber.partitions > 1:
            raise _of_two_partitions(self.subscriber.name, keys)
        return keys

    def _folded(self, touched: Sequence[_Touched], before: dict[Key, R]) -> dict[Key, R | None]:
        rows: dict[Key, R | None] = {}
        for position, evolver, event, keys in touched:
            try:
                for key in keys:
                    row = rows[key] if key in rows else before.get(key)
                    rows[key] = self._checked(evolver.evolve(row, event, key), key, evolver)
            except Exception as error:
                if len(touched) == 1:
                    raise
                raise EventFailedError(position, error) from error
        return rows

    def _checked(self, row: Any, key: Key, evolver: Evolver) -> R | None:
        if row is None:
            return None
        if type(row) is not self.row:
            raise UsageError(
                f"{evolver.handler.name} returned a {type(row).__qualname__}, not a {self.row.__qualname__} or None",
                remedy="return the row as it is to be from now on, None to delete it",
            )
        found = self.key_of(row)
        if found != key:
            raise UsageError(
                f"{evolver.handler.name} was called for the row {key!r} and returned one whose key is {found!r}",
                remedy="leave the key of a row as it is; to move a row, give both keys (key=lambda event: [...])",
            )
        checked: R = row
        return checked

    def _write(
        self, connection: Connection, before: dict[Key, R], after: dict[Key, R | None], as_read: dict[Key, Any]
    ) -> None:
        gone = [key for key, row in after.items() if row is None and key in before]
        made = [(key, row) for key, row in after.items() if row is not None]
        try:
            changed = [row for key, row in made if not self._is_same(row, before.get(key), as_read.get(key))]
            if changed:
                self._rows.write(connection, changed)
        except (SQLAlchemyError, ValueError, TypeError, OverflowError, ArithmeticError) as error:
            self._explain([row for _, row in made], error)
            raise
        if gone:
            self._rows.delete(connection, gone)

    def _as_read(self, before: dict[Key, R]) -> dict[Key, Any]:
        """What rows were that a function may change in place: it should not, and they are written all the same."""
        if not (self._skips_same and self._rows.mutable):
            return {}
        return {key: self._rows.exactly(row) for key, row in before.items()}

    def _is_same(self, row: R, before: R | None, as_read: Any) -> bool:
        """Tell whether a row is in the table already. Equal is not enough: `1 == True`, `0.0 == -0.0`."""
        if not self._skips_same or before is None or row != before:
            return False
        return bool(self._rows.exactly(row) == (as_read or self._rows.exactly(before)))

    def _explain(self, rows: Sequence[R], error: Exception) -> None:
        """Name the row and the field that a database would not take, where that can be told."""
        for row in rows:
            for field, value in zip(self._fields, self._rows.values(row), strict=True):
                problem = check_value(field, value)
                if problem is not None:
                    key = ", ".join(f"{name}={getattr(row, name)!r}" for name in self.key)
                    raise UsageError(
                        f"{self.subscriber.name}: the row of {key} cannot be kept: {field.name} is {problem}",
                        remedy="have the function make a value that the field's type allows",
                    ) from error

    def _evolver(self, event_type: str) -> Evolver:
        found = self._by_type.get(event_type)
        if found is None:
            handler = self._routes.find(event_type)
            assert handler is not None, f"{self.subscriber.name} was given {event_type}, for which it has no function"
            found = self._by_type[event_type] = self._evolvers[handler]
        return found

    def _ordering_key(self, recorded: Recorded[Any]) -> str | None:
        """Events of a row come in order, and to one worker; one that touches several rows is of its stream."""
        evolver = self._evolver(recorded.type)
        keys = evolver.keys(evolver.event(recorded))
        return "|".join(map(_written, keys[0])) if len(keys) == 1 else None


def _written(part: Any) -> str:
    """Parts of keys that are equal are written alike."""
    if isinstance(part, datetime) and part.tzinfo is not None:
        return str(part.astimezone(UTC))
    return str(part.value) if isinstance(part, Enum) else str(part)


def _of_two_partitions(name: str, keys: Collection[Key]) -> UsageError:
    return UsageError(
        f"view {name!r} has several partitions, and an event touches {len(keys)} rows: two workers would write one",
        remedy="declare it with partitions=1",
    )


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9_]", "_", name.lower())


def _names(given: Any, what: str) -> tuple[str, ...]:
    names = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, list | tuple) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise DeclarationError(
            f"{what} names no fields of the row",
            remedy='name them: key="airport", key=("airport", "day"); how an event tells its key is said at the'
            " function: .on(key=lambda event: ...)",
        )
    return names


def _table(
    name: str,
    schema: str | None,
    fields: Sequence[RowField],
    key: Sequence[str],
    indexes: Sequence[str | Sequence[str]],
) -> Table:
    by_name = {field.name: field for field in fields}
    if isinstance(indexes, str):
        raise DeclarationError(f"indexes={indexes!r} is no list", remedy=f"write indexes=[{indexes!r}]")
    wanted = [_names(one, f"index {one!r}") for one in indexes]
    for field in (*key, *(one for index in wanted for one in index)):
        if field not in by_name:
            raise DeclarationError(f"the row has no field {field!r}", remedy=f"it has: {', '.join(by_name)}")
    _check_key([by_name[one] for one in key])
    if name in by_name:
        raise DeclarationError(
            f"table {name!r} has a column of the same name", remedy='name the table otherwise: table="..."'
        )
    return Table(
        name,
        MetaData(),
        *(field.column(is_key=field.name in key) for field in fields),
        *(Index(f"ix_{name}_{'_'.join(index)}", *index) for index in wanted),
        schema=schema,
    )


def _check_key(fields: Sequence[RowField]) -> None:
    for field in fields:
        if field.nullable or field.kind.key is None:
            raise DeclarationError(
                f"field {field.name!r} cannot be a key: its values may be None, or be equal and written differently",
                remedy="use fields of type str, int, UUID, date, datetime, Enum or Literal",
            )
    if not fields:
        raise DeclarationError("a row wants a key", remedy='name its fields: key="airport"')

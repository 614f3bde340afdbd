"""What a view does with an event: which rows it touches, and the pure function that makes each of them anew."""

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from operator import attrgetter
from typing import Any, get_origin

import msgspec

from eventlog.errors import DeclarationError, UsageError
from eventlog.event_types import declared_as
from eventlog.events import Recorded
from eventlog.projections.purity import watched
from eventlog.projections.rows import Key
from eventlog.subscribers.routing import Handler, Wants, parameters_of, wanted

KeyOf = Callable[[Any], Any] | str | Sequence[str] | None
"""How a key is read from an event: by a function, from a field or several, or from those called like the row's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolver:
    """A function `evolve(row, event)`, or `evolve(row, event, key)`, and which rows it is called for."""

    handler: Handler
    read_key: Callable[[Any], Any]
    key_types: tuple[type[Any], ...]
    """Of which classes the fields of a key are."""
    takes_key: bool

    def evolve(self, row: Any, event: Any, key: Key) -> Any:
        """Call the function for one row."""
        if self.takes_key:
            return self.handler.function(row, event, key if len(self.key_types) > 1 else key[0])
        return self.handler.function(row, event)

    def watched(self) -> "Evolver":
        """Make one that finds out when its function changes the row it is given. For tests."""
        function = watched(self.handler.function, given="row")
        return dataclasses.replace(self, handler=msgspec.structs.replace(self.handler, function=function))

    @property
    def wants_data(self) -> bool:
        """Whether the functions are given the data of an event, and not the recorded event."""
        return self.handler.wants is Wants.DATA

    def event(self, recorded: Recorded[Any]) -> Any:
        """Return what the functions are given: the data, or the recorded event."""
        return recorded.data if self.wants_data else recorded

    def keys(self, event: Any) -> Sequence[Key]:
        """Return the keys of the rows that an event touches, each once. Raises `UsageError` for what is no key."""
        found = self.read_key(event)
        if found is None:
            return ()
        if len(self.key_types) == 1 and type(found) is self.key_types[0]:
            return ((found,),)
        if isinstance(found, list | set | frozenset):
            return tuple(dict.fromkeys(self._key(one) for one in found))
        return (self._key(found),)

    def _key(self, found: Any) -> Key:
        key = found if len(self.key_types) > 1 or isinstance(found, tuple) else (found,)
        if not isinstance(key, tuple) or len(key) != len(self.key_types) or not all(map(_is_a, key, self.key_types)):
            wanted_types = ", ".join(one.__qualname__ for one in self.key_types)
            raise UsageError(
                f"{self.handler.name}: {found!r} is no key of a row, which is of: {wanted_types}",
                remedy="give one value, a tuple for a key of several fields, a list of keys for several rows, or None",
            )
        return key


def evolver_of(
    function: Callable[..., Any], *, pattern: str | None, key: KeyOf, row_key: Mapping[str, type[Any]]
) -> Evolver:
    """Read from a function's signature which events it wants. Raises `DeclarationError`.

    `row_key` are the fields of the row's key, and of which classes they are.
    """
    name = getattr(function, "__qualname__", repr(function))
    annotation, takes_key = _signature(function, name)
    patterns, wants = wanted(annotation, pattern=pattern, name=name)
    handler = Handler(
        name=name,
        function=function,
        patterns=patterns,
        wants=wants,
        takes_context=False,
        takes_list=False,
        is_coroutine=False,
    )
    read_key = _reader(handler, annotation, key, tuple(row_key))
    return Evolver(handler=handler, read_key=read_key, key_types=tuple(row_key.values()), takes_key=takes_key)


def _is_a(part: Any, kind: type[Any]) -> bool:
    """A database may take another value for the one that is meant, and its row would then not be found again."""
    return isinstance(part, kind) and not (kind in (int, date) and isinstance(part, bool | datetime))


def _signature(function: Callable[..., Any], name: str) -> tuple[Any, bool]:
    """Return the annotation of the event, and whether the key is wanted as well."""
    parameters = parameters_of(function, name)
    required = [one for one in parameters if one.default is one.empty]
    plain = [one for one in parameters if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    if (
        len(plain) < 2
        or len(required) not in (2, 3)
        or inspect.iscoroutinefunction(function)
        or _is_generator(function)
    ):
        raise DeclarationError(
            f"{name} cannot be called as evolve(row, event)",
            remedy="write a plain function of the row, which is None where there is none yet, and the event; a third"
            " parameter is given the key",
        )
    return plain[1].annotation, len(required) == 3


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _reader(handler: Handler, annotation: Any, key: KeyOf, row_key: Sequence[str]) -> Callable[[Any], Any]:
    if callable(key):
        return key
    names = (key,) if isinstance(key, str) else tuple(key or row_key)
    _check_fields(handler, annotation, names)
    if handler.wants is Wants.DATA and _is_declared(annotation):
        return attrgetter(*names)
    data = _itself if handler.wants is Wants.DATA else _data_of
    if len(names) == 1:
        name = names[0]
        return lambda event: _field(data(event), name)
    return lambda event: tuple([_field(data(event), name) for name in names])


def _check_fields(handler: Handler, annotation: Any, names: Iterable[str]) -> None:
    """A class that is declared tells at once whether it has the fields; a dict tells when it comes."""
    for pattern in handler.patterns:
        declared = declared_as(pattern)
        lacking = [one for one in names if declared is not None and one not in _fields(declared.data_class)]
        if lacking and _is_declared(annotation):
            raise DeclarationError(
                f"{handler.name}: events {pattern} have no field {', '.join(lacking)} to find their row by",
                remedy="say how the key is read: .on(key=lambda event: ...)",
            )


def _is_declared(annotation: Any) -> bool:
    return not (annotation in (dict, Any, Recorded, inspect.Parameter.empty) or get_origin(annotation) is dict)


def _fields(declared: type) -> tuple[str, ...]:
    return tuple(getattr(declared, "__struct_fields__", ()))


def _field(data: Any, name: str) -> Any:
    return data.get(name) if isinstance(data, dict) else getattr(data, name)


def _itself(event: Any) -> Any:
    return event


def _data_of(event: Any) -> Any:
    return event.data

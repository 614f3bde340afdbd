"""Upcasters: pure functions that bring data written as an older version of an event type to the next one.

Stored data is never changed; an older event goes through these each time it is read. What holds:

- One step takes data from its version to the next. A chain runs from the stored version to the declared one.
- A type without any upcaster reads its older versions straight into the class, as far as the class accepts them.
  With one, every version from the oldest step up to the declared one must have its step: leaving one out could mean
  that nothing changed, or that somebody forgot, and guessing would hand wrong data to handlers.
- A renamed type goes on counting its versions. A step declared under the new name serves events stored under either
  name; one declared under an old name serves the events stored under that name alone, and goes before the other.

Steps may be declared before or after the class; what does not fit is found when events are read or an app starts.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from eventlog.encoding import encode_data
from eventlog.errors import DeclarationError, InvalidEventError, UpcastError
from eventlog.events import JsonObject
from eventlog.patterns import check_type

Upcaster = Callable[[JsonObject], JsonObject]
U = TypeVar("U", bound=Upcaster)

_NAMELESS = ("_", "<lambda>")
"""Names that say nothing about whether two functions are the same one, declared again."""

_steps: dict[str, dict[int, Upcaster]] = {}


def upcast(name: str, *, version: int) -> Callable[[U], U]:
    """Declare one step of an event type: from `version` to the next. Returns the function as it was.

    The function is given the data as plain JSON, a dict of its own which it may change, and returns the data of the
    next version. It must be pure: it runs each time such an event is read, in any process, and its result is kept
    nowhere. What it raises makes that event unreadable, which is a failure of the event and not of the worker.

    Raises `DeclarationError` for a name or version that cannot be one, a coroutine, and a step that is declared
    already. Whether the type is declared, and newer than the step, is found when an app starts.
    """
    _check_step(name, version)

    def declare(function: U) -> U:
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
            raise DeclarationError(
                f"the upcaster {_where(function)} is a coroutine or a generator", remedy="write a plain function"
            )
        earlier = _steps.get(name, {}).get(version)
        if earlier is not None and not _is_reload(earlier, function):
            raise DeclarationError(
                f"{name!r} version {version} has two upcasters: {_where(earlier)} and {_where(function)}",
                remedy="one step leads from each version to the next: merge them",
            )
        _steps.setdefault(name, {})[version] = function
        return function

    return declare


def upcast_data(text: str, *, stored_as: str, declared_as: str, since: int, to: int) -> str:
    """Bring an event's data from one version to another; return it as it came where its type has no upcasters.

    Raises `UpcastError` when a step is missing or fails, and what msgspec raises for data that is no JSON.
    """
    line = _line(stored_as, declared_as)
    if not line:
        return text
    missing = [version for version in range(since, to) if version not in line]
    if missing:
        raise UpcastError(
            f"there is no upcaster from version {missing[0]} to {missing[0] + 1}",
            remedy=_remedy_of_gap(declared_as, missing[0]),
        )
    data = msgspec.json.decode(text)
    for version in range(since, to):
        data = _step(line[version], data, version=version)
    try:
        return encode_data(data, event_type=declared_as)
    except InvalidEventError as error:
        raise UpcastError(f"the upcasters made what is no data: {error}", remedy=error.remedy) from error


def versions_with_upcaster(stored_as: str, *, declared_as: str) -> tuple[int, ...]:
    """Return the versions that events stored under a name have a step for, in order."""
    return tuple(sorted(_line(stored_as, declared_as)))


def upcaster_problems(declared: Mapping[str, tuple[str, int]]) -> list[DeclarationError]:
    """Tell what of the declared steps cannot work.

    `declared` maps every name an event may be stored under to the name its class has now, and its version.
    """
    problems = [_undeclared(name) for name in sorted(_steps) if name not in declared]
    for stored_as, (name, version) in sorted(declared.items()):
        own = _steps.get(stored_as, {})
        problems += [_too_new(stored_as, step, version) for step in sorted(own) if step >= version]
        line = _line(stored_as, name)
        gap = next((step for step in range(min(line, default=version), version) if step not in line), None)
        if gap is not None:
            problems.append(
                DeclarationError(
                    f"{stored_as!r} has no upcaster from version {gap} to {gap + 1}, and {name!r} is declared with"
                    f" version {version}",
                    remedy=_remedy_of_gap(name, gap),
                )
            )
    return problems


def _line(stored_as: str, declared_as: str) -> dict[int, Upcaster]:
    if stored_as == declared_as or stored_as not in _steps:
        return _steps.get(declared_as, {})
    return {**_steps.get(declared_as, {}), **_steps[stored_as]}


def _step(function: Upcaster, data: Any, *, version: int) -> JsonObject:
    where = f"the upcaster {_where(function)} from version {version}"
    if not isinstance(data, dict):
        raise UpcastError(
            f"{where} takes a JSON object, and the data is {_kind(data)}",
            remedy="upcasters are for data with named fields; read other data with a type that nobody declares",
        )
    try:
        made: object = function(data)
    except Exception as error:
        raise UpcastError(
            f"{where} raised {type(error).__name__}: {error}",
            remedy="make the upcaster bear every form that was recorded as this version, then retry",
        ) from error
    if not isinstance(made, dict):
        raise UpcastError(f"{where} returned {_kind(made)}", remedy="return the data of the next version, a dict")
    return made


def _check_step(name: str, version: object) -> None:
    try:
        check_type(name)
    except InvalidEventError as error:
        raise DeclarationError(str(error), remedy=error.remedy) from error
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise DeclarationError(
            f"an upcaster of {name!r} is declared for version {version!r}", remedy="versions are numbers from 1"
        )


def _undeclared(name: str) -> DeclarationError:
    first = min(_steps[name])
    return DeclarationError(
        f"{_where(_steps[name][first])} is an upcaster of {name!r}, which no class is declared for",
        remedy=f"declare @event({name!r}, version={max(_steps[name]) + 1}), or name it in aliases= of the type's new"
        " name; the module with the class must be imported too",
    )


def _too_new(name: str, step: int, version: int) -> DeclarationError:
    return DeclarationError(
        f"{_where(_steps[name][step])} is an upcaster of {name!r} from version {step} to {step + 1}, and the class is"
        f" declared with version {version}",
        remedy=f"declare the class with version={step + 1}, or take the upcaster away",
    )


def _remedy_of_gap(name: str, version: int) -> str:
    return (
        f"declare @upcast({name!r}, version={version}); it returns the data as it is where version {version + 1}"
        " only added fields with defaults"
    )


def _is_reload(one: Upcaster, other: Upcaster) -> bool:
    """A module that is imported again, or a function that runs again, declares the same step anew."""
    if getattr(one, "__name__", "_") in _NAMELESS:
        return _place(one) == _place(other)
    return _where(one) == _where(other)


def _place(function: Upcaster) -> tuple[str, object]:
    return _where(function), getattr(getattr(function, "__code__", None), "co_firstlineno", None)


def _where(function: object) -> str:
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", None)
    return f"{module}.{name}" if name else repr(function)


def _kind(value: object) -> str:
    return "null" if value is None else type(value).__name__

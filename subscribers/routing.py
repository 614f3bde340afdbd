"""Which handler of a subscriber an event goes to: one, the most specific, or none.

A handler says what it wants by the annotation of its first parameter: a class declared with `@event` (or several,
`A | B`), or `Recorded`, with the types given as a pattern beside it; or a list of these. Everything that makes a
handler unusable is found when it is declared, never when an event arrives.

A type that was renamed is stored under several names, and whoever handles it handles them all. The old names are part
of the declaration, so that code which does not know of the renaming cannot pass its events by.
"""

import inspect
import types
import typing
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Any, get_args, get_origin

import msgspec

from eventlog.errors import DeclarationError
from eventlog.event_types import declared_as, declared_for, with_aliases
from eventlog.events import Recorded
from eventlog.patterns import check_pattern, covers, is_exact, overlap, specificity
from eventlog.subscribers.call_events import CallEvents

HandlerFunction = Callable[..., Any]


class Wants(StrEnum):
    """What a handler takes as its first argument, or as the elements of the list that it takes."""

    DATA = "data"
    RECORDED = "recorded"
    ITEMS = "items"
    """As they were read, decoded by whoever takes them: for handlers of ours."""


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """A function, the patterns it stands for, and how it is called.

    `takes_list` is whether its first argument is a list of events; `is_coroutine`, whether it has to be awaited.
    """

    name: str
    function: HandlerFunction
    patterns: tuple[str, ...]
    wants: Wants
    takes_context: bool
    takes_list: bool
    is_coroutine: bool

    def call(self, events: CallEvents, context: object) -> None:
        """Call the function with what it asked for; what it returns is dropped, what it raises is raised.

        Raises `DeclarationError` for what would be handled by nobody: a coroutine or a generator that it returned.
        """
        self.check(self._begin(events, context))

    def check(self, result: object) -> None:
        """Look at what the function returned. Raises `DeclarationError` for what runs nothing."""
        if result is not None and (inspect.isawaitable(result) or inspect.isgenerator(result)):
            if inspect.iscoroutine(result):
                result.close()
            raise _runs_nothing(self.name)

    @property
    def takes_one_alone(self) -> bool:
        """Whether it is a plain function of one event and nothing else."""
        return not (self.takes_context or self.takes_list or self.is_coroutine)

    async def call_awaited(self, events: CallEvents, context: object) -> None:
        """Call a coroutine function, and await it."""
        await self._begin(events, context)

    def _begin(self, events: CallEvents, context: object) -> Any:
        given: Sequence[Any] = events.items
        if self.wants is not Wants.ITEMS:
            given = events.data() if self.wants is Wants.DATA else events.recorded()
        first = list(given) if self.takes_list else given[0]
        return self.function(first, context) if self.takes_context else self.function(first)


class Routes:
    """The handlers of one subscriber."""

    def __init__(self) -> None:
        self._by_pattern: dict[str, Handler] = {}
        self._found = _Found(self.look_up)
        self.find: Callable[[str], Handler | None] = self._found.__getitem__
        """The handler for a type, None when no pattern covers it nor its new name. Remembered per type, since it is
        asked for each event."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """All patterns that some handler stands for, and the old names of the types they cover, sorted."""
        return tuple(sorted(with_aliases(self._by_pattern)))

    @property
    def types(self) -> frozenset[str] | None:
        """The names of all types that have a handler, old ones too; None where a pattern stands for more than can be
        told. Asked anew each time: a type may be declared, and an old name of it, after its handler."""
        patterns = self.patterns
        return frozenset(patterns) if all(map(is_exact, patterns)) else None

    def add(self, handler: Handler) -> None:
        """Add a handler; raise `DeclarationError` if for some type it and another one would be equally specific."""
        for pattern in handler.patterns:
            for other, earlier in self._by_pattern.items():
                if specificity(other) == specificity(pattern) and overlap(other, pattern):
                    raise DeclarationError(
                        f"{earlier.name} ({other}) and {handler.name} ({pattern}) would handle the same events",
                        remedy="one handler per event and subscriber: make one pattern more specific, or merge them",
                    )
        for pattern in handler.patterns:
            self._by_pattern[pattern] = handler
        self._found.clear()

    def look_up(self, event_type: str) -> Handler | None:
        """Look through the patterns, once per type.

        Where one for the new name of a type and one for the old are equally specific, the one for the name stored goes
        before.
        """
        declared = declared_as(event_type)
        names = {event_type, declared.name if declared is not None else event_type}
        matching = [pattern for pattern in self._by_pattern if any(covers(pattern, name) for name in names)]
        best = max(matching, key=lambda one: (specificity(one), covers(one, event_type)), default=None)
        return self._by_pattern[best] if best is not None else None


class _Found(dict[str, Handler | None]):
    """The handlers found so far, by type; others are looked for."""

    def __init__(self, look: Callable[[str], Handler | None]) -> None:
        super().__init__()
        self._look = look

    def __missing__(self, event_type: str) -> Handler | None:
        handler = self[event_type] = self._look(event_type)
        return handler


def handler_of(function: HandlerFunction, *, pattern: str | None = None, batch: bool = False) -> Handler:
    """Read what a function wants from its signature. Raises `DeclarationError` when that cannot be told.

    With `batch` it takes a list of events: its first parameter is annotated with a list of what one event would be.
    """
    name = getattr(function, "__qualname__", repr(function))
    called = getattr(function, "__call__", None)  # noqa: B004 - of an object it may be a coroutine or a generator
    if _is_generator(function) or _is_generator(called):
        raise _runs_nothing(name)
    is_coroutine = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called)
    annotation, takes_context = _signature(function, name)
    if batch or get_origin(annotation) in (list, Sequence):
        annotation = _element(annotation, name, batch=batch)
        batch = True
    patterns, wants = wanted(annotation, pattern=pattern, name=name)
    return Handler(
        name=name,
        function=function,
        patterns=patterns,
        wants=wants,
        takes_context=takes_context,
        takes_list=batch,
        is_coroutine=is_coroutine,
    )


def check_is_pattern(given: object, *, example: str) -> None:
    """Raise `DeclarationError` for what is no text: a decorator without parentheses would drop its function."""
    if not isinstance(given, str):
        raise DeclarationError(
            f"{getattr(given, '__qualname__', repr(given))} is given where a pattern over event types belongs",
            remedy=f"write {example}, with parentheses",
        )


def wanted(annotation: Any, *, pattern: str | None, name: str) -> tuple[tuple[str, ...], Wants]:
    """Read from a parameter's annotation which events are wanted, and as what. Raises `DeclarationError`."""
    if pattern is not None:
        check_pattern(pattern)
    classes = _declared_types(annotation)
    if classes is not None:
        wants = Wants.RECORDED if get_origin(annotation) is Recorded else Wants.DATA
        return tuple(with_aliases(_within(classes, pattern, name))), wants
    if pattern is None:
        raise DeclarationError(
            f"handler {name} does not say which events it wants: its parameter is annotated {_shown(annotation)}",
            remedy="annotate it with a class declared by @event, or register it with .on('type.pattern')",
        )
    wants = Wants.DATA if annotation in (dict, Any) or get_origin(annotation) is dict else Wants.RECORDED
    if wants is Wants.RECORDED and not _takes_recorded(annotation):
        raise DeclarationError(
            f"handler {name} is registered for {pattern!r} and wants {_shown(annotation)}",
            remedy="annotate its parameter with Recorded, with dict, or with a class declared by @event",
        )
    return (pattern,), wants


def _is_generator(function: object) -> bool:
    return inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)


def _runs_nothing(name: str) -> DeclarationError:
    return DeclarationError(
        f"handler {name} is a generator, or a plain function that returns a coroutine: calling it would run nothing,"
        " and pass the event by",
        remedy="write a plain function, or one with `async def`",
    )


def _element(annotation: Any, name: str, *, batch: bool) -> Any:
    """Return what a list handler is annotated with a list of."""
    if get_origin(annotation) in (list, Sequence):
        return get_args(annotation)[0]
    if annotation in (list, Sequence, inspect.Parameter.empty):
        return inspect.Parameter.empty
    raise DeclarationError(
        f"handler {name} is registered with batch=True, and its first parameter is annotated {_shown(annotation)}",
        remedy="annotate it with a list: list[Arrived], list[Arrived | Departed] or list[Recorded]",
    )


def _signature(function: HandlerFunction, name: str) -> tuple[Any, bool]:
    """Return the annotation of the first parameter, and whether there is a second one."""
    parameters = parameters_of(function, name)
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    keyword_only = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    if not positional or len(required) > 2 or keyword_only:
        raise DeclarationError(
            f"handler {name} cannot be called with an event and a context",
            remedy="give it one parameter for the event, and one more for the Context if it is wanted",
        )
    return positional[0].annotation, len(required) == 2 or (len(positional) > 1 and positional[1].name == "ctx")


def parameters_of(function: HandlerFunction, name: str) -> list[inspect.Parameter]:
    """Return a function's parameters, their annotations evaluated. Raises `DeclarationError`."""
    try:
        return list(inspect.signature(function, eval_str=True).parameters.values())
    except (TypeError, ValueError, NameError) as error:
        raise DeclarationError(
            f"the signature of handler {name} cannot be read: {error}",
            remedy="annotate it with names that are known where it is defined",
        ) from error


def _declared_types(annotation: Any) -> list[str] | None:
    """Return the event types an annotation names; None when it names none, or something else as well."""
    if get_origin(annotation) is Recorded:
        return _declared_types(get_args(annotation)[0])
    members = get_args(annotation) if get_origin(annotation) in (types.UnionType, typing.Union) else (annotation,)
    found = [declared_for(member) for member in members if isinstance(member, type)]
    if len(found) != len(members) or any(one is None for one in found):
        return None
    return [one.name for one in found if one is not None]


def _within(event_types: list[str], pattern: str | None, name: str) -> tuple[str, ...]:
    outside = [one for one in event_types if pattern is not None and not covers(pattern, one)]
    if outside:
        raise DeclarationError(
            f"handler {name} is registered for {pattern!r} and wants {outside[0]!r}, which that does not cover",
            remedy="register it without .on(...): its annotation says which events it wants",
        )
    return tuple(dict.fromkeys(event_types))


def _takes_recorded(annotation: Any) -> bool:
    return annotation in (inspect.Parameter.empty, Recorded, object) or get_origin(annotation) is Recorded


def _shown(annotation: Any) -> str:
    if annotation is inspect.Parameter.empty:
        return "with nothing"
    return f"with {getattr(annotation, '__qualname__', None) or annotation!s}"

"""Live folds: the state of one stream, made of its events when it is asked for."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, get_origin

import msgspec

from eventlog.database import Transaction
from eventlog.errors import DeclarationError
from eventlog.events import Recorded
from eventlog.log import EventLog
from eventlog.subscribers.routing import parameters_of

S = TypeVar("S")

Evolve = Callable[[S, Any], S]
"""Makes of a state and an event's data the state that follows; of the `Recorded` event where it is annotated so."""


class Folded(msgspec.Struct, Generic[S], frozen=True, kw_only=True):
    """The state of a stream, and the version it is at: 0 for a stream without events. `id` is its last event's."""

    state: S
    version: int
    id: str | None = None


def fold(log: EventLog, stream: str, initial: S, evolve: Evolve[S], *, tx: Transaction | None = None) -> S:
    """Return the state of a stream: `evolve(state, event)` for each of its events, beginning with `initial`.

    `evolve` must be pure. An event that no class is declared for comes as a dict: ignore what you do not know, and
    return the state as it is. Within `tx` what that transaction has appended is part of it. Costs a query per thousand
    events of the stream. Raises `UndecodableEventError`, `DeclarationError`.
    """
    return folded(log.read_stream(stream, tx=tx), Folded(state=initial, version=0), Step(evolve)).state


class Step(Generic[S]):
    """A function that evolves a state, and whether it is given the data of an event or the recorded event."""

    def __init__(self, evolve: Evolve[S]) -> None:
        self._evolve = evolve
        self._wants_recorded = _wants_recorded(evolve)

    def __call__(self, state: S, recorded: Recorded[Any]) -> S:
        return self._evolve(state, recorded if self._wants_recorded else recorded.data)


def folded(events: Iterable[Recorded[Any]], begin: Folded[S], step: Step[S]) -> Folded[S]:
    """Fold events of one stream into what has been folded of it before."""
    state, last = begin.state, None
    for last in events:
        state = step(state, last)
    return begin if last is None else Folded(state=state, version=last.version, id=str(last.id))


def _wants_recorded(evolve: Callable[..., Any]) -> bool:
    name = getattr(evolve, "__qualname__", repr(evolve))
    if inspect.iscoroutinefunction(evolve) or inspect.isgeneratorfunction(evolve):
        raise DeclarationError(f"{name} is no plain function", remedy="write evolve(state, event) -> state")
    parameters = parameters_of(evolve, name)
    if len(parameters) < 2:
        raise DeclarationError(
            f"{name} cannot be called with a state and an event", remedy="write evolve(state, event) -> state"
        )
    annotation = parameters[1].annotation
    return annotation is Recorded or get_origin(annotation) is Recorded

"""Scenarios: given what has happened, when a command comes, then these events; or then these rows.

    given(flight, Opened(seats=2), Booked("1A")).when(Book("1B")).then(Booked("1B"))
    given(flight, Opened(seats=1), Booked("1A")).when(Book("1A")).then_raises(SeatTakenError)
    given(delays, Arrived("JFK", 12)).then_rows(Delay("JFK", flights=1, minutes=12))

Nothing here needs a database: deciders and views are pure, and are run as they are.
"""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

import msgspec

from eventlog.errors import UsageError
from eventlog.events import Event
from eventlog.projections.decider import Decider
from eventlog.projections.fold import Folded, Step, folded
from eventlog.projections.purity import watched
from eventlog.projections.view import View
from eventlog.testing.recording import recorded

S = TypeVar("S")
C = TypeVar("C")
R = TypeVar("R", bound=msgspec.Struct)
E = TypeVar("E", bound=BaseException)


@overload
def given(subject: Decider[S, C], *events: object) -> "GivenStream[S, C]": ...
@overload
def given(subject: View[R], *events: object) -> "GivenRows[R]": ...
def given(subject: Any, *events: object) -> Any:
    """Begin a scenario: what a decider's stream holds, or what a view has been told, in the order of the log.

    Events are what `append` takes. A decider takes them as one stream, whatever they are called. Raises
    `InvalidEventError` for what could not be appended, what `evolve` raises, and `UsageError` where it changes in place
    the row or the state that it is given. A table projection has no pure functions: it is tested by `drain` on a
    `temporary_app`, and refused here with `UsageError`.
    """
    if isinstance(subject, View):
        return GivenRows(subject, events)
    if not isinstance(subject, Decider):
        raise UsageError(
            f"{subject!r} is neither a view nor a decider", remedy="test it on a log: temporary_app(app), and drain"
        )
    return GivenStream(subject, events)


class GivenStream(Generic[S, C]):
    """A decider and the history of one stream."""

    def __init__(self, decider: Decider[S, C], events: Sequence[object]) -> None:
        self._decider = decider
        begin = Folded(state=decider.initial, version=0)
        self.state: S = folded(
            recorded(*events, stream="test"), begin, Step(watched(decider.evolve, given="state"))
        ).state
        """What the history comes to."""

    def when(self, command: C) -> "Outcome":
        """Have the command decided."""
        try:
            events: Any = self._decider.decide(self.state, command)
        except Exception as error:
            return Outcome(command, (), error)
        if isinstance(events, msgspec.Struct | Event):
            return Outcome(command, (events,), None)
        return Outcome(command, tuple(events), None)

    def then_state(self, expected: S) -> None:
        """Say what the history comes to."""
        if self.state != expected:
            raise AssertionError(f"expected the state {expected!r}\nthe history comes to {self.state!r}")


class Outcome:
    """What a command came to. Say one of the `then`s: without any, nothing has been tested."""

    def __init__(self, command: object, events: Sequence[object], error: Exception | None) -> None:
        self._command = command
        self._error = error
        self.events = tuple(one.data if isinstance(one, Event) else one for one in events)
        """The events' data."""

    def then(self, *expected: object) -> None:
        """Say which events come of it, all of them, in this order; none at all for a command with nothing to do."""
        if self._error is not None:
            raise AssertionError(f"{self._command!r} was refused: {self._error!r}") from self._error
        wanted = tuple(one.data if isinstance(one, Event) else one for one in expected)
        if self.events != wanted:
            raise AssertionError(
                f"{self._command!r} came to other events\nexpected: {_listed(wanted)}\n     got: {_listed(self.events)}"
            )

    def then_raises(self, error: type[E], *, match: str = "") -> E:
        """Say with which error it is refused, and what its text holds; return the error."""
        if self._error is None:
            raise AssertionError(f"{self._command!r} was not refused; it came to: {_listed(self.events)}")
        if not isinstance(self._error, error) or match not in str(self._error):
            said = f"{self._command!r} was refused with {self._error!r}, not with {error.__name__}"
            raise AssertionError(f"{said}({match!r})") from self._error
        return self._error


class GivenRows(Generic[R]):
    """A view and the events it was told."""

    def __init__(self, view: View[R], events: Sequence[object]) -> None:
        self._view = view
        routes = view.subscriber.routes
        wanted = [one for one in recorded(*events) if routes.find(one.type) is not None]
        self.rows: list[R] = view.fold(wanted)
        """The rows, in the order in which their keys came first."""

    def then_rows(self, *expected: R) -> None:
        """Say which rows there are, all of them, in any order."""
        missing = [row for row in expected if row not in self.rows]
        surplus = [row for row in self.rows if row not in expected]
        if missing or surplus or len(expected) != len(self.rows):
            raise AssertionError(f"other rows came of it\nmissing: {_listed(missing)}\nsurplus: {_listed(surplus)}")


def _listed(values: Sequence[object]) -> str:
    if not values:
        return "none"
    return "".join(f"\n  {one!r}" for one in values)

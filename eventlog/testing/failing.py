"""Failures on demand: what a service does when its mail server is down can be tested without one."""

from typing import Any

import msgspec

from eventlog.subscribers.declaration import DeclaresSubscriber, Subscriber
from eventlog.subscribers.routing import Handler, Routes


class InjectedError(Exception):
    """What a handler raises that was told to fail, and not with what."""


class Failing:
    """A subscriber whose next calls fail. `undo` makes it as it was; so does the end of a `with` block."""

    def __init__(self, subscriber: Subscriber, *, times: int, error: BaseException | type[BaseException]) -> None:
        self.left = times
        """How many calls are still to fail."""
        self._subscriber = subscriber
        self._error = error
        self._before = subscriber.routes
        subscriber.routes = _FailingRoutes(subscriber.routes, self)

    def undo(self) -> None:
        """Let its handlers run again."""
        if isinstance(self._subscriber.routes, _FailingRoutes):
            self._subscriber.routes = self._before

    def __enter__(self) -> "Failing":
        return self

    def __exit__(self, *_error: object) -> None:
        self.undo()

    def fail_or(self, handler: Handler, *given: Any) -> Any:
        """Fail, if a call is to fail, and else make it."""
        if self.left > 0:
            self.left -= 1
            raise self._error
        return handler.function(*given)


def fail_next(
    subscriber: Subscriber | DeclaresSubscriber,
    *,
    times: int = 1,
    error: BaseException | type[BaseException] = InjectedError,
) -> Failing:
    """Have the next calls of a subscriber's handlers raise an error, before anything of them runs.

    A call is for one event, or for a list where a handler takes lists; what comes after so many calls is handled.
    """
    declared = subscriber if isinstance(subscriber, Subscriber) else subscriber.subscriber
    return Failing(declared, times=times, error=error)


class _FailingRoutes(Routes):
    """The handlers of a subscriber, each asked to fail first."""

    def __init__(self, routes: Routes, failing: Failing) -> None:
        super().__init__()
        self._routes = routes
        self._failing = failing
        self._wrapped: dict[Any, Any] = {}

    @property
    def patterns(self) -> tuple[str, ...]:
        return self._routes.patterns

    def add(self, handler: Handler) -> None:
        self._routes.add(handler)
        self._found.clear()

    def look_up(self, event_type: str) -> Handler | None:
        handler = self._routes.find(event_type)
        if handler is None:
            return None
        function = self._wrapped.setdefault(handler.function, self._wrap(handler))
        return msgspec.structs.replace(handler, function=function)

    def _wrap(self, handler: Handler) -> Any:
        return lambda *given: self._failing.fail_or(handler, *given)

"""The events of one call of a handler, made into what somebody asks for and nothing else.

A handler of data needs no recorded events, and few look into their context: what is not asked for is not made. An event
that cannot be decoded fails by itself, and by its position where it is one of several.
"""

from collections.abc import Callable, Sequence
from typing import Any

from eventlog.errors import EventLogError
from eventlog.events import Recorded
from eventlog.subscribers.feed import FeedItem
from eventlog.subscribers.results import EventFailedError


class CallEvents:
    """What a call is for. `items` are the events as they were read."""

    __slots__ = ("_data", "_recorded", "items")

    def __init__(self, items: Sequence[FeedItem]) -> None:
        self.items = items
        self._data: list[Any] | None = None
        self._recorded: list[Recorded[Any]] | None = None

    def data(self) -> list[Any]:
        """Return the decoded data. Raises `UndecodableEventError`, or `EventFailedError` for one of several."""
        if self._data is None:
            self._data = self._each(FeedItem.data)
        return self._data

    def recorded(self) -> list[Recorded[Any]]:
        """Return the recorded events, with the very data that `data` returns. Raises what `data` raises."""
        if self._recorded is None:
            if self._data is None:
                self._recorded = self._each(FeedItem.recorded)
            else:
                self._recorded = [item.recorded_with(data) for item, data in zip(self.items, self._data, strict=True)]
        return self._recorded

    def _each(self, make: Callable[[FeedItem], Any]) -> list[Any]:
        if len(self.items) == 1:
            return [make(self.items[0])]
        return [_among_others(make, item) for item in self.items]


def _among_others(make: Callable[[FeedItem], Any], item: FeedItem) -> Any:
    try:
        return make(item)
    except EventLogError as error:
        raise EventFailedError(item.position, error) from error

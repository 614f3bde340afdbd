"""Fixtures for pytest, found by it when rewindlog is installed. Nothing else is imported before one is asked for."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from eventlog.subscribers.app import App


@pytest.fixture
def eventlog_app_like() -> "Iterator[Callable[[App | None], App]]":
    """Make applications on empty logs of their own, with the subscribers of another one; gone after the test."""
    from eventlog.testing.temporary import temporary_app

    with ExitStack() as stack:

        def make(like: "App | None" = None) -> "App":
            return stack.enter_context(temporary_app(like))

        yield make


@pytest.fixture
def eventlog_app(eventlog_app_like: "Callable[[App | None], App]") -> "App":
    """An application on an empty log of its own, gone after the test."""
    return eventlog_app_like(None)

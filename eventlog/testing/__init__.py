"""For the tests of services that use the log: scenarios, a log that is gone afterwards, failures on demand.

Pure functions need no database: `given(flight, *events).when(command).then(*events)`. What has one is tested on a real
log in a temporary file, made within milliseconds: by `temporary_app()`, or the fixture `eventlog_app`; and by `drain`,
which raises what handlers raised.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eventlog.testing.clocks import StillClock
    from eventlog.testing.draining import HandlersFailedError, drain, make_retries_due
    from eventlog.testing.failing import Failing, fail_next
    from eventlog.testing.recording import recorded
    from eventlog.testing.scenarios import given
    from eventlog.testing.temporary import temporary_app

__all__ = [
    "Failing",
    "HandlersFailedError",
    "StillClock",
    "drain",
    "fail_next",
    "given",
    "make_retries_due",
    "recorded",
    "temporary_app",
]

_HOMES = {
    "Failing": "eventlog.testing.failing",
    "HandlersFailedError": "eventlog.testing.draining",
    "StillClock": "eventlog.testing.clocks",
    "drain": "eventlog.testing.draining",
    "fail_next": "eventlog.testing.failing",
    "given": "eventlog.testing.scenarios",
    "make_retries_due": "eventlog.testing.draining",
    "recorded": "eventlog.testing.recording",
    "temporary_app": "eventlog.testing.temporary",
}


def __getattr__(name: str) -> object:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module 'eventlog.testing' has no attribute {name!r}") from None
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""What becomes of an event whose handler raised: decided from the exception and the declaration alone.

    handler raised     entry becomes
    Skip               SKIPPED: given up by the handler itself, with its reason; delivery goes on
    Park               PARKED: waits for an operator, whatever attempts are left
    RetryAfter         RETRYING after that many seconds, while attempts are left
    a final exception  PARKED: `Retry(final=...)` says that trying again is of no use
    anything else      RETRYING after a back-off, while attempts are left; then PARKED

In at-most-once delivery nothing is tried again by itself, for nobody knows how far the handler came: PARKED, but for
`Skip`, and for `RetryAfter`, which is the handler's own word that it may be tried.
"""

from collections.abc import Callable
from enum import StrEnum

import msgspec

from eventlog.subscribers.declaration import Delivery
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.retry import WAIT_SECONDS_MAX, Retry


class Asked(StrEnum):
    """What the exception itself asked for."""

    NOTHING = "nothing"
    SKIP = "skip"
    PARK = "park"
    RETRY_AFTER = "retry-after"
    FINAL = "final"


class Skip(Exception):
    """Raise it in a handler to give the event up: the ledger keeps it as skipped, with the reason."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class Park(Exception):
    """Raise it in a handler to leave the event to an operator at once: it is not tried again by itself."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


class RetryAfter(Exception):
    """Raise it in a handler to be called again after so many seconds, as a partner's `Retry-After` header says.

    It counts as an attempt: with the last one the event is parked.
    """

    def __init__(self, seconds: float, reason: str = "") -> None:
        super().__init__(reason or f"to be tried again after {seconds:g} s")
        self.seconds = min(max(0.0, float(seconds)), WAIT_SECONDS_MAX)
        self.reason = reason


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Where the event goes. `handler_fails` is whether this speaks for an outage of the handler, and not for the event
    alone.
    """

    state: EntryState
    wait_seconds: float = 0.0
    reason: str | None = None
    handler_fails: bool = True


def judge(
    error: BaseException | None, *, retry: Retry, delivery: Delivery, attempts: int, draw: Callable[[], float]
) -> Verdict:
    """Decide what becomes of an event after so many attempts; `error` is None when its worker died over it."""
    match asked(error, retry):
        case Asked.SKIP:
            return Verdict(state=EntryState.SKIPPED, reason=_reason(error), handler_fails=False)
        case Asked.PARK:
            return Verdict(state=EntryState.PARKED, reason=_reason(error), handler_fails=False)
        case Asked.FINAL:
            return Verdict(state=EntryState.PARKED, handler_fails=False)
        case Asked.RETRY_AFTER if not retry.spent(attempts):
            assert isinstance(error, RetryAfter)
            return Verdict(state=EntryState.RETRYING, wait_seconds=error.seconds)
    if delivery is Delivery.AT_MOST_ONCE or retry.spent(attempts):
        return Verdict(state=EntryState.PARKED)
    return Verdict(state=EntryState.RETRYING, wait_seconds=retry.wait_seconds(attempts, draw=draw))


def asked(error: BaseException | None, retry: Retry) -> Asked:
    """Tell what an exception asks for."""
    if isinstance(error, Skip):
        return Asked.SKIP
    if isinstance(error, Park):
        return Asked.PARK
    if isinstance(error, RetryAfter):
        return Asked.RETRY_AFTER
    return Asked.FINAL if error is not None and isinstance(error, retry.final) else Asked.NOTHING


def _reason(error: BaseException | None) -> str | None:
    return str(getattr(error, "reason", "")) or None

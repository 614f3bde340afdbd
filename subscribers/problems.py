"""What went wrong in one attempt, as the ledger keeps it: bounded in size, and without values where that is asked for.

A fingerprint groups failures: the same for the same type of error, raised at the same place, with the same kind of
message, whatever numbers, quoted texts and ids stand in it.
"""

import hashlib
import re
import traceback
from collections.abc import Callable

import msgspec

TRACEBACK_CHARACTERS_MAX = 16_000
MESSAGE_CHARACTERS_MAX = 2_000
REDACTED = "(redacted)"

Redact = bool | Callable[[str], str]
"""What to do with messages and tracebacks before they are kept: nothing, leave out every value, or a function."""

_VALUES = re.compile(
    r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|\d+|'[^']*'|\"[^\"]*\"", re.IGNORECASE
)


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong in one attempt. One fingerprint means: raised at one place, with one kind of message."""

    error_type: str
    message: str
    traceback: str
    fingerprint: str


WORKER_DIED = Problem(
    error_type="WorkerDied",
    message="the worker that had this event in hand stopped without a word",
    traceback="",
    fingerprint="worker-died",
)
"""What is written for an attempt whose outcome nobody lived to tell."""

OUTCOME_UNKNOWN = Problem(
    error_type="OutcomeUnknown",
    message="the worker stopped while it had this event in hand: whether its effect happened is not known",
    traceback="",
    fingerprint="outcome-unknown",
)

BLOCKED = Problem(
    error_type="Blocked", message="waits behind an earlier failure of its key", traceback="", fingerprint="blocked"
)


def problem_of(error: BaseException, *, redact: Redact = False) -> Problem:
    """Describe an exception: its type, message, traceback (the innermost end if it is long) and fingerprint.

    With `redact=True` the message is left out, and the traceback has places only; a function is given each text and
    returns what may be kept of it. A function that raises counts as `True`.
    """
    error_type = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    said = _said(error)
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].name}" if frames else ""
    kind = _VALUES.sub("?", clean(said)[:MESSAGE_CHARACTERS_MAX])
    fingerprint = hashlib.sha256(f"{error_type}\n{place}\n{kind}".encode()).hexdigest()[:12]
    message, trace = _kept(error, said, redact)
    return Problem(error_type=error_type, message=message, traceback=trace, fingerprint=fingerprint)


def clean(text: str) -> str:
    """Make text that every database keeps: PostgreSQL's holds no NUL, and UTF-8 no halves of surrogate pairs."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace").decode("utf-8")


def _kept(error: BaseException, said: str, redact: Redact) -> tuple[str, str]:
    if callable(redact):
        try:
            message, trace = redact(said), redact("".join(traceback.format_exception(error)))
        except Exception:
            return _kept(error, said, redact=True)
    elif redact:
        message, trace = REDACTED, _places_only(error)
    else:
        message, trace = said, "".join(traceback.format_exception(error))
    trace = clean(str(trace))
    if len(trace) > TRACEBACK_CHARACTERS_MAX:
        trace = f"... cut ...\n{trace[-TRACEBACK_CHARACTERS_MAX:]}"
    return clean(str(message))[:MESSAGE_CHARACTERS_MAX], trace


def _places_only(error: BaseException) -> str:
    """The frames and types of a chain of exceptions, the cause first, without what they say."""
    lines: list[str] = []
    cause: BaseException | None = error
    seen: set[int] = set()
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        lines = [*traceback.format_tb(cause.__traceback__), f"{type(cause).__qualname__}: {REDACTED}\n", *lines]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(lines)


def _said(error: BaseException) -> str:
    """An exception may be so broken that it cannot even be shown; it must not take the worker with it."""
    try:
        return str(error)
    except Exception as unshowable:
        return f"<its message cannot be shown: {type(unshowable).__name__}>"

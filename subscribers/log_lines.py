"""How a worker tells what happens: one line each, to read, with fields beside it for who collects logs.

The fields are attributes of the log record (`extra=`), so any formatter of the standard library's logging finds them;
`eventlog run --log json` writes them out. What an event holds is never in a line: not in a field, nor in the text of a
database error, which would show the values of its statement.
"""

from collections.abc import Callable

from eventlog.subscribers.leases import Lease

FIELDS = (
    "subscriber",
    "partition",
    "epoch",
    "position",
    "attempt",
    "handler",
    "state",
    "error_type",
    "operation",
)
"""What may stand beside a line; each where it applies."""


def log_turn(
    say: Callable[..., None],
    message: str,
    lease: Lease,
    *details: object,
    position: int | None = None,
    attempt: int | None = None,
    handler: str | None = None,
    state: str | None = None,
    error_type: str | None = None,
) -> None:
    """Write one line about a partition, with its subscriber and epoch; `details` are the message's arguments."""
    given = {"position": position, "attempt": attempt, "handler": handler, "state": state, "error_type": error_type}
    fields = {"subscriber": lease.subscriber, "partition": lease.partition, "epoch": lease.epoch}
    fields |= {name: value for name, value in given.items() if value is not None}
    say(f"%s/%d epoch %d: {message}", lease.subscriber, lease.partition, lease.epoch, *details, extra=fields)

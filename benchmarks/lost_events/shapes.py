"""The shapes in which events get into a log, as far as they matter to whoever follows it.

An adapter names those its log can take, and a race may be run with fewer; each is counted when it was done, because a
shape that never occurred proves nothing.
"""

from enum import StrEnum


class Shape(StrEnum):
    """One way to write, or to stop writing."""

    ALONE = "appends in transactions of their own, one event or several"
    APPEND = "appends in the caller's transaction"
    BATCH = "several events in one append of the caller's transaction"
    INSERT = "plain INSERTs"
    COPY = "COPY, with pauses between its rows"
    FUNCTION = "the SQL function"
    SAVEPOINT = "savepoints, released and rolled back"
    ROLLBACK = "transactions rolled back"
    SLOW = "slow commits"
    IDLE = "transactions that have appended and stand idle"
    STRICT = "callers at REPEATABLE READ and SERIALIZABLE"
    PREPARED = "prepared transactions, ended by another session"
    KILLED = "backends ended with pg_terminate_backend, at COMMIT and anywhere"
    INTERLEAVED = "two transactions that take turns and end in the other order"
    NODE = "another language beside it: Node with `pg`"


POSTGRES = frozenset(Shape)
SQLITE = frozenset({Shape.ALONE, Shape.APPEND, Shape.BATCH, Shape.INSERT, Shape.SAVEPOINT, Shape.ROLLBACK, Shape.SLOW})
"""One transaction writes at a time, so nothing can be interleaved; and there is no server to end."""

CALLS = frozenset({Shape.ALONE, Shape.KILLED})
"""All that a log can take whose appends always are transactions of their own."""

UNDISTURBED = POSTGRES - {Shape.KILLED, Shape.PREPARED, Shape.STRICT, Shape.IDLE, Shape.INTERLEAVED, Shape.NODE}
"""What a service does on a good day: every outcome is known, and every connection stays."""

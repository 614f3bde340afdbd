"""What operators do to subscribers while workers run.

Each is one transaction: the subscriber's row, its checkpoints in order, the plan again under the locks, the ledger,
one operation; and it wakes every worker. What moves a checkpoint draws new epochs, so whatever a worker is in the
middle of fails at its fence and is rolled back, and lets the leases go at once. Nobody has to stop a worker first.
"""

from eventlog.subscribers.control.ledger import Changed, Chosen, retry, skip
from eventlog.subscribers.control.lifecycle import Paused, Removed, Renamed, pause, remove, rename, resume
from eventlog.subscribers.control.moves import Move, PartitionMove, advance, not_twice, rewind, seek
from eventlog.subscribers.control.places import (
    Resolve,
    after_position,
    back_by,
    high_water_mark,
    since,
    to_failure,
    to_start,
)
from eventlog.subscribers.control.repartition import Repartitioned, repartition
from eventlog.subscribers.control.undoing import Undone, last_move, undo

__all__ = [
    "Changed",
    "Chosen",
    "Move",
    "PartitionMove",
    "Paused",
    "Removed",
    "Renamed",
    "Repartitioned",
    "Resolve",
    "Undone",
    "advance",
    "after_position",
    "back_by",
    "high_water_mark",
    "last_move",
    "not_twice",
    "pause",
    "remove",
    "rename",
    "repartition",
    "resume",
    "retry",
    "rewind",
    "seek",
    "since",
    "skip",
    "to_failure",
    "to_start",
    "undo",
]

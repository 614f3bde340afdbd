"""Read models: tables that are made from the log and can be made anew from it, and states of one stream."""

from eventlog.projections.decider import Decided, Decider
from eventlog.projections.fold import Folded, fold
from eventlog.projections.snapshots import Snapshots
from eventlog.projections.view import View

__all__ = ["Decided", "Decider", "Folded", "Snapshots", "View", "fold"]

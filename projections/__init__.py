"""Read models: tables that are made from the log, and can be made anew from it."""

from eventlog.projections.view import View

__all__ = ["View"]

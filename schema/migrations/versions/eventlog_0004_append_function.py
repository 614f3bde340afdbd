"""The SQL function append, for other languages.

Revision ID: eventlog_0004
"""

from eventlog.schema.target import Target, bring_to, refuse_downgrade

revision = "eventlog_0004"
down_revision = "eventlog_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    """SQLite has no functions of its own: a plain INSERT is the way there."""
    if log.dialect == "postgresql":
        log.run("check_event", "append")

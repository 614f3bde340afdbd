"""An append rings the doorbell when somebody sleeps; on SQLite sleepers watch the file, which needs nothing in it.

Revision ID: eventlog_0003
"""

from eventlog.schema.target import Target, bring_to, refuse_downgrade

revision = "eventlog_0003"
down_revision = "eventlog_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    if log.dialect == "postgresql":
        log.run("doorbell_key", "ring", "mark_append.2", "look", "high_water_mark.2")

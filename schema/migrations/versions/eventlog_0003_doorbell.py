"""An append rings the doorbell when somebody sleeps.

Revision ID: eventlog_0003
"""

revision = "eventlog_0003"
down_revision = "eventlog_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""

"""Tags of events, for consistency across streams.

Revision ID: eventlog_0002
"""

revision = "eventlog_0002"
down_revision = "eventlog_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""

"""The SQL function append, for other languages.

Revision ID: eventlog_0004
"""

revision = "eventlog_0004"
down_revision = "eventlog_0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing yet."""

"""An index on the type of events, in the order of positions: for readers of rare types.

It takes about a second to build for a million events, and nobody appends meanwhile. Who cannot have that makes it
before, under this name and with `concurrently`: it is left as it is then.

Revision ID: eventlog_0007
"""

from alembic import op

from eventlog.schema.target import Target, bring_to, refuse_downgrade

revision = "eventlog_0007"
down_revision = "eventlog_0006"
branch_labels = None
depends_on = None

LOCKS_WRITERS = ("events",)


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    op.create_index(
        log.label("events_type"), log.table("events"), ["type", "position"], schema=log.schema, if_not_exists=True
    )

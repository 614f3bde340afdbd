"""Tags of events, for reads and decisions that go across streams.

An untagged event has NULL in the new column and no row in `event_tags`: it costs what it did before.

Revision ID: eventlog_0002
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

from eventlog.schema.target import Target, bring_to, refuse_downgrade

revision = "eventlog_0002"
down_revision = "eventlog_0001"
branch_labels = None
depends_on = None

LOCKS = ("events",)


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    _add_tags(log)
    op.create_table(
        log.table("event_tags"),
        sa.Column("tag", sa.Text(), primary_key=True),
        sa.Column("position", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.CheckConstraint(
            f"{'length' if log.dialect == 'sqlite' else 'char_length'}(tag) between 1 and 200",
            name=log.label("event_tags_tag_length"),
        ),
        schema=log.schema,
        sqlite_with_rowid=False,
    )
    if log.dialect == "postgresql":
        log.run("lock_tags", "recorded_since", "index_tags", "refuse_change.2")
    else:
        log.run("index_tags", "refuse_change.2")


def _add_tags(log: Target) -> None:
    """A nullable column without a default is added at once, however long the log is."""
    if log.dialect == "postgresql":
        op.add_column(log.table("events"), sa.Column("tags", postgresql.ARRAY(sa.Text())), schema=log.schema)
        return
    form = "typeof(tags) = 'text' and json_valid(tags) and json_type(tags) = 'array'"
    check = sa.CheckConstraint(f"tags is null or ({form})", name=log.label("events_tags_json"))
    op.add_column(log.table("events"), sa.Column("tags", sa.Text(), check))

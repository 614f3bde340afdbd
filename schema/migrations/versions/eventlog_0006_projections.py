"""What read models need: their version and shape, rebuilds beside the live one, another database, snapshots.

Revision ID: eventlog_0006
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from eventlog.schema.target import Target, bring_to, refuse_downgrade
from eventlog.schema.timestamps import Timestamp, database_now

revision = "eventlog_0006"
down_revision = "eventlog_0005"
branch_labels = None
depends_on = None

LOCKS = ("subscribers", "checkpoints")


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    _add_columns(log)
    _create_rebuilds(log)
    _create_snapshots(log)
    if log.dialect == "postgresql":
        log.run("grant_as_checkpoints.2")


def _add_columns(log: Target) -> None:
    """All may be null: that takes no time, and code of the release before goes on writing its rows."""
    added: tuple[tuple[str, sa.Column[Any]], ...] = (
        ("subscribers", sa.Column("version", sa.Integer())),
        ("subscribers", sa.Column("shape", sa.Text())),
        ("subscribers", sa.Column("log", sa.Text())),
        ("checkpoints", sa.Column("event_id", sa.Text())),
    )
    for table, column in added:
        op.add_column(log.table(table), column, schema=log.schema)


def _create_rebuilds(log: Target) -> None:
    owner = sa.ForeignKey(
        f"{log.name('subscribers')}.name", name=log.label("rebuilds_of"), ondelete="CASCADE", onupdate="CASCADE"
    )
    op.create_table(
        log.table("rebuilds"),
        sa.Column("operation", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("subscriber", sa.Text(), owner, nullable=False),
        sa.Column("shadow", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("shape", sa.Text(), nullable=False),
        sa.Column("keep", sa.Boolean(), nullable=False),
        sa.Column("kept", sa.Text()),
        sa.Column("started_at", Timestamp(), nullable=False, server_default=database_now()),
        sa.Column("ended_at", Timestamp()),
        schema=log.schema,
    )
    op.create_index(
        log.label("rebuilds_subscriber"), log.table("rebuilds"), ["subscriber", "operation"], schema=log.schema
    )


def _create_snapshots(log: Target) -> None:
    op.create_table(
        log.table("snapshots"),
        sa.Column("fold", sa.Text(), primary_key=True),
        sa.Column("stream", sa.Text(), primary_key=True),
        sa.Column("fold_version", sa.Integer(), nullable=False),
        sa.Column("stream_version", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("at", Timestamp(), nullable=False, server_default=database_now()),
        schema=log.schema,
    )

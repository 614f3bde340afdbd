"""What many workers on one subscriber need: who is alive, floors of a changed partitioning, outages, receipts, replays.

Revision ID: eventlog_0005
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from eventlog.schema.target import Target, bring_to, refuse_downgrade
from eventlog.schema.timestamps import Timestamp, database_now

revision = "eventlog_0005"
down_revision = "eventlog_0004"
branch_labels = None
depends_on = None

LOCKS = ("subscribers", "checkpoints", "failures", "attempts", "operations")

OPEN = "state in ('retrying', 'parked', 'blocked')"


def upgrade() -> None:
    bring_to(revision, _change)


downgrade = refuse_downgrade


def _change(log: Target) -> None:
    _add_columns(log)
    op.create_index(
        log.label("failures_key_open"),
        log.table("failures"),
        ["subscriber", "partition", "key", "position"],
        schema=log.schema,
        postgresql_where=sa.text(OPEN),
        sqlite_where=sa.text(OPEN),
    )
    _create_floors(log)
    _create_receipts(log)
    _create_workers(log)
    _create_replays(log)
    if log.dialect == "postgresql":
        log.run("partition_of", "grant_as_checkpoints")


def _add_columns(log: Target) -> None:
    """All may be null: that takes no time, and code of the release before goes on writing its rows."""
    added: tuple[tuple[str, sa.Column[Any]], ...] = (
        ("subscribers", sa.Column("first_name", sa.Text())),
        ("checkpoints", sa.Column("outage_handler", sa.Text())),
        ("checkpoints", sa.Column("outage_since", Timestamp())),
        ("failures", sa.Column("handler", sa.Text())),
        ("attempts", sa.Column("operation", sa.BigInteger())),
        ("operations", sa.Column("undo", sa.Text())),
    )
    for table, column in added:
        op.add_column(log.table(table), column, schema=log.schema)


def _create_floors(log: Target) -> None:
    op.create_table(
        log.table("floors"),
        _subscriber(log, "floors_subscriber", primary=True),
        sa.Column("partition", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        schema=log.schema,
    )


def _create_receipts(log: Target) -> None:
    op.create_table(
        log.table("receipts"),
        _subscriber(log, "receipts_subscriber", primary=True),
        sa.Column("key", sa.Text(), primary_key=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        _filled_with_now("at"),
        schema=log.schema,
    )


def _create_workers(log: Target) -> None:
    op.create_table(
        log.table("workers"),
        sa.Column("owner", sa.Text(), primary_key=True),
        sa.Column("process", sa.BigInteger(), nullable=False),
        sa.Column("subscribers", sa.Text(), nullable=False),
        _filled_with_now("started_at"),
        sa.Column("expires_at", Timestamp(), nullable=False),
        schema=log.schema,
    )


def _create_replays(log: Target) -> None:
    op.create_table(
        log.table("replays"),
        sa.Column("operation", sa.BigInteger(), primary_key=True, autoincrement=False),
        _subscriber(log, "replays_of"),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("chosen", sa.Text(), nullable=False),
        sa.Column("new_keys", sa.Boolean(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("in_hand", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.BigInteger(), nullable=False),
        sa.Column("handled", sa.BigInteger(), nullable=False),
        sa.Column("failed", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("expires_at", Timestamp()),
        schema=log.schema,
    )
    op.create_index(
        log.label("replays_subscriber"), log.table("replays"), ["subscriber", "operation"], schema=log.schema
    )


def _filled_with_now(name: str) -> sa.Column[object]:
    return sa.Column(name, Timestamp(), nullable=False, server_default=database_now())


def _subscriber(log: Target, constraint: str, *, primary: bool = False) -> sa.Column[object]:
    owner = sa.ForeignKey(
        f"{log.name('subscribers')}.name", name=log.label(constraint), ondelete="CASCADE", onupdate="CASCADE"
    )
    return sa.Column("subscriber", sa.Text(), owner, primary_key=primary, nullable=False)

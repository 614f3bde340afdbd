"""The log, subscribers with checkpoints and ledger, and the operations on them.

Revision ID: eventlog_0001
"""

import sqlalchemy as sa
from alembic import op

from eventlog.schema.target import Target, bring_to, refuse_downgrade
from eventlog.schema.timestamps import Timestamp, database_now

revision = "eventlog_0001"
down_revision = None
branch_labels = ("eventlog",)
depends_on = None

HEX = "[0-9a-f]"
UUID_TEXT = "-".join(HEX * length for length in (8, 4, 4, 4, 12))
"""One form of an id only: SQLite compares texts, and two forms would be two ids."""
OPEN = "state in ('retrying', 'parked', 'blocked')"


def upgrade() -> None:
    bring_to(revision, _create)


downgrade = refuse_downgrade


def _create(log: Target) -> None:
    _create_events(log)
    _create_subscribers(log)
    _create_ledger(log)
    _create_operations(log)
    if log.dialect == "postgresql":
        op.execute(f"create sequence {log.name('epochs')} as bigint cache 1")
        log.run("high_water_mark", "head", "mark_append", "guard_position", "refuse_change")
    else:
        op.execute(f"create table {log.name('epochs')} (value integer not null)")
        op.execute(f"insert into {log.name('epochs')} (value) values (0)")
        log.run("guard_position", "refuse_change")


def _create_events(log: Target) -> None:
    document = sa.Text() if log.dialect == "sqlite" else sa.JSON()
    empty = sa.text("'{}'")
    length = "length" if log.dialect == "sqlite" else "char_length"
    checks = [
        sa.CheckConstraint(f"{length}(stream) between 1 and 500", name=log.label("events_stream_length")),
        sa.CheckConstraint(f"{length}(type) between 1 and 200", name=log.label("events_type_length")),
        sa.CheckConstraint("version >= 1", name=log.label("events_version_positive")),
    ]
    if log.dialect == "sqlite":
        checks += [
            sa.CheckConstraint(f"id glob '{UUID_TEXT}'", name=log.label("events_id_form")),
            sa.CheckConstraint("typeof(stream) = 'text'", name=log.label("events_stream_text")),
            sa.CheckConstraint("typeof(type) = 'text'", name=log.label("events_type_text")),
            sa.CheckConstraint("typeof(data) = 'text' and json_valid(data)", name=log.label("events_data_json")),
            sa.CheckConstraint(
                "typeof(metadata) = 'text' and json_valid(metadata)", name=log.label("events_metadata_json")
            ),
        ]
    op.create_table(
        log.table("events"),
        log.counter("position", always=True),
        sa.Column("id", sa.Text() if log.dialect == "sqlite" else sa.Uuid(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.Text(), nullable=False),
        sa.Column("type_version", sa.Integer(), nullable=False, server_default=sa.text("1")),
        sa.Column("data", document, nullable=False),
        sa.Column("metadata", document, nullable=False, server_default=empty),
        _recorded_now("recorded_at"),
        sa.UniqueConstraint("id", name=log.label("events_id")),
        sa.UniqueConstraint("stream", "version", name=log.label("events_stream_version")),
        *checks,
        schema=log.schema,
        sqlite_autoincrement=True,
    )


def _create_subscribers(log: Target) -> None:
    op.create_table(
        log.table("subscribers"),
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("start", sa.Text(), nullable=False),
        sa.Column("start_position", sa.BigInteger(), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default=sa.text("'running'")),
        sa.Column("state_reason", sa.Text()),
        sa.Column("declaration", sa.Text(), nullable=False),
        _recorded_now("registered_at"),
        schema=log.schema,
    )
    op.create_table(
        log.table("checkpoints"),
        _subscriber(log, "checkpoints_subscriber"),
        sa.Column("partition", sa.Integer(), primary_key=True),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("in_hand", sa.BigInteger(), nullable=False),
        sa.Column("handled_through", sa.BigInteger(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text()),
        sa.Column("expires_at", Timestamp()),
        schema=log.schema,
        postgresql_with={"fillfactor": 50},
    )


def _create_ledger(log: Target) -> None:
    op.create_table(
        log.table("failures"),
        _subscriber(log, "failures_subscriber"),
        sa.Column("position", sa.BigInteger(), primary_key=True),
        sa.Column("partition", sa.Integer(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("revision", sa.Integer(), nullable=False, server_default=sa.text("0")),
        sa.Column("redelivery", sa.Boolean(), nullable=False),
        sa.Column("next_attempt_at", Timestamp()),
        _recorded_now("first_failed_at"),
        _recorded_now("last_failed_at"),
        sa.Column("error_type", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("closed_by", sa.BigInteger()),
        sa.Column("state_before", sa.Text()),
        schema=log.schema,
    )
    op.create_index(
        log.label("failures_open"),
        log.table("failures"),
        ["subscriber", "partition", "position"],
        schema=log.schema,
        postgresql_where=sa.text(OPEN),
        sqlite_where=sa.text(OPEN),
    )
    op.create_table(
        log.table("attempts"),
        log.counter("id"),
        sa.Column("subscriber", sa.Text(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("round", sa.Integer(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("error_type", sa.Text()),
        sa.Column("message", sa.Text()),
        sa.Column("traceback", sa.Text()),
        sa.Column("worker", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("duration_seconds", sa.Double(), nullable=False),
        _recorded_now("at"),
        schema=log.schema,
        sqlite_autoincrement=True,
    )
    op.create_index(log.label("attempts_entry"), log.table("attempts"), ["subscriber", "position"], schema=log.schema)


def _create_operations(log: Target) -> None:
    op.create_table(
        log.table("operations"),
        log.counter("id"),
        _recorded_now("at"),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("subscriber", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("before", sa.Text(), nullable=False),
        sa.Column("after", sa.Text(), nullable=False),
        schema=log.schema,
        sqlite_autoincrement=True,
    )
    op.create_index(
        log.label("operations_subscriber"), log.table("operations"), ["subscriber", "id"], schema=log.schema
    )


def _recorded_now(name: str) -> sa.Column[object]:
    return sa.Column(name, Timestamp(), nullable=False, server_default=database_now())


def _subscriber(log: Target, constraint: str) -> sa.Column[object]:
    owner = sa.ForeignKey(
        f"{log.name('subscribers')}.name", name=log.label(constraint), ondelete="CASCADE", onupdate="CASCADE"
    )
    return sa.Column("subscriber", sa.Text(), owner, primary_key=True)

"""The tables of one log, as SQLAlchemy Core.

What stands here is how our code names tables and columns; the migrations are what makes them, and a test holds the two
against each other. On PostgreSQL the tables live in a schema of their own and are always named with it. On SQLite
they are plain tables of the file; a log that is not called `eventlog` puts its name before each table, so that it can
live beside tables of the same names.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import ARRAY, JSON, BigInteger, Boolean, Column, Double, Integer, MetaData, Table, Text, Uuid
from sqlalchemy.types import TypeEngine

from eventlog.schema.timestamps import Timestamp

DEFAULT_SCHEMA = "eventlog"
SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,40}")

MORE_RESERVED_WORDS = frozenset({"collation", "concurrently", "lateral", "system_user", "tablesample"})
"""Words PostgreSQL reserves, and SQLAlchemy's list of them leaves out."""

OPEN_STATES = ("retrying", "parked", "blocked")
"""The states of a ledger entry that is still somebody's business."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tables:
    """The tables of one log; `schema` is None where the database has no schemas."""

    schema: str | None
    prefix: str
    metadata: MetaData
    events: Table
    event_tags: Table
    subscribers: Table
    checkpoints: Table
    failures: Table
    attempts: Table
    operations: Table
    floors: Table
    receipts: Table
    workers: Table
    replays: Table
    rebuilds: Table
    snapshots: Table

    def sql_name(self, name: str) -> str:
        """Write a table's or function's name for use in SQL text."""
        return f"{self.schema}.{name}" if self.schema else f"{self.prefix}{name}"


def check_schema_name(name: str) -> str:
    """Return the name if it can name a log; raise ValueError otherwise."""
    if name == DEFAULT_SCHEMA:
        return name
    from sqlalchemy.dialects.postgresql.base import RESERVED_WORDS

    if name in RESERVED_WORDS or name in MORE_RESERVED_WORDS or name.startswith(("pg_", "sqlite")):
        raise ValueError(f"schema {name!r} is a word of SQL, and cannot name a log")
    if not SCHEMA_NAME.fullmatch(name):
        raise ValueError(f"schema {name!r} is not a plain name: lower case letters, digits and _, at most 41 of them")
    return name


@lru_cache
def tables(*, dialect: str, schema: str = DEFAULT_SCHEMA) -> Tables:
    """Name the tables of the log `schema` for a dialect, `"postgresql"` or `"sqlite"`."""
    check_schema_name(schema)
    if dialect == "postgresql":
        return _define(schema=schema, prefix="")
    return _define(schema=None, prefix="" if schema == DEFAULT_SCHEMA else f"{schema}_")


def _define(*, schema: str | None, prefix: str) -> Tables:
    metadata = MetaData(schema=schema)

    def table(name: str, *columns: Column[object]) -> Table:
        return Table(f"{prefix}{name}", metadata, *columns)

    return Tables(
        schema=schema,
        prefix=prefix,
        metadata=metadata,
        events=table(
            "events",
            _key("position", BigInteger()),
            _required("id", Uuid().with_variant(Text(), "sqlite")),
            _required("stream", Text()),
            _required("version", BigInteger()),
            _required("type", Text()),
            _required("type_version", Integer()),
            _required("data", JSON().with_variant(Text(), "sqlite")),
            _required("metadata", JSON().with_variant(Text(), "sqlite")),
            _required("recorded_at", Timestamp()),
            _optional("tags", ARRAY(Text()).with_variant(Text(), "sqlite")),
        ),
        event_tags=table(
            "event_tags",
            _key("tag", Text()),
            _key("position", BigInteger()),
            _required("type", Text()),
        ),
        subscribers=table(
            "subscribers",
            _key("name", Text()),
            _required("kind", Text()),
            _required("start", Text()),
            _required("start_position", BigInteger()),
            _required("partitions", Integer()),
            _required("state", Text()),
            _optional("state_reason", Text()),
            _required("declaration", Text()),
            _required("registered_at", Timestamp()),
            _optional("first_name", Text()),
            _optional("version", Integer()),
            _optional("shape", Text()),
            _optional("log", Text()),
        ),
        checkpoints=table(
            "checkpoints",
            _key("subscriber", Text()),
            _key("partition", Integer()),
            _required("position", BigInteger()),
            _required("in_hand", BigInteger()),
            _required("handled_through", BigInteger()),
            _required("epoch", BigInteger()),
            _optional("owner", Text()),
            _optional("expires_at", Timestamp()),
            _optional("outage_handler", Text()),
            _optional("outage_since", Timestamp()),
            _optional("event_id", Text()),
        ),
        failures=table(
            "failures",
            _key("subscriber", Text()),
            _key("position", BigInteger()),
            _required("partition", Integer()),
            _required("key", Text()),
            _required("state", Text()),
            _required("attempts", Integer()),
            _required("round", Integer()),
            _required("revision", Integer()),
            _required("redelivery", Boolean()),
            _optional("next_attempt_at", Timestamp()),
            _required("first_failed_at", Timestamp()),
            _required("last_failed_at", Timestamp()),
            _required("error_type", Text()),
            _required("message", Text()),
            _required("fingerprint", Text()),
            _optional("reason", Text()),
            _optional("closed_by", BigInteger()),
            _optional("state_before", Text()),
            _optional("handler", Text()),
        ),
        attempts=table(
            "attempts",
            _key("id", BigInteger()),
            _required("subscriber", Text()),
            _required("position", BigInteger()),
            _required("round", Integer()),
            _required("attempt", Integer()),
            _required("outcome", Text()),
            _optional("error_type", Text()),
            _optional("message", Text()),
            _optional("traceback", Text()),
            _required("worker", Text()),
            _required("epoch", BigInteger()),
            _required("duration_seconds", Double()),
            _required("at", Timestamp()),
            _optional("operation", BigInteger()),
        ),
        operations=table(
            "operations",
            _key("id", BigInteger()),
            _required("at", Timestamp()),
            _required("action", Text()),
            _required("subscriber", Text()),
            _required("actor", Text()),
            _optional("reason", Text()),
            _required("before", Text()),
            _required("after", Text()),
            _optional("undo", Text()),
        ),
        floors=table(
            "floors",
            _key("subscriber", Text()),
            _key("partition", Integer()),
            _required("partitions", Integer()),
            _required("position", BigInteger()),
        ),
        receipts=table(
            "receipts",
            _key("subscriber", Text()),
            _key("key", Text()),
            _required("position", BigInteger()),
            _required("at", Timestamp()),
        ),
        workers=table(
            "workers",
            _key("owner", Text()),
            _required("process", BigInteger()),
            _required("subscribers", Text()),
            _required("started_at", Timestamp()),
            _required("expires_at", Timestamp()),
        ),
        replays=table(
            "replays",
            _key("operation", BigInteger()),
            _required("subscriber", Text()),
            _required("state", Text()),
            _required("chosen", Text()),
            _required("new_keys", Boolean()),
            _required("position", BigInteger()),
            _required("in_hand", BigInteger()),
            _required("until", BigInteger()),
            _required("handled", BigInteger()),
            _required("failed", BigInteger()),
            _required("epoch", BigInteger()),
            _optional("owner", Text()),
            _optional("expires_at", Timestamp()),
        ),
        rebuilds=table(
            "rebuilds",
            _key("operation", BigInteger()),
            _required("subscriber", Text()),
            _required("shadow", Text()),
            _required("state", Text()),
            _required("version", Integer()),
            _required("shape", Text()),
            _required("keep", Boolean()),
            _optional("kept", Text()),
            _required("started_at", Timestamp()),
            _optional("ended_at", Timestamp()),
        ),
        snapshots=table(
            "snapshots",
            _key("fold", Text()),
            _key("stream", Text()),
            _required("fold_version", Integer()),
            _required("stream_version", BigInteger()),
            _required("state", Text()),
            _required("at", Timestamp()),
        ),
    )


def _key(name: str, kind: TypeEngine[Any]) -> Column[object]:
    return Column(name, kind, primary_key=True)


def _required(name: str, kind: TypeEngine[Any]) -> Column[object]:
    return Column(name, kind, nullable=False)


def _optional(name: str, kind: TypeEngine[Any]) -> Column[object]:
    return Column(name, kind, nullable=True)

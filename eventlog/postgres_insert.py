"""The statements that append on PostgreSQL, and the values they take.

One event is one statement, and so are many: versions are assigned where the rows are inserted. Why the unique (stream,
version) decides between two appends is told in `postgres.py`.
"""

from collections.abc import Sequence
from typing import Any

import psycopg
from sqlalchemy.exc import DBAPIError

from eventlog.pending import Expected, PendingEvent

_INSERT_ONE = """
insert into {events} (id, stream, version, type, type_version, data, metadata, tags)
select %s::uuid, %s::text, now_at.version + 1, %s::text, %s::integer, %s::json, %s::json, %s::text[]
from (select coalesce(max(version), 0) as version from {events} where stream = %s::text) as now_at{locked}
where {expected}
on conflict do nothing
returning position, version, recorded_at at time zone 'UTC'
"""
"""Placeholders without names: the driver takes longer to put named ones in order than the server to run this."""

_LOCKED = ", {schema}.lock_tags(%s::text[], null) as locked"
"""The tags of a lone event are locked before it gets its version and its position. After them, an append would hold the
version that a decision about its tag needs, and could have a position below that of a decision that never saw it."""

_INSERT_MANY = """
with heads as materialized (
    select asked.stream, coalesce((select max(version) from {events} as e where e.stream = asked.stream), 0) as version
    from unnest({distinct_streams}) as asked(stream)
)
insert into {events} (id, stream, version, type, type_version, data, metadata, tags)
select given.id, given.stream, heads.version + given.number, given.type, given.type_version, given.data, given.metadata,
       given.tags::text[]
from unnest(
    {ids}::uuid[], {streams}, {numbers}::bigint[], {types}, {type_versions}::integer[],
    {datas}::json[], {metadatas}::json[], {tags}
) with ordinality as given(id, stream, number, type, type_version, data, metadata, tags, place)
join heads using (stream)
where %(expected)s::bigint is null or not exists (select from heads where version <> %(expected)s::bigint)
order by given.place
returning position, version, recorded_at at time zone 'UTC'
"""
"""Without ON CONFLICT, which would look into each index twice: a third of the time. Whoever inserts many can take all
of them back, and a batch whose version another one takes at the same moment is rare."""

_MANY_COLUMNS = (
    "ids",
    "streams",
    "distinct_streams",
    "numbers",
    "types",
    "type_versions",
    "datas",
    "metadatas",
    "tags",
)
_SEPARATOR = "\x1e"
"""Stands between the values of a column, which are sent as one text: the driver takes longer to write an array of a
thousand texts than the server to insert them. No value can hold it, since names are printable and JSON escapes it."""


class Inserts:
    """The statements of one log, each with the values for its placeholders."""

    def __init__(self, *, schema: str) -> None:
        names = {"schema": schema, "events": f"{schema}.events"}
        self._one = {
            (locked, exact): _INSERT_ONE.format(
                **names,
                locked=_LOCKED.format(**names) if locked else "",
                expected="now_at.version = %s::bigint" if exact else "true",
            )
            for locked in (False, True)
            for exact in (False, True)
        }
        self._many = _INSERT_MANY.format(**names, **{name: _list_of(name) for name in _MANY_COLUMNS})

    def one(self, event: PendingEvent, expected: Expected) -> tuple[str, list[Any]]:
        """Insert one event, or nothing where its id or version is taken."""
        tags = list(event.tags) or None
        values = [event.id, event.stream, event.type, event.type_version, event.data_text, event.metadata_text, tags]
        values.append(event.stream)
        locks_tags = bool(tags) and not expected.unless
        if locks_tags:
            values.append(tags)
        if expected.version is not None:
            values.append(expected.version)
        return self._one[locks_tags, expected.version is not None], values

    def many(self, pending: Sequence[PendingEvent], expected: Expected) -> tuple[str, dict[str, Any]]:
        """Insert events, or nothing where a stream is not at the version expected; fails where one is taken."""
        columns = {
            "ids": [event.id.hex for event in pending],
            "streams": [event.stream for event in pending],
            "distinct_streams": dict.fromkeys(event.stream for event in pending),
            "numbers": [str(event.number) for event in pending],
            "types": [event.type for event in pending],
            "type_versions": [str(event.type_version) for event in pending],
            "datas": [event.data_text for event in pending],
            "metadatas": [event.metadata_text for event in pending],
            "tags": [_array(event.tags) if event.tags else "" for event in pending],
        }
        joined: dict[str, Any] = {name: _SEPARATOR.join(values) for name, values in columns.items()}
        return self._many, {**joined, "expected": expected.version}


def is_taken(error: DBAPIError, *, schema: str) -> bool:
    """Tell whether a row was refused because an event with its id, its version or its position is there."""
    cause = error.orig
    if not isinstance(cause, psycopg.errors.UniqueViolation):
        return False
    return (cause.diag.schema_name, cause.diag.table_name) == (schema, "events")


def _list_of(name: str) -> str:
    """The SQL that takes a column apart again. No value of any column is empty but that of tags there are none of."""
    return f"string_to_array(%({name})s::text, E'\\x1e', '')"


def _array(texts: Sequence[str]) -> str:
    """Write a list the way PostgreSQL writes an array; lists of different lengths cannot be one array of arrays."""
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"

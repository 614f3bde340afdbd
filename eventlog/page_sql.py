"""Writes the statement that reads one page of the log; the same text on both databases but for a few words.

Where tags decide, their index names the positions, a page of them at a time, and the events are looked up by position.
Everything else is a filter on a scan in the order of positions (or, for one stream, on its own index).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from eventlog.query import PageQuery, Query


class SqlWords(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between databases. `parameter` writes a placeholder, `one_of` a comparison with a list of texts."""

    events: str
    event_tags: str
    columns: str
    parameter: Callable[[str], str]
    one_of: Callable[[str], str]
    listed: Callable[[Sequence[str]], Any]
    moment: Callable[[datetime], Any]


def page_statement(words: SqlWords, query: PageQuery) -> tuple[str, dict[str, Any]]:
    """Return the SQL of a page, and the values of its parameters."""
    return _PageWriter(words, query).statement()


class _PageWriter:
    def __init__(self, words: SqlWords, query: PageQuery) -> None:
        self._words = words
        self._query = query
        self._order = "desc" if query.backwards else "asc"
        self._values: dict[str, Any] = {}

    def statement(self) -> tuple[str, dict[str, Any]]:
        conditions = self._matching() if self._query.matching else [*self._range("position"), *self._filters("")]
        limit = self._parameter("limit", self._query.limit)
        sql = (
            f"select {self._words.columns} from {self._words.events} where {' and '.join(conditions)}"
            f" order by position {self._order} limit {limit}"
        )
        return sql, self._values

    def _matching(self) -> list[str]:
        """Each query names the first positions that match it; the first of them all are the page."""
        parts = [
            f"select position from ({self._positions(one, place)}) as matching_{place}"
            for place, one in enumerate(self._query.matching)
        ]
        return [f"position in ({' union '.join(parts)})"]

    def _positions(self, query: Query, place: int) -> str:
        source, position, conditions = self._tagged(query, place)
        filters = self._filters("e.")
        if query.tags and filters:
            source += f" join {self._words.events} as e on e.position = {position}"
        conditions += [*self._range(position), *filters]
        conditions.append(f"{position} > {self._parameter(f'after_{place}', query.after)}")
        limit = self._parameter("limit", self._query.limit)
        return (
            f"select {position} from {source} where {' and '.join(conditions)}"
            f" order by {position} {self._order} limit {limit}"
        )

    def _tagged(self, query: Query, place: int) -> tuple[str, str, list[str]]:
        """Return the tables to look in, the column of the position, and what tags and types must be."""
        by_type = query.types and query.is_exact
        types = self._words.one_of(self._name(f"types_{place}", self._words.listed(query.types))) if by_type else ""
        if not query.tags:
            return f"{self._words.events} as e", "e.position", [f"e.type {types}"] if by_type else []
        first, *others = [f"t{place}_{number}" for number in range(len(query.tags))]
        source = f"{self._words.event_tags} as {first}" + "".join(
            f" join {self._words.event_tags} as {other} on {other}.position = {first}.position" for other in others
        )
        conditions = [
            f"{alias}.tag = {self._parameter(f'tag_{alias}', tag)}"
            for alias, tag in zip((first, *others), query.tags, strict=True)
        ]
        return source, f"{first}.position", conditions + ([f"{first}.type {types}"] if by_type else [])

    def _range(self, position: str) -> list[str]:
        return [
            f"{position} > {self._parameter('after', self._query.after)}",
            f"{position} <= {self._parameter('until', self._query.until)}",
        ]

    def _filters(self, table: str) -> list[str]:
        query, words = self._query, self._words
        found = []
        if query.types:
            found.append(f"{table}type {words.one_of(self._name('types', words.listed(query.types)))}")
        if query.stream is not None:
            found.append(f"{table}stream = {self._parameter('stream', query.stream)}")
        if query.after_version:
            found.append(f"{table}version > {self._parameter('after_version', query.after_version)}")
        if query.stream_prefix is not None:
            prefix = self._parameter("prefix", query.stream_prefix)
            found.append(f"substr({table}stream, 1, {len(query.stream_prefix)}) = {prefix}")
        if query.since is not None:
            found.append(f"{table}recorded_at >= {self._parameter('since', words.moment(query.since))}")
        if query.before is not None:
            found.append(f"{table}recorded_at < {self._parameter('before', words.moment(query.before))}")
        return found

    def _name(self, name: str, value: Any) -> str:
        self._values[name] = value
        return name

    def _parameter(self, name: str, value: Any) -> str:
        return self._words.parameter(self._name(name, value))

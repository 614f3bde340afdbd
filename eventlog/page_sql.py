"""Writes the statement that reads one page of the log; the same text on both databases but for a few words.

Where tags decide, their index names the positions, a page of them at a time, and the events are looked up by position.
Types that are named in full are read each on its own, in the order of positions, and merged: an index has the first
ones of each, and none of the rest is looked at. Where a type is frequent, a database may prefer to scan the log.
Everything else is a filter on a scan in the order of positions (or, for one stream, on its own index).
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from eventlog.query import PageQuery, Query

TYPES_MERGED_MAX = 20
"""How many types are merged; of more, each takes longer to plan than it saves, and they are a filter on a scan."""


class SqlWords(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between databases. `parameter` writes a placeholder, `one_of` a comparison with a list of texts.

    `sorts_each` is whether statements are merged in order only where each of them is in order by itself.
    """

    events: str
    event_tags: str
    columns: str
    parameter: Callable[[str], str]
    one_of: Callable[[str], str]
    listed: Callable[[Sequence[str]], Any]
    moment: Callable[[datetime], Any]
    sorts_each: bool


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
        limit = self._parameter("limit", self._query.limit)
        ordered = f" order by position {self._order} limit {limit}"
        sources = [f"select {self._words.columns} from {self._words.events} where {one}" for one in self._conditions()]
        if len(sources) > 1 and self._words.sorts_each:
            sources = [f"({one}{ordered})" for one in sources]
        return f"{' union all '.join(sources)}{ordered}", self._values

    def _conditions(self) -> list[str]:
        """Return what the events of a page have to be, one condition for each type that is read on its own."""
        query = self._query
        if query.matching:
            return [self._matching()]
        apart = _apart(query.types) if query.stream is None else ()
        common = " and ".join([*self._range("position"), *self._filters("", types=not apart)])
        each = [f"type = {self._parameter(f'type_{place}', one)} and {common}" for place, one in enumerate(apart)]
        return each or [common]

    def _matching(self) -> str:
        """Each query names the first positions that match it; the first of them all are the page."""
        queries = [part for one in self._query.matching for part in _by_type(one)]
        parts = [
            f"select position from ({self._positions(one, place)}) as matching_{place}"
            for place, one in enumerate(queries)
        ]
        return f"position in ({' union '.join(parts)})"

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
        types = self._one_of_types(f"types_{place}", query.types) if by_type else ""
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

    def _one_of_types(self, name: str, types: Sequence[str]) -> str:
        """One type is compared as such: its index has the positions in order then."""
        if len(types) == 1:
            return f"= {self._parameter(name, types[0])}"
        return self._words.one_of(self._name(name, self._words.listed(types)))

    def _range(self, position: str) -> list[str]:
        return [
            f"{position} > {self._parameter('after', self._query.after)}",
            f"{position} <= {self._parameter('until', self._query.until)}",
        ]

    def _filters(self, table: str, *, types: bool = True) -> list[str]:
        query, words = self._query, self._words
        found = []
        if query.types and types:
            found.append(f"{table}type {self._one_of_types('types', query.types)}")
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


def _apart(types: Sequence[str]) -> tuple[str, ...]:
    """Return the types if there are several, and few enough to be read each on its own."""
    each = tuple(dict.fromkeys(types))
    return each if 1 < len(each) <= TYPES_MERGED_MAX else ()


def _by_type(query: Query) -> list[Query]:
    """Take a query of a few types apart, if no tag decides."""
    apart = _apart(query.types) if query.is_exact and not query.tags else ()
    return [msgspec.structs.replace(query, types=(one,)) for one in apart] or [query]

"""What events are asked for: by type and tags (`Query`), and one page of them as a database reads it (`PageQuery`)."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from eventlog.errors import UsageError
from eventlog.event_types import with_aliases
from eventlog.events import StoredEvent
from eventlog.limits import QUERIES_MAX
from eventlog.patterns import check_pattern, covers, is_exact
from eventlog.tags import check_tags

POSITION_MAX = 2**63 - 1
AFTER_REMEDY = "give the position of an event of this log; if the log was restored to an earlier point, read it again"


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one of these types that carry all of these tags, after a position.

    `types` may hold patterns (`course.*`); none at all means every type, no tags means tagged or not. As the condition
    of an append (`unless=`) a query names at least one tag, and `after` is the position of the last event that was
    read: what was appended at the same time may stand before the position an append returned. The first tag is what is
    locked and looked up: put the one first that the fewest events carry. Raises `UsageError`.
    """

    types: Sequence[str] = ()
    tags: Sequence[str] = ()
    after: int = 0

    def __post_init__(self) -> None:
        # A Struct that is frozen all the same takes lists, and keeps what nobody can change.
        msgspec.structs.force_setattr(self, "types", check_types(self.types))
        msgspec.structs.force_setattr(self, "tags", check_tags(self.tags))
        msgspec.structs.force_setattr(self, "after", check_position(self.after, name="after"))

    @property
    def is_exact(self) -> bool:
        """Whether every type is named in full, so that a database can compare it."""
        return all(map(is_exact, self.types))

    def since(self, position: int) -> "Query":
        """Return the same query, after another position."""
        return msgspec.structs.replace(self, after=position)

    def with_old_names(self) -> "Query":
        """Return the query that also finds what was recorded under earlier names of the types it names."""
        return msgspec.structs.replace(self, types=tuple(with_aliases(self.types)))

    def covers_type(self, event_type: str) -> bool:
        """Tell whether an event of this type can match."""
        return not self.types or any(covers(pattern, event_type) for pattern in self.types)

    def covers(self, event: StoredEvent) -> bool:
        """Tell whether an event matches."""
        return event.position > self.after and set(self.tags) <= set(event.tags) and self.covers_type(event.type)


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the log: after < position <= until, at most `limit` events, the last ones if `backwards`.

    All conditions must hold. `types` are names in full, none means every type; an event must match one of `matching`
    unless that is empty, and only queries whose types are names in full decide by type. `after_version` counts within
    the stream.
    """

    after: int
    until: int
    limit: int
    backwards: bool = False
    types: tuple[str, ...] = ()
    stream: str | None = None
    after_version: int = 0
    stream_prefix: str | None = None
    since: datetime | None = None
    before: datetime | None = None
    matching: tuple[Query, ...] = ()


def check_types(types: Sequence[str]) -> tuple[str, ...]:
    """Return patterns over types as a tuple. Raises `UsageError`."""
    if isinstance(types, str):
        raise UsageError(f"types={types!r} is a text", remedy=f"give a list: types=[{types!r}]")
    return tuple(check_pattern(pattern) for pattern in types)


def check_position(value: object, *, name: str) -> int:
    """Return a position, brought into the range of positions. Raises `UsageError`."""
    if isinstance(value, int) and not isinstance(value, bool):
        return max(0, min(value, POSITION_MAX))
    raise UsageError(f"{name}={value!r} is no position", remedy="give an int")


def check_queries(queries: Query | Sequence[Query], *, name: str) -> tuple[Query, ...]:
    """Return one query, or several of which one has to match, as a tuple. Raises `UsageError`."""
    given = (queries,) if isinstance(queries, Query) else tuple(queries)
    for one in given:
        if not isinstance(one, Query):
            raise UsageError(f"{name} holds {one!r}", remedy=f"give {name}=Query(types=[...], tags=[...])")
    if len(given) > QUERIES_MAX:
        raise UsageError(f"{name} holds {len(given)} queries; at most {QUERIES_MAX} are allowed", remedy="join some")
    return given

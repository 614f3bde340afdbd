"""The lock file: what every declared event type looked like when it was last agreed on, kept beside the code.

A class that changes without a new version can make recorded events unreadable, and nobody notices before a worker
does. The lock holds, for each type, its version, its names, the templates of its stream and tags, the schema of its
class, and the schemas of the versions before; comparing the classes of today with it needs no database. Of each version
kept:

- at the declared version, or an older one that has no upcasters, the class must read what that version wrote
  (`compatibility.py` says how that is told);
- an older one that has upcasters needs a step to each next version. What a step does is not looked into;
- a version above the declared one means that the class went back;
- a type that is gone must be an alias of another one, and an alias that is dropped is a type that is gone.

New types, new versions that hold to this, and wider classes break nothing; they are news, to be locked. A template that
changes breaks no event, and splits the streams of an entity in two, or hides earlier events from who asks by tag: that
is told as news as well.

The file is JSON, sorted, indented and without anything that differs between machines, so that a difference shows
what changed.
"""

from collections.abc import Iterable
from pathlib import Path

import msgspec

from eventlog.compatibility import narrowings
from eventlog.errors import NotFoundError, UsageError
from eventlog.event_types import EventType
from eventlog.exact_schema import Schema, exact_schema
from eventlog.upcasting import versions_with_upcaster

FORMAT = 1
"""The version of the file's own form."""
DEFAULT_LOCK = "eventlog.lock.json"


class LockedType(msgspec.Struct, frozen=True, kw_only=True):
    """One type as it was agreed on. `earlier` holds the schemas of the versions before, by version."""

    version: int
    stream: str | None
    tags: list[str]
    aliases: list[str]
    schema: Schema
    earlier: dict[str, Schema] = {}

    @property
    def by_version(self) -> dict[int, Schema]:
        """The schemas of all versions kept."""
        return {**{int(version): schema for version, schema in self.earlier.items()}, self.version: self.schema}


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """All types as they were agreed on, by name."""

    format: int
    types: dict[str, LockedType]


NOTHING_LOCKED = Lock(format=FORMAT, types={})


class _Form(msgspec.Struct):
    """What a lock file of any format says of itself."""

    format: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What differs between the lock and the classes of today. `breaking` tells that recorded events may not be read."""

    type: str
    version: int
    problem: str
    breaking: bool


def lock_of(declared: Iterable[EventType], *, before: Lock) -> Lock:
    """Lock the types as they are declared now, keeping the schemas of older versions that were locked before."""
    return Lock(format=FORMAT, types={one.name: _locked(one, before) for one in declared})


def changes(lock: Lock, declared: Iterable[EventType]) -> list[Change]:
    """Compare the classes of today with a lock; what breaks first, then by type and version."""
    by_name = {name: one for one in declared for name in one.names}
    found = [change for name, locked in lock.types.items() for change in _changes_of(name, locked, by_name.get(name))]
    fresh = [one for one in set(by_name.values()) if not any(name in lock.types for name in one.names)]
    found += [Change(type=one.name, version=one.version, problem="is not locked yet", breaking=False) for one in fresh]
    return sorted(found, key=lambda change: (not change.breaking, change.type, change.version, change.problem))


def read_lock(file: Path) -> Lock:
    """Read a lock file. Raises `NotFoundError`, and `UsageError` for a file that is none or of a later release."""
    try:
        text = file.read_bytes()
        form = msgspec.json.decode(text, type=_Form).format
        if form != FORMAT:
            raise UsageError(f"{file} has format {form}, this release reads {FORMAT}", remedy="upgrade rewindlog here")
        lock = msgspec.json.decode(text, type=Lock)
        _check_versions(lock)
    except FileNotFoundError as error:
        raise NotFoundError(f"there is no lock file {file}", remedy="`eventlog types lock` writes one") from error
    except (msgspec.MsgspecError, UnicodeError, OSError, ValueError) as error:
        raise UsageError(
            f"{file} is no lock file: {error}", remedy="take it from version control, or write it anew"
        ) from error
    return lock


def lock_text(lock: Lock) -> str:
    """Write a lock: the same text for the same types, wherever and whenever it is written."""
    return msgspec.json.format(msgspec.json.encode(lock, order="sorted"), indent=2).decode() + "\n"


def _locked(declared: EventType, before: Lock) -> LockedType:
    kept = {version: schema for name in reversed(declared.names) for version, schema in _kept(before, name).items()}
    earlier = {str(version): schema for version, schema in sorted(kept.items()) if version < declared.version}
    return LockedType(
        version=declared.version,
        stream=declared.stream_template,
        tags=sorted(declared.tag_templates),
        aliases=sorted(declared.aliases),
        schema=exact_schema(declared.data_class),
        earlier=earlier,
    )


def _kept(before: Lock, name: str) -> dict[int, Schema]:
    return before.types[name].by_version if name in before.types else {}


def _changes_of(name: str, locked: LockedType, declared: EventType | None) -> list[Change]:
    if declared is None:
        problem = "is declared no more, neither as a type nor as an alias of one"
        return [Change(type=name, version=locked.version, problem=problem, breaking=True)]
    found = [
        Change(type=name, version=version, problem=problem, breaking=True)
        for version, schema in sorted(locked.by_version.items())
        for problem in _breaks(name, version, schema, declared)
    ]
    found += [
        Change(
            type=name, version=locked.version, problem=f"is no longer read under its old name {alias!r}", breaking=True
        )
        for alias in locked.aliases
        if alias not in declared.names
    ]
    news = _news(name, locked, declared)
    return [*found, *(Change(type=name, version=declared.version, problem=one, breaking=False) for one in news)]


def _breaks(name: str, version: int, schema: Schema, declared: EventType) -> list[str]:
    if version > declared.version:
        return [f"was locked, and the class is declared with version {declared.version}"]
    if version == declared.version:
        return [str(one) for one in narrowings(schema, exact_schema(declared.data_class))]
    # A version that was recorded under an old name has been locked under the new one since.
    lines = [versions_with_upcaster(one, declared_as=declared.name) for one in dict.fromkeys((name, *declared.names))]
    gaps = [next((step for step in range(version, declared.version) if step not in line), None) for line in lines]
    if None in gaps:
        return []
    if any(lines):
        return [f"no upcaster leads from version {gaps[0]} to {(gaps[0] or 0) + 1}"]
    reason = f"; no upcaster leads to version {declared.version}"
    return [f"{one}{reason}" for one in narrowings(schema, exact_schema(declared.data_class))]


def _news(name: str, locked: LockedType, declared: EventType) -> list[str]:
    news = []
    if name != declared.name:
        news.append(f"is named {declared.name!r} now")
    if declared.version > locked.version:
        news.append(f"version {locked.version} is locked, {declared.version} is declared")
    elif declared.version == locked.version and not _same(locked.schema, exact_schema(declared.data_class)):
        news.append("the class changed, and reads what was recorded")
    if declared.stream_template != locked.stream:
        news.append(f"its streams are named {_named(declared.stream_template)} now, and were {_named(locked.stream)}")
    if sorted(declared.tag_templates) != locked.tags:
        news.append(f"its tags are {sorted(declared.tag_templates)} now, and were {locked.tags}")
    if name == declared.name and not set(declared.aliases) <= set(locked.aliases):
        news.append(f"has the old names {', '.join(sorted(declared.aliases))}")
    return news


def _same(one: Schema, other: Schema) -> bool:
    return msgspec.json.encode(one, order="sorted") == msgspec.json.encode(other, order="sorted")


def _named(template: str | None) -> str:
    return repr(template) if template is not None else "by each append"


def _check_versions(lock: Lock) -> None:
    for name, locked in lock.types.items():
        known = [int(version) for version in locked.earlier]
        if not all(1 <= version < locked.version for version in known):
            raise ValueError(f"the versions of {name!r} do not fit together")

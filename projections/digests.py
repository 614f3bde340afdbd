"""What JSON of a type looks like, in a few letters: to find out that what was written once is of another type now."""

import hashlib
from typing import Any

import msgspec


def digest_of(annotation: Any) -> str:
    """Return the digest of a type's JSON schema. Raises `TypeError` for a type whose values JSON cannot say."""
    text = msgspec.json.encode(_without_names(msgspec.json.schema(annotation)), order="sorted")
    return hashlib.sha256(text).hexdigest()[:16]


def _without_names(schema: dict[str, Any]) -> list[Any]:
    """A schema without what is there for people: names of classes and docstrings change, and the values do not.

    The schemas that it refers to follow it, numbered in the order in which they are first met.
    """
    named, numbers = schema.pop("$defs", {}), dict[str, int]()

    def plain(one: Any) -> Any:
        if isinstance(one, list):
            return [plain(each) for each in one]
        if not isinstance(one, dict):
            return one
        if isinstance(one.get("$ref"), str):
            return numbers.setdefault(one["$ref"].removeprefix("#/$defs/"), len(numbers))
        said = {name for name in ("title", "description") if isinstance(one.get(name), str)}
        return {name: plain(one[name]) for name in sorted(one.keys() - said)}

    found = [plain(schema)]
    while len(found) <= len(numbers):
        found.append(plain(named[list(numbers)[len(found) - 1]]))
    return found

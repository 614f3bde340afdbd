"""Whether a class reads everything that an earlier form of it wrote, told from the two JSON Schemas alone.

`narrowings(old, new)` lists the places where it may not. What is promised, and tested against msgspec with random
classes: when the list is empty, every value that the old class encodes, with or without its optional fields, decodes
as the new class. The other way round nothing is promised: a change that cannot be shown to be harmless is listed.

The rules, by what stands in the old schema:

- *anything* is read by anything alone; every other value is read by anything.
- `null`, booleans and *whole numbers* are read by their like; whole numbers also by floats and decimals, floats by
  decimals.
- *text* of a known form (a date, a UUID, base64) is read by the same form and by plain text; plain text by plain text
  alone. A datetime that has an offset, or has none, is read by one that may have either.
- a member of an *enum* is read by an enum that has it, and by the plain type of its value. Removing a member narrows.
- *lists* are read by lists whose items read theirs; tuples also place by place. A set is read by a list, a list not by
  a set, which would drop repetitions.
- an *object with fields* is read by one whose required fields were all required before, and whose fields of the same
  name read theirs. A field that is gone is ignored, unless unknown fields are forbidden. Also by a dict whose values
  read all of its fields. A *dict* is read by dicts, and never by named fields.
- each member of a *union* must be read by one member of the new one.
- *limits* (least, most, length, pattern, multiple) may be loosened and taken away; a pattern is only equal to itself.

Not seen: what a constructor checks (`__post_init__`), fields that appear under a name that an even older version used
for something else, and whatever `extra_json_schema` claims of a type.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from eventlog.exact_schema import Schema

_PLAIN = (None, None)
_READ_BY = {
    ("date-time", "date-time-or-local"),
    ("local-date-time", "date-time-or-local"),
    ("time", "time-or-local"),
    ("partial-time", "time-or-local"),
    ("integer", "number"),
}
"""Forms of text that another form reads."""
_NO_LIMITS = {
    *("type", "format", "contentEncoding", "const", "default", "discriminator"),
    *("items", "prefixItems", "properties", "required", "additionalProperties", "propertyNames"),
    *("title", "description", "examples", "deprecated"),
}
"""Keywords other rules look at, or that say nothing about the data. An unknown one must be the same in both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Narrowing:
    """A place in the data, and what the new class does not read there."""

    path: str
    problem: str

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


def narrowings(old: Schema, new: Schema) -> list[Narrowing]:
    """List the places where a class of the schema `new` may not read what one of the schema `old` wrote."""
    return list(_Comparison(old=old, new=new).narrowings())


class _Comparison:
    """Two documents, each with the definitions its references mean."""

    def __init__(self, *, old: Schema, new: Schema) -> None:
        self._old = old
        self._new = new
        self._assumed: dict[tuple[int, int], tuple[Schema, Schema]] = {}

    def narrowings(self) -> Iterator[Narrowing]:
        yield from self._node(self._old, self._new, "$")

    def _node(self, old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
        """Compare two schemas. A pair that is being compared already is taken to fit: classes may hold themselves.

        When a pair turns out not to fit, everything that was concluded from the assumption is forgotten with it.
        """
        old, new = _resolved(old, self._old), _resolved(new, self._new)
        pair = (id(old), id(new))
        if pair in self._assumed:
            return
        before = self._assumed
        self._assumed = {**before, pair: (old, new)}
        wanted = _members(new, self._new)
        found = [one for member in _members(old, self._old) for one in self._member(member, wanted, path)]
        if found:
            self._assumed = before
        yield from found

    def _member(self, old: Schema, wanted: list[Schema], path: str) -> list[Narrowing]:
        """What keeps each member of the new union from reading one of the old; nothing where one of them does.

        Of several members of one plain type msgspec applies the limits of either: then all of them have to read it.
        """
        tried = [(new, list(self._same_kind(old, new, path))) for new in wanted if _could_read(old, new)]
        if any(not found and not _has_rival(new, wanted) for new, found in tried):
            return []
        if tried and all(not found for _new, found in tried):
            return []
        if len(tried) == 1:
            return tried[0][1]
        return [Narrowing(path=path, problem=f"{_shown(old)} is no longer read")]

    def _same_kind(self, old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
        if not _is_anything(new):
            yield from _limits(old, new, path)
        if "const" in old or _is_anything(new):
            return
        if new.get("type") == "array":
            yield from self._array(old, new, path)
        elif new.get("type") == "object":
            yield from self._object(old, new, path)

    def _array(self, old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
        before, after = old.get("prefixItems", []), new.get("prefixItems", [])
        for place in range(max(len(before), len(after))):
            left, right = _item(old, place), _item(new, place)
            if left is None:
                break
            if right is not None:
                yield from self._node(left, right, f"{path}[{place}]")
        left, right = _item(old, len(before)), _item(new, len(after))
        if len(before) <= len(after) and left is not None and right is not None:
            yield from self._node(left, right, f"{path}[*]")

    def _object(self, old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
        if "properties" not in new:
            yield from self._as_dict(old, new, path)
            return
        if "properties" not in old:
            yield Narrowing(path=path, problem="was a dict, and is an object with fields now")
            return
        required = set(old.get("required", ()))
        for name in sorted(set(new.get("required", ())) - required):
            was = "was optional before" if name in old["properties"] else "did not exist before"
            yield Narrowing(path=f"{path}.{name}", problem=f"is required now, and {was}")
        for name, schema in old["properties"].items():
            if name in new["properties"]:
                yield from self._node(schema, new["properties"][name], f"{path}.{name}")
            elif new.get("additionalProperties") is False:
                yield Narrowing(path=f"{path}.{name}", problem="is gone, and unknown fields are forbidden")

    def _as_dict(self, old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
        values = new.get("additionalProperties", {})
        if "properties" in old:
            for name, schema in old["properties"].items():
                yield from self._node({"const": name}, _key(new), f"{path} (the name {name!r})")
                yield from self._node(schema, values, f"{path}.{name}")
            if set(new) & {"minProperties", "maxProperties"}:
                yield Narrowing(path=path, problem="the number of fields is limited now")
            return
        yield from self._node(_key(old), _key(new), f"{path} (the keys)")
        yield from self._node(old.get("additionalProperties", {}), values, f"{path}.*")


def _resolved(schema: Schema, document: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    return schema


def _members(schema: Schema, document: Schema) -> list[Schema]:
    """Take a union apart, and an enum into its values."""
    schema = _resolved(schema, document)
    if "anyOf" in schema:
        return [one for option in schema["anyOf"] for one in _members(option, document)]
    if "enum" in schema:
        return [{"const": value} for value in schema["enum"]]
    return [schema]


def _is_anything(schema: Schema) -> bool:
    return "type" not in schema and "const" not in schema


def _could_read(old: Schema, new: Schema) -> bool:
    """Whether the kinds of two members go together, whatever their limits and parts."""
    if _is_anything(new) or _is_anything(old):
        return _is_anything(new)
    if "const" in new:
        return "const" in old and _same(old["const"], new["const"])
    form_old, form_new = _form(old), _form(new)
    if new["type"] == "string" and form_new == ("decimal", None):
        return form_old == form_new or _type(old) in ("integer", "number")
    if _type(old) == "string" and new["type"] == "string":
        return form_new in (_PLAIN, form_old) or (form_old[0], form_new[0]) in _READ_BY
    return _type(old) == new["type"] or (_type(old) == "integer" and new["type"] == "number")


def _has_rival(schema: Schema, members: list[Schema]) -> bool:
    kind = schema.get("type")
    return kind in ("integer", "number", "string") and sum(one.get("type") == kind for one in members) > 1


def _form(schema: Schema) -> tuple[str | None, str | None]:
    return schema.get("format"), schema.get("contentEncoding")


def _type(schema: Schema) -> str:
    if "const" not in schema:
        return str(schema["type"])
    names = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}
    return names[type(schema["const"])]


def _limits(old: Schema, new: Schema, path: str) -> Iterator[Narrowing]:
    for keyword, value in new.items():
        if not _implied(old, new, keyword):
            before = f", and was {old[keyword]!r}" if keyword in old else ""
            yield Narrowing(path=path, problem=f"{keyword} is {value!r} now{before}")


def _implied(old: Schema, new: Schema, keyword: str) -> bool:
    value = new[keyword]
    lowest, above = old.get("minimum"), old.get("exclusiveMinimum")
    highest, below = old.get("maximum"), old.get("exclusiveMaximum")
    match keyword:
        case "minLength" | "minItems" | "minProperties":
            return bool(value <= old.get(keyword, 0))
        case "maxLength" | "maxItems" | "maxProperties":
            most = old.get(keyword, len(old["prefixItems"]) if "prefixItems" in old else None)
            return most is not None and bool(value >= most)
        case "minimum":
            return any(limit is not None and limit >= value for limit in (lowest, above))
        case "exclusiveMinimum":
            return (lowest is not None and lowest > value) or (above is not None and above >= value)
        case "maximum":
            return any(limit is not None and limit <= value for limit in (highest, below))
        case "exclusiveMaximum":
            return (highest is not None and highest < value) or (below is not None and below <= value)
        case "multipleOf":
            return keyword in old and (old[keyword] == value or _is_whole_multiple(old[keyword], value))
        case _:
            return keyword in _NO_LIMITS or (keyword in old and bool(old[keyword] == value))


def _is_whole_multiple(one: Any, other: Any) -> bool:
    return isinstance(one, int) and isinstance(other, int) and one % other == 0


def _item(schema: Schema, place: int) -> Schema | None:
    """The schema of a place in a list; None where nothing is written, or whatever stands there is not read."""
    first: list[Schema] | None = schema.get("prefixItems")
    if first is not None:
        return first[place] if place < len(first) else None
    items: Schema = schema.get("items", {})
    return items


def _key(schema: Schema) -> Schema:
    """The schema of a dict's keys. Its text forms stand without the type, which in JSON is always a string."""
    return _as_text(schema.get("propertyNames", {}))


def _as_text(names: Schema) -> Schema:
    if "anyOf" in names:
        return {"anyOf": [_as_text(one) for one in names["anyOf"]]}
    return names if "enum" in names else {"type": "string", **names}


def _same(one: object, other: object) -> bool:
    """Values as JSON tells them apart: true is not 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _shown(schema: Schema) -> str:
    if "const" in schema:
        return repr(schema["const"])
    if _is_anything(schema):
        return "any value"
    form = schema.get("format") or schema.get("contentEncoding")
    tag = next((one["enum"] for one in schema.get("properties", {}).values() if len(one.get("enum", ())) == 1), None)
    return f"{schema['type']}" + (f" ({form})" if form else "") + (f" {tag[0]!r}" if tag else "")

"""The JSON Schema of an event class as msgspec makes it, with what msgspec leaves out of it put back.

Two classes can have the same schema from msgspec and yet not read the same data: a datetime that may be naive is
written as a plain string, and a dict with numbers or dates for keys like any other. A comparison of such schemas would
call the change from `str` to `datetime` harmless. Here those places get a `format`, or `propertyNames`; the names of
formats that JSON Schema does not know are ignored by validators, as the standard wants it. Titles and descriptions are
left out: they say nothing about the data, and would fill a diff.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import inspect

from eventlog.errors import DeclarationError

Schema = dict[str, Any]
"""A JSON Schema: its keys are the standard's."""

_DEFS = "#/$defs/"
_DATETIME = {True: "date-time", False: "local-date-time", None: "date-time-or-local"}
_TIME = {True: "time", False: "partial-time", None: "time-or-local"}
_NAMED = (inspect.StructType, inspect.TypedDictType, inspect.DataclassType, inspect.NamedTupleType)
_DOCUMENTATION = ("title", "description", "examples", "deprecated")


def exact_schema(data_class: type[msgspec.Struct]) -> Schema:
    """Make the schema of a class, all it refers to under `$defs`. Raises `DeclarationError` for what has none."""
    classes = _named_classes(inspect.type_info(data_class))
    references, components = documented_schemas([one.cls for one in classes], ref_template=f"{_DEFS}{{name}}")
    for one, reference in zip(classes, references, strict=True):
        _complete_class(components[reference["$ref"].removeprefix(_DEFS)], one)
    return {**references[0], "$defs": {name: _undocumented(one) for name, one in sorted(components.items())}}


def documented_schemas(classes: Iterable[type], *, ref_template: str) -> tuple[tuple[Schema, ...], dict[str, Schema]]:
    """Make the schemas of classes as msgspec makes them, with their documentation; and of all they refer to, by name.

    Raises `DeclarationError` for a class that has none.
    """
    listed = list(classes)
    try:
        return msgspec.json.schema_components(listed, ref_template=ref_template)
    except TypeError as error:
        names = ", ".join(one.__qualname__ for one in listed if not _has_schema(one))
        raise DeclarationError(
            f"{names} has no JSON Schema: {str(error).strip().splitlines()[-1]}",
            remedy="give events fields of types that msgspec knows: numbers, text, dates, lists, dicts, Structs",
        ) from error


def _has_schema(data_class: type) -> bool:
    try:
        msgspec.json.schema(data_class)
    except TypeError:
        return False
    return True


def _named_classes(info: inspect.Type) -> list[Any]:
    """Every class with fields of its own that a type leads to, itself first."""
    found: dict[type, Any] = {}
    coming = [info]
    while coming:
        one: Any = coming.pop(0)
        if isinstance(one, _NAMED):
            if one.cls in found:
                continue
            found[one.cls] = one
        coming += _parts(one)
    return list(found.values())


def _parts(info: Any) -> list[inspect.Type]:
    if isinstance(info, _NAMED):
        return [field.type for field in info.fields]
    several = getattr(info, "types", None) or getattr(info, "item_types", None) or ()
    single = [getattr(info, name, None) for name in ("type", "item_type", "value_type")]
    return [*several, *(one for one in single if one is not None)]


def _complete_class(schema: Schema, info: Any) -> None:
    if "properties" in schema:
        for field in info.fields:
            _complete(schema["properties"][field.encode_name], field.type)
        return
    tags = len(schema["prefixItems"]) - len(info.fields)
    for field, inner in zip(info.fields, schema["prefixItems"][tags:], strict=True):
        _complete(inner, field.type)


def _complete(schema: Schema, info: Any) -> None:
    """Put back into a schema what it does not tell of the type it was made from."""
    info = _bare(info)
    match info:
        case inspect.DateTimeType():
            schema["format"] = _DATETIME[info.tz]
        case inspect.TimeType():
            schema["format"] = _TIME[info.tz]
        case inspect.TupleType():
            for inner, one in zip(schema.get("prefixItems", ()), info.item_types, strict=True):
                _complete(inner, one)
        case inspect.UnionType():
            _complete_union(schema, info)
        case _ if hasattr(info, "key_type"):
            _complete_dict(schema, info)
        case _ if hasattr(info, "item_type") and "items" in schema:
            _complete(schema["items"], info.item_type)


def _complete_union(schema: Schema, info: inspect.UnionType) -> None:
    """A union has one member at most that is text, one that is a list and one that is a dict."""
    for member in map(_bare, info.types):
        kind = _kind(member)
        for option in _options(schema):
            if kind is not None and option.get("type") == kind:
                _complete(option, member)


def _options(schema: Schema) -> Iterable[Schema]:
    for option in schema.get("anyOf", ()):
        yield from _options(option) if "anyOf" in option else (option,)


def _kind(info: Any) -> str | None:
    match info:
        case inspect.DateTimeType() | inspect.TimeType():
            return "string"
        case inspect.TupleType():
            return "array"
        case _ if hasattr(info, "key_type"):
            return "object"
        case _ if hasattr(info, "item_type"):
            return "array"
        case _:
            return None


def _complete_dict(schema: Schema, info: Any) -> None:
    if "additionalProperties" in schema:
        _complete(schema["additionalProperties"], info.value_type)
    names = _names(_bare(info.key_type))
    if names:
        schema["propertyNames"] = names


def _names(info: Any) -> Schema:
    """The schema of keys, which are text in JSON whatever they are in Python; empty for any text."""
    limits: Schema
    match info:
        case inspect.AnyType():
            return {}
        case inspect.StrType():
            limits = {"minLength": info.min_length, "maxLength": info.max_length, "pattern": info.pattern}
        case inspect.IntType() | inspect.FloatType():
            limits = {
                "format": "integer" if isinstance(info, inspect.IntType) else "number",
                "minimum": info.ge,
                "exclusiveMinimum": info.gt,
                "maximum": info.le,
                "exclusiveMaximum": info.lt,
                "multipleOf": info.multiple_of,
            }
        case inspect.EnumType():
            return {"enum": sorted(str(member.value) for member in info.cls)}
        case inspect.LiteralType():
            return {"enum": sorted(map(str, info.values))}
        case inspect.UnionType():
            return {"anyOf": [_names(_bare(one)) for one in info.types]}
        case inspect.DateTimeType():
            return {"format": _DATETIME[info.tz]}
        case inspect.TimeType():
            return {"format": _TIME[info.tz]}
        case _:
            return {"format": type(info).__name__.removesuffix("Type").lower()}
    return {key: value for key, value in limits.items() if value is not None}


def _bare(info: Any) -> Any:
    while isinstance(info, inspect.Metadata):
        info = info.type
    return info


def _undocumented(schema: Any, *, names: bool = False) -> Any:
    """Leave out what only people read; `names` tells that the keys are names of fields, which may be any word."""
    if isinstance(schema, list):
        return [_undocumented(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: value if key in ("default", "enum") and not names else _undocumented(value, names=key == "properties")
        for key, value in schema.items()
        if names or key not in _DOCUMENTATION
    }

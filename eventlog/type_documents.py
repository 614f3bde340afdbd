"""Documents of all declared event types for other programs and other people: a JSON Schema, an AsyncAPI description.

Both describe the classes as they are declared now. Older versions, and events stored under an alias, are what the log
remembers, not what a service promises; they are left out.
"""

import re
import string
from collections.abc import Iterable
from typing import Any

import msgspec

from eventlog.event_types import EventType
from eventlog.events import Recorded
from eventlog.exact_schema import Schema, documented_schemas

JSON_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
ASYNCAPI = "3.0.0"

_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_.-]")


def json_schema_document(declared: Iterable[EventType], *, title: str) -> Schema:
    """Make a JSON Schema of recorded events, as `eventlog read --output jsonl` prints them, one choice for each type.

    Raises `DeclarationError` for a class that has no schema.
    """
    types = list(declared)
    references, components = documented_schemas([one.data_class for one in types], ref_template="#/$defs/{name}")
    return {
        "$schema": JSON_SCHEMA,
        "title": title,
        "oneOf": [_recorded(one, reference) for one, reference in zip(types, references, strict=True)],
        "$defs": components,
    }


def asyncapi_document(declared: Iterable[EventType], *, title: str, version: str) -> Schema:
    """Make an AsyncAPI document: for each type a message, and the streams it is appended to as a channel.

    The address of a channel is the stream template; without one each append names the stream. Raises
    `DeclarationError` for a class that has no schema.
    """
    types = list(declared)
    template = "#/components/schemas/{name}"
    references, components = documented_schemas([one.data_class for one in types], ref_template=template)
    keys = _keys(types)
    return {
        "asyncapi": ASYNCAPI,
        "info": {"title": title, "version": version},
        "defaultContentType": "application/json",
        "channels": {keys[one.name]: _channel(one, keys[one.name]) for one in types},
        "operations": {f"append.{keys[one.name]}": _operation(keys[one.name]) for one in types},
        "components": {
            "messages": {
                keys[one.name]: _message(one, reference) for one, reference in zip(types, references, strict=True)
            },
            "schemas": {name: _as_draft_07(schema) for name, schema in components.items()},
        },
    }


def _recorded(declared: EventType, reference: Schema) -> Schema:
    return {
        "title": declared.name,
        "type": "object",
        "properties": {
            "position": {"type": "integer", "minimum": 1},
            "id": {"type": "string", "format": "uuid"},
            "stream": {"type": "string"},
            "version": {"type": "integer", "minimum": 1},
            "type": {"const": declared.name},
            "type_version": {"const": declared.version},
            "data": reference,
            "metadata": {"type": "object"},
            "recorded_at": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
        },
        "required": list(Recorded.__struct_fields__),
    }


def _channel(declared: EventType, key: str) -> Schema:
    template = declared.stream_template
    channel: Schema = {
        "address": None if template is None else _address(template),
        "messages": {key: {"$ref": f"#/components/messages/{key}"}},
    }
    if template is None:
        channel["description"] = "Each append names its stream."
    parameters = _parameters(declared, template or "")
    return channel | ({"parameters": parameters} if parameters else {})


def _parameters(declared: EventType, template: str) -> Schema:
    written_as = {one.name: one.encode_name for one in msgspec.structs.fields(declared.data_class)}
    names = [name for _text, name, _format, _conversion in _parsed(template) if name]
    pointers = {name: written_as[name].replace("~", "~0").replace("/", "~1") for name in names}
    return {name: {"location": f"$message.payload#/{pointer}"} for name, pointer in pointers.items()}


def _operation(key: str) -> Schema:
    channel = f"#/channels/{key}"
    return {
        "action": "send",
        "channel": {"$ref": channel},
        "messages": [{"$ref": f"{channel}/messages/{key}"}],
    }


def _message(declared: EventType, reference: Schema) -> Schema:
    message = {"name": declared.name, "title": declared.name, "payload": reference, "x-version": declared.version}
    return message | ({"x-aliases": list(declared.aliases)} if declared.aliases else {})


def _keys(types: Iterable[EventType]) -> dict[str, str]:
    """A key for each type out of the letters AsyncAPI allows, the type's own name wherever that can be one."""
    keys: dict[str, str] = {}
    for one in types:
        plain = key = _NOT_IN_KEYS.sub("_", one.name)
        number = 1
        while key in keys.values():
            number += 1
            key = f"{plain}_{number}"
        keys[one.name] = key
    return keys


def _address(template: str) -> str:
    """The template without the formats of its fields."""
    return "".join(text + (f"{{{name}}}" if name else "") for text, name, _format, _conversion in _parsed(template))


def _parsed(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    return list(string.Formatter().parse(template))


def _as_draft_07(schema: Any) -> Any:
    """AsyncAPI speaks the JSON Schema of draft 7: tuples are written otherwise, and a discriminator is a name alone."""
    if isinstance(schema, list):
        return [_as_draft_07(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: _as_draft_07(value) for key, value in schema.items() if key not in ("default", "enum", "examples")}
    changed |= {key: schema[key] for key in ("default", "enum", "examples") if key in schema}
    if isinstance(schema.get("prefixItems"), list):
        rest = changed.pop("items", None)
        changed["items"] = changed.pop("prefixItems")
        changed |= {} if rest is None else {"additionalItems": rest}
    if isinstance(schema.get("discriminator"), dict) and "propertyName" in schema["discriminator"]:
        changed["discriminator"] = schema["discriminator"]["propertyName"]
    return changed

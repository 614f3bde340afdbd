"""Templates over the fields of a declared class: `order-{number}` names a stream, `course:{course}` a tag."""

import string
from enum import Enum
from functools import cache

import msgspec

from eventlog.errors import DeclarationError, InvalidEventError


def check_template(template: str, *, what: str, event_type: str, data_class: type[msgspec.Struct]) -> str:
    """Return the template if the fields of a class can fill it; raise `DeclarationError` otherwise."""
    example = "order-{number}" if what == "stream" else "course:{course}"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise DeclarationError(
            f"the {what} template {template!r} of {event_type!r} cannot be read: {error}", remedy=f"write {example!r}"
        ) from error
    if not template or any("{" in (format_spec or "") for _text, _name, format_spec, _conversion in parts):
        raise DeclarationError(
            f"the {what} template {template!r} of {event_type!r} names no {what}", remedy=f"write {example!r}"
        )
    fields = {field.name for field in msgspec.structs.fields(data_class)}
    for name in _names_in(template):
        if name not in fields:
            raise DeclarationError(
                f"the {what} template {template!r} of {event_type!r} names {name!r}, which is no field of the class",
                remedy=f"use its fields: {', '.join(sorted(fields))}",
            )
    return template


def fill(template: str, data: msgspec.Struct, *, what: str, event_type: str) -> str:
    """Fill a template from the fields of data. Raises `InvalidEventError` where one is empty, or does not fit."""
    values = {}
    for name in _names_in(template):
        value = getattr(data, name)
        if isinstance(value, Enum):
            value = value.value
        if value is None or value == "":
            raise InvalidEventError(
                f"{event_type}: the {what} is named {template!r}, and {name} is {value!r}",
                remedy=f"set the field, or give the {what} at append",
            )
        values[name] = value
    try:
        return template.format_map(values)
    except (ValueError, TypeError) as error:
        raise InvalidEventError(
            f"{event_type}: the {what} {template!r} cannot be named with {values!r}: {error}",
            remedy=f"give the fields the values their template is made for, or give the {what} at append",
        ) from error


def is_unset(template: str, data: msgspec.Struct) -> bool:
    """Tell whether a field the template names is None."""
    return any(getattr(data, name) is None for name in _names_in(template))


@cache
def _names_in(template: str) -> tuple[str, ...]:
    """The fields a template names; asked for each event, and there are only as many as declarations have."""
    return tuple(name for _text, name, _format, _conversion in string.Formatter().parse(template) if name is not None)

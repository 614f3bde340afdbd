"""Which class stands for which event type, and reading a stored event as that class.

A declaration is global to the process, like the class it stands on. A type nobody declared reads as plain data. A type
that was renamed names what it was called before as its aliases: events stay recorded under the old name, and read as
the class all the same. Older versions go through the upcasters of the type (`upcasting.py`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from eventlog.errors import DeclarationError, InvalidEventError, UndecodableEventError, UpcastError
from eventlog.events import JsonObject, Recorded, StoredEvent
from eventlog.patterns import check_type, covers
from eventlog.templates import check_template, fill, is_unset
from eventlog.upcasting import upcast_data, upcaster_problems

S = TypeVar("S", bound=type[msgspec.Struct])


@dataclass(frozen=True, slots=True, kw_only=True)
class EventType:
    """A declared type: its name, the version its class stands for, and how a stream is named from its fields.

    `aliases` are the names it had before, under which events may be stored.
    """

    name: str
    aliases: tuple[str, ...]
    version: int
    data_class: type[msgspec.Struct]
    stream_template: str | None
    tag_templates: tuple[str, ...]
    decode: Callable[[str], Any]
    immutable: bool

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that events of this type may be stored under."""
        return (self.name, *self.aliases)

    def stream_of(self, data: msgspec.Struct) -> str | None:
        """Fill the stream template from the fields; None without a template. Raises `InvalidEventError`."""
        if self.stream_template is None:
            return None
        return fill(self.stream_template, data, what="stream", event_type=self.name)

    def tags_of(self, data: msgspec.Struct) -> tuple[str, ...]:
        """Fill the tag templates whose fields are set. Raises `InvalidEventError`."""
        return tuple(
            fill(template, data, what="tag", event_type=self.name)
            for template in self.tag_templates
            if not is_unset(template, data)
        )


_by_name: dict[str, EventType] = {}
_by_class: dict[type, EventType] = {}
_UNDECODABLE = (msgspec.MsgspecError, UnicodeError, RecursionError, UpcastError)
_PLAIN_VALUES = (
    msgspec.inspect.NoneType,
    msgspec.inspect.BoolType,
    msgspec.inspect.IntType,
    msgspec.inspect.FloatType,
    msgspec.inspect.StrType,
    msgspec.inspect.BytesType,
    msgspec.inspect.DecimalType,
    msgspec.inspect.DateTimeType,
    msgspec.inspect.DateType,
    msgspec.inspect.TimeType,
    msgspec.inspect.TimeDeltaType,
    msgspec.inspect.UUIDType,
    msgspec.inspect.EnumType,
    msgspec.inspect.LiteralType,
)
_decode_plain = msgspec.json.Decoder().decode


def event(
    name: str,
    *,
    version: int = 1,
    stream: str | None = None,
    tags: Iterable[str] = (),
    aliases: Iterable[str] = (),
) -> Callable[[S], S]:
    """Declare that a Struct is the data of the event type `name`; returns the class as it was.

    `stream` is a template over the fields, `"order-{number}"`; without one the append names the stream. `tags` are
    templates too, `["course:{course}"]`; one whose field is None is left out. `aliases` are names the type had before:
    events recorded under them read as this class, and go to its handlers. A renamed type goes on counting its versions.

    Raises `DeclarationError` for a class that is no msgspec Struct, a field the class does not have, and a name that
    another class already stands for.
    """

    def declare(data_class: S) -> S:
        _register(_declaration(name, version=version, stream=stream, tags=tags, aliases=aliases, data_class=data_class))
        return data_class

    return declare


def declared_for(data_class: type) -> EventType | None:
    """Return the event type a class stands for, None when it is not declared."""
    return _by_class.get(data_class)


def declared_as(name: str) -> EventType | None:
    """Return the declaration of the type that events of this name belong to, None when it is not declared."""
    return _by_name.get(name)


def declared_types() -> tuple[EventType, ...]:
    """Return every declared type, by name."""
    return tuple(declared for name, declared in sorted(_by_name.items()) if name == declared.name)


def declaration_problems() -> list[DeclarationError]:
    """Tell what is declared in this process and cannot work together: upcasters that lead nowhere."""
    return upcaster_problems({name: (declared.name, declared.version) for name, declared in _by_name.items()})


def check_declarations() -> None:
    """Raise the first of the declaration problems. For the moment when all modules that declare are imported."""
    for problem in declaration_problems():
        raise problem


def with_aliases(patterns: Iterable[str]) -> list[str]:
    """Add the aliases of the types that patterns cover, where no pattern covers the alias already."""
    given = list(patterns)
    aliases = (
        alias
        for declared in declared_types()
        if declared.aliases and any(covers(pattern, declared.name) for pattern in given)
        for alias in declared.aliases
    )
    return given + [alias for alias in aliases if not any(covers(pattern, alias) for pattern in given)]


def decode(stored: StoredEvent) -> Recorded[Any]:
    """Read a stored event as the class declared for its type. Raises `UndecodableEventError`, which names the place."""
    return with_data(stored, decode_data(stored))


def decode_data(stored: StoredEvent) -> Any:
    """Read the data of a stored event alone. Raises `UndecodableEventError`, which names the place."""
    declared = _by_name.get(stored.type)
    try:
        if declared is None:
            return _decode_plain(stored.data)
        if stored.type_version == declared.version:
            return declared.decode(stored.data)
        return declared.decode(_upcast(declared, stored))
    except _UNDECODABLE as error:
        raise _undecodable(stored, declared, error) from error


def with_data(stored: StoredEvent, data: Any) -> Recorded[Any]:
    """Return the recorded event whose data has been read. Raises `UndecodableEventError`, which names the place."""
    try:
        metadata: JsonObject = {} if stored.metadata == "{}" else _decode_plain(stored.metadata)
    except _UNDECODABLE as error:
        raise _undecodable(stored, _by_name.get(stored.type), error) from error
    return Recorded(
        position=stored.position,
        id=stored.id,
        stream=stored.stream,
        version=stored.version,
        type=stored.type,
        type_version=stored.type_version,
        data=data,
        metadata=metadata,
        recorded_at=stored.recorded_at,
        tags=stored.tags,
    )


def _undecodable(stored: StoredEvent, declared: EventType | None, error: Exception) -> UndecodableEventError:
    known_as = declared.data_class.__qualname__ if declared is not None else "JSON"
    remedy = error.remedy if isinstance(error, UpcastError) else ""
    return UndecodableEventError(
        f"event {stored.position} ({stored.type}) cannot be read as {known_as}: {error}",
        remedy=remedy or "make the class accept what was recorded (a default, an upcaster), then retry",
    )


def _upcast(declared: EventType, stored: StoredEvent) -> str:
    """Bring data of an older version to the declared one; data of that version goes straight into the class."""
    if stored.type_version > declared.version:
        raise UpcastError(
            f"written as version {stored.type_version}, declared is {declared.version}",
            remedy="deploy the code that knows this version"
            + ("" if stored.type == declared.name else "; a renamed type goes on counting the versions of its alias"),
        )
    return upcast_data(
        stored.data,
        stored_as=stored.type,
        declared_as=declared.name,
        since=stored.type_version,
        to=declared.version,
    )


def is_immutable(data: object) -> bool:
    """Tell whether nobody can change an event's data, so that one object may serve many readers."""
    declared = _by_class.get(type(data))
    return declared is not None and declared.immutable


def _cannot_change(info: msgspec.inspect.Type, within: tuple[type, ...] = ()) -> bool:
    """`within` are the Structs we are looking into, for those that hold themselves."""
    match info:
        case msgspec.inspect.StructType():
            fields = () if info.cls in within else info.fields
            frozen = bool(info.cls.__struct_config__.frozen)
            return frozen and all(_cannot_change(field.type, (*within, info.cls)) for field in fields)
        case msgspec.inspect.UnionType():
            return all(_cannot_change(one, within) for one in info.types)
        case msgspec.inspect.VarTupleType():
            return _cannot_change(info.item_type, within)
        case msgspec.inspect.TupleType():
            return all(_cannot_change(one, within) for one in info.item_types)
        case _:
            return isinstance(info, _PLAIN_VALUES)


def _declaration(
    name: str, *, version: int, stream: str | None, tags: Iterable[str], aliases: Iterable[str], data_class: object
) -> EventType:
    before = _checked_aliases(name, aliases)
    if not (isinstance(data_class, type) and issubclass(data_class, msgspec.Struct)):
        raise DeclarationError(
            f"{data_class!r} cannot be declared as {name!r}: it is not a msgspec Struct",
            remedy="write `class Arrived(msgspec.Struct, frozen=True): ...`",
        )
    if version < 1:
        raise DeclarationError(f"{name!r} is declared with version {version}", remedy="versions begin at 1")
    if isinstance(tags, str):
        raise DeclarationError(f"tags={tags!r} of {name!r} is a text", remedy=f"give a list: tags=[{tags!r}]")
    if stream is not None:
        check_template(stream, what="stream", event_type=name, data_class=data_class)
    decoder = msgspec.json.Decoder(data_class)
    return EventType(
        name=name,
        aliases=before,
        version=version,
        data_class=data_class,
        stream_template=stream,
        tag_templates=tuple(check_template(tag, what="tag", event_type=name, data_class=data_class) for tag in tags),
        decode=decoder.decode,
        immutable=_cannot_change(msgspec.inspect.type_info(data_class)),
    )


def _checked_aliases(name: str, aliases: Iterable[str]) -> tuple[str, ...]:
    if isinstance(aliases, str):
        raise DeclarationError(f"aliases={aliases!r} of {name!r} is a text", remedy=f"give a tuple: ({aliases!r},)")
    before = tuple(dict.fromkeys(aliases))
    try:
        for one in (name, *before):
            check_type(one)
    except InvalidEventError as error:
        raise DeclarationError(str(error), remedy=error.remedy) from error
    if name in before:
        raise DeclarationError(f"{name!r} is its own alias", remedy="aliases are the names a type had before")
    return before


def _register(declared: EventType) -> None:
    earlier = [_by_name[name] for name in declared.names if name in _by_name]
    for one in earlier:
        if not _is_reload(one.data_class, declared.data_class):
            (name, *_) = (name for name in declared.names if name in one.names)
            raise DeclarationError(
                f"{name!r} is declared twice: by {_where(one.data_class)} and {_where(declared.data_class)}",
                remedy="give each type one class; a new form of the data is a new version of it",
            )
    other = _by_class.get(declared.data_class)
    if other is not None and other.name != declared.name:
        raise DeclarationError(
            f"{_where(declared.data_class)} is declared as {other.name!r} and as {declared.name!r}",
            remedy="give each type a class of its own; a name it had before goes into aliases=",
        )
    for one in earlier:
        for name in one.names:
            _by_name.pop(name, None)
    _by_name.update(dict.fromkeys(declared.names, declared))
    _by_class[declared.data_class] = declared


def _is_reload(one: type, other: type) -> bool:
    """A module that is imported again, or a function that runs again, declares the same class anew."""
    return _where(one) == _where(other)


def _where(data_class: type) -> str:
    return f"{data_class.__module__}.{data_class.__qualname__}"

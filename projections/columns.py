"""The columns of a view's table, made from the Struct that is its row: types, and how values go in and come out.

What a database has a type for is kept in it; everything else that msgspec can write is kept as JSON. Values come out as
they went in, on both databases. SQLite has few types: there Decimals, times and UUIDs are text, which compares as the
values do (but for Decimals), and time spans are microseconds.

Databases take other values than a field's, and give back what they have made of them, or what cannot be read. So values
are held to their field's type: a function would else see one thing within a page of events, and another after it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from math import isnan
from operator import index
from typing import Any, get_args
from uuid import UUID

import msgspec
from msgspec import inspect as types
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Dialect,
    Double,
    Interval,
    LargeBinary,
    Numeric,
    Text,
    Time,
    Uuid,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import TypeDecorator, TypeEngine

from eventlog.errors import DeclarationError
from eventlog.projections.digests import digest_of
from eventlog.subscribers.owned_tables import VALUES, Values

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

Convert = Callable[[Any], Any]


class _Otherwise(TypeDecorator[Any]):
    """What SQLite has no type for, kept otherwise: who queries the table finds the same values on both databases."""

    impl = Text
    cache_ok = True

    def __init__(self, kept_as: TypeEngine[Any], *, write: Convert, read: Convert) -> None:
        super().__init__()
        self.kept_as, self.write, self.read = kept_as, write, read

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(self.kept_as)

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.write(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return None if value is None else self.read(value)


def _on_sqlite(native: TypeEngine[Any], kept_as: TypeEngine[Any], *, write: Convert, read: Convert) -> TypeEngine[Any]:
    return native.with_variant(_Otherwise(kept_as, write=write, read=read), "sqlite")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How values of one type are kept. None for a conversion: the value is kept as it is."""

    column: TypeEngine[Any]
    postgres: str
    """The type's name on PostgreSQL."""
    to_postgres: Convert | None = None
    from_postgres: Convert | None = None
    to_sqlite: Convert | None = None
    from_sqlite: Convert | None = None
    key: type[Any] | None = None
    """Of which class keys are; None where rows cannot be found by it, since equal values can be written differently."""
    one_of: tuple[str | int, ...] = ()
    """All the values there are, where the type says so."""
    classes: tuple[type[Any], ...] = ()
    """Of which classes values are; empty where the conversion finds out."""
    is_literal: bool = False
    """Whether the values themselves are to be looked at."""
    exactly: Convert | None = None
    """Makes of values that are equal and written differently what differs; None where there are none of one class."""
    mutable: bool = False
    """Whether values can be changed in place."""

    def takes(self, values: Sequence[Any]) -> bool:
        """Tell whether all of these, but for None, are values of the type."""
        found = set(map(type, values)) - {type(None)}
        if self.classes and not all(one in self.classes or self._is_one(one) for one in found):
            return False
        return not self.is_literal or set(values) <= {*self.one_of, None}

    def _is_one(self, found: type[Any]) -> bool:
        """A moment is a date to Python, and another thing to a database."""
        return issubclass(found, self.classes) and not (date in self.classes and issubclass(found, datetime))

    @property
    def named(self) -> str:
        """What its values are, for messages."""
        if self.is_literal:
            return ", ".join(map(repr, self.one_of))
        return " or ".join(one.__qualname__ for one in self.classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class RowField:
    """One field of a row, and its column."""

    name: str
    kind: Kind
    nullable: bool
    values: Values
    """What tells another type from this one, where the column would be the same."""

    def column(self, *, is_key: bool) -> Column[Any]:
        return Column(
            self.name,
            self.kind.column,
            primary_key=is_key,
            nullable=self.nullable,
            autoincrement=False,
            info={VALUES: self.values},
        )


def fields_of(row: type[msgspec.Struct]) -> tuple[RowField, ...]:
    """Read the fields of a Struct, in its order. Raises `DeclarationError` for one that cannot be kept."""
    if not _is_struct(row):
        raise DeclarationError(
            f"row={row!r} is no Struct with fields", remedy="give a class: class Delay(msgspec.Struct, frozen=True)"
        )
    try:
        info = types.type_info(row)
    except (TypeError, NameError) as error:
        raise DeclarationError(
            f"the fields of {row.__qualname__} cannot be read: {error}",
            remedy="annotate them with types that are known where the class is; what is said of a type stands at it:"
            " Annotated[datetime, Meta(tz=False)] | None",
        ) from error
    if not isinstance(info, types.StructType):
        raise DeclarationError(f"row={row!r} is generic", remedy="give a class whose fields have types of their own")
    return tuple(_field(row, field) for field in info.fields)


def _is_struct(row: Any) -> bool:
    return isinstance(row, type) and issubclass(row, msgspec.Struct) and bool(row.__struct_fields__)


def check_value(field: RowField, value: Any) -> str | None:
    """Say why a value cannot be kept; None when it can. Asked when a database has refused some row."""
    if value is None:
        return None if field.nullable else "None where the Struct allows none"
    if not field.kind.takes([value]):
        return f"{value!r}, and its values are {field.kind.named}"
    if field.kind.postgres == "bigint" and isinstance(value, int) and not INTEGER_MIN <= value <= INTEGER_MAX:
        return f"{value}, which needs more than 64 bits"
    if isinstance(value, str) and "\x00" in value:
        return "text with a NUL in it"
    if isinstance(value, str) and any("\ud800" <= one <= "\udfff" for one in value):
        return f"{value!r}, which is no Unicode"
    for convert in (field.kind.to_postgres, field.kind.to_sqlite):
        try:
            written = convert and convert(value)
        except Exception as error:
            return f"{value!r}: {error}"
        if field.kind.postgres == "jsonb" and "\\u0000" in str(written):
            return "text with a NUL in it"
    return None


def _field(row: type[msgspec.Struct], field: types.Field) -> RowField:
    annotation = msgspec.structs.fields(row)[row.__struct_fields__.index(field.name)].type
    if msgspec.UnsetType in get_args(annotation):
        raise _not_kept(row, field.name, "UNSET is no value")
    inspected, nullable = _nullable(field.type)
    kind = _kind(inspected)
    values = Values(kind=type(inspected).__name__, one_of=kind.one_of) if kind else _json_values(row, field, annotation)
    return RowField(name=field.name, kind=kind or _json(annotation), nullable=nullable, values=values)


def _json_values(row: type[msgspec.Struct], field: types.Field, annotation: Any) -> Values:
    """Raises `DeclarationError` for what cannot be written as JSON: better now than at the first row."""
    try:
        return Values(kind=f"json {digest_of(annotation)}")
    except TypeError as error:
        raise _not_kept(row, field.name, str(error).splitlines()[-1]) from error


def _not_kept(row: type[msgspec.Struct], name: str, problem: str) -> DeclarationError:
    return DeclarationError(
        f"field {name!r} of {row.__qualname__} cannot be kept in a table: {problem}",
        remedy="use plain types, Structs, lists and dicts of these; X | None for what may be missing",
    )


def _nullable(kind: types.Type) -> tuple[types.Type, bool]:
    kind = _bare(kind)
    if isinstance(kind, types.UnionType):
        others = [one for one in kind.types if not isinstance(one, types.NoneType)]
        if len(others) == 1:
            return _bare(others[0]), True
        return kind, len(others) < len(kind.types)
    return kind, isinstance(kind, types.NoneType | types.AnyType)


def _bare(kind: types.Type) -> types.Type:
    return _bare(kind.type) if isinstance(kind, types.Metadata) else kind


def _kind(kind: types.Type) -> Kind | None:
    """Return how values of a type are kept, None for what is kept as JSON."""
    match kind:
        case types.DateTimeType(tz=False):
            return _NAIVE
        case types.EnumType():
            return _enumeration(kind.cls)
        case types.LiteralType():
            plain = _by_values(kind.values)
            return plain and replace(plain, is_literal=True)
    return _PLAIN.get(type(kind))


def _enumeration(cls: Any) -> Kind | None:
    plain = _by_values([member.value for member in cls])
    if plain is None:
        return None
    return Kind(
        column=plain.column,
        postgres=plain.postgres,
        to_postgres=_value_of,
        from_postgres=cls,
        to_sqlite=_value_of,
        from_sqlite=cls,
        key=cls,
        one_of=plain.one_of,
        classes=(cls,),
    )


def _by_values(values: Sequence[Any]) -> Kind | None:
    if all(isinstance(value, str) for value in values):
        return replace(_TEXT, one_of=tuple(sorted(values)))
    if all(isinstance(value, int) and not isinstance(value, bool) for value in values):
        return replace(_INTEGER, one_of=tuple(sorted(values)), classes=(int,))
    return None


def _json(annotation: Any) -> Kind:
    decode = msgspec.json.Decoder(annotation).decode

    def write(value: Any) -> str:
        text = _write_json(value)
        try:
            decode(text)
        except msgspec.DecodeError as error:
            raise ValueError(f"it could not be read again: {error}") from error
        return text

    return Kind(
        column=_on_sqlite(postgresql.JSONB(), Text(), write=_write_json, read=msgspec.json.decode),
        postgres="jsonb",
        to_postgres=write,
        from_postgres=decode,
        to_sqlite=write,
        from_sqlite=decode,
        exactly=msgspec.json.encode,
        mutable=True,
    )


def _write_json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _value_of(member: Any) -> Any:
    return member.value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError(
            f"{value.isoformat()} has no time zone: annotate the field with Meta(tz=False), or give it one"
        )
    return value.astimezone(UTC)


def _naive(value: datetime) -> datetime:
    if value.tzinfo is not None:
        raise ValueError(f"{value.isoformat()} has a time zone, and its field is annotated with Meta(tz=False)")
    return value


def _moment_text(value: datetime) -> str:
    return _aware(value).isoformat(timespec="microseconds")


def _microseconds(value: timedelta) -> int:
    return value // _MICROSECOND


def _span(microseconds: int) -> timedelta:
    return microseconds * _MICROSECOND


def _decimal(value: Any) -> Decimal:
    return value if type(value) is Decimal else Decimal(value)


def _real(value: Any) -> float:
    if isnan(value):
        raise ValueError("SQLite would keep it as null")
    return float(value)


def _time(value: time) -> time:
    if value.tzinfo is not None:
        raise ValueError(f"{value.isoformat()} has a time zone; a moment is a datetime")
    return value


_MICROSECOND = timedelta(microseconds=1)
_INTEGER = Kind(column=BigInteger(), postgres="bigint", to_postgres=index, to_sqlite=index, key=int)
_TEXT = Kind(column=Text(), postgres="text", key=str, classes=(str,))
_DATE = Kind(
    column=Date(),
    postgres="date",
    to_sqlite=date.isoformat,
    from_sqlite=date.fromisoformat,
    key=date,
    classes=(date,),
)
_UUID = Kind(
    column=Uuid(), postgres="uuid", to_sqlite=lambda value: value.hex, from_sqlite=UUID, key=UUID, classes=(UUID,)
)
_DECIMAL = Kind(
    column=_on_sqlite(Numeric(), Text(), write=str, read=Decimal),
    postgres="numeric",
    to_postgres=_decimal,
    to_sqlite=lambda value: str(_decimal(value)),
    from_sqlite=Decimal,
    classes=(Decimal, int),
    exactly=str,
)
_MOMENT = Kind(
    column=_on_sqlite(DateTime(timezone=True), Text(), write=_moment_text, read=datetime.fromisoformat),
    postgres="timestamptz",
    to_postgres=_aware,
    from_postgres=_aware,
    to_sqlite=_moment_text,
    from_sqlite=datetime.fromisoformat,
    key=datetime,
    classes=(datetime,),
)
_NAIVE = Kind(
    column=DateTime(),
    postgres="timestamp",
    to_postgres=_naive,
    to_sqlite=lambda value: _naive(value).isoformat(sep=" ", timespec="microseconds"),
    from_sqlite=datetime.fromisoformat,
    key=datetime,
    classes=(datetime,),
)
_TIME = Kind(
    column=Time(),
    postgres="time",
    to_postgres=_time,
    to_sqlite=lambda value: _time(value).isoformat(timespec="microseconds"),
    from_sqlite=time.fromisoformat,
    key=time,
    classes=(time,),
)
_SPAN = Kind(
    column=_on_sqlite(Interval(), BigInteger(), write=_microseconds, read=_span),
    postgres="interval",
    to_sqlite=_microseconds,
    from_sqlite=_span,
    classes=(timedelta,),
)
_PLAIN: dict[type[types.Type], Kind] = {
    types.BoolType: Kind(column=Boolean(), postgres="boolean", from_sqlite=bool, key=bool, classes=(bool,)),
    types.IntType: _INTEGER,
    types.FloatType: Kind(
        column=Double(),
        postgres="double precision",
        to_postgres=float,
        to_sqlite=_real,
        classes=(float, int),
        exactly=repr,
    ),
    types.StrType: _TEXT,
    types.BytesType: Kind(column=LargeBinary(), postgres="bytea", from_postgres=bytes, classes=(bytes, bytearray)),
    types.DecimalType: _DECIMAL,
    types.DateTimeType: _MOMENT,
    types.DateType: _DATE,
    types.TimeType: _TIME,
    types.TimeDeltaType: _SPAN,
    types.UUIDType: _UUID,
}

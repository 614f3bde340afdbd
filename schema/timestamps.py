"""Points in time, kept and compared by the database's own clock.

Owns the column type for times and the two SQL expressions for "now" and "so many seconds from now". Leases and retry
times are only ever compared inside the database, on its clock, so workers whose clocks disagree cannot take each
other's leases. PostgreSQL uses `clock_timestamp()` and not `now()`, which stands still at the start of a transaction.
SQLite keeps UTC text with milliseconds and a closing `Z`; such texts compare in the order of time.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, DateTime, Dialect, String
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine


class Timestamp(TypeDecorator[datetime]):
    """An aware `datetime`: `timestamptz` on PostgreSQL, ISO text in UTC on SQLite."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        native = String(24) if dialect.name == "sqlite" else DateTime(timezone=True)
        return dialect.type_descriptor(native)

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> Any:
        if value is None or dialect.name != "sqlite":
            return value
        return sqlite_text(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        if isinstance(value, str):
            return _read(value)
        assert value is None or isinstance(value, datetime)
        return value


class UnreadableTimeError(Exception):
    """A row of a SQLite file has a text in the place of a time that is none."""


def _read(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError as error:
        raise UnreadableTimeError(f"{value[:100]!r} is not a time") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def sqlite_text(moment: datetime) -> str:
    """Write an aware time the way SQLite rows hold it."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


# Both are function elements, which SQLAlchemy can look into: a statement with what it cannot, it compiles anew for each
# execution.


class database_now(FunctionElement[datetime]):  # noqa: N801 - reads as the SQL function it is
    """The database's clock at the moment the row is evaluated."""

    type = Timestamp()
    inherit_cache = True


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801
    """The database's clock moved by seconds, a number or an SQL expression that may be negative."""

    type = Timestamp()
    inherit_cache = True

    def __init__(self, seconds: ColumnElement[float]) -> None:
        super().__init__(seconds)


@compiles(database_now, "postgresql")
def _now_postgres(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_sqlite(_element: database_now, _compiler: SQLCompiler, **_options: Any) -> str:
    return "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


@compiles(seconds_from_now, "postgresql")
def _later_postgres(element: seconds_from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"clock_timestamp() + make_interval(secs => cast({seconds} as double precision))"


@compiles(seconds_from_now, "sqlite")
def _later_sqlite(element: seconds_from_now, compiler: SQLCompiler, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"strftime('%Y-%m-%dT%H:%M:%fZ', 'now', {seconds} || ' seconds')"

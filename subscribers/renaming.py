"""Writing SQL for other tables than it names: how a rebuild has handlers fill new tables beside those they know.

Handlers write through `ctx.connection`, to the tables that their code declares. While a projection is made anew beside
the live one, the same statements have to reach the new tables; so the names are replaced in the text of each statement
just before it is run, whether SQLAlchemy composed it or somebody wrote it by hand. Strings, comments and parameters
stay as they are, and so does a name behind a dot that is not the table's schema: that is a column.

What goes around SQLAlchemy, through the driver's own cursor, is not seen and would reach the live tables.
"""

import re
from collections.abc import Iterator, Mapping, Set
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, event

TableNames = Mapping[tuple[str | None, str], str]
"""The new name of a table or an index, by its schema and its name."""

_TOKEN = re.compile(
    r"""
      [eE]'(?:[^'\\]|\\.|'')*'            # a string with escapes
    | '(?:[^']|'')*'
    | \$(?P<tag>[A-Za-z_]\w*)?\$.*?\$(?P=tag)\$ | \$\$.*?\$\$
    | --[^\n]*
    | /\*.*?\*/
    | %\(\w+\)s | :\w+ | ::\s*\w+         # parameters and casts
    | (?P<name>"(?:[^"]|"")+"|[^\W\d][\w$]*)
    | (?P<dot>\.)
    | \s+
    | .
    """,
    re.VERBOSE | re.DOTALL,
)

# fmt: off
_MEANT_OTHERWISE = frozenset((
    "array", "avg", "bigint", "blob", "bool", "boolean", "by", "bytea", "cascade", "char", "coalesce", "conflict",
    "count", "date", "datetime", "delete", "do", "double", "excluded", "exists", "filter", "first",
    "generate_series", "greatest", "index", "insert", "int", "integer", "interval", "json", "json_each",
    "json_extract", "jsonb", "key", "last", "lateral", "least", "length", "lower", "max", "min", "no", "nothing",
    "now", "nullif", "numeric", "over", "partition", "precision", "range", "real", "recursive", "returning", "row",
    "rows", "set", "smallint", "sum", "text", "time", "timestamp", "timestamptz", "unnest", "update", "upper",
    "uuid", "value", "values", "varchar", "with",
))
# fmt: on
"""Words that stand in statements as clauses, types or functions, and that not both databases want quoted."""


def is_word(name: str) -> bool:
    """Tell whether a name, unquoted, is something else as well in the statements that handlers write."""
    return name.lower() in _MEANT_OTHERWISE


@contextmanager
def tables_renamed(connection: Connection, names: TableNames) -> Iterator[None]:
    """Have every statement on this connection name other tables while the block runs."""
    if not names:
        yield
        return
    asked = tuple(sorted(names.items(), key=repr))

    def rename(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool) -> Any:
        return renamed(statement, asked), parameters

    event.listen(connection, "before_cursor_execute", rename, retval=True)
    try:
        yield
    finally:
        event.remove(connection, "before_cursor_execute", rename)


@lru_cache(maxsize=1_000)
def renamed(statement: str, names: tuple[tuple[tuple[str | None, str], str], ...]) -> str:
    """Replace names of tables in a statement. Remembered: handlers run few statements, many times."""
    return "".join(_pieces(statement, dict(names)))


def names_in(statement: str) -> set[str]:
    """Return the names that a statement mentions, as the database knows them."""
    return {_known_as(match["name"]) for match in _TOKEN.finditer(statement) if match["name"]}


def _pieces(statement: str, names: TableNames) -> Iterator[str]:
    by_name = {name: (schema, new) for (schema, name), new in names.items()}
    before: str | None = None
    qualifier: str | None = None
    for match in _TOKEN.finditer(statement):
        text = match[0]
        if match["dot"]:
            qualifier, before = before, None
        elif match["name"]:
            before = _known_as(text)
            schema, new = (None, None) if text.lower() in _reserved() else by_name.get(before, (None, None))
            if new is not None and (qualifier is None or qualifier == schema):
                text = f'"{new}"' if text.startswith('"') else new
            qualifier = None
        elif not text.isspace():
            before = qualifier = None
        yield text


@lru_cache
def _reserved() -> Set[str]:
    """Words that both databases want quoted where they are names; unquoted they never are one."""
    from sqlalchemy.dialects import postgresql, sqlite

    of_postgres: Set[str] = postgresql.dialect().identifier_preparer.reserved_words  # type: ignore[no-untyped-call]
    return of_postgres & sqlite.dialect().identifier_preparer.reserved_words


def _known_as(text: str) -> str:
    """What a name in SQL text stands for: exactly what is quoted, and lower case of what is not."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.lower()

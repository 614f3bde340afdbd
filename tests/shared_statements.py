"""Statements that SQLAlchemy has compiled for one engine serve the engines of the tests after it.

An engine keeps what it has compiled, and a service has one for as long as it runs. Nearly every test has its own, and
compiled the same statements anew: that was a quarter of what tests cost Python. What is shared is found by the
statement, as in one engine, and by all that dialects of one class can differ in; the caches of engines whose dialects
are set in another way stay apart.
"""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.engine.interfaces import Dialect
from sqlalchemy.util import LRUCache

STATEMENTS_MAX = 4_000
SETTINGS = (bool, int, str, bytes, tuple, frozenset, type(None))
"""What settings of a dialect are made of; its other attributes are helpers, made from these, but for two functions."""

_compiled: LRUCache[Any, Any] = LRUCache(STATEMENTS_MAX)


class _Shared:
    """The cache of an engine, for whom the first part of a key is its dialect."""

    def get(self, key: tuple[Dialect, *tuple[Any, ...]]) -> Any:
        return _compiled.get(self._shared(key))

    def __setitem__(self, key: tuple[Dialect, *tuple[Any, ...]], statement: Any) -> None:
        _compiled[self._shared(key)] = statement

    @staticmethod
    def _shared(key: tuple[Dialect, *tuple[Any, ...]]) -> tuple[Any, ...]:
        """Looked at each time: a dialect learns more of its server with the first connection."""
        dialect, *rest = key
        settings = frozenset((name, one) for name, one in vars(dialect).items() if isinstance(one, SETTINGS))
        functions = (getattr(dialect, name, None) for name in ("_json_serializer", "_json_deserializer"))
        return (type(dialect), settings, *functions, *rest)


def share() -> None:
    """Let all engines that are made from now on share what they compile."""
    made: Callable[..., None] = Engine.__init__

    def make(engine: Engine, *arguments: Any, **options: Any) -> None:
        made(engine, *arguments, **options)
        if engine._compiled_cache is not None:
            engine._compiled_cache = _Shared()  # type: ignore[assignment]

    Engine.__init__ = make  # type: ignore[method-assign, assignment]

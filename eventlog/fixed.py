"""Statements of SQLAlchemy whose text is made once, for the few that are run so often that making them costs the most.

SQLAlchemy remembers the text of a statement, and yet takes several times as long to build the statement and to find its
text again as a database on the same machine takes to run it.
"""

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Dialect, UpdateBase


class Fixed:
    """An INSERT, UPDATE or DELETE with `bindparam`s, as the text of one dialect. Its values need no conversion."""

    def __init__(self, statement: UpdateBase, dialect: Dialect) -> None:
        self._compiled = statement.compile(dialect=dialect)
        self.text = str(self._compiled)
        places: list[str] | None = getattr(self._compiled, "positiontup", None)
        self._places = places

    def values(self, named: Mapping[str, Any]) -> Any:
        """Return the values of all parameters in the form that the driver takes."""
        everything = self._compiled.construct_params(dict(named))
        return everything if self._places is None else [everything[name] for name in self._places]

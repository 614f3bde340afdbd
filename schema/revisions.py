"""The revisions this code can make, in their order, and the tables each of them locks; only the latter load Alembic."""

from collections.abc import Sequence
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

_PACKAGE = "eventlog.schema.migrations.versions"
_FOLDER = Path(__file__).parent / "migrations" / "versions"


@lru_cache
def known_revisions() -> tuple[str, ...]:
    """Return the revisions this code can make, oldest first."""
    return tuple(_files())


def revisions_after(revision: str | None, *, until: str | None = None) -> tuple[str, ...]:
    """Return what lies between two revisions, `until` included, oldest first; None is nothing, or the newest."""
    later = known_revisions() if revision is None else tuple(one for one in known_revisions() if one > revision)
    return later if until is None else tuple(one for one in later if one <= until)


def revision_module(revision: str) -> ModuleType:
    """Import a revision."""
    return import_module(f"{_PACKAGE}.{_files()[revision]}")


def locked_by(*revisions: str) -> frozenset[str]:
    """Return the tables that these revisions lock, of those that were there before them."""
    return _named(revisions, "LOCKS") | _named(revisions, "LOCKS_WRITERS")


def readable_under(*revisions: str) -> frozenset[str]:
    """Return the tables that may be read while these revisions lock them."""
    return _named(revisions, "LOCKS_WRITERS") - _named(revisions, "LOCKS")


def _named(revisions: Sequence[str], attribute: str) -> frozenset[str]:
    return frozenset(name for one in revisions for name in getattr(revision_module(one), attribute, ()))


@lru_cache
def _files() -> dict[str, str]:
    """The names of the files, by revision."""
    return {"_".join(file.stem.split("_")[:2]): file.stem for file in sorted(_FOLDER.glob("eventlog_*.py"))}

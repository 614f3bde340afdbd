"""Tags: short texts an event carries (`course:42`), by which events are found and decided on across streams."""

from collections.abc import Iterable

from eventlog.errors import InvalidEventError
from eventlog.limits import TAG_CHARACTERS_MAX, TAGS_MAX


def check_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags in the order given, each once. Raises `InvalidEventError`."""
    if isinstance(tags, str | bytes) or not isinstance(tags, Iterable):
        raise InvalidEventError(f"tags={tags!r} is no list of tags", remedy="give a list: tags=['course:42']")
    unique = tuple(dict.fromkeys(_check_tag(tag) for tag in tags))
    if len(unique) > TAGS_MAX:
        raise InvalidEventError(
            f"{len(unique)} tags; at most {TAGS_MAX} are allowed",
            remedy="tag what decisions are made by, and put the rest into the data",
        )
    return unique


def _check_tag(tag: object) -> str:
    if not isinstance(tag, str) or not tag or len(tag) > TAG_CHARACTERS_MAX or not tag.isprintable():
        shown = f"{tag[:40]!r}..." if isinstance(tag, str) and len(tag) > 60 else repr(tag)
        raise InvalidEventError(
            f"{shown} cannot be a tag",
            remedy=f"use a text of 1 to {TAG_CHARACTERS_MAX} printable characters, like 'course:42'",
        )
    return tag

"""What the tests of tags and conditions share: tagged events, plain INSERTs, the index, locks."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import msgspec
from sqlalchemy import Connection, text

from eventlog.events import Event
from eventlog.ids import new_id
from eventlog.limits import TAG_CHARACTERS_MAX
from eventlog.log import EventLog

ODD_TAGS = (
    'say "hi"',
    "back\\slash",
    "{brace,comma}",
    "it's",
    "NULL",
    "%(name)s %s",
    ":colon :name",
    "größe 🦆 \u4e2d",
    " lead and trail ",
    "x" * TAG_CHARACTERS_MAX,
    "🦆" * TAG_CHARACTERS_MAX,
)
"""What could be taken for SQL, a placeholder, an array or JSON on its way into a database and back."""


def tagged(
    *tags: str,
    said: str = "x",
    stream: str = "note-1",
    type: str = "note.taken",  # noqa: A002
    id: UUID | None = None,  # noqa: A002
) -> Event[dict[str, str]]:
    """An event of a type that nobody declares, with tags of its own."""
    return Event({"said": said}, type=type, stream=stream, id=id, tags=tags)


def insert_plainly(
    connection: Connection,
    *tags: str,
    stream: str = "plain",
    version: int = 1,
    type: str = "note.taken",  # noqa: A002
) -> None:
    """What a service in another language does: an INSERT, with tags as its database writes them."""
    is_postgres = connection.dialect.name == "postgresql"
    connection.execute(
        text(
            f"insert into {'eventlog.' if is_postgres else ''}events (id, stream, version, type, data, tags)"
            ' values (:id, :stream, :version, :type, \'{"said": "plain"}\', :tags)'
        ),
        {
            "id": str(new_id()),
            "stream": stream,
            "version": version,
            "type": type,
            "tags": list(tags) if is_postgres else msgspec.json.encode(tags).decode(),
        },
    )


def index_rows(log: EventLog) -> list[tuple[str, int, str]]:
    """The rows of the index of tags: tag, position, type."""
    with log.engine.connect() as connection:
        rows = connection.execute(log.database.tables.event_tags.select().order_by(text("position, tag")))
        return [(row.tag, row.position, row.type) for row in rows]


def tags_in_buckets_of_their_own(log: EventLog, count: int) -> Sequence[str]:
    """Tags whose locks differ on PostgreSQL, where a tag is locked by its hash."""

    def buckets() -> Iterator[tuple[int, str]]:
        with log.engine.connect() as connection:
            for number in range(100):
                bucket = connection.scalar(text("select hashtext(:tag) & 255"), {"tag": f"course:{number}"})
                yield int(bucket or 0), f"course:{number}"

    return list(dict(buckets()).values())[:count]

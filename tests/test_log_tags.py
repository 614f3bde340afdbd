"""Tags: recorded with an event however it comes into the log, returned, read back, and indexed."""

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from eventlog.errors import IdConflictError, InvalidEventError
from eventlog.events import Event, Recorded
from eventlog.ids import new_id
from eventlog.limits import TAG_CHARACTERS_MAX, TAGS_MAX
from eventlog.log import EventLog
from eventlog.query import Query
from tests.log_support import everything, note, notes, opened, positions, said
from tests.log_tags_support import ODD_TAGS, index_rows, insert_plainly, tagged


def tags_of(events: list[Recorded[object]]) -> list[tuple[str, ...]]:
    return [event.tags for event in events]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("in_transaction", [False, True])
def test_tags_are_returned_by_append_and_read_back_as_they_were(
    log: EventLog, count: int, in_transaction: bool
) -> None:
    events = [tagged("b:2", f"a:{number}") for number in range(count)]
    if in_transaction:
        with log.engine.begin() as connection:
            appended = log.append(*events, tx=connection)
    else:
        appended = log.append(*events)

    wanted = [("b:2", f"a:{number}") for number in range(count)]
    assert tags_of(appended) == tags_of(everything(log)) == wanted
    assert (
        [log.get(event.position).tags for event in appended] == [log.get(event.id).tags for event in appended] == wanted
    )


def test_every_tag_is_a_row_of_the_index_with_the_events_position_and_type(log: EventLog) -> None:
    log.append(tagged("a", "b"), tagged("a", type="note.closed"))

    assert index_rows(log) == [("a", 1, "note.taken"), ("b", 1, "note.taken"), ("a", 2, "note.closed")]


def test_an_untagged_event_leaves_no_row_in_the_index_and_no_tags_in_the_log(log: EventLog) -> None:
    log.append(note("alone"))
    log.append(*notes(3, stream="batch"))
    log.append(note("empty list"), tags=[])

    events = log.database.tables.events
    with log.engine.connect() as connection:
        stored = list(connection.scalars(events.select().with_only_columns(events.c.tags)))
    assert (stored, index_rows(log), tags_of(everything(log))) == ([None] * 5, [], [()] * 5)


def test_tags_of_an_append_go_with_every_event_behind_its_own_and_once(log: EventLog) -> None:
    appended = log.append(tagged("a"), note("none"), tagged("b", "a"), tags=["a", "z", "a"])

    assert tags_of(appended) == [("a", "z"), ("a", "z"), ("b", "a", "z")]
    assert tags_of(everything(log)) == tags_of(appended)


def test_a_batch_may_hold_tagged_and_untagged_events(log: EventLog) -> None:
    log.append(note("none"), tagged("a"), note("none"), tagged("a", "b", "c"))

    assert tags_of(everything(log)) == [(), ("a",), (), ("a", "b", "c")]
    assert positions(list(log.read(tags=["a"]))) == [2, 4]


@pytest.mark.parametrize("count", [1, 2])
def test_any_printable_text_can_be_a_tag(log: EventLog, count: int, subtests: pytest.Subtests) -> None:
    for number, tag in enumerate(ODD_TAGS):
        with subtests.test(tag=tag):
            appended = log.append(*[tagged(tag, "beside", stream=f"{number}") for _ in range(count)])

            assert tags_of(appended) == [(tag, "beside")] * count
            assert list(log.read(tags=[tag])) == appended
            assert list(log.read(tags=["beside", tag])) == appended
            assert list(log.read(matching=Query(tags=[tag]), backwards=True)) == appended[::-1]


@pytest.mark.parametrize("bad", ["", "a\nb", "nul\0", "x" * (TAG_CHARACTERS_MAX + 1), "\ud800", 7, None, b"bytes"])
def test_what_cannot_be_a_tag_is_refused_before_anything_is_sent(log: EventLog, bad: object) -> None:
    for refuse in (
        lambda: log.append(note("fine"), Event({}, type="t", stream="s", tags=["fine", bad])),  # type: ignore[list-item]
        lambda: log.append(note("fine"), tags=[bad]),  # type: ignore[list-item]
        lambda: log.read(tags=[bad]),  # type: ignore[list-item]
        lambda: Query(tags=[bad]),  # type: ignore[list-item]
    ):
        with pytest.raises(InvalidEventError, match="cannot be a tag") as refused:
            refuse()
        assert refused.value.remedy
    assert log.head() == 0


@pytest.mark.parametrize("bad", ["course:1", b"course:1", 7])
def test_a_text_for_a_list_of_tags_is_refused(log: EventLog, bad: object) -> None:
    for refuse in (
        lambda: log.append(Event({}, type="t", stream="s", tags=bad)),  # type: ignore[arg-type]
        lambda: log.append(note("fine"), tags=bad),  # type: ignore[arg-type]
        lambda: log.read(tags=bad),  # type: ignore[arg-type]
        lambda: Query(tags=bad),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidEventError, match="no list of tags"):
            refuse()


def test_an_event_may_have_so_many_tags_and_no_more(log: EventLog) -> None:
    most = [f"tag:{number}" for number in range(TAGS_MAX)]
    log.append(tagged(*most))

    with pytest.raises(InvalidEventError, match=f"{TAGS_MAX + 1} tags; at most {TAGS_MAX}"):
        log.append(tagged(*most[1:]), tags=["one more", "and another"])
    assert positions(list(log.read(tags=most))) == [1]


@pytest.mark.parametrize("count", [1, 2])
def test_an_id_appended_again_with_the_same_tags_in_another_order_is_returned(log: EventLog, count: int) -> None:
    ids = [new_id() for _ in range(count)]
    first = log.append(*[tagged("a", "b", id=one) for one in ids])

    again = log.append(*[tagged("b", "a", "b", id=one) for one in ids])

    assert again == first
    assert len(index_rows(log)) == 2 * count


@pytest.mark.parametrize("tags", [(), ("a",), ("a", "b", "c"), ("a", "B")])
def test_an_id_appended_again_with_other_tags_is_a_conflict(log: EventLog, tags: tuple[str, ...]) -> None:
    known = new_id()
    log.append(tagged("a", "b", id=known))

    with pytest.raises(IdConflictError) as refused:
        log.append(tagged(*tags, id=known))

    assert refused.value.ids == (known,)
    assert tags_of(everything(log)) == [("a", "b")]


def test_what_is_rolled_back_leaves_no_row_in_the_index(log: EventLog) -> None:
    with log.engine.connect() as connection:
        log.append(tagged("a"), tx=connection)
        log.append(tagged("b"), tagged("b"), tx=connection)
        connection.rollback()

    assert (index_rows(log), everything(log)) == ([], [])


def test_what_a_savepoint_takes_back_leaves_no_row_in_the_index(log: EventLog) -> None:
    with log.engine.begin() as connection:
        log.append(tagged("kept"), tx=connection)
        with connection.begin_nested() as savepoint:
            log.append(tagged("gone"), tx=connection)
            savepoint.rollback()

    assert [tag for tag, _, _ in index_rows(log)] == ["kept"]


def test_a_plain_insert_with_tags_is_indexed_and_read(log: EventLog) -> None:
    with log.engine.begin() as connection:
        insert_plainly(connection, "a", "b", "a")

    assert index_rows(log) == [("a", 1, "note.taken"), ("b", 1, "note.taken")]
    assert tags_of(list(log.read(tags=["b"]))) == [("a", "b", "a")]


@pytest.mark.parametrize(
    "tags", [[f"{number}" for number in range(TAGS_MAX + 1)], [""], ["x" * (TAG_CHARACTERS_MAX + 1)], [None]]
)
def test_a_plain_insert_beyond_the_limits_of_tags_is_refused_by_the_database(log: EventLog, tags: list[str]) -> None:
    with pytest.raises(DBAPIError), log.engine.begin() as connection:
        insert_plainly(connection, *tags)

    assert (everything(log), index_rows(log)) == ([], [])


@pytest.mark.parametrize("tags", ["'a'", "'{}'", "'[1]'", "'[[\"a\"]]'", "x'00'", "7"])
def test_a_plain_insert_into_sqlite_of_what_is_no_list_of_texts_is_refused(sqlite_url: str, tags: str) -> None:
    with opened(sqlite_url) as log, pytest.raises(DBAPIError), log.engine.begin() as connection:
        connection.exec_driver_sql(
            "insert into events (id, stream, version, type, data, tags)"
            f" values ('{new_id()}', 's', 1, 't', '1', {tags})"
        )


def test_a_plain_insert_into_postgres_of_a_list_of_lists_is_refused(postgres_database_url: str) -> None:
    """Read back it would be a tag that is a list, which no reader can compare."""
    insert = "insert into eventlog.events (id, stream, version, type, data, tags)"
    lists = text(f"{insert} values (gen_random_uuid(), 's', 1, 't', '1', '{{{{a,b}},{{c,d}}}}')")
    with (
        opened(postgres_database_url) as log,
        log.engine.connect() as connection,
        pytest.raises(DBAPIError, match="one list of texts"),
    ):
        connection.execute(lists)


def test_a_copy_with_tags_is_indexed_and_read(postgres_database_url: str) -> None:
    with opened(postgres_database_url) as log:
        with log.engine.begin() as connection:
            driver = connection.connection.driver_connection
            assert isinstance(driver, psycopg.Connection)
            into = "copy eventlog.events (id, stream, version, type, data, tags) from stdin"
            with driver.cursor() as cursor, cursor.copy(into) as copy:
                for number in range(1, 4):
                    copy.write_row(
                        [new_id(), "copied", number, "note.taken", '{"said": "x"}', ["all", f"one:{number}"]]
                    )

        assert positions(list(log.read(tags=["all"]))) == [1, 2, 3]
        assert positions(list(log.read(tags=["one:2"]))) == [2]
        assert len(index_rows(log)) == 6


def test_a_read_by_tags_wants_all_of_them_and_takes_each_as_it_is_written(log: EventLog) -> None:
    log.append(
        tagged("a", said="1"), tagged("a", "b", said="2"), tagged("A", "b", said="3"), tagged("b", "a", said="4")
    )

    assert said(list(log.read(tags=["a", "b"]))) == said(list(log.read(tags=["b", "a"]))) == ["2", "4"]
    assert said(list(log.read(tags=["a"]))) == ["1", "2", "4"]
    assert said(list(log.read(tags=["a", "nobody's"]))) == []


def test_two_logs_in_one_database_do_not_read_each_others_tags(database_url: str) -> None:
    with opened(database_url) as one, opened(database_url, schema="other") as other:
        other.init()
        one.append(tagged("a", said="one"))
        other.append(tagged("a", said="other"), tagged("b", said="other b"), unless=Query(tags=["a"]))

        assert said(list(one.read(tags=["a"]))) == ["one"]
        assert said(list(other.read(tags=["a"]))) == ["other"]

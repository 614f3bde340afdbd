"""The SQL function `append`: the promises of the library's own append, for clients in any language."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from eventlog.errors import InvalidEventError
from eventlog.events import Event
from eventlog.ids import new_id
from eventlog.log import EventLog
from tests.log_support import (
    Background,
    at_once,
    engine_of,
    errors_of,
    everything,
    note,
    opened,
    said,
    wait_until,
    waiting_for_locks,
)

WRITERS = 8
EACH = 25
WRONG_VERSION, OTHER_CONTENT = "RL001", "RL002"


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def client(postgres_database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A client without anything of ours, which commits each statement."""
    with connected(postgres_database_url) as client:
        yield client


def connected(url: str) -> psycopg.Connection[Any]:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    return psycopg.connect(plain, autocommit=True)


def append(client: psycopg.Connection[Any], schema: str = "eventlog", **values: Any) -> Any:
    """Call the function with these arguments, and those every call needs; return (position, id, version, time)."""
    given = {"stream": "note-1", "type": "note.taken", "data": '{"said": "hello"}'} | values
    named = ", ".join(f"{name} => %({name})s" for name in given)
    return client.execute(f"select * from {schema}.append({named})".encode(), given).fetchone()


def refusal(client: psycopg.Connection[Any], **values: Any) -> tuple[str | None, Any]:
    """The SQLSTATE and the numbers of a refused append."""
    with pytest.raises(psycopg.Error) as refused:
        append(client, **values)
    detail = refused.value.diag.message_detail
    return refused.value.sqlstate, detail and json.loads(detail)


def test_what_it_returns_is_what_is_recorded(log: EventLog, client: psycopg.Connection[Any]) -> None:
    position, event_id, version, recorded_at = append(
        client, metadata='{"by": "psql"}', type_version=3, tags=["b", "a", "b"]
    )

    event = log.get(position)
    assert (event.id, event.version, event.recorded_at) == (event_id, version, recorded_at)
    assert (event.stream, event.type, event.type_version) == ("note-1", "note.taken", 3)
    assert (event.data, event.metadata, event.tags) == ({"said": "hello"}, {"by": "psql"}, ("b", "a"))


def test_versions_follow_those_of_the_library(log: EventLog, client: psycopg.Connection[Any]) -> None:
    log.append(note("one"))
    assert append(client, expected=1)[2] == 2
    assert append(client)[2] == 3
    assert log.append(note("four"), expected=3)[0].version == 4
    assert append(client, stream="new", expected=0)[2] == 1


def test_another_version_than_expected_is_refused_with_both_numbers(
    log: EventLog, client: psycopg.Connection[Any]
) -> None:
    log.append(note("one"))

    for expected, actual in ((0, 1), (2, 1)):
        numbers = {"stream": "note-1", "expected": expected, "actual": actual}
        assert refusal(client, expected=expected) == (WRONG_VERSION, numbers)
    assert said(everything(log)) == ["one"]


def test_an_id_that_is_recorded_already_returns_what_was_recorded(
    log: EventLog, client: psycopg.Connection[Any]
) -> None:
    event_id = new_id()
    first = append(client, id=event_id, data='{"a": 1, "b": [2]}', tags=["x", "y"])
    append(client)

    again = append(client, id=event_id, data='{"b":[2],"a":1}', tags=["y", "x"], expected=77)

    assert again == first
    assert len(everything(log)) == 2


OTHER: dict[str, dict[str, Any]] = {
    "data": {"data": '{"said": "other"}'},
    "a number written as a float": {"data": '{"number": 1.0}'},
    "stream": {"stream": "note-2"},
    "type": {"type": "note.lost"},
    "type_version": {"type_version": 2},
    "tags": {"tags": ["x"]},
}


@pytest.mark.parametrize("values", OTHER.values(), ids=list(OTHER))
def test_an_id_recorded_with_other_content_is_refused(
    log: EventLog, client: psycopg.Connection[Any], values: dict[str, Any]
) -> None:
    event_id = new_id()
    position = append(client, id=event_id, data='{"number": 1}')[0]
    given = {"data": '{"number": 1}'} | values

    assert refusal(client, id=event_id, **given) == (OTHER_CONTENT, {"id": str(event_id), "position": position})
    assert len(everything(log)) == 1


def test_an_event_of_the_library_is_repeated_by_the_function_and_the_other_way_round(
    log: EventLog, client: psycopg.Connection[Any]
) -> None:
    ours, theirs = note("ours", id=new_id()), note("theirs", id=new_id())
    recorded = log.append(ours)[0]
    position = append(client, id=theirs.id, data='{"said":   "theirs"}')[0]

    assert append(client, id=ours.id, data='{"said": "ours"}')[0] == recorded.position
    assert log.append(theirs)[0].position == position


def test_data_is_kept_as_it_is_written(client: psycopg.Connection[Any]) -> None:
    written = '{"b" : 1.50,  "a":1e2, "a":"\\u00e9\\\\u0000"}'
    position = append(client, data=written)[0]

    kept = client.execute("select data::text from eventlog.events where position = %s", [position]).fetchone()
    assert kept == (written,)


def test_it_is_part_of_the_callers_transaction(log: EventLog, client: psycopg.Connection[Any]) -> None:
    client.execute("create table orders (number integer)")
    with client.transaction(force_rollback=True):
        client.execute("insert into orders values (1)")
        append(client)

    assert everything(log) == []
    assert client.execute("select count(*) from orders").fetchone() == (0,)


def test_a_savepoint_keeps_a_transaction_usable_after_a_refusal(log: EventLog, client: psycopg.Connection[Any]) -> None:
    with client.transaction():
        append(client, data='{"said": "kept"}')
        with pytest.raises(psycopg.Error, match="is at version 1, expected 0"), client.transaction():
            append(client, expected=0)
        append(client, data='{"said": "also kept"}')

    assert said(everything(log)) == ["kept", "also kept"]


def test_an_open_append_by_the_function_holds_later_events_back(log: EventLog, client: psycopg.Connection[Any]) -> None:
    with client.transaction():
        append(client, stream="early")
        log.append(note("late"))
        assert everything(log) == []

    assert [event.stream for event in log.read()] == ["early", "note-1"]


@pytest.mark.parametrize(("outcome", "version"), [("commit", 2), ("rollback", 1)])
def test_it_waits_for_an_open_append_to_its_stream_and_takes_the_version_that_is_left(
    log: EventLog, postgres_database_url: str, outcome: str, version: int
) -> None:
    with (
        log.engine.connect() as open_append,
        connected(postgres_database_url) as client,
        engine_of(postgres_database_url) as observer,
    ):
        log.append(note("first"), tx=open_append)
        second = Background(lambda: append(client))
        wait_until(lambda: waiting_for_locks(observer), what="the function waits")
        getattr(open_append, outcome)()

        waited: Any = second.result()
        assert waited[2] == version


def test_clients_and_the_library_at_once_record_a_stream_without_a_gap(
    log: EventLog, postgres_database_url: str
) -> None:
    def by_function() -> int:
        with connected(postgres_database_url) as client:
            return sum(1 for _ in range(EACH) if append(client))

    def by_library() -> int:
        return sum(len(log.append(note("library"))) for _ in range(EACH))

    works = [work for work, _ in zip(itertools.cycle((by_function, by_library)), range(WRITERS), strict=False)]
    outcomes = at_once(*works)

    assert errors_of(outcomes) == []
    versions = [event.version for event in log.read()]
    assert versions == list(range(1, WRITERS * EACH + 1))


def test_of_clients_that_expect_the_same_version_one_wins(log: EventLog, postgres_database_url: str) -> None:
    def decide() -> str | None:
        with connected(postgres_database_url) as client:
            try:
                append(client, expected=0)
            except psycopg.Error as error:
                return error.sqlstate
            return "won"

    assert sorted(map(str, at_once(*[decide] * WRITERS))) == [WRONG_VERSION] * (WRITERS - 1) + ["won"]
    assert len(everything(log)) == 1


def test_several_events_are_one_statement_in_their_order(log: EventLog, client: psycopg.Connection[Any]) -> None:
    rows = client.execute(
        "select appended.version from json_to_recordset(%s) as given(type text, data json),"
        " eventlog.append(stream => 'batch', type => given.type, data => given.data) as appended",
        [json.dumps([{"type": "note.taken", "data": {"said": f"{number}"}} for number in range(300)])],
    ).fetchall()

    assert [version for (version,) in rows] == list(range(1, 301))
    assert said(everything(log)) == [f"{number}" for number in range(300)]


def test_ids_it_makes_rise(client: psycopg.Connection[Any]) -> None:
    ids = [append(client)[1] for _ in range(20)]

    assert len(set(ids)) == 20
    assert {one.version for one in ids} == {7 if client.info.server_version >= 180_000 else 4}
    assert ids == sorted(ids) or client.info.server_version < 180_000


def test_each_log_has_a_function_of_its_own(postgres_database_url: str, client: psycopg.Connection[Any]) -> None:
    with opened(postgres_database_url, schema="other") as other:
        other.init()
        append(client, schema="other", stream="s")
        assert [event.stream for event in other.read()] == ["s"]
        assert client.execute("select count(*) from eventlog.events").fetchone() == (0,)


BAD: dict[str, dict[str, Any]] = {
    "no stream": {"stream": ""},
    "a long stream": {"stream": "s" * 501},
    "a stream with a line break": {"stream": "a\nb"},
    "a stream with a space nobody sees": {"stream": "a\u200bb"},
    "a stream with a space that is none": {"stream": "a\u00a0b"},
    "no type": {"type": ""},
    "a long type": {"type": "t" * 201},
    "a type with a space": {"type": "a b"},
    "a type with an empty segment": {"type": "a..b"},
    "a type that is a pattern": {"type": "a.*"},
    "a type with a tab": {"type": "a\tb"},
    "a type version of 0": {"type_version": 0},
    "large data": {"data": "x" * 1_048_575},
    "a NUL in data": {"data": {"said": "\0"}},
    "half a surrogate pair in data": {"data": {"said": "\ud800"}},
    "large metadata": {"metadata": {"said": "x" * 65_536}},
    "a NUL in metadata": {"metadata": {"said": "\0"}},
    "33 tags": {"tags": [f"t{number}" for number in range(33)]},
    "an empty tag": {"tags": [""]},
    "a long tag": {"tags": ["t" * 201]},
    "a tag with a line break": {"tags": ["a\nb"]},
}


@pytest.mark.parametrize("values", BAD.values(), ids=list(BAD))
def test_what_the_library_refuses_it_refuses_too(
    log: EventLog, client: psycopg.Connection[Any], values: dict[str, Any]
) -> None:
    good: dict[str, Any] = {"stream": "s", "type": "t", "data": {}}
    with pytest.raises(InvalidEventError):
        log.append(Event(**(good | values)))

    written = {name: json.dumps(value) for name, value in values.items() if name in {"data", "metadata"}}
    with pytest.raises(psycopg.DataError):
        append(client, **(values | written))
    assert everything(log) == []


def test_what_the_library_takes_it_takes_too(log: EventLog, client: psycopg.Connection[Any]) -> None:
    for stream, kind in (
        ("s" * 500, "t" * 200),
        ("Bestellung Nr. 7 / Köln 🚚", "bestellung.überfällig-2"),
        ("注文-1", "注文.済"),
    ):
        log.append(Event({}, type=kind, stream=stream))
        append(client, stream=stream, type=kind)
        assert [event.type for event in log.read(stream=stream)] == [kind, kind]


@pytest.mark.parametrize("values", [{"data": None}, {"metadata": "[]"}, {"expected": -1}, {"stream": None}])
def test_what_only_sql_can_say_wrong_is_refused(client: psycopg.Connection[Any], values: dict[str, Any]) -> None:
    assert refusal(client, **values) == ("22023", None)


def test_metadata_that_is_null_is_none(log: EventLog, client: psycopg.Connection[Any]) -> None:
    assert log.get(append(client, metadata=None)[0]).metadata == {}


def test_a_search_path_of_the_caller_changes_nothing(log: EventLog, client: psycopg.Connection[Any]) -> None:
    client.execute("create temporary table events (like eventlog.events)")
    client.execute("create function pg_temp.strpos(text, text) returns integer language sql as 'select 1/0'")
    client.execute("set search_path = pg_temp, public, pg_catalog")

    append(client)

    assert said(everything(log)) == ["hello"]

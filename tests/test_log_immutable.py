"""What is recorded stays as it is, and plain SQL writes events as safely as the library does.

The attacks run as the owner of the tables, on connections of a plain driver: nothing of ours helps to defend.
"""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
import pytest
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import DBAPIError

from eventlog.errors import IdConflictError
from eventlog.log import EventLog
from tests.log_support import engine_of, everything, note, notes, opened, positions, said

INSERT_AT = (
    "insert into {{events}} (position, id, stream, version, type, data)"
    " values ({position}, '{{id}}', 'elsewhere', 1, 't', '1')"
)


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with opened(database_url) as log:
        log.append(*notes(3))
        yield log


@pytest.fixture
def stranger(log: EventLog, database_url: str) -> Iterator[Engine]:
    """A plain engine to the same database, as any other program would have."""
    assert len(everything(log)) == 3
    with engine_of(database_url) as engine:
        yield engine


@pytest.fixture
def postgres(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        log.append(*notes(3))
        yield log


@pytest.fixture
def sqlite(sqlite_url: str) -> Iterator[EventLog]:
    with opened(sqlite_url) as log:
        log.append(*notes(3))
        yield log


def events(engine: Engine) -> str:
    return "events" if engine.dialect.name == "sqlite" else "eventlog.events"


def insert(connection: Connection, version: int, *, stream: str = "note-1", id: UUID | None = None) -> None:  # noqa: A002
    """Insert as a program in any language would: naming what must be named."""
    names = "(id, stream, version, type, data)"
    connection.execute(
        text(f"insert into {events(connection.engine)} {names} values (:id, :stream, :version, 'note.taken', :data)"),
        {"id": str(id or uuid4()), "stream": stream, "version": version, "data": f'{{"said": "plain {version}"}}'},
    )


def refused(engine: Engine, statement: str, *, match: str) -> None:
    with engine.connect() as connection, pytest.raises(DBAPIError, match=match):
        connection.execute(text(statement.format(events=events(engine), id=uuid4())))


def test_no_event_can_be_updated(log: EventLog, stranger: Engine) -> None:
    before = everything(log)

    for change in ("data = '{{}}'", "stream = 'x'", "version = version + 100", "recorded_at = recorded_at"):
        refused(stranger, f"update {{events}} set {change}", match="UPDATE of .*events is refused")
        refused(stranger, f"update {{events}} set {change} where position = 2", match="UPDATE of .*events is refused")

    assert everything(log) == before


def test_no_event_can_be_deleted(log: EventLog, stranger: Engine) -> None:
    before = everything(log)

    refused(stranger, "delete from {events}", match="DELETE of .*events is refused")
    refused(stranger, "delete from {events} where position = 3", match="DELETE of .*events is refused")

    assert everything(log) == before


def test_no_event_can_be_overwritten_by_an_upsert(log: EventLog, stranger: Engine) -> None:
    """The conflict is that of the stream's version, then that of the id."""
    before = everything(log)
    upsert = (
        "insert into {events} (id, stream, version, type, data) values ('%s', '%s', %d, 'x', '{{}}') on conflict %s"
    )

    for target in ("(stream, version)", "(id)"):
        values = (before[0].id, "note-1", 1, f"{target} do update set data = '{{{{}}}}'")
        refused(stranger, upsert % values, match="refused|UNIQUE")

    assert everything(log) == before


def test_the_past_of_the_ledger_and_of_operations_cannot_be_changed(log: EventLog, stranger: Engine) -> None:
    tables = log.database.tables
    with log.engine.begin() as connection:
        connection.execute(
            tables.attempts.insert().values(
                subscriber="s",
                position=1,
                round=0,
                attempt=1,
                outcome="failed",
                worker="w",
                epoch=1,
                duration_seconds=0.1,
            )
        )
        connection.execute(
            tables.operations.insert().values(action="rewind", subscriber="s", actor="a", before="1", after="0")
        )

    for table in ("attempts", "operations"):
        name = tables.sql_name(table)
        refused(stranger, f"update {name} set subscriber = 'x'", match=f"UPDATE of .*{table} is refused")
        refused(stranger, f"delete from {name}", match=f"DELETE of .*{table} is refused")


def test_a_plain_insert_needs_five_columns_and_is_read(log: EventLog, stranger: Engine) -> None:
    given = uuid4()
    with stranger.begin() as connection:
        insert(connection, 4, id=given)

    read = log.get(given)
    assert (read.stream, read.version, read.type, read.type_version) == ("note-1", 4, "note.taken", 1)
    assert (read.data, read.metadata) == ({"said": "plain 4"}, {})
    assert abs(datetime.now(UTC) - read.recorded_at) < timedelta(minutes=5)
    assert everything(log)[-1] == read


def test_an_append_goes_on_where_a_plain_insert_ended(log: EventLog, stranger: Engine) -> None:
    with stranger.begin() as connection:
        insert(connection, 4)

    (fifth,) = log.append(note("fifth"), expected=4)

    assert (fifth.version, fifth.position) == (5, everything(log)[-2].position + 1)


def test_a_plain_insert_cannot_take_a_version_or_an_id_twice(log: EventLog, stranger: Engine) -> None:
    taken = everything(log)[0]

    for version, given in ((3, uuid4()), (4, taken.id)):
        with stranger.connect() as connection, pytest.raises(DBAPIError, match=r"(?i)unique"):
            insert(connection, version, id=given)

    assert len(everything(log)) == 3


def test_a_plain_insert_of_what_the_log_cannot_hold_is_refused(log: EventLog, stranger: Engine) -> None:
    fits = "insert into {events} (id, stream, version, type, data) values ('{id}', 's', 1, 't', '{{}}')"
    for part, other in [
        ("'s'", "''"),
        ("'s'", f"'{'x' * 501}'"),
        ("'t'", "''"),
        ("'t'", f"'{'x' * 201}'"),
        ("1,", "0,"),
        ("'{{}}'", "'no json'"),
        ("'{{}}'", "'NaN'"),
        ("'{{}}'", "null"),
        ("'{id}'", "null"),
        ("'{id}'", "'no uuid'"),
    ]:
        refused(stranger, fits.replace(part, other), match=r"(?i)check|constraint|invalid input|not null")

    assert len(everything(log)) == 3


def test_an_id_written_in_another_form_is_the_same_id(log: EventLog, stranger: Engine) -> None:
    """A UUID may be written in capitals or without dashes; recorded so, it must still be recognised or be refused."""
    given = uuid4()
    for form in (str(given).upper(), given.hex, f"{{{given}}}"):
        with stranger.connect() as connection:
            statement = (
                f"insert into {events(stranger)} (id, stream, version, type, data) values (:id, 's', 1, 't', '1')"
            )
            try:
                connection.execute(text(statement), {"id": form})
            except DBAPIError:
                continue
            connection.commit()
            with pytest.raises(IdConflictError):
                log.append(note("other", id=given))
            return


def test_a_position_behind_the_head_cannot_be_given(log: EventLog, stranger: Engine) -> None:
    for position in (-5, 0, 2, 3):
        refused(stranger, INSERT_AT.format(position=position), match=r"position|UNIQUE")

    assert positions(everything(log)) == [1, 2, 3]


def test_a_position_beyond_the_head_cannot_be_given(log: EventLog, stranger: Engine) -> None:
    """It would stay unseen until the head comes by, and stand in the way of the append that is given it then."""

    for position in (5, 1_000, 2**62):
        refused(stranger, INSERT_AT.format(position=position), match="position")

    assert log.append(note("next"))[0].position > 3


def test_a_position_imported_beyond_the_head_stands_in_nobodys_way(postgres: EventLog) -> None:
    """Whoever overrides the numbering is on his own, but loses no event: it is read when the head comes by."""
    beyond = INSERT_AT.format(position=6).replace(" values", " overriding system value values")
    with postgres.engine.begin() as connection:
        connection.execute(text(beyond.format(events="eventlog.events", id=uuid4())))
    assert positions(everything(postgres)) == [1, 2, 3]

    for number in range(4, 8):
        postgres.append(note(f"{number}"))

    assert positions(everything(postgres)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_events_cannot_be_truncated(postgres: EventLog) -> None:
    before = everything(postgres)

    for statement in ("truncate {events}", "truncate {events} restart identity cascade"):
        refused(postgres.engine, statement, match=r"TRUNCATE of eventlog\.events is refused")

    assert everything(postgres) == before


def test_events_cannot_be_merged_over(postgres: EventLog) -> None:
    before = everything(postgres)
    merge = "merge into {events} e using (select 2::bigint as p) s on e.position = s.p when matched then "

    refused(postgres.engine, merge + "update set stream = 'x'", match="UPDATE of .* is refused")
    refused(postgres.engine, merge + "delete", match="DELETE of .* is refused")

    assert everything(postgres) == before


def test_the_replica_role_can_neither_change_events_nor_write_unmarked_ones(postgres: EventLog) -> None:
    with postgres.engine.connect() as connection:
        for statement in ("update eventlog.events set stream = 'x'", "delete from eventlog.events"):
            connection.execute(text("set session_replication_role = replica"))
            with pytest.raises(DBAPIError, match="is refused"):
                connection.execute(text(statement))
            connection.rollback()

        connection.execute(text("set session_replication_role = replica"))
        insert(connection, 4)
        assert postgres.high_water_mark() == 3
        connection.commit()

    assert postgres.high_water_mark() == 4


def test_a_sequence_with_a_cache_is_refused_instead_of_losing_events(postgres: EventLog) -> None:
    """The second transaction of a session would draw from its cache, behind positions others were given since."""
    with postgres.engine.begin() as connection:
        connection.execute(text("alter sequence eventlog.events_position_seq cache 10"))

    with postgres.engine.connect() as connection:
        insert(connection, 4)
        connection.commit()
        with pytest.raises(DBAPIError, match="not covered by an in-flight mark"):
            insert(connection, 5)


def test_a_position_drawn_before_the_append_is_refused(postgres: EventLog) -> None:
    """Drawn before there was a mark, it is a position readers may have passed."""
    with postgres.engine.connect() as connection:
        drawn = connection.scalar(text("select nextval('eventlog.events_position_seq')"))
        insist = INSERT_AT.format(position=drawn).replace(" values", " overriding system value values")
        refused(postgres.engine, insist, match="not covered by an in-flight mark")


@pytest.mark.parametrize("source", ["values (nextval({seq}))", "select (select nextval({seq}))"])
def test_a_position_drawn_within_the_statement_is_covered_by_its_mark(postgres: EventLog, source: str) -> None:
    drawn = source.format(seq="'eventlog.events_position_seq'")
    with postgres.engine.begin() as connection:
        connection.execute(
            text(
                f"with drawn(n) as materialized ({drawn}) insert into eventlog.events"
                " (position, id, stream, version, type, data) overriding system value"
                " select n, gen_random_uuid(), 's', 1, 't', '1' from drawn"
            )
        )
        assert postgres.high_water_mark() == 3

    assert postgres.high_water_mark() == 4


def test_a_copy_is_marked_and_read(postgres: EventLog) -> None:
    with postgres.engine.begin() as connection:
        copy(connection, rows=1_000)
        assert (postgres.head(), postgres.high_water_mark()) == (1_003, 3)

    assert positions(everything(postgres)) == list(range(1, 1_004))


def test_a_copy_cannot_choose_positions_behind_its_mark(postgres: EventLog) -> None:
    with postgres.engine.connect() as connection:
        drawn = connection.scalar(text("select nextval('eventlog.events_position_seq')"))
        with pytest.raises(psycopg.Error, match="not covered by an in-flight mark"):
            copy(connection, rows=3, first_position=drawn)

    assert positions(everything(postgres)) == [1, 2, 3]


def copy(connection: Connection, *, rows: int, first_position: int | None = None) -> None:
    driver: Any = connection.connection.driver_connection
    names = "(id, stream, version, type, data" + (")" if first_position is None else ", position)")
    with driver.cursor().copy(f"copy eventlog.events {names} from stdin") as stream:
        for number in range(1, rows + 1):
            place = () if first_position is None else (first_position + number - 1,)
            stream.write_row((uuid4(), "copied", number, "note.taken", '{"said": "copied"}', *place))


def test_an_event_cannot_be_replaced(sqlite: EventLog, sqlite_url: str, subtests: pytest.Subtests) -> None:
    """On a plain connection REPLACE removes the row in its way without firing a delete trigger."""
    before = everything(sqlite)
    first, last = before[0], before[-1]

    with engine_of(sqlite_url) as stranger:
        for position, given, stream, version in [
            ("null", first.id, "other", 1),
            ("null", uuid4(), "note-1", 1),
            ("null", uuid4(), "note-1", 3),
            (first.position, uuid4(), "other", 1),
            (last.position, uuid4(), "other", 1),
            (last.position, last.id, "note-1", 3),
        ]:
            with subtests.test(position=position, id=given, stream=stream, version=version):
                statement = (
                    "replace into {events} (position, id, stream, version, type, data)"
                    f" values ({position}, '{given}', '{stream}', {version}, 't', '1')"
                )
                refused(stranger, statement, match=r"UNIQUE|position|refused")
                refused(stranger, f"insert or {statement}", match=r"UNIQUE|position|refused")

    assert everything(sqlite) == before


def test_an_event_cannot_be_replaced_by_an_update(sqlite: EventLog, sqlite_url: str) -> None:
    before = everything(sqlite)

    with engine_of(sqlite_url) as stranger:
        refused(
            stranger,
            "update or replace {events} set version = 3 where version = 1",
            match="UPDATE of events is refused",
        )

    assert everything(sqlite) == before


def test_an_insert_that_may_be_ignored_leaves_the_event_as_it_was(sqlite: EventLog, sqlite_url: str) -> None:
    before = everything(sqlite)
    ignore = (
        f"insert or ignore into events (id, stream, version, type, data) values ('{before[0].id}', 'x', 1, 't', '1')"
    )

    with engine_of(sqlite_url) as stranger, suppress(DBAPIError), stranger.begin() as connection:
        connection.execute(text(ignore))

    assert everything(sqlite) == before


def test_a_plain_insert_that_was_ignored_does_not_keep_appends_out(sqlite: EventLog, sqlite_url: str) -> None:
    """A row that breaks a check may be ignored, and has drawn a number all the same: positions get a hole."""
    ignore = "insert or ignore into events (id, stream, version, type, data) values ('{id}', {stream}, 1, 't', '1')"

    with engine_of(sqlite_url) as stranger, stranger.begin() as connection:
        for stream in ("''", "null"):
            connection.execute(text(ignore.format(id=uuid4(), stream=stream)))

    sqlite.append(note("next"))
    assert said(everything(sqlite))[3:] == ["next"]


def test_positions_are_not_given_out_again_when_the_sequence_is_forgotten(sqlite: EventLog) -> None:
    with sqlite.engine.begin() as connection:
        connection.execute(text("delete from sqlite_sequence"))

    assert sqlite.append(note("next"))[0].position == 4
    assert said(everything(sqlite))[-1] == "next"

"""Append inside the caller's transaction: the event exists if and only if his change committed."""

import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from eventlog.errors import IdConflictError, InvalidEventError, UnsafeTransactionError, WrongExpectedVersionError
from eventlog.ids import new_id
from eventlog.log import EventLog
from eventlog.sqlite import prepare
from tests.log_support import engine_of, everything, note, notes, opened, said


class Base(DeclarativeBase):
    """The tables of the service."""


class Order(Base):
    """Something of the caller's own, written beside the events."""

    __tablename__ = "orders"
    number: Mapped[int] = mapped_column(primary_key=True)


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    with opened(database_url) as log:
        Base.metadata.create_all(log.engine)
        yield log


def orders(log: EventLog) -> list[int]:
    with log.engine.connect() as connection:
        return list(connection.scalars(text("select number from orders order by number")))


def place(connection: Connection, number: int) -> None:
    connection.execute(text("insert into orders (number) values (:number)"), {"number": number})


def test_an_event_is_recorded_when_the_callers_session_commits(log: EventLog) -> None:
    with Session(log.engine) as session, session.begin():
        session.add(Order(number=1))
        log.append(note("placed"), tx=session)

    assert (orders(log), said(everything(log))) == ([1], ["placed"])


def test_an_event_is_gone_when_the_callers_session_rolls_back(log: EventLog) -> None:
    with Session(log.engine) as session:
        session.add(Order(number=1))
        log.append(note("placed"), tx=session)
        session.rollback()

    assert (orders(log), everything(log)) == ([], [])


def test_an_event_is_recorded_when_the_callers_connection_commits(log: EventLog) -> None:
    with log.engine.connect() as connection:
        place(connection, 1)
        log.append(note("placed"), tx=connection)
        connection.commit()

    assert (orders(log), said(everything(log))) == ([1], ["placed"])


def test_an_event_is_gone_when_the_callers_block_raises(log: EventLog) -> None:
    with suppress(ZeroDivisionError), log.engine.begin() as connection:
        place(connection, 1)
        log.append(*notes(3), tx=connection)
        raise ZeroDivisionError

    assert (orders(log), everything(log)) == ([], [])


def test_an_append_begins_the_transaction_of_a_fresh_connection_and_leaves_the_end_to_the_caller(log: EventLog) -> None:
    with log.engine.connect() as connection:
        log.append(note("placed"), tx=connection)

        assert connection.in_transaction()
    assert everything(log) == []


@pytest.mark.parametrize("count", [1, 3])
def test_nobody_else_sees_the_event_before_the_caller_commits(log: EventLog, count: int) -> None:
    with log.engine.connect() as connection:
        log.append(*notes(count), tx=connection)
        before = everything(log)
        connection.commit()

    assert (before, len(everything(log))) == ([], count)


def test_the_caller_sees_his_own_events_in_the_next_append(log: EventLog) -> None:
    with log.engine.begin() as connection:
        log.append(note("first"), tx=connection, expected="none")
        (second,) = log.append(note("second"), tx=connection, expected=1)

    assert second.version == 2


@pytest.mark.parametrize("count", [1, 3])
def test_a_wrong_expected_version_leaves_the_callers_transaction_usable(log: EventLog, count: int) -> None:
    with log.engine.begin() as connection:
        place(connection, 1)
        with pytest.raises(WrongExpectedVersionError, match="at version 0, expected 4"):
            log.append(*notes(count), tx=connection, expected=4)
        place(connection, 2)
        log.append(note("after"), tx=connection)

    assert (orders(log), said(everything(log))) == ([1, 2], ["after"])


@pytest.mark.parametrize("count", [1, 3])
def test_a_known_id_leaves_the_callers_transaction_usable(log: EventLog, count: int) -> None:
    known = new_id()
    log.append(note("known", id=known))

    with log.engine.begin() as connection:
        place(connection, 1)
        with pytest.raises(IdConflictError):
            log.append(*notes(count - 1), note("other content", id=known), tx=connection)
        log.append(note("after"), tx=connection)

    assert (orders(log), said(everything(log))) == ([1], ["known", "after"])


def test_an_invalid_event_leaves_the_callers_transaction_usable(log: EventLog) -> None:
    with log.engine.begin() as connection:
        place(connection, 1)
        with pytest.raises(InvalidEventError):
            log.append(note("first"), note("second", stream=""), tx=connection)
        log.append(note("after"), tx=connection)

    assert (orders(log), said(everything(log))) == ([1], ["after"])


def test_a_batch_refused_half_way_leaves_nothing_in_the_callers_transaction(log: EventLog) -> None:
    known = new_id()
    log.append(note("known", stream="known", id=known))

    with log.engine.begin() as connection:
        with pytest.raises(IdConflictError, match="1 of the 3"):
            log.append(note("a"), note("known", stream="known", id=known), note("b"), tx=connection)
        inside = connection.scalar(text(f"select count(*) from {log.database.tables.sql_name('events')}"))

    assert inside == 1
    assert said(everything(log)) == ["known"]


@pytest.mark.parametrize("count", [1, 3])
def test_an_append_in_the_callers_savepoint_goes_with_it(log: EventLog, count: int) -> None:
    with log.engine.begin() as connection:
        log.append(note("before"), tx=connection)
        savepoint = connection.begin_nested()
        log.append(*notes(count), tx=connection)
        savepoint.rollback()
        log.append(note("after"), tx=connection, expected=1)

    assert said(everything(log)) == ["before", "after"]
    assert [event.version for event in everything(log)] == [1, 2]


@pytest.mark.parametrize("count", [1, 3])
def test_a_refused_append_leaves_the_callers_savepoint_usable(log: EventLog, count: int) -> None:
    with log.engine.begin() as connection:
        with connection.begin_nested():
            place(connection, 1)
            with pytest.raises(WrongExpectedVersionError):
                log.append(*notes(count), tx=connection, expected=9)
            log.append(note("inside"), tx=connection)
        place(connection, 2)

    assert (orders(log), said(everything(log))) == ([1, 2], ["inside"])


def test_a_savepoint_of_the_session_holds_the_event(log: EventLog) -> None:
    with Session(log.engine) as session, session.begin():
        with suppress(ZeroDivisionError), session.begin_nested():
            session.add(Order(number=1))
            log.append(*notes(2), tx=session)
            raise ZeroDivisionError
        session.add(Order(number=2))
        log.append(note("kept"), tx=session)

    assert (orders(log), said(everything(log))) == ([2], ["kept"])


def test_an_append_in_the_callers_transaction_needs_no_second_connection(database_url: str) -> None:
    """With one connection in the pool, a log that asks for another waits in vain."""
    with engine_of(database_url, pool_size=1, max_overflow=0, pool_timeout=0.1) as engine, opened(engine) as log:
        if engine.dialect.name == "sqlite":
            prepare(engine)

        with engine.begin() as connection:
            log.append(note("one"), tx=connection)
            log.append(*notes(2), tx=connection)

        assert len(everything(log)) == 3


def test_two_appends_of_one_transaction_are_committed_together(log: EventLog) -> None:
    with log.engine.connect() as connection:
        log.append(note("first"), tx=connection)
        log.append(note("second", stream="note-2"), tx=connection)
        log.append(*notes(2, stream="note-3"), tx=connection)
        connection.rollback()
        log.append(note("third"), tx=connection)
        connection.commit()

    assert said(everything(log)) == ["third"]
    assert everything(log)[0].version == 1


@pytest.fixture
def another_url(log: EventLog, tmp_path: Path, sqlite_template: Path, request: pytest.FixtureRequest) -> str:
    """Another database with a log, of the same kind."""
    if log.engine.dialect.name == "sqlite":
        return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'another.db')}"
    return str(request.getfixturevalue("new_postgres_database")())


@pytest.mark.parametrize("count", [1, 3])
def test_a_transaction_in_another_database_that_has_a_log_too_is_refused(
    log: EventLog, another_url: str, count: int
) -> None:
    with opened(another_url) as other, other.engine.begin() as connection:
        for _ in range(2):
            with pytest.raises(UnsafeTransactionError, match="nobody would find the events"):
                log.append(*notes(count), tx=connection)
        connection.execute(text("create table still_usable (n integer)"))

        assert (log.head(), other.head()) == (0, 0)


def test_a_transaction_in_a_database_without_a_log_is_told_which_one_it_is(
    log: EventLog, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    of_postgres = log.engine.dialect.name == "postgresql"
    url = str(request.getfixturevalue("postgres_empty_url")) if of_postgres else f"sqlite:///{tmp_path / 'empty.db'}"
    with engine_of(url) as engine:
        if not of_postgres:
            prepare(engine)
        with (
            engine.begin() as connection,
            pytest.raises(
                UnsafeTransactionError, match=rf"the transaction is in .*{engine.url.database}, and the log in"
            ),
        ):
            log.append(note("x"), tx=connection)


def test_the_same_database_by_another_address_is_the_same(log: EventLog, tmp_path: Path) -> None:
    """Another name of the server, a link to the file."""
    url = log.engine.url
    if url.get_backend_name() == "sqlite":
        assert url.database
        (tmp_path / "link").symlink_to(Path(url.database).parent, target_is_directory=True)
        url = url.set(database=str(tmp_path / "link" / Path(url.database).name))
    else:
        url = url.set(host="localhost")
    with engine_of(url.render_as_string(hide_password=False)) as engine:
        if engine.dialect.name == "sqlite":
            prepare(engine)
        with engine.begin() as connection:
            log.append(note("x"), tx=connection)

    assert said(everything(log)) == ["x"]

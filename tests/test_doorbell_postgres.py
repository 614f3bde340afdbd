"""The doorbell on PostgreSQL: when an append rings and when it does not, and each way in which one could be missed."""

import logging
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Connection, text

from eventlog.bell import SilentBellError
from eventlog.log import EventLog
from eventlog.postgres_doorbell import PostgresBell
from tests.doorbell_support import (
    FAR_AWAY_SECONDS,
    Dozer,
    Eavesdropper,
    Once,
    WatchedDoorbell,
    asleep,
    doorbell_connections,
    eavesdropping,
)
from tests.log_support import WAIT_SECONDS_MAX, note, opened, wait_until
from tests.postgres_deaf_proxy import deaf_proxy

MARK_ONLY = "insert into eventlog.events (id, stream, version, type, data) select null, '', 0, '', null where false"
"""Fires the statement trigger, which marks and tries the bell, and allocates nothing."""


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def doorbell(log: EventLog) -> WatchedDoorbell:
    return WatchedDoorbell(log)


@pytest.fixture
def early(log: EventLog) -> Iterator[Connection]:
    """A connection whose transaction begins to append before anybody sleeps."""
    with log.engine.connect() as connection:
        yield connection


@pytest.fixture
def listener(postgres_database_url: str) -> Iterator[Eavesdropper]:
    with eavesdropping(postgres_database_url) as listener:
        yield listener


def test_nobody_is_notified_while_nobody_sleeps(log: EventLog, listener: Eavesdropper) -> None:
    for _ in range(20):
        log.append(note("one"))
    assert listener.heard() == 0


def test_nobody_is_notified_while_all_who_have_slept_are_at_work(
    log: EventLog, doorbell: WatchedDoorbell, listener: Eavesdropper
) -> None:
    with doorbell.sleeper(threading.Event()):
        with asleep(doorbell) as dozer:
            log.append(note("wakes"))
            dozer.has_seen(1)
        wait_until(lambda: not doorbell.is_out, what="the bell is taken in")
        assert listener.heard() == 1
        wait_until(lambda: _bells(log) == 0, what="the lock is given back")
        log.append(note("works"))
        assert listener.heard() == 0


def test_a_transaction_rings_once_however_often_it_appends(
    log: EventLog, doorbell: WatchedDoorbell, listener: Eavesdropper
) -> None:
    with asleep(doorbell) as dozer:
        with log.database.transaction() as connection:
            for _ in range(10):
                log.append(note("one"), tx=connection)
        dozer.has_seen(10)
    assert listener.heard() == 1


def test_the_bell_is_given_back_by_whoever_tried_it(log: EventLog) -> None:
    log.append(note("one"))
    with log.database.transaction() as connection:
        log.append(note("two"), tx=connection)
        assert _bells(log) == 0


def test_an_append_that_commits_between_the_reading_of_head_and_marks_is_seen(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    """It marks and finds the bell in; the sleeper puts the bell out and reads the head; then the append allocates and
    commits; then the sleeper reads the marks, and there are none. Only the second reading of the head tells.
    """
    early.execute(text(MARK_ONLY))

    def allocate_and_commit() -> None:
        log.append(note("one"), tx=early)
        early.commit()

    doorbell.between_head_and_marks = Once(allocate_and_commit)
    dozer = Dozer(doorbell)
    dozer.has_seen(1)
    # The silence is the point: a ring would have woken the sleeper without that reading. (One is the connection's.)
    assert doorbell.rings == 1
    dozer.end()


def test_an_append_in_flight_before_the_bell_is_polled_for_until_it_commits(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    log.append(note("one"), tx=early)
    dozer = Dozer(doorbell)
    wait_until(lambda: doorbell.looks > 2, what="it polls")
    early.commit()
    dozer.has_seen(1)
    assert doorbell.rings == 1
    dozer.end()


def test_an_append_that_has_marked_and_not_yet_allocated_is_polled_for(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    """It holds nothing back: the high-water mark is the head. It has found the bell in, and will not ring."""
    early.execute(text(MARK_ONLY))
    assert (log.head(), log.high_water_mark()) == (0, 0)
    dozer = Dozer(doorbell)
    wait_until(lambda: doorbell.looks > 2, what="it polls")
    log.append(note("one"), tx=early)
    early.commit()
    dozer.has_seen(1)
    assert doorbell.rings == 1
    dozer.end()


def test_an_append_in_flight_that_is_rolled_back_lets_the_sleeper_sleep(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    log.append(note("one"), tx=early)
    dozer = Dozer(doorbell)
    wait_until(lambda: doorbell.looks > 2, what="it polls")
    early.rollback()
    wait_until(lambda: doorbell.heads > 0, what="it sleeps")
    dozer.end()


def test_a_ring_that_was_rolled_back_with_a_savepoint_is_made_up_for(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    with asleep(doorbell) as dozer:
        with early.begin_nested() as savepoint:
            log.append(note("undone"), tx=early)
            savepoint.rollback()
        position = log.append(note("kept"), tx=early)[0].position
        early.commit()
        dozer.has_seen(position)


def test_a_ring_before_a_savepoint_that_is_rolled_back_is_kept(
    log: EventLog, doorbell: WatchedDoorbell, early: Connection
) -> None:
    with asleep(doorbell) as dozer:
        log.append(note("kept"), tx=early)
        with early.begin_nested() as savepoint:
            log.append(note("undone"), tx=early)
            savepoint.rollback()
        early.commit()
        dozer.has_seen(1)


def test_plain_inserts_and_copy_ring_too(log: EventLog, doorbell: WatchedDoorbell) -> None:
    columns = "eventlog.events (id, stream, version, type, data)"
    with asleep(doorbell) as dozer, log.engine.connect() as connection:
        connection.execute(text(f"insert into {columns} values (gen_random_uuid(), 's', 1, 't', '1')"))
        connection.commit()
        dozer.has_seen(1)
        driver = connection.connection.driver_connection
        assert driver is not None
        with driver.cursor() as cursor, cursor.copy(f"copy {columns} from stdin") as copy:
            copy.write_row(("0198c5a2-0000-7000-8000-000000000000", "s", 2, "t", "2"))
        driver.commit()
        dozer.has_seen(2)


def test_two_logs_in_one_database_do_not_wake_each_other(log: EventLog, postgres_database_url: str) -> None:
    with opened(postgres_database_url, schema="audit") as other:
        other.init()
        doorbell = WatchedDoorbell(log)
        with eavesdropping(postgres_database_url, schema="audit") as listener, asleep(doorbell):
            rings = doorbell.rings
            other.append(note("elsewhere"))
            assert listener.heard() == 0
            with asleep(WatchedDoorbell(other), seen=1):
                other.append(note("elsewhere"))
                assert listener.heard() == 1
            assert doorbell.rings == rings


def test_the_longest_name_a_log_can_have_has_a_channel(postgres_empty_url: str) -> None:
    with opened(postgres_empty_url, schema="a" * 41) as log:
        log.init()
        with asleep(WatchedDoorbell(log)) as dozer:
            log.append(note("one"))
            dozer.has_seen(1)


def test_all_who_sleep_in_a_process_share_one_connection(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell), asleep(doorbell), asleep(doorbell):
        assert len(doorbell_connections(log.engine)) == 1
        assert _bells(log) == 1
    wait_until(lambda: not doorbell_connections(log.engine), what="the connection is given up")


def test_a_connection_lost_during_sleep_loses_no_append(
    log: EventLog,
    doorbell: WatchedDoorbell,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The append finds the bell in: it comes after the connection is gone, and before there is another."""
    caplog.set_level(logging.INFO, logger="eventlog.doorbell")
    may_come_back = threading.Event()
    with asleep(doorbell) as dozer:

        def later(*arguments: Any, **options: Any) -> PostgresBell:
            assert may_come_back.wait(WAIT_SECONDS_MAX)
            return PostgresBell(*arguments, **options)

        monkeypatch.setattr("eventlog.postgres.PostgresBell", later)
        (pid,) = doorbell_connections(log.engine)
        with log.database.transaction() as connection:
            connection.execute(text(f"select pg_terminate_backend({pid}, 5000)"))
        log.append(note("meanwhile"))
        assert (_bells(log), dozer.seen) == (0, 0)
        may_come_back.set()
        dozer.has_seen(1)
        wait_until(lambda: doorbell.is_out, what="it listens again")
        log.append(note("afterwards"))
        dozer.has_seen(2)
    said = [record.getMessage() for record in caplog.records if record.name == "eventlog.doorbell"]
    assert len([line for line in said if line.startswith("not woken by the doorbell")]) == 1
    assert said[-1] == "woken by the doorbell again"


def test_what_a_session_with_the_doorbell_off_appends_is_found_by_the_slow_poll(
    log: EventLog, listener: Eavesdropper
) -> None:
    with asleep(WatchedDoorbell(log, slow_poll_seconds=0.05)) as dozer:
        with log.engine.begin() as connection:
            connection.execute(text("set local eventlog.doorbell_eventlog = off"))
            log.append(note("quiet"), tx=connection)
        dozer.has_seen(1)
    assert listener.heard() == 0


def test_a_session_with_the_doorbell_off_may_prepare_its_transaction(log: EventLog) -> None:
    """PREPARE TRANSACTION refuses after NOTIFY; the sleeper sees the mark of what is prepared, and polls."""
    with asleep(WatchedDoorbell(log, slow_poll_seconds=0.05)) as dozer:
        with log.engine.connect() as connection:
            connection.execute(text("set local eventlog.doorbell_eventlog = off"))
            log.append(note("prepared"), tx=connection)
            connection.execute(text("prepare transaction 'eventlog-doorbell'"))
            connection.rollback()
        with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("commit prepared 'eventlog-doorbell'"))
        dozer.has_seen(1)


def test_a_connection_nothing_comes_through_is_found_out_before_it_is_relied_on(
    log: EventLog, postgres_database_url: str
) -> None:
    with deaf_proxy(postgres_database_url) as url:
        make = log.database.bell_maker(url)
        with pytest.raises(SilentBellError, match="no notification comes through"):
            make()
    assert _bells(log) == 0


def test_behind_a_pooler_that_swallows_notifications_it_says_so_once_and_polls(
    log: EventLog, postgres_database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with deaf_proxy(postgres_database_url) as url:
        doorbell = WatchedDoorbell(log, listen_url=url)
        with doorbell.sleeper(threading.Event()) as sleeper:
            wait_until(lambda: caplog.records, what="it says so")
            log.append(note("one"))
            sleeper.sleep(lambda _look: FAR_AWAY_SECONDS)
            assert log.high_water_mark() == 1
    assert len(caplog.records) == 1
    assert "listen_url=" in caplog.records[0].getMessage()


def test_listen_url_leads_past_the_pooler(log: EventLog, postgres_database_url: str) -> None:
    with (
        deaf_proxy(postgres_database_url) as url,
        opened(url) as pooled,
        asleep(WatchedDoorbell(pooled, listen_url=postgres_database_url)) as dozer,
    ):
        log.append(note("one"))
        dozer.has_seen(1)


def _bells(log: EventLog) -> int:
    """How many sessions keep the bell of the log out."""
    question = (
        "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 1"
        " and (classid::bigint << 32) | objid::bigint = eventlog.doorbell_key()"
    )
    with log.engine.connect() as connection:
        return int(connection.scalar(text(question)) or 0)

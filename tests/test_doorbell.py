"""Sleeping beside a log until something may be new, on both databases."""

import threading

import pytest

from eventlog.bell import Look
from eventlog.errors import UsageError
from eventlog.log import EventLog
from tests.doorbell_support import FAR_AWAY_SECONDS, Dozer, Once, WatchedDoorbell, asleep
from tests.log_support import Background, note, opened, wait_until


@pytest.fixture
def doorbell(log: EventLog) -> WatchedDoorbell:
    return WatchedDoorbell(log)


def test_an_append_wakes_who_sleeps(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell) as dozer:
        log.append(note("one"))
        dozer.has_seen(1)


def test_an_append_of_another_process_wakes_who_sleeps(
    log: EventLog, doorbell: WatchedDoorbell, database_url: str
) -> None:
    with opened(database_url) as other, asleep(doorbell) as dozer:
        other.append(note("one"))
        dozer.has_seen(1)


def test_who_has_been_woken_sleeps_again_and_is_woken_again(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell) as dozer:
        for position in range(1, 11):
            log.append(note("one"))
            dozer.has_seen(position)


def test_an_append_in_the_callers_transaction_wakes_at_its_commit(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell) as dozer:
        with log.database.transaction() as connection:
            log.append(note("one"), tx=connection)
            assert dozer.seen == 0
        dozer.has_seen(1)


def test_an_append_that_is_rolled_back_wakes_nobody(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell) as dozer:
        rings = doorbell.rings
        with log.database.transaction() as connection:
            log.append(note("undone"), tx=connection)
            connection.rollback()
        assert doorbell.rings == rings
        position = log.append(note("one"))[0].position
        dozer.has_seen(position)
        assert dozer.seen == position


def test_an_append_that_is_there_already_is_seen_at_the_look(log: EventLog, doorbell: WatchedDoorbell) -> None:
    log.append(note("one"))
    dozer = Dozer(doorbell)
    dozer.has_seen(1)
    dozer.end()


def test_an_append_after_the_bell_and_before_the_look_is_seen_at_the_look(
    log: EventLog, doorbell: WatchedDoorbell
) -> None:
    doorbell.before_look = Once(lambda: log.append(note("one")))
    dozer = Dozer(doorbell)
    dozer.has_seen(1)
    dozer.end()


def test_an_append_between_the_last_look_and_sleep_ends_the_sleep_at_once(
    log: EventLog, doorbell: WatchedDoorbell
) -> None:
    """The sleeper has done all its looking when the append comes; the ring is counted before it begins to wait."""
    doorbell.after_second_head = Once(lambda: log.append(note("one")))
    dozer = Dozer(doorbell)
    dozer.has_seen(1)
    dozer.end()


def test_two_who_sleep_are_both_woken(log: EventLog, doorbell: WatchedDoorbell) -> None:
    with asleep(doorbell) as one, asleep(doorbell) as two:
        log.append(note("one"))
        one.has_seen(1)
        two.has_seen(1)


def test_who_sleeps_in_another_process_is_woken_too(log: EventLog, database_url: str) -> None:
    with opened(database_url) as other, asleep(WatchedDoorbell(log)) as one, asleep(WatchedDoorbell(other)) as two:
        log.append(note("one"))
        one.has_seen(1)
        two.has_seen(1)


def test_when_the_seconds_allowed_are_over_it_looks_again(doorbell: WatchedDoorbell) -> None:
    looks: list[Look] = []

    def allowance(look: Look) -> float:
        looks.append(look)
        return 0.01 if len(looks) < 3 else 0.0

    with doorbell.sleeper(threading.Event()) as sleeper:
        while not looks:
            sleeper.sleep(allowance)
    assert len(looks) == 3


def test_the_slow_poll_finds_what_nobody_rang_for(log: EventLog) -> None:
    """The allowance forbids a wake-up by itself; what ends the sleep is the slow poll alone."""
    doorbell = WatchedDoorbell(log, slow_poll_seconds=0.02)
    with asleep(doorbell):
        looks = doorbell.looks
        wait_until(lambda: doorbell.looks > looks + 2, what="it looks by itself")


def test_stop_ends_a_sleep_and_a_wait(doorbell: WatchedDoorbell) -> None:
    stop = threading.Event()

    def sleep_then_wait() -> None:
        with doorbell.sleeper(stop) as sleeper:
            while not stop.is_set():
                sleeper.sleep(lambda _look: FAR_AWAY_SECONDS)
            sleeper.wait(FAR_AWAY_SECONDS)

    thread = Background(sleep_then_wait)
    wait_until(lambda: doorbell.is_out, what="it sleeps")
    stop.set()
    thread.result()


def test_wake_ends_the_sleep_at_hand_or_else_the_next_one(doorbell: WatchedDoorbell) -> None:
    with doorbell.sleeper(threading.Event()) as sleeper:
        sleeper.wake()
        sleeper.sleep(lambda _look: FAR_AWAY_SECONDS)
        thread = Background(lambda: sleeper.sleep(lambda _look: FAR_AWAY_SECONDS))
        while not thread.ends_within(0.01):
            sleeper.wake()
        thread.result()
        sleeper.wake()
        sleeper.wait(FAR_AWAY_SECONDS)


def test_the_bell_is_in_while_nobody_sleeps(doorbell: WatchedDoorbell) -> None:
    with doorbell.sleeper(threading.Event()) as sleeper:
        with asleep(doorbell):
            assert doorbell.is_out
        wait_until(lambda: not doorbell.is_out, what="the bell is taken in")
        sleeper.wake()


def test_the_thread_ends_with_the_last_sleeper_and_another_one_begins(doorbell: WatchedDoorbell) -> None:
    before = threading.active_count()
    for _ in range(3):
        with asleep(doorbell):
            assert threading.active_count() > before
        wait_until(lambda: threading.active_count() == before, what="the threads have ended")


def test_a_fault_in_what_the_sleeper_looks_at_comes_out_of_its_sleep(doorbell: WatchedDoorbell) -> None:
    def allowance(_look: Look) -> float:
        raise ZeroDivisionError

    def sleep() -> None:
        with doorbell.sleeper(threading.Event()) as sleeper:
            while True:
                sleeper.sleep(allowance)

    assert isinstance(Background(sleep).outcome(), ZeroDivisionError)


def test_a_file_is_not_listened_to(sqlite_url: str) -> None:
    with pytest.raises(UsageError, match="watched"):
        EventLog(sqlite_url, listen_url="postgresql://localhost/other")


def test_logs_on_one_sqlite_engine_share_what_listens_to_its_commits(sqlite_url: str) -> None:
    """One listener each would stay with the engine for good, and be called at each of its commits."""
    with opened(sqlite_url) as log:
        for _ in range(5):
            EventLog(log.engine).append(note("one"))

        assert len(list(log.engine.dispatch.commit)) == 1

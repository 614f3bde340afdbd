"""The doorbell through PgBouncer in transaction mode, which takes a LISTEN silently and passes no notification on."""

import logging

import psycopg
import pytest
from sqlalchemy import text

from eventlog.bell import SilentBellError
from tests.doorbell_support import WatchedDoorbell, asleep, plain
from tests.log_support import engine_of, note, opened, wait_until
from tests.pgbouncer_server import POOL_CONNECTIONS
from tests.subscribers_support import Bench, Sent, eventually

HELD_BY_SESSIONS = (
    "select count(*) from pg_locks where locktype = 'advisory' and database ="
    " (select oid from pg_database where datname = current_database())"
)
CHANGED = "select current_setting('idle_session_timeout'), current_setting('application_name')"


def test_a_pooler_is_found_out_and_is_left_without_locks_and_settings(
    pooled_url: str, postgres_database_url: str
) -> None:
    with opened(pooled_url) as log, engine_of(postgres_database_url) as direct:
        make = log.database.bell_maker(None)
        for _ in range(POOL_CONNECTIONS):
            with pytest.raises(SilentBellError, match="no notification comes through"):
                make()
        with direct.connect() as connection:
            assert connection.scalar(text(HELD_BY_SESSIONS)) == 0
        with log.engine.connect() as connection:
            assert "eventlog doorbell" not in connection.execute(text(CHANGED)).one()


def test_a_notification_sent_on_the_listening_connection_proves_nothing(pooled_url: str) -> None:
    """It comes back through the pooler, with the answer; that is why the self-test sends on another one."""
    with psycopg.connect(plain(pooled_url), autocommit=True, prepare_threshold=None) as connection:
        heard: list[str] = []
        connection.add_notify_handler(lambda notification: heard.append(notification.payload))
        connection.execute("listen echo")
        connection.execute("notify echo, 'mine'")
        connection.execute("select 1")
    assert heard == ["mine"]


def test_a_worker_says_once_that_it_polls_and_delivers(pooled_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="eventlog.doorbell")
    bench = Bench(pooled_url)
    app = bench.app()

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        return

    with app.worker():
        wait_until(lambda: caplog.records, what="it says that it polls")
        sent = bench.send(1)
        eventually(lambda: bench.position("mail") == sent[-1], what="it is delivered")
    bench.close()
    assert [record.getMessage().count("give listen_url=") for record in caplog.records] == [1]


def test_appends_through_the_pooler_wake_who_listens_directly(pooled_url: str, postgres_database_url: str) -> None:
    with (
        opened(pooled_url) as log,
        asleep(WatchedDoorbell(log, listen_url=postgres_database_url)) as dozer,
    ):
        for position in range(1, 6):
            log.append(note("one"))
            dozer.has_seen(position)

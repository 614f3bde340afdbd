"""A network that cuts, freezes, delays, and swallows connections while a service appends and delivers."""

import socket
import threading
from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest
from sqlalchemy import make_url

from eventlog.log import EventLog
from tests.fault_load import ROUNDS, Load
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.log_support import opened
from tests.subscribers_support import eventually

CUTS = 8 * ROUNDS
LEASE_SECONDS = 1.0
FINDS_OUT = {"tcp_user_timeout": "1000", "keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "1"}
"""In seconds what is half a minute where the URL says nothing."""


@pytest.fixture
def proxied(postgres_empty_url: str) -> Iterator[tuple[FaultProxy, str]]:
    with fault_proxy(postgres_empty_url) as found:
        yield found


def test_connections_that_are_cut_again_and_again_cost_nothing(
    proxied: tuple[FaultProxy, str], postgres_empty_url: str
) -> None:
    proxy, url = proxied
    with Load(url, direct=postgres_empty_url).running() as load:
        load.goes_on()
        for _ in range(CUTS):
            proxy.cut()
            threading.Event().wait(0.05)
        load.goes_on()
    load.totals_are_exact(unknown_max=CUTS)
    load.said_at_most(20 * CUTS)


def test_a_slow_network_makes_everything_slow_and_nothing_wrong(
    proxied: tuple[FaultProxy, str], postgres_empty_url: str
) -> None:
    proxy, url = proxied
    with Load(url, direct=postgres_empty_url).running() as load:
        proxy.delay_seconds = 0.01
        load.goes_on()
        proxy.delay_seconds = 0.0
    load.totals_are_exact()
    load.said_at_most(10)


def test_a_frozen_worker_is_replaced_and_commits_nothing_when_it_thaws(
    proxied: tuple[FaultProxy, str], postgres_empty_url: str
) -> None:
    """The proxy acknowledges and passes nothing on, so that nothing finds out but the end of the lease."""
    proxy, url = proxied
    with Load(url, direct=postgres_empty_url, lease_seconds=LEASE_SECONDS).running() as load:
        load.goes_on()
        with load.another_worker():
            for _ in range(ROUNDS):
                proxy.freeze()
                eventually(load.other_has_all, what="another worker takes over")
                load.append_directly(20)
                load.goes_on(events=0)
                proxy.thaw()
                load.goes_on()
    load.totals_are_exact(unknown_max=ROUNDS)
    load.said_at_most(60 * ROUNDS)


def test_a_network_that_is_gone_without_a_word_is_noticed(
    proxied: tuple[FaultProxy, str], postgres_empty_url: str
) -> None:
    """No reset, no answer, no acknowledgement: the connections' own time-outs find out."""
    proxy, url = proxied
    short = make_url(url).update_query_dict(FINDS_OUT).render_as_string(hide_password=False)
    with Load(short, direct=postgres_empty_url, lease_seconds=LEASE_SECONDS).running() as load:
        load.goes_on()
        for _ in range(ROUNDS):
            proxy.swallow()
            load.goes_on()
    load.totals_are_exact(unknown_max=ROUNDS)
    load.said_at_most(40 * ROUNDS)


def options_of(log: EventLog) -> dict[str, int]:
    with log.engine.connect() as connection:
        driver = connection.connection.driver_connection
        assert isinstance(driver, psycopg.Connection)
        with closing(socket.socket(fileno=socket.dup(driver.fileno()))) as shared:
            names = ("TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
            return {name: shared.getsockopt(socket.IPPROTO_TCP, getattr(socket, name)) for name in names}


def test_the_logs_own_connections_find_out_within_half_a_minute(postgres_empty_url: str) -> None:
    with opened(postgres_empty_url) as log:
        found = options_of(log)
    assert found == {"TCP_USER_TIMEOUT": 20_000, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}


def test_what_the_url_says_of_them_holds(postgres_empty_url: str) -> None:
    url = make_url(postgres_empty_url).update_query_dict(FINDS_OUT).render_as_string(hide_password=False)
    with opened(url) as log:
        assert options_of(log)["TCP_USER_TIMEOUT"] == 1_000

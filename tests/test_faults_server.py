"""The server stops, crashes and comes back while a service appends and delivers; then anything goes wrong at any time.

The storm prints its seed, and takes it from `EVENTLOG_TEST_SEED` where that is set; `EVENTLOG_SOAK` makes it an hour
long.
"""

import os
import random
from collections.abc import Iterator

import pytest
from sqlalchemy import make_url

from tests.fault_load import ROUNDS, Load
from tests.fault_proxy import fault_proxy
from tests.fault_storm import Storm
from tests.postgres_cluster import Cluster, cluster

FAULTS = 600 if "EVENTLOG_SOAK" in os.environ else 3
LEASE_SECONDS = 1.0
FINDS_OUT = {"tcp_user_timeout": "1000", "keepalives_idle": "1", "keepalives_interval": "1", "keepalives_count": "1"}


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as server:
        yield server


@pytest.fixture
def load_url(server: Cluster) -> str:
    server.execute("drop database if exists load with (force)")
    server.execute("create database load")
    return server.url.removesuffix("postgres") + "load"


@pytest.fixture
def dice() -> random.Random:
    seed = os.environ.get("EVENTLOG_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"EVENTLOG_TEST_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_is_stopped_and_started_costs_nothing(server: Cluster, load_url: str, mode: str) -> None:
    """At most once, the event whose settlement found the server gone is left to an operator."""
    with Load(load_url, direct=load_url).running() as load:
        load.goes_on()
        for _ in range(ROUNDS):
            server.stop(mode)
            server.start()
            load.goes_on()
    load.totals_are_exact(unknown_max=ROUNDS)
    load.said_at_most(40 * ROUNDS)


@pytest.mark.timeout(0 if FAULTS > 100 else 240)
def test_a_storm_of_faults_costs_nothing(server: Cluster, load_url: str, dice: random.Random) -> None:
    with fault_proxy(load_url) as (proxy, url):
        storm = Storm(server, proxy, dice)
        through = make_url(url).update_query_dict(FINDS_OUT).render_as_string(hide_password=False)
        with Load(through, direct=load_url, lease_seconds=LEASE_SECONDS).running() as load:
            load.goes_on()
            with load.another_worker():
                for _ in range(FAULTS):
                    name = dice.choice(sorted(storm.faults))
                    print(name)  # noqa: T201 - pytest shows it when the test fails
                    storm.faults[name]()
                    storm.pause()
                    if dice.random() < 0.2:
                        load.goes_on(seconds=60)
                load.goes_on(seconds=60)
    load.totals_are_exact(unknown_max=2 * FAULTS)
    load.said_at_most(60 * (FAULTS + 1))

"""The server stops, crashes and comes back while a service appends and delivers."""

from collections.abc import Iterator

import pytest

from tests.fault_load import ROUNDS, Load
from tests.postgres_cluster import Cluster, cluster


@pytest.fixture(scope="module")
def server() -> Iterator[Cluster]:
    with cluster() as server:
        yield server


@pytest.fixture
def load_url(server: Cluster) -> str:
    server.execute("drop database if exists load with (force)")
    server.execute("create database load")
    return server.url.removesuffix("postgres") + "load"


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

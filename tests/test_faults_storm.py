"""Faults in random order and at random moments, while a service with two workers appends and delivers.

The seed is printed, and taken from `EVENTLOG_TEST_SEED` where that is set. `EVENTLOG_SOAK` makes it last for an hour.
"""

import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.fault_load import Load
from tests.fault_proxy import FaultProxy, fault_proxy
from tests.postgres_cluster import Cluster, cluster

FAULTS = 600 if "EVENTLOG_SOAK" in os.environ else 5
LEASE_SECONDS = 1.0
PAUSE_SECONDS_MAX = 0.5
FINDS_OUT = "tcp_user_timeout=1000&keepalives_idle=1&keepalives_interval=1&keepalives_count=1&sslmode=disable"


@pytest.fixture
def dice() -> random.Random:
    seed = os.environ.get("EVENTLOG_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
    print(f"EVENTLOG_TEST_SEED={seed}")  # noqa: T201 - pytest shows it when the test fails
    return random.Random(seed)


class Storm:
    """What can go wrong, each with its end."""

    def __init__(self, server: Cluster, proxy: FaultProxy, dice: random.Random) -> None:
        self._server = server
        self._proxy = proxy
        self._dice = dice

    @property
    def faults(self) -> dict[str, Callable[[], None]]:
        return {
            "connections are cut": self._proxy.cut,
            "the network is gone": self._proxy.swallow,
            "the network stands still": self._freeze,
            "the network is slow": self._slow,
            "the server is stopped": lambda: self._restart("fast"),
            "the server crashes": lambda: self._restart("immediate"),
            "a process of the server dies": self._kill_one,
            "listeners are ended": lambda: self._end("application_name = 'eventlog doorbell'"),
            "sessions are ended": lambda: self._end("backend_type = 'client backend' and pid <> pg_backend_pid()"),
            "statements are cancelled": self._cancel,
        }

    def pause(self) -> None:
        threading.Event().wait(self._dice.random() * PAUSE_SECONDS_MAX)

    def _freeze(self) -> None:
        self._proxy.freeze()
        self.pause()
        self._proxy.thaw()

    def _slow(self) -> None:
        self._proxy.delay_seconds = 0.05
        self.pause()
        self._proxy.delay_seconds = 0.0

    def _restart(self, mode: str) -> None:
        self._server.stop(mode)
        self.pause()
        self._server.start()

    def _kill_one(self) -> None:
        """All others are ended by the server, too, which then recovers as after a crash."""
        found = self._server.execute(
            "select pid from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()"
        )
        if found:
            os.kill(int(str(self._dice.choice(found)[0])), 9)

    def _end(self, whom: str) -> None:
        self._server.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {whom}")

    def _cancel(self) -> None:
        whom = "state = 'active' and pid <> pg_backend_pid()"
        self._server.execute(f"select pg_cancel_backend(pid) from pg_stat_activity where {whom}")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.timeout(0 if FAULTS > 100 else 240)
def test_a_storm_of_faults_costs_nothing(stack: ExitStack, dice: random.Random) -> None:
    server = stack.enter_context(cluster())
    proxy, url = stack.enter_context(fault_proxy(server.url))
    storm = Storm(server, proxy, dice)
    told: list[str] = []
    with Load(f"{url.partition('?')[0]}?{FINDS_OUT}", direct=server.url, lease_seconds=LEASE_SECONDS).running() as load:
        load.goes_on()
        with load.another_worker():
            for _ in range(FAULTS):
                fault = dice.choice(sorted(storm.faults))
                told.append(fault)
                storm.faults[fault]()
                storm.pause()
                if dice.random() < 0.2:
                    load.goes_on(seconds=60)
            load.goes_on(seconds=60)
    print(told)  # noqa: T201 - pytest shows it when the test fails
    load.totals_are_exact(unknown_max=2 * FAULTS)
    load.said_at_most(60 * (FAULTS + 1))

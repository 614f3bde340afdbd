"""What can go wrong between a service and its server, each with its end, to be called in any order."""

import os
import random
import threading
from collections.abc import Callable

from tests.fault_proxy import FaultProxy
from tests.postgres_cluster import Cluster

PAUSE_SECONDS_MAX = 0.5


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

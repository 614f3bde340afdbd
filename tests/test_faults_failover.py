"""A standby is promoted, and the service's address leads to it from then on.

With synchronous replication nothing that was acknowledged is lost. Without it what had not been sent is gone, with the
checkpoints that were written then, and its positions are given out again: to other events. What a worker keeps in its
memory of those that are gone must not have it pass the new ones.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from eventlog.doctor import examine
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from tests.fault_load import ROUNDS, Load
from tests.fault_proxy import fault_proxy
from tests.log_support import opened
from tests.postgres_cluster import Cluster, cluster
from tests.subscribers_support import Bench, Gate, Sent, applied_table, eventually

APPLIED = applied_table()
LOGGED_AHEAD = 33
"""How many positions a server gives out before it writes the next ones down: with the first of a sequence, 32 more."""


class Pair:
    """A primary, a standby that follows it through a stream of its own, and the address of the service."""

    def __init__(self, primary: Cluster, stack: ExitStack) -> None:
        self.primary = primary
        self.stream, _ = stack.enter_context(fault_proxy(primary.url))
        self.standby = primary.standby(by_port=self.stream.port)
        stack.callback(self.standby.close)
        self.address, self.url = stack.enter_context(fault_proxy(primary.url))

    def fail_over(self, *, before_promotion: Callable[[], object] = lambda: None) -> None:
        """The primary is gone, the address leads to the standby, and that becomes the primary."""
        self.primary.stop("immediate")
        self.address.lead_to(self.standby.port)
        self.address.cut()
        before_promotion()
        self.standby.promote()

    def synchronous(self) -> None:
        self.primary.execute("alter system set synchronous_standby_names = '*'")
        self.primary.execute("select pg_reload_conf()")
        eventually(lambda: self._states() == [("sync",)], what="the standby is synchronous")

    def _states(self) -> list[tuple[object, ...]]:
        return self.primary.execute("select sync_state from pg_stat_replication where state = 'streaming'")


@contextmanager
def pair() -> Iterator[Pair]:
    with ExitStack() as stack:
        yield Pair(stack.enter_context(cluster()), stack)


def test_with_synchronous_replication_a_promoted_standby_has_everything() -> None:
    with pair() as servers:
        servers.synchronous()
        with Load(servers.url, direct=servers.url).running() as load:
            load.goes_on()
            servers.fail_over(
                before_promotion=lambda: eventually(
                    lambda: load.said("takes no writes") or load.said("read-only") or load.said("on a standby"),
                    what="workers notice that they have come to a standby",
                )
            )
            load.goes_on()
        load.totals_are_exact(unknown_max=1)
        load.said_at_most(40)
        with opened(of_both(servers)) as log:
            assert log.append(Sent(0))[0].position == log.head()


def of_both(servers: Pair) -> str:
    """The address of both servers, as the documentation tells it."""
    hosts = "&".join(f"host=127.0.0.1:{one.port}" for one in (servers.primary, servers.standby))
    return f"postgresql://postgres@/postgres?{hosts}&target_session_attrs=read-write"


@pytest.mark.parametrize(
    "delivery", ["transactional", "at-least-once", "at-most-once"] if ROUNDS > 1 else ["at-least-once"]
)
def test_what_a_worker_has_read_of_events_that_are_lost_has_it_pass_no_other(delivery: str) -> None:
    """The worker stands in the first event of a page when all of it is lost, and others come to those positions."""
    with pair() as servers, opened(servers.url) as log:
        log.init()
        app, gate, calls = App(servers.url), Gate(), []
        subscriber = app.subscriber("books", delivery=delivery)

        @subscriber
        def handle(crate: Sent, ctx: Context) -> None:
            calls.append((ctx.event.position, crate.number))
            if crate.number == 100:
                gate.wait()

        with app.worker():
            log.append(*[Sent(number) for number in range(LOGGED_AHEAD)])
            bench = Bench(servers.url)
            eventually(lambda: bench.position("books") == LOGGED_AHEAD, what="everything is handled")
            eventually(lambda: is_through(servers), what="the standby has everything")
            servers.stream.freeze()
            lost = log.append(*[Sent(100 + number) for number in range(5)])
            gate.wait_until_reached()
            assert says_that_it_is_a_standby(servers.standby)
            servers.fail_over()
            bench.log.engine.dispose()
            log.engine.dispose()
            found = log.append(*[Sent(200 + number) for number in range(3)])
            assert [one.position for one in found] == [one.position for one in lost[:3]]
            gate.open()
            eventually(lambda: (found[-1].position, 202) in calls, what="the new ones are delivered")
        assert [call for call in calls if call[1] >= 200] == [(one.position, one.data.number) for one in found]
        bench.close()
        app.engine.dispose()


def says_that_it_is_a_standby(server: Cluster) -> bool:
    """What an operator is told who examines the wrong one of the two."""
    with opened(server.url) as log:
        found = list(examine(log.database))
    return any(one.check == "server" and one.said.startswith("it is a standby") for one in found)


def is_through(servers: Pair) -> bool:
    written = servers.primary.execute("select pg_current_wal_flush_lsn()::text")
    return servers.standby.execute("select pg_last_wal_replay_lsn()::text") == written

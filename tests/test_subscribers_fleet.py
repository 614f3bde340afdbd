"""Several workers on one log: each has its share, takes over what another leaves, lets go of what is paused."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from sqlalchemy import event, select

from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.fleet import Membership, read_workers
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Found,
    Gate,
    Lost,
    Sent,
    applied_table,
    eventually,
    note,
)

APPLIED = applied_table()
IDLE_SECONDS = 5.0
"""Longer than the five seconds after which a worker looks again at what stands still and renews its leases, so that a
window holds at most two of each more than its share."""
QUERIES_A_SECOND_MAX = 5.0
"""What an idle worker may ask of the database, however many subscribers it has."""


def board_of(app: App, *, partitions: int) -> App:
    board = app.projection("board", tables=[APPLIED], partitions=partitions)

    @board
    def apply(_event: Sent | Lost | Found, ctx: Context) -> None:
        note(ctx, APPLIED, text=ctx.event.stream)

    return app


def owners(bench: Bench) -> Counter[str]:
    table = bench.log.database.tables.checkpoints
    return Counter(row.owner for row in bench.rows(select(table.c.owner)) if row.owner is not None)


def spread(bench: Bench) -> list[int]:
    return sorted(owners(bench).values())


def test_a_worker_that_is_alone_has_everything(bench: Bench) -> None:
    with board_of(bench.app(), partitions=4).worker():
        eventually(lambda: spread(bench) == [4], what="all partitions to be taken")


def test_a_newcomer_gets_its_share_and_gives_it_back(bench: Bench) -> None:
    with board_of(bench.app(), partitions=4).worker():
        eventually(lambda: spread(bench) == [4], what="the first to have everything")
        with board_of(bench.app(), partitions=4).worker():
            eventually(lambda: spread(bench) == [2, 2], what="two each", seconds=10)
            with board_of(bench.app(), partitions=4).worker():
                eventually(lambda: spread(bench) == [1, 1, 2], what="a fair spread over three", seconds=10)
        eventually(lambda: spread(bench) == [4], what="what the others left", seconds=10)


def test_subscribers_of_one_partition_are_spread_too(bench: Bench) -> None:
    def service() -> App:
        app = bench.app()
        for number in range(6):

            @app.subscriber(f"mail-{number}")
            def send(_crate: Sent) -> None: ...

        return app

    with service().worker():
        eventually(lambda: spread(bench) == [6], what="the first to have everything")
        with service().worker():
            eventually(lambda: spread(bench) == [3, 3], what="three each", seconds=10)


def test_while_workers_come_and_go_every_event_is_applied_once_and_each_key_in_order(bench: Bench) -> None:
    sent: list[int] = []
    ended = threading.Event()

    def append() -> None:
        for round_number in range(30):
            events = [(Sent, Lost, Found)[round_number % 3](number) for number in range(12)]
            sent.extend(one.position for one in bench.log.append(*events))
        ended.set()

    writing = Background(append)
    with board_of(bench.app(), partitions=4).worker():
        while not ended.is_set():
            with ExitStack() as stack:
                for _ in range(2):
                    stack.enter_context(board_of(bench.app(), partitions=4).worker())
                eventually(lambda: len(owners(bench)) > 1 or ended.is_set(), what="several owners")
        writing.join()
        eventually(lambda: len(bench.applied(APPLIED)) >= len(sent), what="everything to be applied")

    assert bench.applied(APPLIED) == sorted(sent)
    by_stream: dict[str, list[int]] = {}
    for row in bench.rows(select(APPLIED).order_by(APPLIED.c.id)):
        by_stream.setdefault(row.note, []).append(row.position)
    assert all(positions == sorted(positions) for positions in by_stream.values())


def test_workers_are_known_while_they_run(bench: Bench) -> None:
    app = board_of(bench.app(), partitions=2)

    def known() -> list[tuple[tuple[str, ...], bool]]:
        with bench.log.database.reader() as connection:
            rows = read_workers(connection, bench.log.database, alive_only=False)
        return [(row.subscribers, row.alive) for row in rows]

    with app.worker():
        eventually(lambda: known() == [(("board",), True)], what="the worker's row")
    assert known() == []


def test_a_pause_returns_when_nothing_is_in_hand_any_more(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    gate = Gate()

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        gate.wait()

    with app.worker():
        gate.wait_until_reached()
        waited: list[tuple[str, ...]] = []
        pausing = Background(lambda: control.pause(bench.log.database, "mail", waiting=waited.append))
        eventually(lambda: waited, what="the pause to wait")
        assert pausing.running
        gate.open()
        pausing.join()
        assert owners(bench) == Counter()
        position = bench.position("mail")

        bench.send(1, first=2)
        control.resume(bench.log.database, "mail")
        eventually(lambda: bench.position("mail") > position, what="delivery to go on")


def test_a_pause_does_not_wait_for_ever(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    gate = Gate()

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        gate.wait()

    with app.worker():
        gate.wait_until_reached()
        paused = control.pause(bench.log.database, "mail", wait_seconds=0.3)
        assert len(paused.in_hand_of) == 1
        assert bench.status("mail").state == "paused"
        gate.open()


def test_a_paused_subscriber_is_given_nothing_and_the_others_go_on(bench: Bench) -> None:
    app = bench.app()
    calls: list[str] = []
    for name in ("mail", "copy"):

        @app.subscriber(name)
        def send(_crate: Sent, ctx: Context) -> None:
            calls.append(ctx.subscriber)

    with app.worker():
        eventually(lambda: sum(owners(bench).values()) == 2, what="both leases")
        control.pause(bench.log.database, "mail")
        bench.send(1)
        eventually(lambda: calls == ["copy"], what="the other one")
        control.resume(bench.log.database, "mail")
        eventually(lambda: calls == ["copy", "mail"], what="what was kept for it")


def test_a_worker_goes_on_when_one_of_its_subscribers_is_removed(bench: Bench) -> None:
    app = bench.app()
    calls: list[str] = []
    for name in ("mail", "copy"):

        @app.subscriber(name)
        def send(_crate: Sent, ctx: Context) -> None:
            calls.append(ctx.subscriber)

    with app.worker():
        eventually(lambda: sum(owners(bench).values()) == 2, what="both leases")
        control.pause(bench.log.database, "mail")
        control.remove(bench.log.database, "mail")
        bench.send(1)
        eventually(lambda: calls == ["copy"], what="the other one")
        bench.send(1, first=2)
        eventually(lambda: calls == ["copy", "copy"], what="the other one again")


@contextmanager
def counted(app: App) -> Iterator[list[str]]:
    """Collect the statements an application's engine executes."""
    statements: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_more: object) -> None:
        statements.append(statement)

    event.listen(app.engine, "before_cursor_execute", count)
    yield statements
    event.remove(app.engine, "before_cursor_execute", count)


def idle_service(bench: Bench) -> App:
    """Fifty subscribers; some have several partitions, one is halted, one has a retry far away, one is paused."""
    app = bench.app()
    for number in range(47):

        @app.subscriber(f"mail-{number}", partitions=4 if number < 5 else 1)
        def send(_crate: Lost) -> None: ...

    @app.subscriber("halted", on_failure="halt", retry=Retry(attempts=1))
    def halt(_crate: Sent) -> None:
        raise BugError

    @app.subscriber("later", retry=Retry(attempts=2, first_seconds=3600))
    def later(_crate: Sent) -> None:
        raise BugError

    @app.subscriber("paused")
    def paused(_crate: Sent) -> None: ...

    return app


def test_an_idle_worker_with_fifty_subscribers_asks_a_few_queries_a_second(bench: Bench) -> None:
    bench.send(3)
    app = idle_service(bench)
    app.register()
    control.pause(bench.log.database, "paused")
    with app.worker():
        eventually(lambda: sum(owners(bench).values()) == 49 + 15, what="all leases")
        eventually(lambda: bench.status("halted").state == "halted", what="the halt")
        eventually(lambda: bench.states("later") != {}, what="the failure")
        threading.Event().wait(IDLE_SECONDS / 4)
        with counted(app) as statements:
            threading.Event().wait(IDLE_SECONDS)

    assert len(statements) <= QUERIES_A_SECOND_MAX * IDLE_SECONDS, Counter(statements).most_common(5)


@pytest.mark.parametrize("events", [40])
def test_subscribers_that_want_nothing_of_what_comes_seldom_write(bench: Bench, events: int) -> None:
    app = idle_service(bench)
    with app.worker():
        eventually(lambda: sum(owners(bench).values()) == 50 + 15, what="all leases")
        with counted(app) as statements:
            for number in range(events):
                bench.send(1, first=number)
                threading.Event().wait(0.02)
            eventually(lambda: bench.status("paused").lag == 0, what="everything to be seen")

    written = [one for one in statements if one.lower().startswith("update") and "checkpoints" in one]
    assert len(written) < 62 * events / 3


def test_a_checkpoint_follows_when_the_log_goes_quiet(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the last stretch with nothing in it would be shown as lag for as long as nothing comes."""
    monkeypatch.setattr("eventlog.subscribers.partition.PASS_SECONDS", 0.5)
    app = bench.app()

    @app.subscriber("mail")
    def lost(_crate: Lost) -> None: ...

    with app.worker():
        eventually(lambda: sum(owners(bench).values()) == 1, what="the lease")
        for number in range(3):
            sent = bench.send(1, first=number)
        eventually(lambda: bench.position("mail") == sent[-1], what="the row to follow", seconds=10)


def test_a_worker_whose_row_was_taken_for_dead_is_known_again(bench: Bench) -> None:
    membership = Membership(bench.log.database, owner="slow", seconds=5.0, subscribers=["mail"])
    membership.join()
    with bench.transaction() as connection:
        connection.execute(bench.log.database.tables.workers.delete())
        membership.renew(connection)

    with bench.log.database.reader() as connection:
        assert [one.owner for one in read_workers(connection, bench.log.database, alive_only=True)] == ["slow"]

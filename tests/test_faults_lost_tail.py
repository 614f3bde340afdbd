"""A worker that has read what its server has lost since: the positions are given out again, and none is passed.

The loss is made by the superuser here, within one server, so that each place of a worker's memory can be tried; a
standby is promoted in `test_faults_failover.py`.
"""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from psycopg import pq
from sqlalchemy import text

from eventlog.postgres_pooler import Pooler, driver_of
from eventlog.query import PageQuery
from eventlog.subscribers import feed, partition
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.partition import Partition
from tests.subscribers_support import Bench, BugError, Lost, Sent, runtime_of


@pytest.fixture
def bench(postgres_database_url: str) -> Iterator[Bench]:
    bench = Bench(postgres_database_url)
    yield bench
    bench.close()


def lose_after(bench: Bench, position: int) -> None:
    """Take away what follows a position, and the memory of it, as a promoted standby does that was not sent it."""
    with bench.transaction() as connection:
        connection.execute(text("alter table eventlog.events disable trigger refuse_change"))
        connection.execute(text("delete from eventlog.events where position > :at"), {"at": position})
        connection.execute(text("alter table eventlog.events enable always trigger refuse_change"))
        connection.execute(text("select setval('eventlog.events_position_seq', :at)"), {"at": position})


class Reader:
    """One subscriber of crates that are sent, and the worker that runs it, turn by turn."""

    def __init__(self, bench: Bench, *, delivery: str = "at-least-once", on_failure: str = "park") -> None:
        self.bench = bench
        self.app: App = bench.app()
        self.calls: list[int] = []
        self.fails: Callable[[], None] = lambda: None
        """What happens while the handler fails, at the numbers below zero."""
        mail = self.app.subscriber("mail", delivery=delivery, on_failure=on_failure)

        @mail
        def send(crate: Sent, _ctx: Context) -> None:
            self.calls.append(crate.number)
            if crate.number < 0:
                self.fails()
                raise BugError

        self.app.register()
        self.runtime = runtime_of(self.app)
        self.partition = Partition(self.runtime, mail)

    @property
    def feed(self) -> Feed:
        return self.runtime.feed

    def turns(self, count: int = 5) -> None:
        for _ in range(count):
            self.feed.refresh()
            self.partition.turn()


MODES = pytest.mark.parametrize("delivery", ["transactional", "at-least-once", "at-most-once"])


def send(bench: Bench, *numbers: int) -> list[int]:
    return [one.position for one in bench.log.append(*map(Sent, numbers))]


def rolled_back(bench: Bench, count: int) -> None:
    """Give out positions that nothing comes to."""
    with bench.transaction() as connection:
        bench.log.append(*[Sent(0) for _ in range(count)], tx=connection)
        connection.rollback()


@MODES
def test_a_page_that_was_read_before_the_loss_is_not_delivered_in_place_of_the_new_events(
    bench: Bench, delivery: str
) -> None:
    reader = Reader(bench, delivery=delivery)
    before = send(bench, 1, 2, 3)
    reader.turns()
    send(bench, 104, 105, 106)
    reader.feed.refresh()
    assert len(reader.feed.page(after=before[-1]).items) == 3
    lose_after(bench, before[-1])
    found = send(bench, 204, 205, 206, 207)

    reader.partition.turn()
    reader.turns()

    # At most once, the first was in hand when the loss was noticed, and is left to an operator.
    unknown = {found[0]: "parked"} if delivery == "at-most-once" else {}
    assert bench.states("mail") == unknown
    assert [one for one in reader.calls if one > 200] == [204, 205, 206, 207][len(unknown) :]
    assert bench.position("mail") == found[-1]


def test_what_was_passed_by_before_the_loss_is_not_passed_again(bench: Bench) -> None:
    """Events that nobody wants move the partition in its memory alone; those that come to their places are wanted."""
    reader = Reader(bench)
    before = send(bench, 1, 2, 3)
    reader.turns()
    bench.log.append(Lost(4), Lost(5), Lost(6))
    reader.turns()
    assert (reader.partition.reached, bench.position("mail")) == (6, before[-1])
    lose_after(bench, before[-1])
    found = send(bench, 204, 205, 206, 207, 208)

    reader.turns()

    assert reader.calls == [1, 2, 3, 207, 208, 204, 205, 206, 207, 208]
    assert bench.position("mail") == found[-1]


def test_positions_that_nothing_had_come_to_before_the_loss_are_not_passed_when_something_does(bench: Bench) -> None:
    reader = Reader(bench)
    before = send(bench, 1, 2, 3)
    reader.turns()
    rolled_back(bench, 3)
    reader.turns()
    assert reader.partition.reached == 6
    lose_after(bench, before[-1])
    send(bench, 204, 205)

    reader.partition.release()
    assert bench.checkpoint("mail").owner is None
    reader.turns()

    assert reader.calls == [1, 2, 3, 204, 205]


def test_positions_that_nothing_had_come_to_are_not_passed_for_what_comes_after_the_loss(bench: Bench) -> None:
    """They stand in no checkpoint's way when it is written, and are given out again afterwards."""
    reader = Reader(bench)
    before = send(bench, 1, 2, 3)
    reader.turns()
    rolled_back(bench, 3)
    reader.turns()
    lose_after(bench, before[-1])

    reader.partition.release()
    assert (bench.position("mail"), bench.checkpoint("mail").owner) == (before[-1], None)
    send(bench, 204, 205, 206, 207)
    reader.turns()

    assert reader.calls == [1, 2, 3, 204, 205, 206, 207]


def test_nor_are_they_where_the_lease_is_kept(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "PASS_SECONDS", 0.0)
    reader = Reader(bench)
    before = send(bench, 1, 2, 3)
    reader.turns()
    rolled_back(bench, 3)
    reader.feed.refresh()
    lose_after(bench, before[-1])
    reader.partition.turn()
    reader.turns()
    send(bench, 204, 205, 206, 207)
    reader.turns()

    assert reader.calls == [1, 2, 3, 204, 205, 206, 207]


@MODES
def test_a_batch_moves_its_checkpoint_to_its_last_event_and_not_over_what_followed(bench: Bench, delivery: str) -> None:
    reader = Reader(bench, delivery=delivery)
    before = send(bench, 1, 2, 3)
    rolled_back(bench, 3)
    reader.feed.refresh()
    assert reader.feed.page(after=0).scanned_through == 6
    lose_after(bench, before[-1])

    reader.partition.turn()
    assert bench.position("mail") == before[-1]
    found = send(bench, 204, 205, 206, 207)
    reader.turns()

    # At most once, what was announced beyond them is left to an operator, with all that is found before it.
    unknown = dict.fromkeys(found, "parked") if delivery == "at-most-once" else {}
    assert bench.states("mail") == unknown
    assert reader.calls == [1, 2, 3, 207] + ([] if unknown else [204, 205, 206, 207])


def test_what_stands_before_a_failure_is_witnessed_by_the_failure(bench: Bench) -> None:
    """Under halt the checkpoint goes to right before it. The event is lost, and its place is given out again later."""
    reader = Reader(bench, on_failure="halt")
    before = send(bench, 1, 2, 3)
    rolled_back(bench, 3)
    send(bench, -7)
    reader.feed.refresh()
    reader.fails = lambda: lose_after(bench, before[-1])

    reader.partition.turn()
    assert bench.position("mail") <= before[-1]
    send(bench, 204, 205, 206, 207)
    reader.turns()

    assert reader.calls[-4:] == [204, 205, 206, 207]


def look(reader: Reader) -> None:
    reader.feed.saw(reader.runtime.log.doorbell.look())


@pytest.mark.parametrize("asks", [lambda reader: reader.feed.refresh(), look], ids=["polls", "looks"])
def test_a_mark_is_asked_again_on_a_connection_that_may_lead_to_another_server(
    bench: Bench, asks: Callable[[Reader], object]
) -> None:
    reader = Reader(bench)
    (first,) = send(bench, 1)
    reader.turns()
    rolled_back(bench, 6)
    asks(reader)
    with reader.app.engine.connect():
        # Whoever connects now is given a connection that the mark was not asked on.
        lose_after(bench, first)
        with bench.transaction() as on_its_way:
            bench.log.append(Sent(202), tx=on_its_way)
            found = send(bench, 203, 204)
            assert found[-1] < reader.feed.mark
            page = reader.feed.page(after=first)
            assert (page.items, page.scanned_through) == ([], first)
            reader.partition.turn()
    reader.turns()

    assert reader.calls == [1, 202, 203, 204]


def test_behind_a_pooler_a_mark_is_asked_for_each_page_in_its_transaction(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler may lead each transaction to another server, over connections that are not seen to be lost."""
    monkeypatch.setattr(Pooler, "is_before", lambda _pooler, _connection: True)
    monkeypatch.setattr(Pooler, "is_noticed", True)
    reader = Reader(bench)
    (first,) = send(bench, 1)
    reader.turns()
    rolled_back(bench, 6)
    reader.feed.refresh()
    lose_after(bench, first)
    with bench.transaction() as on_its_way:
        bench.log.append(Sent(202), tx=on_its_way)
        send(bench, 203, 204)
        assert reader.feed.page(after=first).scanned_through == first
    with reader.app.log.database.steady() as connection:
        reader.app.log.database.high_water_mark(connection)
        assert driver_of(connection.connection).info.transaction_status is pq.TransactionStatus.INTRANS
    reader.turns()

    assert reader.calls == [1, 202, 203, 204]


def test_pages_of_before_and_after_the_loss_are_told_apart(bench: Bench) -> None:
    """The first page is of a log that is gone, the second of the one that there is: the last event alone would pass."""
    reader = Reader(bench)
    before = send(bench, 1, 2, 3)
    reader.turns()
    bench.log.append(Lost(4), Lost(5))
    reader.turns()
    lose_after(bench, before[-1])
    found = send(bench, 204, 205)
    bench.log.append(Lost(6))
    found += send(bench, 207)
    reader.turns()

    assert [one for one in reader.calls if one > 200][-3:] == [204, 205, 207]
    assert bench.position("mail") == found[-1]


def test_a_lost_connection_has_the_feed_forget_what_it_has_read(bench: Bench) -> None:
    reader = Reader(bench)
    send(bench, 1, 2, 3)
    reader.feed.refresh()
    kept = reader.feed.page(after=0)
    assert reader.feed.page(after=0) is kept
    with reader.app.engine.connect() as connection:
        connection.invalidate()

    assert reader.feed.is_stale
    found = reader.feed.page(after=0)
    assert (found is kept, len(found.items), reader.feed.is_stale) == (False, 3, False)


def test_holes_and_events_of_others_witness_nothing_wrong(bench: Bench) -> None:
    """Nothing is lost here, and no lease may be: the epoch of the beginning is that of the end."""
    reader = Reader(bench)
    send(bench, 1)
    reader.turns()
    epoch = bench.checkpoint("mail").epoch
    for number in range(2, 6):
        rolled_back(bench, 2)
        bench.log.append(Lost(number))
        reader.turns(2)
        rolled_back(bench, 1)
        send(bench, number)
        reader.turns(2)
        rolled_back(bench, 1)
        reader.turns(1)

    assert reader.calls == [1, 2, 3, 4, 5]
    assert bench.checkpoint("mail").epoch == epoch


@pytest.fixture
def sparse_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages so short that who wants one event in some is given sparse ones."""
    monkeypatch.setattr(feed, "PAGE_EVENTS", 4)
    monkeypatch.setattr(feed, "SPARSE_BEHIND_PAGES", 1)
    monkeypatch.setattr(feed, "SPARSE_SHARE", 2)


def passed_sparsely(bench: Bench, reader: Reader) -> int:
    """Have the reader pass thirty events that it does not want, in sparse pages; return the last that is kept."""
    bench.log.append(*map(Lost, range(1, 25)))
    kept = int(bench.log.head())
    bench.log.append(*map(Lost, range(25, 31)))
    reader.turns(3)
    assert any(page.scanned_through > kept for page in reader.feed._sparse._pages.values())
    assert (reader.partition.reached, bench.position("mail")) == (30, 4)
    return kept


@MODES
def test_what_a_sparse_page_has_left_out_is_not_passed_when_it_was_lost(
    bench: Bench, sparse_pages: None, delivery: str
) -> None:
    """No event that was wanted is lost, nor any that was read but the last; those in their places are wanted."""
    reader = Reader(bench, delivery=delivery)
    kept = passed_sparsely(bench, reader)
    lose_after(bench, kept)
    found = send(bench, *range(204, 214))

    reader.turns(12)

    unknown = bench.states("mail")
    handed = {number for number, at in zip(range(204, 214), found, strict=True) if at not in unknown}
    assert set(reader.calls) >= handed
    assert reader.calls[-len(handed) :] == sorted(handed)
    assert delivery == "at-most-once" or not unknown
    assert bench.position("mail") == found[-1]


def test_a_checkpoint_within_a_sparse_page_is_not_moved_when_what_follows_it_was_lost(
    bench: Bench, sparse_pages: None
) -> None:
    """It is to stand between two events that are wanted: of those, the later one is asked for."""
    calls: list[int] = []
    mail = bench.app()
    declared = mail.subscriber("mail", on_failure="halt")
    kept = 0

    @declared
    def send_it(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number == 27:
            lose_after(bench, kept)
            send(bench, *range(221, 231))
            raise ValueError

    mail.register()
    bench.log.append(*map(Lost, range(1, 20)))
    send(bench, 20)
    kept = int(bench.log.head())
    bench.log.append(*map(Lost, range(21, 27)))
    send(bench, 27)
    bench.log.append(*map(Lost, range(28, 35)))
    runtime = runtime_of(mail)
    partition = Partition(runtime, declared)
    for _ in range(12):
        runtime.feed.refresh()
        partition.turn()

    assert calls == [20, 27, 20, *range(221, 231)]
    assert bench.states("mail") == {}
    assert bench.position("mail") == kept + 10


def test_a_loss_between_the_statements_that_read_a_sparse_page_is_noticed(
    bench: Bench, sparse_pages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind a pooler another server may answer the second one, and no connection is seen to be lost."""
    reader = Reader(bench)
    bench.log.append(*map(Lost, range(1, 25)))
    kept = int(bench.log.head())
    bench.log.append(*map(Lost, range(25, 31)))
    read, found = reader.app.log.database.page, list[int]()

    def losing(connection: Any, query: PageQuery) -> Any:
        answer = read(connection, query)
        if not found and (query.types or query.backwards):
            lose_after(bench, kept)
            found.extend(send(bench, *range(204, 214)))
        return answer

    monkeypatch.setattr(reader.app.log.database, "page", losing)

    reader.turns(12)

    assert found
    assert reader.calls[-10:] == list(range(204, 214))
    assert bench.position("mail") == found[-1]

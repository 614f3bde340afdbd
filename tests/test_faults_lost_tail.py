"""A worker that has read what its server has lost since: the positions are given out again, and none is passed.

The loss is made by the superuser here, within one server, so that each place of a worker's memory can be tried; a
standby is promoted in `test_faults_failover.py`.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.feed import Feed
from eventlog.subscribers.partition import Partition
from tests.subscribers_support import Bench, Lost, Sent, runtime_of


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

    def __init__(self, bench: Bench, *, delivery: str = "at-least-once") -> None:
        self.bench = bench
        self.app: App = bench.app()
        self.calls: list[int] = []
        mail = self.app.subscriber("mail", delivery=delivery)

        @mail
        def send(_crate: Sent, ctx: Context) -> None:
            self.calls.append(ctx.event.data.number)

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
    assert len(reader.feed.page(after=0).items) == 3
    with reader.app.engine.connect() as connection:
        connection.invalidate()

    assert (reader.feed.page(after=0).items, reader.feed.is_stale) == ([], True)
    reader.feed.refresh()
    assert len(reader.feed.page(after=0).items) == 3


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

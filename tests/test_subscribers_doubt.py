"""What is in doubt stays in doubt until it is cleared up, whatever else happens to the checkpoint.

At most once, an event that has been announced may have been handed out. It is never handed out again without an
operator's word: not after a lease that was let go, not after an operation that was about other events, and not because
the log was read in shorter pages by whoever took over. The models in `tests/models` found these interleavings.
"""

import pytest

from eventlog.errors import RefusedError
from eventlog.subscribers import control
from eventlog.subscribers.context import Context
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Lost, Sent, runtime_of


class Mail:
    """An effect that is delivered at most once, and notes its calls; it is interrupted at one number, once."""

    def __init__(self, bench: Bench, *, interrupted_at: int = 0, partitions: int = 1) -> None:
        self.app = bench.app()
        self.calls: list[int] = []
        self.interrupted_at = interrupted_at
        self.app.subscriber("mail", delivery="at-most-once", partitions=partitions)(self.send)
        self.app.register()
        self.runtime = runtime_of(self.app)
        self.partitions = self.app.partitions(self.runtime)

    def send(self, crate: Sent, _ctx: Context) -> None:
        self.calls.append(crate.number)
        if crate.number == self.interrupted_at:
            self.interrupted_at = 0
            raise KeyboardInterrupt

    def turn(self, number: int = 0) -> None:
        self.runtime.feed.refresh()
        self.partitions[number].turn()

    def is_interrupted(self, number: int = 0) -> None:
        with pytest.raises(KeyboardInterrupt):
            self.turn(number)


def test_a_lease_that_is_let_go_in_the_middle_of_a_call_leaves_its_event_in_doubt(bench: Bench) -> None:
    """^C within a handler: the drain lets its leases go on its way out."""
    first, second = bench.send(2)
    mail = Mail(bench, interrupted_at=1)
    with pytest.raises(KeyboardInterrupt):
        mail.app.drain()

    mail.app.drain()

    assert mail.calls == [1, 2]
    assert (bench.states("mail"), bench.position("mail")) == ({first: "parked"}, second)


def test_who_takes_over_and_is_stopped_before_it_clears_up_leaves_the_doubt(bench: Bench) -> None:
    first, second = bench.send(2)
    died = Mail(bench, interrupted_at=1)
    died.is_interrupted()
    bench.expire_lease("mail")
    stopped = Mail(bench)
    stopped.runtime.stop.set()
    stopped.turn()
    stopped.partitions[0].release()

    last = Mail(bench)
    last.turn()
    last.turn()

    assert (stopped.calls, last.calls) == ([], [2])
    assert (bench.states("mail"), bench.position("mail")) == ({first: "parked"}, second)


def test_the_doubt_reaches_beyond_a_page_that_was_read_before(bench: Bench) -> None:
    """Who takes over has read the log piece by piece, as it came: its page ends before the event that is in doubt."""
    bench.log.append(Lost(1))
    last = Mail(bench)
    last.runtime.feed.refresh()
    last.runtime.feed.page(after=0)
    (sent,) = bench.send(1)
    died = Mail(bench, interrupted_at=1)
    died.is_interrupted()
    bench.expire_lease("mail")

    for _ in range(3):
        last.turn()

    assert (died.calls, last.calls) == ([1], [])
    assert bench.states("mail") == {sent: "parked"}


def two_partitions(bench: Bench) -> tuple[int, int]:
    """Numbers of crates whose streams belong to the first and to the second of two partitions."""
    of = {partition_of(f"crate-{number}", partitions=2): number for number in range(1, 10)}
    return of[0], of[1]


def in_hand_beside_another(bench: Bench) -> tuple[Mail, int, int]:
    """Partition 0 had its only event in hand when its worker died; partition 1 has handled the two that follow it."""
    zero, one = two_partitions(bench)
    sent = bench.log.append(Sent(zero), Sent(one), Sent(one))
    died = Mail(bench, interrupted_at=zero, partitions=2)
    died.turn(1)
    died.is_interrupted(0)
    bench.expire_lease("mail")
    return Mail(bench, partitions=2), sent[0].position, sent[1].position


def test_a_rewind_of_other_partitions_leaves_what_is_in_hand_of_one_in_doubt(bench: Bench) -> None:
    mail, in_hand, then = in_hand_beside_another(bench)

    control.rewind(bench.log.database, "mail", control.after_position(then), resend=True)
    for number in (0, 1):
        mail.turn(number)

    assert mail.calls == [two_partitions(bench)[1]], "only the one that the rewind was about comes again"
    assert bench.states("mail") == {in_hand: "parked"}


def test_an_advance_leaves_what_is_in_hand_beyond_it_in_doubt(bench: Bench) -> None:
    passed = bench.log.append(Lost(1))[0].position
    (sent,) = bench.send(1)
    died = Mail(bench, interrupted_at=1)
    died.is_interrupted()

    control.advance(bench.log.database, "mail", control.after_position(passed))
    mail = Mail(bench)
    mail.turn()

    assert mail.calls == []
    assert bench.states("mail") == {sent: "parked"}


def test_partitions_are_not_changed_in_number_while_something_is_in_doubt(bench: Bench) -> None:
    mail, in_hand, _ = in_hand_beside_another(bench)
    with pytest.raises(RefusedError, match=f"event {in_hand} is in hand"):
        control.repartition(bench.log.database, "mail", 1)

    mail.turn(0)
    control.repartition(bench.log.database, "mail", 1)

    assert bench.states("mail") == {in_hand: "parked"}


def test_a_move_back_is_refused_while_something_is_in_hand_unless_it_may_come_again(bench: Bench) -> None:
    """The events in between are none of the subscriber's, so that nothing else would ask for a word."""
    bench.log.append(Lost(1))
    mail = Mail(bench)
    mail.turn()
    mail.partitions[0].release()
    bench.send(1)
    died = Mail(bench, interrupted_at=1)
    died.is_interrupted()

    with pytest.raises(RefusedError, match="event 2 is in hand"):
        control.rewind(bench.log.database, "mail", control.after_position(0))
    control.rewind(bench.log.database, "mail", control.after_position(0), resend=True)

    mail.app.drain()
    assert mail.calls == [1]


def test_an_advance_is_not_undone_while_something_is_in_hand(bench: Bench) -> None:
    passed = bench.log.append(Lost(1))[0].position
    bench.send(1)
    Mail(bench)
    moved = control.advance(bench.log.database, "mail", control.after_position(passed))
    Mail(bench, interrupted_at=1).is_interrupted()

    with pytest.raises(RefusedError, match="event 2 is in hand"):
        control.undo(bench.log.database, moved.operation or 0)


def test_a_failure_that_undo_brings_back_may_have_been_handed_out_meanwhile(bench: Bench) -> None:
    """It waited behind another one and had never been handed out; rewound, it was, and nobody came to settle that."""
    flags: list[tuple[int, bool]] = []
    works: list[bool] = []

    def partition() -> Partition:
        app = bench.app()
        mail = app.subscriber("mail", retry=Retry(attempts=1))

        @mail
        def send(crate: Sent, ctx: Context) -> None:
            flags.append((crate.weight, ctx.redelivery))
            if not works:
                raise BugError
            if crate.weight == 2 and len(works) == 1:
                raise KeyboardInterrupt

        app.register()
        runtime = runtime_of(app)
        runtime.feed.refresh()
        return app.partitions(runtime)[0]

    for weight in (1, 2):
        bench.log.append(Sent(1, weight))
    first = partition()
    first.turn(until=1)
    first.turn()
    assert bench.states("mail") == {1: "parked", 2: "blocked"}
    moved = control.rewind(bench.log.database, "mail", control.after_position(0), resend=True)
    works.append(True)
    with pytest.raises(KeyboardInterrupt):
        partition().turn()

    control.undo(bench.log.database, moved.operation or 0)
    works.append(True)
    control.retry(bench.log.database, "mail", [1])
    partition().turn()

    assert bench.states("mail") == {1: "resolved", 2: "resolved"}
    assert flags == [(1, False), (1, True), (2, True), (1, True), (2, True)]


@pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once"])
def test_what_was_in_hand_and_waits_behind_a_failure_of_its_key_is_not_passed_by(bench: Bench, delivery: str) -> None:
    """Two events were in hand, and the one before the event in doubt waits behind a failure: it was lost."""

    def partition(*, dies: bool) -> Partition:
        app = bench.app()
        mail = app.subscriber("mail", delivery=delivery, retry=Retry(attempts=1), concurrency=2)

        @mail
        def send(crate: Sent) -> None:
            if crate.number == 1:
                raise BugError
            if dies:
                raise KeyboardInterrupt

        app.register()
        runtime = runtime_of(app)
        runtime.feed.refresh()
        return app.partitions(runtime)[0]

    first, waits, in_doubt = (bench.log.append(Sent(number))[0].position for number in (1, 1, 2))
    died = partition(dies=True)
    died.turn(until=first)
    with pytest.raises(KeyboardInterrupt):
        died.turn()
    bench.expire_lease("mail")

    last = partition(dies=False)
    while last.turn().moved:
        pass

    assert bench.position("mail") == in_doubt
    expected = {"at-least-once": "blocked", "at-most-once": "parked"}[delivery]
    assert bench.states("mail") == {first: "parked", waits: expected, in_doubt: "parked"}

"""Live delivery in a transaction: every event is applied exactly once, whatever a handler does to its batch."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from sqlalchemy import Connection

from eventlog.errors import WrongExpectedVersionError
from eventlog.events import Event, Recorded
from eventlog.subscribers import delivery
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.retry import Retry
from eventlog.testing import StillClock
from tests.log_support import as_other_code
from tests.subscribers_support import (
    Bench,
    BugError,
    Found,
    Lost,
    Sent,
    applied_table,
    drain_with,
    note,
)

ONCE = Retry(attempts=1)


APPLIED = applied_table()


def board_of(app: App, *, on_failure: str = "park", retry: Retry = ONCE) -> Subscriber:
    return app.projection("board", tables=[APPLIED], on_failure=on_failure, retry=retry)


def test_a_drain_counts_what_it_handled_and_what_failed(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(5)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 3:
            raise BugError("three")
        note(ctx, APPLIED)

    drained = app.drain()
    assert (drained.handled, drained.failed) == (4, 1)
    assert (drained.subscribers["board"].handled, drained.subscribers["board"].failed) == (4, 1)
    assert bench.applied(APPLIED) == [sent[0], sent[1], sent[3], sent[4]]


def test_a_second_drain_finds_nothing_to_do(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(5)
    board = board_of(app)

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    app.drain()
    assert app.drain().handled == 0
    assert bench.applied(APPLIED) == sent


def test_the_checkpoint_commits_with_the_handlers_writes(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    board = board_of(app)
    seen_from_outside: list[tuple[int, int]] = []

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        seen_from_outside.append((len(bench.applied(APPLIED)), bench.position("board")))

    app.drain()
    assert seen_from_outside == [(0, 0)] * 3
    assert (bench.applied(APPLIED), bench.position("board")) == (sent, sent[-1])


@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_a_failure_within_a_batch_leaves_its_neighbours_applied_exactly_once(bench: Bench, on_failure: str) -> None:
    app = bench.app()
    sent = bench.send(7)
    board = board_of(app, on_failure=on_failure)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number == 4:
            raise BugError("after it wrote")

    app.drain()
    assert bench.applied(APPLIED) == (sent[:3] + sent[4:] if on_failure == "park" else sent[:3])
    assert bench.states("board") == {sent[3]: "parked"}


def test_only_the_lone_run_of_a_culprit_counts_as_an_attempt(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(7)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number == 4:
            raise BugError("four")

    app.drain()
    assert [(row.position, row.attempt, row.outcome) for row in bench.attempts("board")] == [(sent[3], 1, "failed")]
    assert bench.entries("board")[0].attempts == 1


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_data_that_cannot_be_decoded_goes_to_the_ledger(bench: Bench, delivery: str) -> None:
    app = bench.app()
    good = bench.send(1)
    with as_other_code():
        bad = bench.log.append(Event({"number": "not a number"}, type="crate.sent", stream="crate-2"))[0].position
    good += bench.send(1, first=3)
    mail = app.subscriber("mail", delivery=delivery, retry=ONCE)
    handled: list[int] = []

    @mail
    def send(recorded: Recorded[Sent]) -> None:
        handled.append(recorded.position)

    app.drain()
    assert bench.states("mail") == {bad: "parked"}
    assert set(handled) == set(good)
    assert "UndecodableEventError" in bench.entries("mail")[0].error_type


def test_a_long_batch_is_cut_and_the_checkpoint_stays_where_it_was_cut(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(4)
    board = board_of(app)
    clock = StillClock()
    checkpoints: list[int] = []

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        checkpoints.append(bench.position("board"))
        note(ctx, APPLIED)
        clock.now += 2

    drain_with(app, clock=clock)
    assert checkpoints == [0, *sent[:3]]
    assert bench.applied(APPLIED) == sent


def test_waiting_for_another_writer_does_not_count_against_a_batch(bench: Bench) -> None:
    """Else a worker beside busy writers would settle after every single event. The clock moves while it waits to begin
    its transaction, and the batch is one transaction all the same: nothing is settled while its handlers run.
    """
    app = bench.app()
    sent = bench.send(4)
    board = board_of(app)
    clock, transaction = StillClock(), app.log.database.transaction
    checkpoints: list[int] = []

    @contextmanager
    def after_a_wait() -> Iterator[Connection]:
        if threading.current_thread() is threading.main_thread():  # and not the heartbeat's
            clock.now += 2
        with transaction() as connection:
            yield connection

    app.log.database.transaction = after_a_wait  # type: ignore[method-assign]  # what another writer would do to it

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        checkpoints.append(bench.position("board"))
        note(ctx, APPLIED)

    drain_with(app, clock=clock)
    assert checkpoints == [0, 0, 0, 0]
    assert bench.applied(APPLIED) == sent


def test_the_checkpoint_advances_past_types_nobody_wants(bench: Bench) -> None:
    app = bench.app()
    bench.send(3)
    last = bench.log.append(Lost(1), Lost(2))[-1].position
    board = app.projection("board")

    @board
    def apply(_crate: Found) -> None:
        raise AssertionError("nothing was found")

    assert app.drain().handled == 0
    assert bench.position("board") == last


def test_a_log_of_many_pages_is_applied_once_each(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(1_203)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        if crate.number in (500, 501, 1_000):
            raise BugError("at the edge of a page")
        note(ctx, APPLIED)

    app.drain()
    assert bench.applied(APPLIED) == [one for one in sent if one not in (sent[499], sent[500], sent[999])]
    assert bench.position("board") == sent[-1]


def test_what_a_handler_appends_commits_with_the_checkpoint_and_names_its_cause(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for database in delivery.TRANSACTION_SECONDS:
        monkeypatch.setitem(delivery.TRANSACTION_SECONDS, database, 60.0)
    app = bench.app()
    sent = bench.send(2)
    board = board_of(app)
    heads: list[int] = []

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        ctx.append(Lost(crate.number))
        heads.append(len(list(bench.log.read(types=["crate.lost"]))))

    app.drain()
    first = next(bench.log.read(types=["crate.lost"]))
    cause = bench.log.get(sent[0])
    assert heads == [0, 0]
    assert first.metadata == {"causation_id": str(cause.id), "correlation_id": str(cause.id)}


def test_a_chain_of_causes_keeps_its_correlation_id(bench: Bench) -> None:
    app = bench.app()
    sent = bench.log.append(Sent(1), metadata={"correlation_id": "order-7"})[0]
    chain = app.subscriber("chain", delivery="transactional")

    @chain
    def lose(crate: Sent, ctx: Context) -> None:
        ctx.append(Lost(crate.number))

    @chain
    def find(crate: Lost, ctx: Context) -> None:
        ctx.append(Found(crate.number))

    app.drain()
    app.drain()
    lost, found = list(bench.log.read(after=sent.position))
    assert [one.metadata["correlation_id"] for one in (lost, found)] == ["order-7", "order-7"]
    assert (lost.metadata["causation_id"], found.metadata["causation_id"]) == (str(sent.id), str(lost.id))


def test_what_a_failed_handler_appended_is_gone(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(3)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        ctx.append(Lost(crate.number))
        if crate.number == 2:
            raise BugError("after the append")

    app.drain()
    assert [one.data.number for one in bench.log.read(types=["crate.lost"])] == [1, 3]
    assert bench.states("board") == {sent[1]: "parked"}


def test_a_refused_append_that_a_handler_catches_fails_nothing(bench: Bench) -> None:
    app = bench.app()
    sent = bench.send(2)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        with pytest.raises(WrongExpectedVersionError):
            ctx.append(Lost(crate.number), Lost(crate.number), expected="none")

    app.drain()
    assert (bench.states("board"), bench.applied(APPLIED)) == ({}, sent)


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_what_a_handler_does_to_its_data_is_not_seen_by_another(bench: Bench, delivery: str) -> None:
    """Subscribers share a page of the log, and a batch that failed is run again: an event never changes for that."""
    app = bench.app()
    bench.log.append(Event({"lines": [1, 2]}, type="crate.packed", stream="crate-1", metadata={"by": "Ann"}))
    seen: list[tuple[object, object]] = []
    for name in ("first", "second"):
        reader = app.subscriber(name, delivery=delivery)

        @reader.on("crate.packed")
        def read(recorded: Recorded) -> None:  # type: ignore[type-arg]  # plain data
            seen.append((len(recorded.data["lines"]), recorded.metadata.pop("by", None)))
            recorded.data["lines"].clear()

    app.drain()
    assert seen == [(2, "Ann"), (2, "Ann")]


def test_an_exception_that_cannot_be_shown_is_recorded_all_the_same(bench: Bench) -> None:
    class ShyError(Exception):
        def __str__(self) -> str:
            raise BugError("not even that")

    app = bench.app()
    sent = bench.send(3)
    board = board_of(app)

    @board
    def apply(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number == 2:
            raise ShyError

    app.drain()
    assert bench.states("board") == {sent[1]: "parked"}
    assert bench.applied(APPLIED) == [sent[0], sent[2]]

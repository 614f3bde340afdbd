"""The failure ledger: what a failure leaves behind, when it is tried again, and what operators do to it."""

import re
from datetime import timedelta

import pytest

from eventlog.errors import NotFoundError, RefusedError, UnknownSubscriberError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.declaration import Subscriber
from eventlog.subscribers.problems import MESSAGE_CHARACTERS_MAX, TRACEBACK_CHARACTERS_MAX, problem_of
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Gate,
    Sent,
    applied_table,
    drain_with,
    eventually,
    note,
    runtime_of,
)

ONCE = Retry(attempts=1)
AT_ONCE = Retry(attempts=3, first_seconds=0)
MUCH_LATER = Retry(attempts=3, first_seconds=1000, longest_seconds=3000)
APPLIED = applied_table()
DELIVERIES = pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])


class Mail:
    """A subscriber that fails at the numbers in `broken`, and remembers what it has sent."""

    def __init__(
        self, app: App, *broken: int, retry: Retry = ONCE, on_failure: str = "park", delivery: str = "at-least-once"
    ) -> None:
        self.app = app
        self.broken = set(broken)
        self.calls: list[int] = []
        self.sent: list[int] = []
        subscriber: Subscriber = app.subscriber("mail", retry=retry, on_failure=on_failure, delivery=delivery)
        subscriber(self.send)

    def send(self, crate: Sent) -> None:
        self.calls.append(crate.number)
        if crate.number in self.broken:
            raise BugError(f"crate {crate.number} is broken")
        self.sent.append(crate.number)

    def retry(self, *positions: int) -> None:
        control.retry(self.app.log.database, "mail", positions)

    def skip(self, *positions: int) -> None:
        control.skip(self.app.log.database, "mail", positions, reason="nobody wants it")


@DELIVERIES
def test_a_failure_waits_for_its_time_and_a_drain_does_not_wait_for_it(bench: Bench, delivery: str) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER, delivery=delivery)
    drained = drain_with(mail.app, draw=lambda: 0.25)
    entry = bench.entries("mail")[0]
    assert (drained.handled, drained.failed, bench.states("mail")) == (1, 1, {sent[0]: "retrying"})
    assert entry.next_attempt_at is not None
    wait = entry.next_attempt_at - entry.last_failed_at
    assert timedelta(seconds=249) < wait < timedelta(seconds=251)


@DELIVERIES
def test_a_retry_that_is_due_is_run_by_a_drain(bench: Bench, delivery: str) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER, delivery=delivery)
    mail.app.drain()
    mail.broken.clear()
    bench.make_due("mail")
    assert mail.app.drain().handled == 1
    assert bench.states("mail") == {sent[0]: "resolved"}
    assert mail.sent.count(1) == 1


def test_a_restart_forgets_no_retry(bench: Bench) -> None:
    sent = bench.send(1)
    Mail(bench.app(), 1, retry=MUCH_LATER).app.drain()
    restarted = Mail(bench.app(), retry=MUCH_LATER)
    assert restarted.app.drain().handled == 0
    bench.make_due("mail")
    assert restarted.app.drain().handled == 1
    assert bench.states("mail") == {sent[0]: "resolved"}


def test_the_waits_of_a_failure_grow(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER)
    waits: list[float] = []
    for _ in range(2):
        bench.make_due("mail") if waits else None
        drain_with(mail.app, draw=lambda: 1.0)
        entry = bench.entries("mail")[0]
        assert entry.next_attempt_at is not None
        waits.append(round((entry.next_attempt_at - entry.last_failed_at).total_seconds()))
    assert waits == [1000, 2000]


@DELIVERIES
@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_an_event_whose_attempts_are_spent_is_parked(bench: Bench, delivery: str, on_failure: str) -> None:
    sent = bench.send(1)
    mail = Mail(bench.app(), 1, retry=AT_ONCE, delivery=delivery, on_failure=on_failure)
    assert mail.app.drain().failed == 3
    assert bench.states("mail") == {sent[0]: "parked"}
    assert bench.entries("mail")[0].next_attempt_at is None
    assert mail.calls == [1, 1, 1]


def test_a_parked_event_is_not_retried_until_an_operator_asks(bench: Bench) -> None:
    sent = bench.send(1)
    mail = Mail(bench.app(), 1)
    mail.app.drain()
    mail.broken.clear()
    mail.app.drain()
    assert mail.calls == [1]
    mail.retry(sent[0])
    mail.app.drain()
    assert (mail.calls, bench.states("mail")) == ([1, 1], {sent[0]: "resolved"})


def test_a_retry_of_an_operator_is_one_more_attempt_and_parks_again(bench: Bench) -> None:
    sent = bench.send(1)
    mail = Mail(bench.app(), 1, retry=AT_ONCE)
    mail.app.drain()
    mail.retry(sent[0])
    mail.app.drain()
    assert (len(mail.calls), bench.states("mail")) == (4, {sent[0]: "parked"})
    assert [row.attempt for row in bench.attempts("mail")] == [1, 2, 3, 4]


def test_a_retry_without_positions_is_of_every_open_entry(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app(), 1, 2, 3)
    mail.app.drain()
    mail.skip(sent[1])
    mail.broken.clear()
    mail.retry()
    mail.app.drain()
    assert bench.states("mail") == {sent[0]: "resolved", sent[1]: "skipped", sent[2]: "resolved"}


def test_each_attempt_is_kept_with_who_made_it_and_how_it_went(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER)
    drain_with(mail.app, owner="first worker")
    mail.broken.clear()
    bench.make_due("mail")
    drain_with(mail.app, owner="second worker")
    failed, resolved = bench.attempts("mail")
    assert (failed.worker, failed.outcome, resolved.worker, resolved.outcome) == (
        "first worker",
        "failed",
        "second worker",
        "resolved",
    )
    assert "BugError: crate 1 is broken" in failed.traceback
    assert "in send" in failed.traceback
    assert resolved.traceback is None
    assert resolved.epoch > failed.epoch
    assert failed.duration_seconds >= 0


@DELIVERIES
def test_a_skipped_event_is_not_tried_again_and_keeps_its_reason(bench: Bench, delivery: str) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER, delivery=delivery)
    mail.app.drain()
    mail.skip(sent[0])
    bench.make_due("mail")
    calls = len(mail.calls)
    mail.app.drain()
    assert (len(mail.calls), bench.states("mail")) == (calls, {sent[0]: "skipped"})
    assert bench.entries("mail")[0].reason == "nobody wants it"


@DELIVERIES
def test_the_skip_of_an_operator_has_the_last_word_over_a_retry_that_runs(bench: Bench, delivery: str) -> None:
    """The handler of the retry stands at a gate until the entry has been skipped."""
    app, gate = bench.app(), Gate()
    sent = bench.send(1)
    mail = app.subscriber("mail", retry=Retry(attempts=3, first_seconds=0), delivery=delivery)

    @mail
    def send(_crate: Sent, ctx: Context) -> None:
        if ctx.attempt == 1:
            raise BugError
        gate.wait()

    drain = Background(app.drain)
    gate.wait_until_reached()
    skip = Background(lambda: control.skip(app.log.database, "mail", sent, reason="enough"))
    if bench.postgres or delivery == "at-least-once":
        skip.join()
    gate.open()
    drain.join()
    if not bench.postgres and delivery == "transactional":
        # The handler's transaction has the file to itself, so it is the skip that comes too late.
        with pytest.raises(RefusedError):
            skip.join()
        assert bench.states("mail") == {sent[0]: "resolved"}
        return
    assert bench.states("mail") == {sent[0]: "skipped"}
    assert [row.outcome for row in bench.attempts("mail")] == ["failed"]


def test_a_skip_while_a_transactional_retry_runs_undoes_what_the_handler_wrote(postgres_database_url: str) -> None:
    """The handler has written and stands at a gate until the entry has been skipped."""
    bench = Bench(postgres_database_url)
    app, gate = bench.app(), Gate()
    sent = bench.send(1)
    board = app.projection("mail", tables=[APPLIED], retry=AT_ONCE, on_failure="park")

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if ctx.attempt == 1:
            raise BugError
        gate.wait()

    drain = Background(app.drain)
    gate.wait_until_reached()
    control.skip(app.log.database, "mail", sent, reason="enough")
    gate.open()
    drain.join()
    states, applied = bench.states("mail"), bench.applied(APPLIED)
    bench.close()
    assert (states, applied) == ({sent[0]: "skipped"}, [])


@DELIVERIES
def test_a_halted_subscriber_lets_nothing_pass_and_says_so(bench: Bench, delivery: str) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 2, on_failure="halt", delivery=delivery)
    mail.app.drain()
    mail.app.drain()
    assert mail.sent[-1] == 1
    assert mail.sent.count(3) == 0
    assert (bench.status("mail").state, bench.position("mail")) == ("halted", sent[0])


@DELIVERIES
def test_a_halted_event_that_is_resolved_takes_the_checkpoint_past_it(bench: Bench, delivery: str) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 2, on_failure="halt", delivery=delivery)
    mail.app.drain()
    mail.broken.clear()
    mail.retry(sent[1])
    mail.sent.clear()
    mail.app.drain()
    assert mail.sent == [2, 3, 4]
    assert (bench.status("mail").state, bench.position("mail")) == ("running", sent[3])


@DELIVERIES
def test_a_skip_lets_a_halted_subscriber_go_on(bench: Bench, delivery: str) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 2, on_failure="halt", delivery=delivery)
    mail.app.drain()
    mail.skip(sent[1])
    mail.sent.clear()
    mail.app.drain()
    assert mail.sent == [3, 4]
    assert bench.status("mail").state == "running"


@pytest.mark.parametrize("deed", ["retry", "skip"])
def test_a_worker_that_has_halted_goes_on_by_itself_when_an_operator_says_so(bench: Bench, deed: str) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 2, on_failure="halt")
    with mail.app.worker():
        eventually(lambda: bench.states("mail") == {sent[1]: "parked"}, what="the worker halts")
        mail.broken.clear()
        getattr(mail, deed)(sent[1])
        eventually(lambda: bench.position("mail") == sent[3], what="the worker goes on")
    assert mail.sent == ([1, 2, 3, 4] if deed == "retry" else [1, 3, 4])


def test_several_failures_in_a_row_under_halt_are_met_one_after_the_other(bench: Bench) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 1, 2, 3, on_failure="halt")
    for position in sent[:3]:
        mail.app.drain()
        assert bench.states("mail")[position] == "parked"
        mail.skip(position)
    mail.app.drain()
    assert mail.sent == [4]


def test_a_failure_that_comes_again_after_a_rewind_reopens_its_entry_in_a_new_round(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=AT_ONCE)
    mail.app.drain()
    control.rewind(mail.app.log.database, "mail", control.to_start, resend=True)
    assert bench.states("mail") == {sent[0]: "superseded"}
    mail.app.drain()
    entry = bench.entries("mail")[0]
    assert (str(entry.state), entry.round, entry.attempts) == ("parked", 1, 3)
    assert [(row.round, row.attempt) for row in bench.attempts("mail")] == [
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 1),
        (1, 2),
        (1, 3),
    ]


def test_what_an_operator_does_to_entries_is_on_record(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, 2)
    mail.app.drain()
    mail.retry(sent[0])
    mail.skip(sent[1])
    retried, skipped = bench.operations("mail")[1:]
    assert (retried.action, skipped.action, skipped.reason) == ("retry", "skip", "nobody wants it")
    assert str(sent[1]) in skipped.before
    assert retried.actor


def test_a_dry_run_changes_no_entry(bench: Bench) -> None:
    sent = bench.send(1)
    mail = Mail(bench.app(), 1)
    mail.app.drain()
    changed = control.skip(mail.app.log.database, "mail", sent, reason="no", dry_run=True)
    assert ([entry.position for entry in changed.entries], changed.operation) == (sent, None)
    assert bench.states("mail") == {sent[0]: "parked"}


def test_entries_that_are_not_there_or_not_open_are_refused_and_nothing_is_changed(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, 2)
    mail.app.drain()
    mail.skip(sent[0])
    with pytest.raises(RefusedError, match="skipped"):
        mail.retry(sent[1], sent[0])
    with pytest.raises(NotFoundError):
        mail.skip(sent[1], 99_999)
    with pytest.raises(UnknownSubscriberError):
        control.retry(mail.app.log.database, "nobody")
    assert bench.states("mail") == {sent[0]: "skipped", sent[1]: "parked"}


def fingerprint(error: Exception) -> str:
    try:
        raise error
    except Exception as raised:
        return problem_of(raised).fingerprint


def test_failures_of_one_place_and_kind_have_one_fingerprint() -> None:
    assert fingerprint(BugError("order 17 of 'Ann'")) == fingerprint(BugError("order 4711 of 'Bob'"))
    assert fingerprint(BugError("order 17")) != fingerprint(BugError("crate 17"))
    assert fingerprint(BugError("order 17")) != fingerprint(ValueError("order 17"))


def deep(levels: int) -> None:
    if levels == 0:
        raise BugError("at the bottom, " + "x" * 100_000)
    [deep, even_deeper][levels % 2](levels - 1)


def even_deeper(levels: int) -> None:
    deep(levels)


def test_what_is_kept_of_a_failure_is_bounded_and_ends_with_the_error() -> None:
    with pytest.raises(BugError) as raised:
        deep(200)
    problem = problem_of(raised.value)
    assert len(problem.message) == MESSAGE_CHARACTERS_MAX
    assert TRACEBACK_CHARACTERS_MAX <= len(problem.traceback) <= TRACEBACK_CHARACTERS_MAX + 100


@pytest.mark.parametrize("text", ["a NUL \0 within", "half a pair \ud800", "\udcff\0\x01"], ids=["nul", "half", "all"])
def test_a_message_no_database_could_keep_is_kept_all_the_same(bench: Bench, text: str) -> None:
    sent = bench.send(1)
    app = bench.app()
    mail = app.subscriber("mail", retry=ONCE)

    @mail
    def send(_crate: Sent) -> None:
        raise BugError(text)

    app.drain()
    entry = bench.entries("mail")[0]
    assert (entry.position, str(entry.state)) == (sent[0], "parked")
    assert re.search(r"\\0|\\ud800|\\udcff", entry.message)


def test_a_group_of_exceptions_is_a_failure_like_any_other(bench: Bench) -> None:
    sent = bench.send(1)
    app = bench.app()
    mail = app.subscriber("mail", retry=ONCE)

    @mail
    def send(_crate: Sent) -> None:
        raise ExceptionGroup("two at once", [BugError("one"), BugError("other")])

    app.drain()
    assert bench.states("mail") == {sent[0]: "parked"}
    assert "BugError: other" in bench.attempts("mail")[0].traceback


def test_a_drain_does_not_wait_for_a_retry_of_another_workers_that_is_not_due(bench: Bench) -> None:
    """The worker holds the lease, and under `halt` waits a thousand seconds for its event."""
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER, on_failure="halt")
    runtime = runtime_of(mail.app, draw=lambda: 1.0)
    worker = mail.app.make_worker(runtime=runtime)
    worker.start()
    try:
        eventually(lambda: bench.states("mail") == {sent[0]: "retrying"}, what="the event has failed")
        other = Mail(bench.app(), 1, retry=MUCH_LATER, on_failure="halt")
        drain = Background(lambda: drain_with(other.app, stop=runtime.stop))
        drain.join(seconds=5)
    finally:
        worker.stop()
    assert bench.states("mail") == {sent[0]: "retrying"}

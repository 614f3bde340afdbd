"""What a handler says by raising: skip it, leave it to an operator, later, never again; and what the ledger keeps."""

import pytest

from eventlog.subscribers.app import App
from eventlog.subscribers.outcomes import Park, RetryAfter, Skip
from eventlog.subscribers.retry import WAIT_SECONDS_MAX, Retry
from tests.subscribers_support import Bench, BugError, Sent, applied_table, note

SLOWLY = Retry(attempts=3, first_seconds=3600, final=(ZeroDivisionError,))
APPLIED = applied_table()


def app_that_raises(bench: Bench, errors: dict[int, BaseException], *, delivery: str, on_failure: str = "park") -> App:
    """A subscriber that raises for some crates, and writes a row for each when it is transactional."""
    app = bench.app()
    mail = app.subscriber("mail", delivery=delivery, on_failure=on_failure, retry=SLOWLY)

    @mail
    def send(crate: Sent, ctx: object) -> None:
        if crate.number in errors:
            raise errors[crate.number]

    return app


BOTH = pytest.mark.parametrize("delivery", ["at-least-once", "transactional"])


@BOTH
def test_skip_gives_the_event_up_with_its_reason_and_delivery_goes_on(bench: Bench, delivery: str) -> None:
    first, second, third = bench.send(3)
    done = app_that_raises(bench, {2: Skip("no address")}, delivery=delivery).drain()

    (entry,) = bench.entries("mail")
    assert (entry.position, entry.state, entry.reason, entry.attempts) == (second, "skipped", "no address", 1)
    assert [one.outcome for one in bench.attempts("mail")] == ["skipped"]
    assert (done.handled, done.failed, bench.position("mail")) == (3, 0, third)
    assert first < second


@BOTH
def test_skip_does_not_halt(bench: Bench, delivery: str) -> None:
    sent = bench.send(3)
    app_that_raises(bench, {2: Skip()}, delivery=delivery, on_failure="halt").drain()

    assert bench.position("mail") == sent[-1]


@BOTH
def test_park_leaves_the_event_to_an_operator_though_attempts_are_left(bench: Bench, delivery: str) -> None:
    bench.send(2)
    app_that_raises(bench, {2: Park("the customer is on hold")}, delivery=delivery).drain()

    (entry,) = bench.entries("mail")
    assert (entry.state, entry.reason, entry.next_attempt_at) == ("parked", "the customer is on hold", None)


@BOTH
def test_a_final_exception_parks_after_the_first_attempt(bench: Bench, delivery: str) -> None:
    bench.send(2)
    app_that_raises(bench, {1: ZeroDivisionError("for ever")}, delivery=delivery).drain()

    (entry,) = bench.entries("mail")
    assert (entry.state, entry.attempts) == ("parked", 1)


@BOTH
def test_another_exception_is_tried_again(bench: Bench, delivery: str) -> None:
    bench.send(1)
    app_that_raises(bench, {1: BugError()}, delivery=delivery).drain()

    (entry,) = bench.entries("mail")
    assert (entry.state, entry.attempts) == ("retrying", 1)


@BOTH
def test_retry_after_says_when(bench: Bench, delivery: str) -> None:
    bench.send(1)
    app_that_raises(bench, {1: RetryAfter(0)}, delivery=delivery).drain()

    (entry,) = bench.entries("mail")
    assert (entry.state, entry.attempts) == ("parked", 3), "0 s later, twice, and then the attempts are spent"


def test_retry_after_waits_as_long_as_it_says(bench: Bench) -> None:
    bench.send(1)
    app_that_raises(bench, {1: RetryAfter(7200)}, delivery="at-least-once").drain()

    (entry,) = bench.entries("mail")
    assert entry.next_attempt_at is not None
    assert (entry.next_attempt_at - entry.last_failed_at).total_seconds() == pytest.approx(7200, abs=5)


@pytest.mark.parametrize(
    ("seconds", "kept"), [(-1.0, 0.0), (float("inf"), WAIT_SECONDS_MAX), (float("nan"), 0.0), (1.5, 1.5)]
)
def test_a_wait_that_makes_no_sense_is_brought_within_limits(seconds: float, kept: float) -> None:
    assert RetryAfter(seconds).seconds == kept


def test_what_a_retried_event_raises_is_heard_too(bench: Bench) -> None:
    bench.send(1)
    errors: dict[int, BaseException] = {1: BugError()}
    app = app_that_raises(bench, errors, delivery="at-least-once")
    app.drain()
    errors[1] = Skip("sent by hand")
    bench.make_due("mail")

    done = app.drain()

    (entry,) = bench.entries("mail")
    assert (entry.state, entry.reason, entry.attempts) == ("skipped", "sent by hand", 2)
    assert (done.handled, done.failed) == (1, 0)


def test_what_a_transactional_handler_wrote_before_it_skipped_is_rolled_back(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    board = app.projection("board", tables=[APPLIED])

    @board
    def apply(crate: Sent, ctx: object) -> None:
        note(ctx, APPLIED)  # type: ignore[arg-type]  # annotated loosely so that one handler serves both modes
        if crate.number == 2:
            raise Skip

    app.drain()
    assert bench.applied(APPLIED) == [sent[0], sent[2]]


def test_redacted_failures_hold_no_value(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    mail = app.subscriber("mail", redact=True, retry=Retry(attempts=1))

    @mail
    def send(_crate: Sent) -> None:
        try:
            raise ValueError("jane@example.com is in the inner error")
        except ValueError as error:
            raise BugError("jane@example.com cannot be reached") from error

    app.drain()
    (entry,), (attempt,) = bench.entries("mail"), bench.attempts("mail")
    assert "jane" not in entry.message + attempt.message + attempt.traceback.replace('"jane@', "")
    assert "BugError" in attempt.traceback
    assert "ValueError" in attempt.traceback


def test_a_function_chooses_what_is_kept(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()
    mail = app.subscriber("mail", redact=lambda text: text.replace("jane@example.com", "<address>"))

    @mail
    def send(_crate: Sent) -> None:
        raise BugError("jane@example.com cannot be reached")

    app.drain()
    assert bench.entries("mail")[0].message == "<address> cannot be reached"
    assert "jane" not in bench.attempts("mail")[0].traceback.splitlines()[-1]


def test_a_redacting_function_that_fails_keeps_nothing(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()

    def broken(_text: str) -> str:
        raise BugError

    mail = app.subscriber("mail", redact=broken)

    @mail
    def send(_crate: Sent) -> None:
        raise BugError("jane")

    app.drain()
    assert bench.entries("mail")[0].message == "(redacted)"

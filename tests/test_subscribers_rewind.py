"""Rewinding while nothing runs: what moves, what is refused, what undo brings back. Running workers: see the races."""

from datetime import UTC, datetime, timedelta

import pytest

from eventlog.errors import NotFoundError, RefusedError, UnknownSubscriberError
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.control import Move
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Lost, Sent

ONCE = Retry(attempts=1)
MUCH_LATER = Retry(attempts=3, first_seconds=1000, longest_seconds=3000)


class Mail:
    """An effect that fails at the numbers in `broken`."""

    def __init__(self, app: App, *broken: int, retry: Retry = ONCE, on_failure: str = "park") -> None:
        self.app = app
        self.broken = set(broken)
        self.calls: list[int] = []
        app.subscriber("mail", retry=retry, on_failure=on_failure)(self.send)

    def send(self, crate: Sent) -> None:
        self.calls.append(crate.number)
        if crate.number in self.broken:
            raise BugError

    def rewind(self, position: int, *, resend: bool = True, dry_run: bool = False) -> Move:
        where = control.after_position(position)
        return control.rewind(self.app.log.database, "mail", where, resend=resend, dry_run=dry_run)

    def undo(self, move: Move) -> control.Undone:
        assert move.operation is not None
        return control.undo(self.app.log.database, move.operation)


def test_a_rewind_delivers_again_what_follows_its_position(bench: Bench) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app())
    mail.app.drain()
    move = mail.rewind(sent[1])
    assert (move.from_position, move.to_position, move.next_event, move.events) == (sent[3], sent[1], sent[2], 2)
    mail.app.drain()
    assert mail.calls == [1, 2, 3, 4, 3, 4]


def test_a_plan_counts_the_subscribers_events_only(bench: Bench) -> None:
    bench.log.append(Sent(1), Lost(1), Sent(2), Lost(2))
    mail = Mail(bench.app())
    mail.app.drain()
    move = mail.rewind(0, dry_run=True)
    assert (move.events, move.by_type, move.already_handled) == (2, {"crate.sent": 2}, 2)
    assert bench.position("mail") == 4


def test_a_dry_run_changes_nothing(bench: Bench) -> None:
    bench.send(2)
    mail = Mail(bench.app(), 1)
    mail.app.drain()
    before = (bench.checkpoint("mail"), bench.entries("mail"), bench.operations("mail"))
    move = mail.rewind(0, dry_run=True)
    assert (bench.checkpoint("mail"), bench.entries("mail"), bench.operations("mail")) == before
    assert (move.superseded, move.operation, move.undo) == (1, None, None)


def test_a_rewind_supersedes_every_entry_above_it_and_none_below(bench: Bench) -> None:
    sent = bench.send(6)
    mail = Mail(bench.app(), 1, 3, 4, 5)
    mail.app.drain()
    control.skip(mail.app.log.database, "mail", [sent[3]], reason="no")
    mail.broken.clear()
    control.retry(mail.app.log.database, "mail", [sent[4]])
    mail.app.drain()
    assert mail.rewind(sent[1]).superseded == 1
    assert bench.states("mail") == {
        sent[0]: "parked",
        sent[2]: "superseded",
        sent[3]: "superseded",
        sent[4]: "superseded",
    }


def test_an_event_that_succeeds_after_a_rewind_stays_superseded(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1)
    mail.app.drain()
    mail.broken.clear()
    mail.rewind(0)
    mail.app.drain()
    assert bench.states("mail") == {sent[0]: "superseded"}
    assert mail.calls == [1, 2, 1, 2]


def test_undo_brings_back_the_checkpoint_and_the_entries_as_they_were(bench: Bench) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 2, 3)
    mail.app.drain()
    control.skip(mail.app.log.database, "mail", [sent[1]], reason="no")
    before = [(entry.position, entry.state, entry.attempts, entry.reason) for entry in bench.entries("mail")]
    undone = mail.undo(mail.rewind(0))
    after = [(entry.position, entry.state, entry.attempts, entry.reason) for entry in bench.entries("mail")]
    assert (undone.from_position, undone.to_position, bench.position("mail")) == (0, sent[3], sent[3])
    assert after == before
    calls = len(mail.calls)
    mail.app.drain()
    assert len(mail.calls) == calls


def test_undo_leaves_what_was_delivered_again_meanwhile(bench: Bench) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), 1, 4)
    mail.app.drain()
    move = mail.rewind(0)
    mail.broken.clear()
    one = bench.app()
    stop_after_two = Mail(one, 3, retry=MUCH_LATER, on_failure="halt")
    stop_after_two.app.drain()
    assert bench.position("mail") == sent[1]
    stop_after_two.undo(move)
    assert bench.states("mail") == {sent[0]: "superseded", sent[2]: "retrying", sent[3]: "parked"}
    assert bench.position("mail") == sent[3]


def test_an_entry_that_reopened_after_the_rewind_is_kept_by_undo(bench: Bench) -> None:
    """Halted again at the same event: undo must not overwrite what the second failure has left."""
    sent = bench.send(3)
    mail = Mail(bench.app(), 2, on_failure="halt")
    mail.app.drain()
    control.skip(mail.app.log.database, "mail", [sent[1]], reason="no")
    mail.app.drain()
    move = mail.rewind(0)
    mail.app.drain()
    assert bench.states("mail") == {sent[1]: "parked"}
    mail.undo(move)
    entry = bench.entries("mail")[0]
    assert (str(entry.state), entry.round, bench.position("mail")) == ("parked", 1, sent[2])
    mail.broken.clear()
    control.retry(mail.app.log.database, "mail", [sent[1]])
    mail.app.drain()
    assert bench.states("mail") == {sent[1]: "resolved"}


def test_a_halted_subscriber_that_is_rewound_and_undone_halts_where_it_did(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app(), 2, on_failure="halt")
    mail.app.drain()
    mail.undo(mail.rewind(0))
    mail.app.drain()
    assert (bench.states("mail"), bench.position("mail")) == ({sent[1]: "parked"}, sent[0])
    assert bench.status("mail").state == "halted"
    assert mail.calls == [1, 2]


def test_a_retry_that_was_waiting_waits_again_after_undo(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app(), 1, retry=MUCH_LATER)
    mail.app.drain()
    due = bench.entries("mail")[0].next_attempt_at
    mail.undo(mail.rewind(0))
    mail.broken.clear()
    mail.app.drain()
    assert bench.entries("mail")[0].next_attempt_at == due
    bench.make_due("mail")
    mail.app.drain()
    assert bench.states("mail") == {sent[0]: "resolved"}


def test_only_the_last_move_can_be_undone(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    first = mail.rewind(sent[1])
    second = mail.rewind(sent[0])
    with pytest.raises(RefusedError, match="last"):
        mail.undo(first)
    mail.undo(second)
    assert bench.position("mail") == sent[1]


def test_undo_is_refused_when_the_subscriber_came_as_far_by_itself(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    move = mail.rewind(0)
    mail.app.drain()
    with pytest.raises(RefusedError, match="by itself"):
        mail.undo(move)


def test_undo_of_what_is_no_rewind_is_refused(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()
    registered = bench.operations("mail")[0].id
    with pytest.raises(RefusedError):
        control.undo(mail.app.log.database, registered)
    with pytest.raises(NotFoundError):
        control.undo(mail.app.log.database, 10_000)


@pytest.mark.parametrize("beyond", [0, 1, 100])
def test_a_rewind_to_the_checkpoint_or_beyond_is_refused(bench: Bench, beyond: int) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    with pytest.raises(RefusedError, match="never passes anything over"):
        mail.rewind(sent[-1] + beyond)
    assert bench.position("mail") == sent[-1]


def test_a_rewind_of_nobody_is_refused_and_names_those_there_are(bench: Bench) -> None:
    mail = Mail(bench.app())
    mail.app.register()
    with pytest.raises(UnknownSubscriberError) as error:
        control.rewind(mail.app.log.database, "male", control.to_start)
    assert "mail" in error.value.remedy


def test_an_effect_is_not_sent_again_without_somebodys_word(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    with pytest.raises(RefusedError, match="3 events") as error:
        mail.rewind(0, resend=False)
    assert "resend" in error.value.remedy
    assert bench.position("mail") == 3


def test_what_was_passed_over_unhandled_may_be_delivered_without_consent(bench: Bench) -> None:
    """A start now has passed by what was there: nothing of it has been handled."""
    bench.send(3)
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("mail", start="now")
    def send(crate: Sent) -> None:
        calls.append(crate.number)

    app.drain()
    control.rewind(app.log.database, "mail", control.after_position(1))
    app.drain()
    assert calls == [2, 3]


def test_a_projection_that_is_not_idempotent_is_not_applied_twice_without_somebodys_word(bench: Bench) -> None:
    bench.send(2)
    app = bench.app()
    app.projection("board").on("**")(lambda recorded: None)
    app.projection("safe", idempotent=True).on("**")(lambda recorded: None)
    app.drain()
    with pytest.raises(RefusedError) as error:
        control.rewind(app.log.database, "board", control.after_position(1))
    assert "--to-start" in error.value.remedy
    assert control.rewind(app.log.database, "safe", control.after_position(1)).to_position == 1


def test_a_rewind_since_a_moment_begins_with_the_first_event_recorded_then(bench: Bench) -> None:
    sent = bench.send(2)
    bench.send(1, first=3)
    mail = Mail(bench.app())
    mail.app.drain()
    moment = bench.log.get(3).recorded_at
    first = next(one.position for one in bench.log.read() if one.recorded_at >= moment)
    move = control.rewind(mail.app.log.database, "mail", control.since(mail.app.log.database, moment), resend=True)
    assert move.to_position == first - 1
    assert move.to_position <= sent[-1]


def test_a_rewind_since_a_moment_after_which_nothing_was_recorded_is_refused(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(RefusedError, match="nothing has been recorded"):
        control.rewind(mail.app.log.database, "mail", control.since(mail.app.log.database, tomorrow), resend=True)


def test_a_rewind_to_the_start_goes_to_where_the_subscriber_began(bench: Bench) -> None:
    sent = bench.send(2)
    app = bench.app()

    @app.subscriber("mail", start=sent[0])
    def send(_crate: Sent) -> None: ...

    app.drain()
    move = control.rewind(app.log.database, "mail", control.to_start, resend=True)
    assert move.to_position == sent[0]


def test_a_rewind_is_on_record_with_its_undo(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app())
    mail.app.drain()
    move = control.rewind(
        mail.app.log.database, "mail", control.after_position(sent[0]), resend=True, reason="a bug in the template"
    )
    operation = bench.operations("mail")[-1]
    assert (operation.action, operation.reason, operation.id) == ("rewind", "a bug in the template", move.operation)
    assert move.undo == f"eventlog undo {operation.id}"


def test_a_rewind_raises_the_epoch_and_takes_the_lease_away(bench: Bench) -> None:
    bench.send(2)
    mail = Mail(bench.app())
    mail.app.drain()
    partition = mail.app.partitions(mail.app.runtime())[0]
    partition.turn()
    before = bench.checkpoint("mail")
    mail.rewind(0)
    after = bench.checkpoint("mail")
    assert before.owner is not None
    assert (after.owner, after.expires_at, after.in_hand) == (None, None, 0)
    assert after.epoch > before.epoch

"""Operators' verbs beyond rewind: advance, seek, undo of each, pause, remove, rename, and choosing failures."""

import msgspec
import pytest

from eventlog.errors import DeclarationError, NotFoundError, RefusedError, UnknownSubscriberError
from eventlog.subscribers import control
from eventlog.subscribers.context import Context
from eventlog.subscribers.operations import undo_command
from eventlog.subscribers.receipts import count_receipts
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import Bench, BugError, Lost, Sent, runtime_of

ONCE = Retry(attempts=1)


class Mail:
    """An effect that notes its calls, and fails at the numbers in `broken`."""

    def __init__(self, bench: Bench, *broken: int, name: str = "mail", partitions: int = 1) -> None:
        self.app = bench.app()
        self.broken = set(broken)
        self.calls: list[int] = []
        self.keys: list[str] = []
        self.database = self.app.log.database
        self.app.subscriber(name, retry=ONCE, partitions=partitions)(self.handle)

    def handle(self, crate: Sent | Lost, ctx: Context) -> None:
        self.calls.append(crate.number)
        self.keys.append(ctx.idempotency_key)
        with ctx.once(str(ctx.event.id)):
            if crate.number in self.broken:
                raise BugError(f"no address {crate.number}")


def uneven(bench: Bench, name: str, positions: dict[int, int]) -> None:
    """Place the checkpoints of partitions apart."""
    table = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        for partition, position in positions.items():
            mine = (table.c.subscriber == name) & (table.c.partition == partition)
            connection.execute(
                table.update().where(mine).values(position=position, in_hand=position, handled_through=position)
            )


def positions(bench: Bench, name: str) -> list[int]:
    table = bench.log.database.tables.checkpoints
    return [row.position for row in bench.rows(table.select().where(table.c.subscriber == name))]


def test_an_advance_passes_over_what_lies_between(bench: Bench) -> None:
    sent = bench.send(5)
    mail = Mail(bench)
    mail.app.register()

    move = control.advance(mail.database, "mail", control.after_position(sent[2]), reason="called off")
    mail.app.drain()

    assert (move.from_position, move.to_position, move.events, move.next_event) == (0, sent[2], 3, sent[3])
    assert mail.calls == [4, 5]


def test_an_advance_ends_at_the_high_water_mark(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench)
    mail.app.register()

    assert control.advance(mail.database, "mail", control.after_position(10_000)).to_position == sent[-1]


def test_an_advance_never_goes_back(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.drain()

    with pytest.raises(RefusedError, match="never goes back"):
        control.advance(mail.database, "mail", control.after_position(1))


def test_an_advance_beyond_the_mark_from_the_mark_says_that_nothing_passes_it(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench)
    mail.app.drain()

    for move in (control.advance, control.seek):
        with pytest.raises(RefusedError, match=f"high-water mark at {sent[-1]}: nothing passes that .asked for 5,000"):
            move(mail.database, "mail", control.after_position(5_000))


def test_an_advance_leaves_failures_and_handled_through_alone(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench, 1)
    mail.app.drain()
    before = bench.checkpoint("mail").handled_through
    bench.send(2, first=3)

    control.advance(mail.database, "mail", control.high_water_mark(mail.database))

    assert bench.states("mail") == {sent[0]: "parked"}
    assert bench.checkpoint("mail").handled_through == before


def test_an_advance_lets_a_halted_subscriber_go_on(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("mail", retry=ONCE, on_failure="halt")
    def handle(crate: Sent) -> None:
        calls.append(crate.number)
        if crate.number == 2:
            raise BugError

    app.drain()
    control.advance(app.log.database, "mail", control.after_position(sent[1]))
    app.drain()

    assert calls == [1, 2, 3]
    assert bench.position("mail") == sent[-1]


@pytest.mark.parametrize("verb", ["advance", "seek"])
def test_an_advance_is_undone_while_nothing_was_handled_since(bench: Bench, verb: str) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.register()
    move = getattr(control, verb)(mail.database, "mail", control.after_position(2))

    undone = control.undo(mail.database, move.operation)
    mail.app.drain()

    assert (undone.from_position, undone.to_position) == (2, 0)
    assert mail.calls == [1, 2, 3]


def test_an_advance_is_not_undone_after_progress_and_the_refusal_names_the_range_to_replay(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.register()
    move = control.advance(mail.database, "mail", control.after_position(2))
    mail.app.drain()

    with pytest.raises(RefusedError, match="have been handled since") as refused:
        control.undo(mail.database, move.operation or 0)
    assert "eventlog replay mail --from 1 --until 2" in refused.value.remedy


def test_a_seek_goes_back_and_wants_resend(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench, 3)
    mail.app.drain()

    with pytest.raises(RefusedError, match="handled already"):
        control.seek(mail.database, "mail", control.to_start)
    move = control.seek(mail.database, "mail", control.after_position(1), resend=True)

    assert (move.superseded, bench.states("mail")) == (1, {sent[2]: "superseded"})
    control.undo(mail.database, move.operation or 0)
    assert bench.states("mail") == {sent[2]: "parked"}


def test_the_last_move_of_a_subscriber_is_found_by_its_name(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.drain()
    with pytest.raises(NotFoundError):
        control.last_move(mail.database, "mail")
    move = control.rewind(mail.database, "mail", control.to_start, resend=True)
    control.pause(mail.database, "mail")

    assert control.last_move(mail.database, "mail") == move.operation


def test_a_rewind_of_partitions_that_stand_apart_moves_only_those_above(bench: Bench) -> None:
    bench.send(9)
    mail = Mail(bench, partitions=3)
    mail.app.register()
    uneven(bench, "mail", {0: 9, 1: 4, 2: 2})

    move = control.rewind(mail.database, "mail", control.after_position(3), resend=True)

    assert positions(bench, "mail") == [3, 3, 2]
    assert [(one.from_position, one.to_position) for one in move.partitions] == [(9, 3), (4, 3), (2, 2)]
    assert not move.exact
    control.undo(mail.database, move.operation or 0)
    assert positions(bench, "mail") == [9, 4, 2]


def test_an_advance_of_partitions_that_stand_apart_moves_only_those_below(bench: Bench) -> None:
    bench.send(9)
    mail = Mail(bench, partitions=3)
    mail.app.register()
    uneven(bench, "mail", {0: 9, 1: 4, 2: 2})

    control.advance(mail.database, "mail", control.after_position(5))

    assert positions(bench, "mail") == [9, 5, 5]


def test_a_seek_moves_each_partition_its_own_way(bench: Bench) -> None:
    bench.send(9)
    mail = Mail(bench, partitions=3)
    mail.app.register()
    uneven(bench, "mail", {0: 9, 1: 5, 2: 2})

    move = control.seek(mail.database, "mail", control.after_position(5), resend=True)

    assert positions(bench, "mail") == [5, 5, 5]
    control.undo(mail.database, move.operation or 0)
    assert positions(bench, "mail") == [9, 5, 2]


def test_every_deed_is_on_record_with_its_undo(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.drain()
    database = mail.database
    control.rewind(database, "mail", control.to_start, resend=True, reason="one")
    control.advance(database, "mail", control.after_position(2), reason="two")
    control.pause(database, "mail", reason="three")
    control.resume(database, "mail", reason="four")
    control.repartition(database, "mail", 2, reason="five")

    rows = bench.operations("mail")
    told = [(row.action, row.reason, undo_command(row.undo, operation=row.id)) for row in rows[1:]]
    assert told == [
        ("rewind", "one", f"eventlog undo {rows[1].id}"),
        ("advance", "two", f"eventlog undo {rows[2].id}"),
        ("pause", "three", "eventlog resume mail"),
        ("resume", "four", "eventlog pause mail"),
        ("partitions", "five", "eventlog partitions mail 1"),
    ]
    assert all(row.actor for row in rows)
    assert msgspec.json.decode(rows[2].before) == {"positions": [0]}


def test_a_pause_that_changes_nothing_is_no_operation(bench: Bench) -> None:
    mail = Mail(bench)
    mail.app.register()
    assert control.pause(mail.database, "mail").changed
    assert not control.pause(mail.database, "mail").changed
    assert control.resume(mail.database, "mail").changed
    assert [row.action for row in bench.operations("mail")] == ["register", "pause", "resume"]


def test_a_pause_over_a_dead_owner_raises_its_epoch_and_does_not_wait(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench)
    mail.app.register()
    partition = mail.app.partitions(runtime_of(mail.app))[0]
    partition.turn()
    before = bench.checkpoint("mail")
    bench.expire_lease("mail")

    assert control.pause(mail.database, "mail").in_hand_of == ()
    assert bench.checkpoint("mail").epoch > before.epoch


def test_a_removed_subscriber_is_gone_and_its_history_is_not(bench: Bench) -> None:
    bench.send(2)
    mail = Mail(bench, 1)
    mail.app.drain()

    removed = control.remove(mail.database, "mail", reason="replaced")

    assert (removed.open_failures, removed.checkpoint) == (1, 2)
    with pytest.raises(UnknownSubscriberError):
        control.pause(mail.database, "mail")
    assert [row.action for row in bench.operations("mail")] == ["register", "remove"]
    assert len(bench.attempts("mail")) == 1
    assert count_receipts(mail.database, "mail") == 0


def test_code_that_declares_a_removed_subscriber_begins_anew(bench: Bench) -> None:
    bench.send(2)
    mail = Mail(bench)
    mail.app.drain()
    control.remove(mail.database, "mail")
    mail.app.drain()

    assert mail.calls == [1, 2, 1, 2]


@pytest.mark.parametrize("deed", ["remove", "rename"])
def test_what_a_worker_runs_is_neither_removed_nor_renamed(bench: Bench, deed: str) -> None:
    mail = Mail(bench)
    mail.app.register()
    partition = mail.app.partitions(runtime_of(mail.app))[0]
    partition.turn()

    names = ("mail",) if deed == "remove" else ("mail", "post")
    with pytest.raises(RefusedError, match="is run by"):
        getattr(control, deed)(mail.database, *names)


def test_a_renamed_subscriber_goes_on_where_it_was_with_the_keys_it_had(bench: Bench) -> None:
    sent = bench.send(3)
    Mail(bench, 2).app.drain()
    control.rename(bench.log.database, "mail", "post")
    bench.send(1, first=4)
    post = Mail(bench, name="post")
    control.retry(bench.log.database, "post")

    post.app.drain()

    assert post.calls == [2, 4]
    assert post.keys[0] == f"mail:{bench.log.get(sent[1]).id}"
    assert bench.states("post") == {sent[1]: "resolved"}
    assert count_receipts(bench.log.database, "post") == 4


def test_a_name_that_is_taken_or_no_name_is_refused(bench: Bench) -> None:
    mail = Mail(bench)
    mail.app.subscriber("other")(mail.handle)
    mail.app.register()

    with pytest.raises(RefusedError, match="already"):
        control.rename(mail.database, "mail", "other")
    with pytest.raises(DeclarationError):
        control.rename(mail.database, "mail", "no name")
    with pytest.raises(UnknownSubscriberError):
        control.rename(mail.database, "nobody", "post")


def test_failures_are_chosen_by_their_error(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench, 1, 3)
    mail.app.drain()
    fingerprint = bench.entries("mail")[0].fingerprint

    for text in ("ADDRESS 3", "BugError", fingerprint):
        found = control.retry(mail.database, "mail", error=text, dry_run=True).entries
        assert [one.position for one in found] == ([sent[2]] if text == "ADDRESS 3" else [sent[0], sent[2]])
    assert control.retry(mail.database, "mail", error="100%", dry_run=True).entries == ()


def test_failures_are_chosen_by_the_type_of_their_event(bench: Bench) -> None:
    sent, lost = (one.position for one in bench.log.append(Sent(1), Lost(2)))
    mail = Mail(bench, 1, 2)
    mail.app.drain()

    changed = control.skip(mail.database, "mail", event_type="letter.**", reason="none", dry_run=True)
    assert changed.entries == ()
    control.skip(mail.database, "mail", event_type="crate.lost", reason="lost anyway")

    assert bench.states("mail") == {sent: "parked", lost: "skipped"}


def test_a_skip_of_everything_is_said_in_so_many_words(bench: Bench) -> None:
    mail = Mail(bench, 1)
    bench.send(1)
    mail.app.drain()

    with pytest.raises(RefusedError, match="not done unasked"):
        control.skip(mail.database, "mail", reason="oops")


def test_what_waits_behind_another_failure_is_not_made_due(bench: Bench) -> None:
    first, second = (one.position for one in bench.log.append(Sent(1), Lost(1)))
    mail = Mail(bench, 1)
    mail.app.drain()

    assert [one.position for one in control.retry(mail.database, "mail").entries] == [first]
    assert bench.states("mail") == {first: "retrying", second: "blocked"}
    with pytest.raises(RefusedError, match=f"waits behind event {first}") as refused:
        control.retry(mail.database, "mail", [second])
    assert f"eventlog retry mail {first}" in refused.value.remedy


def test_a_blocked_event_may_be_skipped(bench: Bench) -> None:
    first, second = (one.position for one in bench.log.append(Sent(1), Lost(1)))
    mail = Mail(bench, 1)
    mail.app.drain()

    control.skip(mail.database, "mail", [second], reason="of no use without the first")
    mail.broken.clear()
    control.retry(mail.database, "mail")
    mail.app.drain()

    assert mail.calls == [1, 1]
    assert bench.states("mail") == {first: "resolved", second: "skipped"}


def test_rewinding_to_the_first_failure(bench: Bench) -> None:
    sent = bench.send(4)
    mail = Mail(bench, 2)
    mail.app.drain()

    move = control.rewind(mail.database, "mail", control.to_failure(mail.database), resend=True)

    assert move.next_event == sent[1]
    with pytest.raises(RefusedError, match="no open failure"):
        control.rewind(mail.database, "mail", control.to_failure(mail.database), resend=True)

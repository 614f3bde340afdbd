"""Replay: a range once more for one effect, beside its live checkpoint, which it does not touch; nor the ledger."""

from collections.abc import Callable, Sequence

import pytest

from eventlog.errors import NotFoundError, RefusedError
from eventlog.subscribers import control
from eventlog.subscribers import replaying as replaying_module
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.control.replays import (
    Range,
    ReplayPlan,
    ReplayState,
    cancel_replay,
    read_replay,
    read_replays,
    start_replay,
)
from eventlog.subscribers.outcomes import Skip
from eventlog.subscribers.replaying import Replaying
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Bench,
    BugError,
    Gate,
    Lost,
    Sent,
    applied_table,
    eventually,
    note,
    runtime_of,
)

ONCE = Retry(attempts=1)
MODES = pytest.mark.parametrize("delivery", ["at-least-once", "at-most-once", "transactional"])
APPLIED = applied_table()


class Mail:
    """An effect that notes its calls, and fails at the numbers in `broken`."""

    def __init__(self, app: App, *broken: int, delivery: str = "at-least-once") -> None:
        self.app = app
        self.broken: dict[int, BaseException] = {number: BugError() for number in broken}
        self.calls: list[int] = []
        self.contexts: list[tuple[int | None, bool, str]] = []
        self.deed: Callable[[int], None] = lambda _number: None
        """What is done within each call of a replay."""
        app.subscriber("mail", retry=ONCE, delivery=delivery)(self.handle)

    def handle(self, crate: Sent | Lost, ctx: Context) -> None:
        if ctx.replay is not None:
            self.deed(crate.number)
        self.calls.append(crate.number)
        self.contexts.append((ctx.replay, ctx.redelivery, ctx.idempotency_key.partition(str(ctx.event.id))[2]))
        if crate.number in self.broken:
            raise self.broken[crate.number]

    def start(self, chosen: Range | None = None, *, new_keys: bool = False) -> ReplayPlan:
        return start_replay(self.app.log.database, "mail", chosen or Range(), new_keys=new_keys)

    def execute(self, operation: int | None) -> Replaying:
        """Take turns until the replay has ended, or somebody else has it."""
        assert operation is not None
        replaying = Replaying(runtime_of(self.app), self.app.subscribers["mail"], operation)
        while replaying.turn().moved:
            pass
        return replaying


def dies_within(mail: Mail, bench: Bench, operation: int, *, number: int) -> None:
    """Let the worker that executes a replay end within the handler of one event; its lease runs out."""
    mail.broken = {number: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        mail.execute(operation)
    table = bench.log.database.tables.replays
    with bench.transaction() as connection:
        connection.execute(table.update().values(owner="a dead one", expires_at=bench.log.get(1).recorded_at))
    mail.broken.clear()


@MODES
def test_a_replay_delivers_its_range_again_and_touches_neither_checkpoint_nor_ledger(
    bench: Bench, delivery: str
) -> None:
    sent = bench.send(5)
    mail = Mail(bench.app(), delivery=delivery)
    mail.app.drain()
    before = (bench.checkpoint("mail"), bench.entries("mail"))

    plan = mail.start(Range(after=sent[0], until=sent[3]))
    mail.execute(plan.operation)

    assert (plan.events, plan.by_type) == (3, {"crate.sent": 3})
    assert mail.calls == [1, 2, 3, 4, 5, 2, 3, 4]
    assert (bench.checkpoint("mail"), bench.entries("mail")) == before
    done = read_replay(bench.log.database, plan.operation or 0)
    assert (done.state, done.position, done.handled, done.failed, done.owner) == ("done", sent[3], 3, 0, None)


def test_the_context_says_that_it_is_a_replay_and_keeps_the_idempotency_key(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()

    plan = mail.start()
    mail.execute(plan.operation)

    assert mail.contexts == [(None, False, ""), (plan.operation, True, "")]


def test_new_keys_carry_the_operations_number(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()

    plan = mail.start(new_keys=True)
    mail.execute(plan.operation)

    assert mail.contexts[1] == (plan.operation, True, f":replay-{plan.operation}")


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Range(types=("crate.lost",)), [2, 4]),
        (Range(types=("crate.*",), stream="crate-3"), [3]),
        (Range(after=2), [3, 4]),
        (Range(until=2), [1, 2]),
    ],
    ids=str,
)
def test_a_replay_is_narrowed_down_like_a_read(bench: Bench, chosen: Range, expected: Sequence[int]) -> None:
    bench.log.append(Sent(1), Lost(2), Sent(3), Lost(4))
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()

    mail.execute(mail.start(chosen).operation)

    assert mail.calls == expected


def test_times_narrow_it_down_too(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()
    second = bench.log.get(2).recorded_at

    with pytest.raises(RefusedError, match="no event to replay"):
        mail.start(Range(before=bench.log.get(1).recorded_at))
    mail.execute(mail.start(Range(since=second)).operation)

    assert 3 in mail.calls


@MODES
def test_what_fails_is_an_attempt_of_the_operation_and_does_not_stop_it(bench: Bench, delivery: str) -> None:
    sent = bench.send(4)
    mail = Mail(bench.app(), delivery=delivery)
    mail.app.drain()
    mail.calls.clear()
    mail.broken = {2: BugError("again"), 3: Skip("not this one")}

    plan = mail.start()
    mail.execute(plan.operation)

    assert mail.calls == [1, 2, 3, 4]
    assert bench.entries("mail") == []
    attempts = [(one.position, one.outcome, one.operation) for one in bench.attempts("mail")]
    assert attempts == [(sent[1], "failed", plan.operation), (sent[2], "skipped", plan.operation)]
    done = read_replay(bench.log.database, plan.operation or 0)
    assert (done.state, done.handled, done.failed) == ("done", 3, 1)


def test_events_whose_failure_is_open_are_left_out(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app(), 2)
    mail.app.drain()
    mail.calls.clear()

    plan = mail.start()
    mail.execute(plan.operation)

    assert (plan.events, plan.left_out) == (2, 1)
    assert mail.calls == [1, 3]


def test_a_replay_ends_where_the_checkpoint_is(bench: Bench) -> None:
    sent = bench.send(2)
    mail = Mail(bench.app())
    mail.app.drain()
    bench.send(3, first=3)

    assert mail.start(Range(until=1_000)).until == sent[-1]


def test_what_a_transactional_handler_wrote_before_it_failed_is_rolled_back(bench: Bench) -> None:
    sent = bench.send(3)
    app = bench.app()
    broken: set[int] = set()
    mail = app.subscriber("mail", delivery="transactional", retry=ONCE)

    @mail
    def handle(crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)
        if crate.number in broken:
            raise BugError

    with bench.transaction() as connection:
        APPLIED.create(connection)
    app.drain()
    broken.add(2)
    plan = start_replay(app.log.database, "mail", Range())
    replaying = Replaying(runtime_of(app), mail, plan.operation or 0)
    while replaying.turn().moved:
        pass

    assert bench.applied(APPLIED) == [sent[0], sent[0], sent[1], sent[2], sent[2]]


def test_one_replay_of_a_subscriber_runs_at_a_time(bench: Bench) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()
    plan = mail.start()

    with pytest.raises(RefusedError, match=f"replay {plan.operation}"):
        mail.start()


@pytest.mark.parametrize("what", ["rewind", "advance", "repartition", "remove", "rename"])
def test_its_place_is_not_moved_under_its_feet(bench: Bench, what: str) -> None:
    bench.send(1)
    mail = Mail(bench.app())
    mail.app.drain()
    bench.send(1, first=2)
    mail.start()
    database = bench.log.database
    deeds: dict[str, Callable[[], object]] = {
        "rewind": lambda: control.rewind(database, "mail", control.to_start, resend=True),
        "advance": lambda: control.advance(database, "mail", control.high_water_mark(database)),
        "repartition": lambda: control.repartition(database, "mail", 2),
        "remove": lambda: control.remove(database, "mail"),
        "rename": lambda: control.rename(database, "mail", "post"),
    }

    with pytest.raises(RefusedError, match="replay"):
        deeds[what]()


def test_a_projection_is_rebuilt_and_not_replayed(bench: Bench) -> None:
    bench.send(1)
    app = bench.app()

    @app.projection("board", tables=[APPLIED])
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    app.drain()
    with pytest.raises(RefusedError, match="projection"):
        start_replay(bench.log.database, "board", Range())


def test_a_cancelled_replay_stops_and_cannot_be_cancelled_twice(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()
    operation = mail.start().operation or 0

    assert cancel_replay(bench.log.database, operation).state is ReplayState.CANCELLED
    mail.execute(operation)

    assert mail.calls == []
    with pytest.raises(RefusedError, match="cancelled"):
        cancel_replay(bench.log.database, operation)
    with pytest.raises(NotFoundError):
        cancel_replay(bench.log.database, 10_000)


def test_a_replay_that_is_cancelled_while_a_handler_runs_writes_nothing_more(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    operation = mail.start().operation or 0

    def cancel_at_first(number: int) -> None:
        if number == 1:
            cancel_replay(bench.log.database, operation)

    mail.deed = cancel_at_first
    mail.execute(operation)

    assert read_replay(bench.log.database, operation).handled == 0


def test_another_worker_goes_on_where_one_died(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()
    operation = mail.start().operation or 0
    dies_within(mail, bench, operation, number=2)

    mail.execute(operation)

    assert mail.calls == [1, 2, 1, 2, 3]
    assert read_replay(bench.log.database, operation).position == sent[-1]


def test_at_most_once_what_was_in_hand_of_a_dead_worker_is_counted_as_failed(bench: Bench) -> None:
    sent = bench.send(3)
    mail = Mail(bench.app(), delivery="at-most-once")
    mail.app.drain()
    mail.calls.clear()
    operation = mail.start().operation or 0
    dies_within(mail, bench, operation, number=2)

    mail.execute(operation)

    assert mail.calls == [1, 2, 3]
    done = read_replay(bench.log.database, operation)
    assert (done.position, done.handled, done.failed) == (sent[-1], 2, 1)
    assert [(one.position, one.error_type) for one in bench.attempts("mail")] == [(sent[1], "OutcomeUnknown")]


def test_a_replay_of_a_paused_subscriber_waits(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()
    operation = mail.start().operation
    control.pause(bench.log.database, "mail")

    mail.execute(operation)
    assert mail.calls == []
    control.resume(bench.log.database, "mail")
    mail.execute(operation)
    assert mail.calls == [1, 2, 3]


def test_a_running_worker_executes_it_beside_live_delivery(bench: Bench) -> None:
    """The replay stands at the gate, and what is appended meanwhile is delivered all the same."""
    bench.send(2)
    mail = Mail(bench.app())
    gate = Gate()

    mail.deed = lambda _number: gate.wait()
    mail.app.register()
    with mail.app.worker():
        eventually(lambda: mail.calls == [1, 2] and bench.position("mail") == 2, what="live delivery")
        operation = mail.start().operation or 0
        gate.wait_until_reached()
        bench.send(1, first=3)
        eventually(lambda: mail.calls == [1, 2, 3], what="live delivery beside the replay")
        gate.open()
        eventually(
            lambda: read_replay(bench.log.database, operation).state is ReplayState.DONE, what="the end of the replay"
        )

    assert mail.calls == [1, 2, 3, 1, 2]
    assert [one.operation for one in read_replays(bench.log.database, subscriber="mail")] == [operation]


def test_a_long_replay_is_written_page_by_page(bench: Bench) -> None:
    bench.send(450)
    mail = Mail(bench.app())
    mail.app.drain()
    operation = mail.start().operation or 0
    replaying = Replaying(runtime_of(mail.app), mail.app.subscribers["mail"], operation)
    places = []
    while replaying.turn().moved:
        places.append(read_replay(bench.log.database, operation).position)

    assert places == [200, 400, 450]
    assert read_replay(bench.log.database, operation).handled == 450


@MODES
def test_a_replay_that_takes_its_time_leaves_nothing_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, delivery: str
) -> None:
    """It writes where it is after every event, since each takes longer than it may go on without."""
    monkeypatch.setattr(replaying_module, "SETTLE_SECONDS", 0.0)
    bench.send(5)
    mail = Mail(bench.app(), delivery=delivery)
    mail.app.drain()
    operation = mail.start().operation
    mail.execute(operation)
    assert mail.calls == [1, 2, 3, 4, 5] * 2
    assert read_replay(bench.log.database, operation or 0).handled == 5


def test_what_was_replayed_and_then_comes_live_is_a_redelivery(bench: Bench) -> None:
    """An advance hands nothing out, so all that live delivery knows of these events it knows from the replay."""
    sent = bench.send(2)
    mail = Mail(bench.app())
    mail.app.register()
    control.advance(bench.log.database, "mail", control.after_position(sent[-1]))
    mail.execute(mail.start().operation)

    planned = control.rewind(bench.log.database, "mail", control.after_position(0), resend=True, dry_run=True)
    with pytest.raises(RefusedError, match="2 events have been handled already"):
        control.rewind(bench.log.database, "mail", control.after_position(0))
    control.rewind(bench.log.database, "mail", control.after_position(0), resend=True)
    mail.app.drain()

    assert planned.already_handled == 2
    assert [(replay is not None, redelivery) for replay, redelivery, _ in mail.contexts] == [
        (True, True),
        (True, True),
        (False, True),
        (False, True),
    ]


def test_what_was_replayed_and_comes_live_after_an_undo_is_a_redelivery(bench: Bench) -> None:
    sent = bench.send(1)
    mail = Mail(bench.app())
    mail.app.register()
    moved = control.advance(bench.log.database, "mail", control.after_position(sent[-1]))
    mail.execute(mail.start().operation)

    control.undo(bench.log.database, moved.operation or 0)
    mail.app.drain()

    assert [redelivery for _, redelivery, _ in mail.contexts] == [True, True]


def test_a_pause_returns_when_nothing_of_a_replay_is_in_hand_any_more(bench: Bench) -> None:
    bench.send(3)
    mail = Mail(bench.app())
    mail.app.drain()
    mail.calls.clear()
    gate = Gate()
    mail.deed = lambda _number: gate.wait()
    with mail.app.worker():
        operation = mail.start().operation or 0
        gate.wait_until_reached()
        control.pause(bench.log.database, "mail", wait_seconds=0)
        eventually(lambda: bench.checkpoint("mail").owner is None, what="the checkpoint's lease to be let go")
        assert len(control.pause(bench.log.database, "mail", wait_seconds=0).in_hand_of) == 1
        gate.open()
        assert control.pause(bench.log.database, "mail").in_hand_of == ()
        done, owner = len(mail.calls), read_replay(bench.log.database, operation).owner

        control.resume(bench.log.database, "mail")
        eventually(lambda: read_replay(bench.log.database, operation).state is ReplayState.DONE, what="the replay")

    assert (owner, len(mail.calls)) == (None, 3)
    assert done >= 1


def test_a_replay_whose_lease_has_run_out_cannot_go_on_after_a_pause(postgres_database_url: str) -> None:
    """Its worker stands in a call, frozen, when the subscriber is paused; its writes come too late."""
    bench = Bench(postgres_database_url)
    sent = bench.send(2)
    mail = Mail(bench.app(), delivery="transactional")
    mail.app.drain()
    operation = mail.start().operation or 0

    def freeze(number: int) -> None:
        if number == 1:
            table = bench.log.database.tables.replays
            with bench.transaction() as connection:
                connection.execute(table.update().values(expires_at=bench.log.get(1).recorded_at))
            assert control.pause(bench.log.database, "mail", wait_seconds=0).in_hand_of == ()

    mail.deed = freeze
    mail.execute(operation)

    position = read_replay(bench.log.database, operation).position
    bench.close()
    assert position < sent[0]


def test_at_most_once_a_replay_that_was_interrupted_does_not_hand_its_event_out_again(bench: Bench) -> None:
    """^C in the foreground: the lease is let go on the way out."""
    bench.send(3)
    mail = Mail(bench.app(), delivery="at-most-once")
    mail.app.drain()
    mail.calls.clear()
    operation = mail.start().operation or 0
    replaying = Replaying(runtime_of(mail.app), mail.app.subscribers["mail"], operation)
    mail.broken = {2: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        replaying.turn()
    replaying.release()
    mail.broken.clear()

    mail.execute(operation)

    assert mail.calls == [1, 2, 3]
    assert [one.error_type for one in bench.attempts("mail")] == ["OutcomeUnknown"]

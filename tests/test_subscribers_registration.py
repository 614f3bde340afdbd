"""Registering: where a subscriber starts, and what happens when code and registration differ (P9)."""

import logging
import threading

import pytest
from sqlalchemy import event

from eventlog.errors import RefusedError, SchemaMissingError, UnknownSubscriberError
from eventlog.events import Recorded
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.registration import Registration, register
from eventlog.subscribers.retry import Retry
from tests.subscribers_support import (
    Background,
    Bench,
    BugError,
    Found,
    Lost,
    Sent,
    applied_table,
    eventually,
    note,
    runtime_of,
)

APPLIED = applied_table()


class Reader:
    """A subscriber called `reader` that remembers what it was given."""

    def __init__(self, app: App, *, start: str | int = "beginning", **options: str) -> None:
        self.app = app
        self.positions: list[int] = []
        self.subscriber = app.subscriber("reader", start=start, **options)  # type: ignore[arg-type]  # all are texts

    def wants(self, *patterns: str) -> "Reader":
        for pattern in patterns:
            self.subscriber.on(pattern)(self.read)
        return self

    def read(self, recorded: Recorded[object]) -> None:
        self.positions.append(recorded.position)


def test_a_subscriber_starts_at_the_beginning_unless_told_otherwise(bench: Bench) -> None:
    sent = bench.send(2)
    reader = Reader(bench.app()).wants("**")
    reader.app.drain()
    assert reader.positions == sent


def test_a_start_now_gets_what_comes_after_its_registration(bench: Bench) -> None:
    bench.send(2)
    reader = Reader(bench.app(), start="now").wants("**")
    reader.app.register()
    sent = bench.send(2, first=3)
    reader.app.drain()
    assert reader.positions == sent


def test_a_start_at_a_position_begins_after_it(bench: Bench) -> None:
    sent = bench.send(3)
    reader = Reader(bench.app(), start=sent[1]).wants("**")
    reader.app.drain()
    assert reader.positions == sent[2:]


def test_a_start_past_the_end_of_the_log_is_refused(bench: Bench) -> None:
    bench.send(1)
    reader = Reader(bench.app(), start=1_000).wants("**")
    with pytest.raises(RefusedError):
        reader.app.register()
    assert bench.rows(bench.log.database.tables.subscribers.select()) == []


def test_a_start_now_is_the_high_water_mark_and_gets_an_append_that_was_open(postgres_database_url: str) -> None:
    """An append has its position and has not committed when the subscriber is registered; a later one has."""
    bench = Bench(postgres_database_url)
    reader = Reader(bench.app(), start="now").wants("**")
    with bench.transaction() as connection:
        still_open = bench.log.append(Sent(1), tx=connection)[0].position
        committed = bench.send(1, first=2)
        reader.app.register()
    reader.app.drain()
    bench.close()
    assert reader.positions == [still_open, *committed]


def test_registering_again_changes_nothing(bench: Bench) -> None:
    sent = bench.send(2)
    first = Reader(bench.app(), start="now").wants("**")
    assert first.app.register() == {"reader": Registration.CREATED}
    bench.send(1, first=3)
    before = bench.checkpoint("reader")
    again = Reader(bench.app(), start="now").wants("**")
    assert again.app.register() == {"reader": Registration.UNCHANGED}
    assert bench.checkpoint("reader") == before
    assert bench.position("reader") == sent[-1]
    assert [row.action for row in bench.operations("reader")] == ["register"]


def test_registering_makes_the_tables_of_a_projection(bench: Bench) -> None:
    app = bench.app()
    board = app.projection("board", tables=[APPLIED])

    @board
    def apply(_crate: Sent, ctx: Context) -> None:
        note(ctx, APPLIED)

    app.register()
    assert bench.applied(APPLIED) == []


def test_two_that_register_at_once_both_find_it_registered(bench: Bench) -> None:
    start = threading.Barrier(4)

    def register_one() -> Registration:
        app = bench.app()
        board = app.projection("board", tables=[APPLIED])
        board.on("**")(lambda recorded: None)
        start.wait(10)
        return app.register()["board"]

    calls = [Background(register_one) for _ in range(4)]
    assert sorted(str(call.join()) for call in calls) == ["created", "unchanged", "unchanged", "unchanged"]


def test_a_table_that_somebody_else_makes_meanwhile_is_taken_as_it_is(postgres_database_url: str) -> None:
    """The other process makes the table after this one has looked and found none."""
    bench = Bench(postgres_database_url)
    app, table = bench.app(), applied_table("made_meanwhile")
    app.projection("board", tables=[table]).on("**")(lambda recorded: None)
    made: list[bool] = []

    @event.listens_for(table, "before_create")
    def make_it_first(target: object, connection: object, **_options: object) -> None:
        if not made:
            made.append(True)
            with bench.transaction() as other:
                table.create(other)

    assert app.register() == {"board": Registration.CREATED}
    bench.close()


def test_a_database_without_the_tables_of_the_log_is_refused_with_a_remedy(empty_database_url: str) -> None:
    reader = Reader(App(empty_database_url)).wants("**")
    with pytest.raises(SchemaMissingError) as error:
        reader.app.drain()
    reader.app.engine.dispose()
    assert "eventlog init" in error.value.remedy


def test_a_subscriber_that_is_not_declared_is_unknown(bench: Bench) -> None:
    reader = Reader(bench.app()).wants("**")
    with pytest.raises(UnknownSubscriberError) as error:
        reader.app.drain(only=["raeder"])
    assert "reader" in error.value.remedy


def test_a_handler_added_after_registration_is_registered_by_the_next_drain(bench: Bench) -> None:
    reader = Reader(bench.app()).wants("crate.sent")
    reader.app.drain()
    reader.wants("crate.lost")
    lost = bench.log.append(Lost(1))[0].position
    reader.app.drain()
    assert reader.positions == [lost]


def test_code_with_more_types_extends_the_registration(bench: Bench) -> None:
    Reader(bench.app()).wants("crate.sent").app.drain()
    epoch = bench.checkpoint("reader").epoch
    newer = Reader(bench.app()).wants("crate.sent", "crate.lost")
    assert newer.app.register() == {"reader": Registration.EXTENDED}
    assert bench.checkpoint("reader").epoch > epoch
    assert [row.action for row in bench.operations("reader")] == ["register", "register"]


def test_a_new_type_begins_at_the_checkpoint(bench: Bench) -> None:
    bench.log.append(Lost(1), Sent(1))
    Reader(bench.app()).wants("crate.sent").app.drain()
    lost = bench.log.append(Lost(2))[0].position
    newer = Reader(bench.app()).wants("crate.sent", "crate.lost")
    newer.app.drain()
    assert newer.positions == [lost]


@pytest.mark.parametrize("delivery", ["transactional", "at-least-once"])
def test_a_new_type_is_not_passed_by_when_a_halted_event_behind_it_is_resolved(bench: Bench, delivery: str) -> None:
    """The worker stops while it draws the wait for an event that has failed under `halt`. What lies between the
    checkpoint and that event was of no interest then, and is of interest to the next release."""
    app = bench.app()
    first, between, failing = (one.position for one in bench.log.append(Sent(1), Lost(1), Sent(2)))
    options = {"on_failure": "halt", "delivery": delivery}
    old = app.subscriber("reader", retry=Retry(first_seconds=3600), **options)  # type: ignore[arg-type]  # texts
    stop = threading.Event()

    @old
    def read(crate: Sent) -> None:
        if crate.number == 2:
            raise BugError

    def draw() -> float:
        stop.set()
        return 1.0

    app.make_worker(runtime=runtime_of(app, stop=stop, draw=draw)).run()
    assert bench.states("reader") == {failing: "retrying"}
    checkpoint = bench.position("reader")
    newer = Reader(bench.app(), **options).wants("crate.sent", "crate.lost")
    bench.make_due("reader")
    newer.app.drain()
    assert first <= checkpoint
    assert newer.positions == [one for one in (between, failing) if one > checkpoint]


def test_code_with_fewer_types_is_refused_and_says_which_are_missing(bench: Bench) -> None:
    Reader(bench.app()).wants("crate.sent", "crate.lost").app.register()
    older = Reader(bench.app()).wants("crate.sent")
    with pytest.raises(RefusedError, match=r"crate\.lost") as error:
        older.app.drain()
    assert error.value.remedy


def test_code_with_another_delivery_is_refused(bench: Bench) -> None:
    Reader(bench.app()).wants("**").app.register()
    other = Reader(bench.app(), delivery="transactional").wants("**")
    with pytest.raises(RefusedError, match="delivery"):
        other.app.register()


def test_code_that_gives_one_type_and_takes_another_is_refused(bench: Bench) -> None:
    Reader(bench.app()).wants("crate.sent").app.register()
    with pytest.raises(RefusedError):
        Reader(bench.app()).wants("crate.lost").app.register()


def test_fewer_types_are_registered_with_consent(bench: Bench) -> None:
    bench.log.append(Lost(1), Sent(1))
    Reader(bench.app()).wants("crate.sent", "crate.lost").app.register()
    fewer = Reader(bench.app()).wants("crate.sent")
    done = register(fewer.app.log.database, fewer.subscriber, consent_to_change=True)
    fewer.app.drain()
    assert done is Registration.CHANGED
    assert len(fewer.positions) == 1


def test_what_is_no_part_of_the_contract_follows_the_code(bench: Bench) -> None:
    Reader(bench.app()).wants("**").app.register()
    epoch = bench.checkpoint("reader").epoch
    assert Reader(bench.app(), on_failure="halt").wants("**").app.register() == {"reader": Registration.UNCHANGED}
    assert bench.checkpoint("reader").epoch == epoch


def test_a_running_worker_is_stopped_from_passing_types_that_newer_code_handles(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    older = Reader(bench.app()).wants("crate.sent")
    with older.app.worker(), caplog.at_level(logging.ERROR, "eventlog.worker"):
        sent = bench.send(1)
        eventually(lambda: older.positions == sent, what="the older code is at work")
        newer = Reader(bench.app()).wants("crate.sent", "crate.lost")
        newer.app.register()
        lost = bench.log.append(Lost(1), Sent(2))
        eventually(lambda: "crate.lost" in caplog.text, what="the older code says why it does nothing")
        newer.app.drain()
    assert older.positions == sent
    assert newer.positions == [one.position for one in lost]


def test_a_worker_whose_code_is_older_gets_no_lease(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    Reader(bench.app()).wants("crate.sent", "crate.lost").app.register()
    older = Reader(bench.app()).wants("crate.sent")
    bench.send(1)
    with caplog.at_level(logging.ERROR, "eventlog.worker"), older.app.worker():
        eventually(lambda: caplog.text.count("crate.lost") >= 2, what="the partition has asked for its lease")
    assert older.positions == []
    assert (bench.checkpoint("reader").owner, bench.position("reader")) == (None, 0)


def test_a_drain_whose_code_is_overtaken_ends_with_an_error(bench: Bench) -> None:
    """The newer release registers while the older one's handler runs; nobody else is there to do its work."""
    older = bench.app()
    reader = older.subscriber("reader")
    newer = Reader(bench.app()).wants("crate.sent", "crate.lost")

    @reader
    def read(_crate: Sent) -> None:
        newer.app.register()

    bench.send(1)
    with pytest.raises(RefusedError, match=r"crate\.lost"):
        Background(older.drain).join(seconds=10)


def test_an_entry_of_a_type_that_is_no_longer_handled_stays_in_the_ledger(bench: Bench) -> None:
    app = bench.app()
    lost = bench.log.append(Lost(1))[0].position
    older = app.subscriber("reader", retry=Retry(attempts=1))

    @older
    def read(_crate: Lost | Sent) -> None:
        raise BugError

    app.drain()
    fewer = Reader(bench.app()).wants("crate.sent")
    register(fewer.app.log.database, fewer.subscriber, consent_to_change=True)
    control.retry(app.log.database, "reader", [lost])
    assert fewer.app.drain().failed == 1
    assert (bench.states("reader")[lost], fewer.positions) == ("retrying", [])


def test_a_subscriber_may_handle_a_type_of_which_it_is_registered_for_a_pattern(bench: Bench) -> None:
    Reader(bench.app()).wants("crate.*").app.register()
    reader = Reader(bench.app()).wants("crate.*", "crate.found")
    reader.app.register()
    found = bench.log.append(Found(1))[0].position
    reader.app.drain()
    assert reader.positions == [found]

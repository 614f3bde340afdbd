"""Another number of partitions: nothing lost, nothing applied twice, and the order of each key kept."""

import hypothesis
import pytest
from hypothesis import strategies as st
from sqlalchemy import select

from eventlog.errors import RefusedError
from eventlog.subscribers import control
from eventlog.subscribers.agenda import Agenda
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.keys import partition_of
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

ONCE = Retry(attempts=1)
APPLIED = applied_table()


def board_of(app: App, *, partitions: int, broken: tuple[int, ...] = ()) -> App:
    board = app.projection("board", tables=[APPLIED], partitions=partitions, retry=ONCE, on_failure="park")

    @board
    def apply(event: Sent | Lost | Found, ctx: Context) -> None:
        if event.number in broken:
            raise BugError
        note(ctx, APPLIED, text=ctx.event.stream)

    return app


def run_some(app: App, order: list[int], *, until: int) -> None:
    """Let partitions take turns in this order, each as far as a position, as different workers would."""
    runtime = runtime_of(app)
    runtime.feed.refresh()
    partitions = app.partitions(runtime)
    for number in order:
        partition = partitions[number % len(partitions)]
        while partition.turn(until=until).moved:
            pass
        partition.release()


def repartitioned(app: App, bench: Bench, partitions: int) -> None:
    """Change the number; where floors of the change before still matter, once they do not."""
    try:
        control.repartition(bench.log.database, "board", partitions)
    except RefusedError:
        app.drain()
        control.repartition(bench.log.database, "board", partitions)


def in_order(bench: Bench) -> None:
    """Each key's events were applied in the order of the log."""
    by_stream: dict[str, list[int]] = {}
    for row in bench.rows(select(APPLIED).order_by(APPLIED.c.id)):
        by_stream.setdefault(row.note, []).append(row.position)
    assert all(places == sorted(places) for places in by_stream.values())


def append_some(bench: Bench, count: int) -> list[int]:
    events = [(Sent, Lost, Found)[number % 3](number % 7) for number in range(count)]
    return [one.position for one in bench.log.append(*events)]


@hypothesis.settings(max_examples=25, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    sizes=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    steps=st.lists(st.tuples(st.lists(st.integers(0, 4), max_size=3), st.integers(1, 60)), min_size=4, max_size=4),
)
def test_whatever_the_partitions_had_done_every_event_is_applied_once_and_in_order(
    sqlite_url: str, sizes: list[int], steps: list[tuple[list[int], int]]
) -> None:
    bench = Bench(sqlite_url)
    with bench.transaction() as connection:
        for table in (APPLIED,):
            table.drop(connection, checkfirst=True)
        connection.execute(bench.log.database.tables.subscribers.delete())
    start = bench.log.head()
    sent = append_some(bench, 60)
    app = bench.app()
    board_of(app, partitions=sizes[0])
    app.subscribers["board"].start = start
    app.register()
    for before, after, (order, reach) in zip(sizes, [*sizes[1:], sizes[-1]], steps, strict=False):
        run_some(app, order, until=start + reach)
        if after != before:
            repartitioned(app, bench, after)
        app = board_of(bench.app(), partitions=after)
    app.drain()

    assert bench.applied(APPLIED) == sent
    in_order(bench)
    bench.close()


@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1), (3, 5)])
def test_a_change_while_workers_run_loses_nothing_and_repeats_nothing(bench: Bench, before: int, after: int) -> None:
    sent = append_some(bench, 300)
    old, new = board_of(bench.app(), partitions=before), board_of(bench.app(), partitions=after)
    old.register()
    with old.worker():
        eventually(lambda: len(bench.applied(APPLIED)) > 0, what="the first events")
        appending = Background(lambda: sent.extend(append_some(bench, 200)))
        control.repartition(bench.log.database, "board", after)
        with new.worker():
            appending.join()
            eventually(lambda: len(bench.applied(APPLIED)) >= len(sent), what="all events")

    assert bench.applied(APPLIED) == sent
    in_order(bench)


def test_entries_go_where_their_key_goes_and_wait_as_before(bench: Bench) -> None:
    positions = append_some(bench, 21)
    board_of(bench.app(), partitions=2, broken=(3,)).drain()
    states = bench.states("board")

    control.repartition(bench.log.database, "board", 5)

    assert bench.states("board") == states
    assert {entry.partition for entry in bench.entries("board")} == {partition_of("crate-3", partitions=5)}
    control.retry(bench.log.database, "board")
    board_of(bench.app(), partitions=5).drain()
    assert set(bench.states("board").values()) == {"resolved"}
    assert bench.applied(APPLIED) == positions
    in_order(bench)


def test_code_with_the_old_number_gets_no_lease_any_more(bench: Bench) -> None:
    append_some(bench, 5)
    old = board_of(bench.app(), partitions=2)
    old.drain()
    control.repartition(bench.log.database, "board", 3)
    append_some(bench, 5)

    partition = old.partitions(runtime_of(old))[0]
    partition.turn()

    assert partition.refusal is not None
    assert "eventlog partitions board 2" in partition.refusal.remedy


def test_a_second_change_waits_until_the_floors_of_the_first_are_passed(bench: Bench) -> None:
    append_some(bench, 30)
    app = board_of(bench.app(), partitions=2)
    app.register()
    run_some(app, [0], until=20)
    control.repartition(bench.log.database, "board", 3)

    with pytest.raises(RefusedError, match="what the last change"):
        control.repartition(bench.log.database, "board", 4)
    board_of(bench.app(), partitions=3).drain()
    assert control.repartition(bench.log.database, "board", 4).partitions == 4


def test_a_rewind_lowers_the_floors(bench: Bench) -> None:
    """What stood below a floor was handled once; a rewind below it means to have it handled again."""
    sent = append_some(bench, 30)
    app = board_of(bench.app(), partitions=2)
    app.register()
    run_some(app, [0], until=20)
    done = len(bench.applied(APPLIED))
    control.repartition(bench.log.database, "board", 3)
    uneven = bench.log.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(uneven.update().values(position=10, in_hand=10))
    control.rewind(bench.log.database, "board", control.after_position(0), resend=True)
    board_of(bench.app(), partitions=3).drain()

    assert len(bench.applied(APPLIED)) == done + len(sent)


def test_a_number_it_has_already_or_that_is_none_is_refused(bench: Bench) -> None:
    board_of(bench.app(), partitions=2).register()
    for number in (2, 0, 100_000):
        with pytest.raises(RefusedError):
            control.repartition(bench.log.database, "board", number)


def test_a_worker_knows_at_its_look_that_its_number_is_the_one_of_before(bench: Bench) -> None:
    """It need not ask for a lease to be told: whose share a partition is does not wait for that."""
    old = board_of(bench.app(), partitions=2)
    old.register()
    runtime = runtime_of(old)
    agenda = Agenda(runtime, old.partitions(runtime))
    agenda.look_at_tables()
    assert agenda.runnable() == {"board"}

    control.repartition(bench.log.database, "board", 3)
    agenda.look_at_tables()

    assert agenda.runnable() == set()


def test_what_waits_above_the_checkpoint_does_not_take_it_along_when_what_it_waits_behind_is_healed(
    bench: Bench,
) -> None:
    """One partition has come to the third event, which waits behind the first; the other stands before the second."""
    ours, theirs = (
        next(one for one in range(1, 50) if partition_of(f"crate-{one}", partitions=2) == part) for part in (0, 1)
    )
    first = bench.log.append(Sent(ours))[0].position
    board_of(broken := bench.app(), partitions=2, broken=(ours,)).drain()
    second, third = (one.position for one in bench.log.append(Sent(theirs), Lost(ours)))
    run_some(broken, [0], until=third)
    assert bench.states("board") == {first: "parked", third: "blocked"}
    control.repartition(bench.log.database, "board", 1)
    control.retry(bench.log.database, "board")
    board_of(healed := bench.app(), partitions=1).drain()
    healed.drain()
    assert bench.applied(APPLIED) == [first, second, third]
    assert set(bench.states("board").values()) == {"resolved"}

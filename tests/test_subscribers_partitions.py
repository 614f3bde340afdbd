"""Partitions: events shared out by key, each partition with a checkpoint, a lease and a part of the ledger."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text

from eventlog.errors import RefusedError
from eventlog.events import Event, Recorded
from eventlog.log import EventLog
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.keys import partition_of
from eventlog.subscribers.partition import Partition
from eventlog.subscribers.registration import Registration, register
from eventlog.subscribers.retry import Retry
from tests.log_support import as_other_code
from tests.subscribers_support import Bench, BugError, Found, Lost, Sent, applied_table, note, runtime_of

APPLIED = applied_table()
ONCE = Retry(attempts=1)


def board_of(app: App, *, partitions: int) -> App:
    board = app.projection("board", tables=[APPLIED], partitions=partitions)

    @board
    def apply(_event: Sent | Lost | Found, ctx: Context) -> None:
        note(ctx, APPLIED, text=ctx.event.stream)

    return app


def turns(partition: Partition) -> None:
    """Let one partition go as far as it comes."""
    while partition.turn().moved:
        pass


def test_every_event_is_handled_by_exactly_one_partition(bench: Bench) -> None:
    sent = bench.send(50)
    board_of(bench.app(), partitions=4).drain()

    assert bench.applied(APPLIED) == sent
    checkpoints = bench.rows(bench.log.database.tables.checkpoints.select())
    assert [row.position for row in checkpoints] == [sent[-1]] * 4


def test_subscribers_whose_key_functions_have_one_name_do_not_share_what_these_find(bench: Bench) -> None:
    """They share the items of a page, and an item keeps the hash it was last asked for."""
    app, asked = bench.app(), Counter[str]()

    def key_by(which: str, of: Callable[[Recorded[Any]], str]) -> Callable[[Recorded[Any]], str]:
        def key(recorded: Recorded[Any]) -> str:
            asked[which] += 1
            return of(recorded)

        return key

    keys = {
        "streams": key_by("streams", lambda recorded: recorded.stream),
        "positions": key_by("positions", lambda recorded: f"{recorded.position}"),
    }
    for name, key in keys.items():
        app.subscriber(name, key=key, partitions=4).on("**")(lambda _event: None)
    app.register()
    sent = bench.send(50)
    runtime = runtime_of(app)
    runtime.feed.refresh()
    for partition in sorted(app.partitions(runtime), key=lambda one: (one.number, one.subscriber.name)):
        page = runtime.feed.page(after=0)
        mine = [item.position for item in partition._share.wanted(page)]
        found = keys[partition.subscriber.name]
        expected = [p for p in sent if partition_of(found(bench.log.get(p)), partitions=4) == partition.number]
        assert mine == expected


def test_the_key_of_an_event_is_asked_for_once_by_all_partitions(bench: Bench) -> None:
    app, asked = bench.app(), Counter[int]()

    def key(recorded: Recorded[Any]) -> str:
        asked[recorded.position] += 1
        return recorded.stream

    app.subscriber("board", key=key, partitions=4).on("**")(lambda _event: None)
    app.register()
    sent = bench.send(50)
    runtime = runtime_of(app)
    runtime.feed.refresh()
    for partition in app.partitions(runtime):
        partition._share.wanted(runtime.feed.page(after=0))

    assert asked == Counter(sent)


def test_a_partition_takes_the_events_whose_key_hashes_to_it(bench: Bench) -> None:
    sent = bench.send(50)
    app = board_of(bench.app(), partitions=4)
    app.register()
    runtime = runtime_of(app)
    runtime.feed.refresh()

    turns(app.partitions(runtime)[2])

    streams = [bench.log.get(position).stream for position in sent]
    mine = [one for one, stream in zip(sent, streams, strict=True) if partition_of(stream, partitions=4) == 2]
    assert bench.applied(APPLIED) == mine


def test_partitions_spread_over_several_workers(bench: Bench) -> None:
    bench.send(50)
    one, other = (board_of(bench.app(), partitions=2) for _ in range(2))
    one.register()
    owners = []
    for number, app in enumerate((one, other)):
        runtime = runtime_of(app)
        runtime.feed.refresh()
        partition = app.partitions(runtime)[number]
        turns(partition)
        owners.append(runtime.owner)

    rows = bench.rows(bench.log.database.tables.checkpoints.select())
    assert {row.owner for row in rows} == set(owners)
    assert len(bench.applied(APPLIED)) == 50


def test_an_event_that_waits_blocks_only_its_key_in_its_partition(bench: Bench) -> None:
    events = [kind(number) for kind in (Sent, Lost) for number in range(1, 9)]
    positions = [one.position for one in bench.log.append(*events)]
    app = bench.app()
    mail = app.subscriber("mail", partitions=3, retry=ONCE)

    @mail
    def handle(event: Sent | Lost) -> None:
        if isinstance(event, Sent) and event.number == 3:
            raise BugError

    done = app.drain()
    assert bench.states("mail") == {positions[2]: "parked", positions[10]: "blocked"}
    entry = bench.entries("mail")[0]
    assert (entry.key, entry.partition) == ("crate-3", partition_of("crate-3", partitions=3))
    assert done.handled == 14


@pytest.mark.parametrize("key", ["weight", lambda recorded: recorded.data.weight])
def test_a_field_or_a_function_chooses_the_key(bench: Bench, key: object) -> None:
    bench.log.append(*[Sent(number, weight=number % 3) for number in range(30)])
    app = bench.app()
    mail = app.subscriber("mail", partitions=4, key=key)  # type: ignore[arg-type]
    handled: list[tuple[int, int]] = []
    now = [0]

    @mail
    def handle(crate: Sent) -> None:
        handled.append((now[0], crate.weight))

    app.register()
    runtime = runtime_of(app)
    runtime.feed.refresh()
    for partition in app.partitions(runtime):
        now[0] = partition.number
        turns(partition)

    assert Counter(handled) == {(partition_of(str(weight), partitions=4), weight): 10 for weight in range(3)}


def test_events_of_one_declared_key_go_to_one_partition_whatever_their_stream(bench: Bench) -> None:
    sent = bench.log.append(*[Sent(number, weight=7) for number in range(20)])
    app = bench.app()
    mail = app.subscriber("mail", partitions=8, key="weight")
    handled: list[int] = []

    @mail
    def handle(crate: Sent) -> None:
        handled.append(crate.number)

    app.register()
    runtime = runtime_of(app)
    runtime.feed.refresh()
    turns(app.partitions(runtime)[partition_of("7", partitions=8)])

    assert handled == [one.data.number for one in sent]


@pytest.mark.parametrize("key", ["no_such_field", lambda _recorded: 1 / 0, lambda _recorded: None])
def test_where_the_key_cannot_be_read_it_is_the_stream(bench: Bench, key: object) -> None:
    sent = bench.send(10)
    app = bench.app()
    mail = app.subscriber("mail", partitions=4, key=key, retry=ONCE)  # type: ignore[arg-type]

    @mail
    def handle(_crate: Sent) -> None:
        raise BugError

    app.drain()
    streams = {entry.position: entry.key for entry in bench.entries("mail")}
    assert streams == {position: bench.log.get(position).stream for position in sent}


def test_an_event_that_cannot_be_decoded_fails_in_the_partition_of_its_stream(bench: Bench) -> None:
    with as_other_code():
        (broken,) = bench.log.append(Event({"number": "not a number"}, type="crate.sent", stream="crate-9"))
    app = bench.app()
    mail = app.subscriber("mail", partitions=4, key="weight", retry=ONCE)

    @mail
    def handle(_crate: Sent) -> None: ...

    app.drain()
    (entry,) = bench.entries("mail")
    assert (entry.position, entry.key, entry.partition) == (
        broken.position,
        "crate-9",
        partition_of("crate-9", partitions=4),
    )


def test_code_with_another_number_of_partitions_gets_no_lease(bench: Bench) -> None:
    bench.send(3)
    board_of(bench.app(), partitions=2).drain()
    other = board_of(bench.app(), partitions=3)
    sent = bench.send(3, first=4)

    partition = other.partitions(runtime_of(other))[0]
    partition.turn()

    assert partition.refusal is not None
    assert "partitions" in str(partition.refusal)
    assert sent[-1] not in bench.applied(APPLIED)


def seen_by_key(recorded: Recorded[object]) -> str:
    return recorded.stream


def test_code_with_another_key_gets_no_lease(bench: Bench) -> None:
    bench.send(1)
    for key in ("weight", seen_by_key):
        app = bench.app()
        mail = app.subscriber("mail", partitions=2, key=key)

        @mail
        def handle(_crate: Sent) -> None: ...

        if key == "weight":
            app.drain()
        else:
            partition = app.partitions(runtime_of(app))[0]
            partition.turn()
            assert partition.refusal is not None


@given(key=st.text(min_size=1, max_size=20), partitions=st.integers(1, 1024))
def test_a_key_has_its_place_among_the_partitions(key: str, partitions: int) -> None:
    assert 0 <= partition_of(key, partitions=partitions) < partitions


def test_sql_computes_the_same_partition(postgres_log: EventLog) -> None:
    keys = ["", "a", "crate-1", "ключ", "🗝", "x" * 500, *(f"order-{number}" for number in range(200))]
    question = text("select eventlog.partition_of(:key, :partitions)")
    with postgres_log.database.reader() as connection:
        for key in keys:
            for partitions in (1, 2, 3, 8, 1000, 1024):
                found = connection.scalar(question, {"key": key, "partitions": partitions})
                assert found == partition_of(key, partitions=partitions), key


def test_the_hash_does_not_change_between_releases() -> None:
    """Whoever changes it takes events of one key to another partition in the middle of their order."""
    assert [partition_of(f"order-{number}", partitions=8) for number in range(8)] == [4, 1, 5, 3, 0, 6, 7, 2]


def test_a_checkpoint_is_seldom_written_where_nothing_is_wanted(bench: Bench) -> None:
    """Fifty subscribers that want none of what is appended do not write fifty rows for each append."""
    app = bench.app()
    mail = app.subscriber("mail")

    @mail
    def lost(_crate: Lost) -> None: ...

    app.register()
    runtime = runtime_of(app)
    (partition,) = app.partitions(runtime)
    partition.turn()
    written: set[int] = set()
    for number in range(30):
        bench.send(1, first=number)
        runtime.feed.refresh()
        partition.turn()
        written.add(bench.position("mail"))

    assert len(written) <= 2
    assert partition.reached == bench.log.head()
    partition.release()
    assert bench.position("mail") == bench.log.head()


def keyed(bench: Bench, key: str) -> App:
    app = bench.app()
    mail = app.subscriber("mail", partitions=2, key=key)

    @mail
    def handle(_crate: Sent) -> None: ...

    return app


def test_the_key_changes_with_a_word_while_the_partitions_stand_at_one_place(bench: Bench) -> None:
    bench.send(5)
    keyed(bench, "weight").drain()
    app = keyed(bench, "stream")

    assert register(app.log.database, app.subscribers["mail"], consent_to_change=True) is Registration.CHANGED
    assert app.drain().handled == 0


def test_the_key_does_not_change_while_the_partitions_stand_apart(bench: Bench) -> None:
    bench.send(5)
    old = keyed(bench, "number")
    old.register()
    runtime = runtime_of(old)
    runtime.feed.refresh()
    partition = old.partitions(runtime)[0]
    turns(partition)
    partition.release()
    app = keyed(bench, "stream")

    with pytest.raises(RefusedError, match="stand apart"):
        register(app.log.database, app.subscribers["mail"], consent_to_change=True)


def test_no_word_changes_the_number_of_partitions_but_the_command(bench: Bench) -> None:
    board_of(bench.app(), partitions=2).register()
    app = board_of(bench.app(), partitions=3)

    with pytest.raises(RefusedError) as refused:
        register(app.log.database, app.subscribers["board"], consent_to_change=True)
    assert "eventlog partitions board 3" in refused.value.remedy

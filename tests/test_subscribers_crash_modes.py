"""What a crash does to effects, counted, in each delivery mode; and four worker processes of which two fall out."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import select

from tests.subscribers_child import APPLIED
from tests.subscribers_support import Background, Sent, eventually
from tests.test_subscribers_crash import Child, Crashes

WORKERS = 4
PARTITIONS = 8
STANDING = 1_000
"""The number of the crate at which a handler stands."""


@pytest.fixture
def bench(database_url: str) -> Iterator[Crashes]:
    bench = Crashes(database_url)
    yield bench
    bench.close()


@pytest.fixture
def crew(postgres_database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Crashes]:
    """A bench on PostgreSQL whose services have several partitions."""
    monkeypatch.setenv("PARTITIONS", str(PARTITIONS))
    bench = Crashes(postgres_database_url)
    yield bench
    bench.close()


def killed_within(bench: Crashes, kind: str, number: int) -> Child:
    """Start a service, and kill it within the handler of one event."""
    child = bench.start(kind, "drain", "stand", str(number))
    child.wait_for(f"inside {number}")
    child.kill()
    bench.expire_lease(kind)
    return child


def test_a_transactional_effect_happens_exactly_once(bench: Crashes) -> None:
    sent = bench.send(6)
    with bench.transaction() as connection:
        APPLIED.create(connection, checkfirst=True)
    killed_within(bench, "books", 4)

    bench.restart_until_drained("books")

    assert bench.applied(APPLIED) == sent
    assert bench.states("books") == {}


def test_at_least_once_repeats_what_was_in_hand_and_says_so(bench: Crashes) -> None:
    bench.send(6)
    first = killed_within(bench, "mail", 4)
    assert first.calls == [(number, False) for number in (1, 2, 3, 4)]

    again = bench.restart_until_drained("mail")

    assert {number for number, _ in first.calls + again} == set(range(1, 7))
    assert all(redelivery for number, redelivery in again if number <= 6)


def test_at_most_once_never_repeats_and_leaves_what_was_in_hand_to_an_operator(bench: Crashes) -> None:
    sent = bench.send(6)
    first = killed_within(bench, "once", 4)

    again = bench.restart_until_drained("once")

    assert [number for number, _ in first.calls + again] == [1, 2, 3, 4, 5, 6]
    assert bench.states("once") == {sent[3]: "parked"}
    assert bench.entries("once")[0].error_type == "OutcomeUnknown"
    assert bench.position("once") == sent[-1]


@pytest.mark.parametrize("kind", ["books", "once", "mail"])
def test_a_handler_that_kills_its_worker_ends_in_the_ledger_in_every_mode(bench: Crashes, kind: str) -> None:
    sent = bench.send(5)
    with bench.transaction() as connection:
        APPLIED.create(connection, checkfirst=True)

    bench.restart_until_drained(kind, "die", "3")

    assert bench.states(kind) == {sent[2]: "parked"}
    assert bench.position(kind) == sent[-1]


def owners(bench: Crashes) -> set[str]:
    table = bench.log.database.tables.checkpoints
    return {row.owner for row in bench.rows(table.select()) if row.owner is not None}


def counts(bench: Crashes) -> list[int]:
    table = bench.log.database.tables.checkpoints
    found = [row.owner for row in bench.rows(table.select())]
    return sorted(found.count(owner) for owner in set(found))


def standing(children: list[Child]) -> Child | None:
    return next((one for one in children if f"inside {STANDING}" in one.lines), None)


def append_some(bench: Crashes, sent: list[int], ended: threading.Event) -> None:
    for _ in range(60):
        sent.extend(one.position for one in bench.log.append(*[Sent(number) for number in range(20)]))
    ended.set()


def fall_out(bench: Crashes, kind: str, sent: list[int]) -> None:
    """Four processes share the work; one is killed, and one frozen in a handler until its lease has run out."""
    children = [bench.start(kind, "run", "stand", str(STANDING)) for _ in range(WORKERS)]
    eventually(lambda: counts(bench) == [PARTITIONS // WORKERS] * WORKERS, what="a fair share for each")
    ended = threading.Event()
    appending = Background(lambda: append_some(bench, sent, ended))
    sent.extend(one.position for one in bench.log.append(Sent(STANDING)))
    eventually(lambda: standing(children), what="a worker to stand in its handler")
    frozen = standing(children)
    assert frozen is not None
    frozen.send(signal.SIGSTOP)
    killed, *others = [child for child in children if child is not frozen]
    killed.kill()
    appending.join()
    eventually(lambda: standing(others), what="another worker to take over what the frozen one has")
    taker = standing(others)
    assert taker is not None
    taker.go_on()
    eventually(lambda: len(owners(bench)) == 2, what="the two that are left to have everything")
    frozen.go_on()
    frozen.send(signal.SIGCONT)
    for child in others:
        child.go_on()


def test_of_four_workers_one_killed_and_one_frozen_a_projection_applies_every_event_once(crew: Crashes) -> None:
    sent: list[int] = []
    fall_out(crew, "board", sent)
    eventually(lambda: len(crew.applied(APPLIED)) >= len(sent), what="all events")

    assert crew.applied(APPLIED) == sorted(sent)
    table = crew.log.database.tables.events
    stream_of = dict(crew.rows(select(table.c.position, table.c.stream)))
    by_stream: dict[str, list[int]] = {}
    for row in crew.rows(select(APPLIED.c.position).order_by(APPLIED.c.id)):
        by_stream.setdefault(stream_of[row.position], []).append(row.position)
    assert all(places == sorted(places) for places in by_stream.values())
    assert crew.states("board") == {}


def test_of_four_workers_one_killed_and_one_frozen_an_effect_misses_no_event(crew: Crashes) -> None:
    sent: list[int] = []
    fall_out(crew, "mail", sent)
    table = crew.log.database.tables.checkpoints
    eventually(
        lambda: all(row.position >= max(sent) for row in crew.rows(table.select())), what="all checkpoints at the end"
    )

    calls = [number for child in crew.children for number, _ in child.calls]
    assert all(calls.count(number) >= 60 for number in range(20))
    assert crew.states("mail") in ({}, dict.fromkeys(crew.states("mail"), "resolved"))


def test_a_supervisor_sees_that_processes_have_ended(crew: Crashes) -> None:
    """What the tests above rely on: a child that is told to stop releases its partitions and ends with 0."""
    crew.send(1)
    child = crew.start("board", "run")
    child.wait_for("ready")
    eventually(lambda: counts(crew) == [PARTITIONS], what="all partitions")
    child.send(signal.SIGTERM)
    assert child.end() == 0
    assert owners(crew) == set()
    assert os.environ["PARTITIONS"] == str(PARTITIONS)

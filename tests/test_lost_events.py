"""The audit of lost events: it finds each fault, it catches readers that lose, and this project's readers lose nothing.

Races are short here; `make lost` and `make soak` run long ones, `make lost` with other people's libraries as well.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

import pytest

from benchmarks.lost_events import __main__ as command
from benchmarks.lost_events import report
from benchmarks.lost_events.adapters import Adapter, load
from benchmarks.lost_events.adapters.adapter import Promise
from benchmarks.lost_events.adapters.controls import NaiveCursor, XminCursor
from benchmarks.lost_events.adapters.rewindlog import Effect, Pages, Projection
from benchmarks.lost_events.audit import Delivery, Journal, Order, Outcome, Verdict, audit
from benchmarks.lost_events.race import Race, enough, run_race
from benchmarks.lost_events.shapes import SQLITE, Shape
from benchmarks.lost_events.trap import Trap
from benchmarks.lost_events.writing import Writer
from tests.log_support import new_seed

RACE_SECONDS = 1.0
WRITERS = 8
SQLITE_WRITERS = 3

A, B, C = (UUID(int=number) for number in (1, 2, 3))


def journal(
    *, committed: Sequence[UUID] = (), rolled_back: Sequence[UUID] = (), unknown: Sequence[UUID] = ()
) -> Journal:
    made = Journal()
    made.intend([*committed, *rolled_back, *unknown])
    made.settle(committed, Outcome.COMMITTED)
    made.settle(rolled_back, Outcome.ROLLED_BACK)
    return made


def got(*events: UUID, redelivery: bool = False) -> list[Delivery]:
    """Deliveries of events that stand in the log as their numbers say, all in one stream."""
    return [Delivery(id=one, position=one.int, stream="s", redelivery=redelivery) for one in events]


@pytest.mark.parametrize(
    ("written", "recorded", "deliveries", "faults"),
    [
        (journal(committed=[A, B]), [A, B], got(A, B), {}),
        (journal(committed=[A, B, C]), [A, B, C], got(A, C), {"missed": 1}),
        (journal(committed=[A, B]), [A, B], got(A, B, A), {"twice": 1}),
        (journal(committed=[A, B]), [A, B], [*got(A, B), *got(A, redelivery=True)], {}),
        (journal(committed=[A, B, C]), [A, B, C], got(A, C, B), {"out_of_order": 1}),
        (journal(committed=[A], rolled_back=[B]), [A], got(A, B), {"unrecorded": 1}),
        (journal(committed=[A, B]), [A], got(A), {"vanished": 1}),
        (journal(committed=[A], rolled_back=[B]), [A, B], got(A, B), {"undead": 1}),
        (journal(unknown=[A, B]), [A], got(A), {}),
        (journal(unknown=[A, B]), [A], [], {"missed": 1}),
        (journal(committed=[A]), [A, B], got(A, B), {"strangers": 1}),
    ],
)
def test_the_audit_finds_what_is_wrong(
    written: Journal, recorded: Sequence[UUID], deliveries: Sequence[Delivery], faults: dict[str, int]
) -> None:
    assert audit(written, recorded, deliveries).faults == faults


def test_an_outcome_that_was_looked_up_is_counted_by_what_was_found() -> None:
    verdict = audit(journal(committed=[A], unknown=[B, C]), [A, B], got(A, B))

    assert (verdict.committed, verdict.rolled_back, verdict.unknown) == (2, 1, 2)


def test_order_is_kept_within_a_stream_where_no_more_is_promised() -> None:
    deliveries = [
        Delivery(id=B, position=2, stream="one"),
        Delivery(id=A, position=1, stream="other"),
        Delivery(id=C, position=1, stream="one"),
    ]
    verdict = audit(journal(committed=[A, B, C]), [A, B, C], deliveries, order=Order.STREAM)

    assert verdict.out_of_order == {C}


@pytest.mark.parametrize("reader", [Projection, Effect])
def test_subscribers_lose_nothing_while_their_connections_and_those_of_writers_are_ended(
    postgres_database_url: str, reader: type[Adapter]
) -> None:
    race = run_race(
        reader(postgres_database_url), writers=WRITERS, seconds=RACE_SECONDS, seed=new_seed(), until=enough(50)
    )

    assert race.verdict.faults == {}, race
    assert race.killed > 0


@pytest.mark.parametrize("reader", [Pages, Projection])
def test_readers_of_a_sqlite_file_lose_nothing(sqlite_url: str, reader: type[Adapter]) -> None:
    race = run_race(reader(sqlite_url), writers=SQLITE_WRITERS, seconds=RACE_SECONDS, seed=new_seed(), until=enough(20))

    assert race.verdict.faults == {}, race
    assert set(race.done) == SQLITE, "every shape has occurred"


@pytest.mark.parametrize("control", [NaiveCursor, XminCursor])
def test_readers_that_lose_events_are_caught(postgres_empty_url: str, control: type[Adapter]) -> None:
    """Not by luck: two transactions take turns in the one way that neither of these readers survives."""
    adapter = control(postgres_empty_url)
    adapter.create()

    def took_the_bait(writers: Sequence[Writer]) -> bool:
        return any(isinstance(one, Trap) and one.bitten for one in writers)

    interleaved = frozenset({Shape.INTERLEAVED})
    race = run_race(adapter, writers=0, seconds=0, seed=new_seed(), shapes=interleaved, until=took_the_bait)

    assert race.verdict.missed, race
    assert set(race.verdict.faults) == {"missed"}, "and nothing else is wrong with them"


def raced(promise: Promise, **faults: frozenset[UUID]) -> Race:
    verdict = Verdict(committed=3, rolled_back=1, unknown=1, delivered=3, **faults)
    return Race(adapter="x", promise=promise, seed=7, seconds=1.0, verdict=verdict, done=Counter(), killed=2)


@pytest.mark.parametrize(
    ("race", "code"),
    [
        (raced(Promise.NOTHING_IS_LOST), 0),
        (raced(Promise.NOTHING_IS_LOST, missed=frozenset({A})), 1),
        (raced(Promise.NOTHING_IS_LOST, twice=frozenset({A})), 1),
        (raced(Promise.LOSES, missed=frozenset({A})), 0),
        (raced(Promise.LOSES), 1),
    ],
)
def test_the_command_fails_when_somebody_loses_who_promises_not_to_or_a_control_is_not_caught(
    race: Race, code: int
) -> None:
    assert command.exit_code([raced(Promise.NOTHING_IS_LOST), race]) == code


class Boaster(NaiveCursor):
    """A naive cursor whose maker believes in it."""

    promise = Promise.NOTHING_IS_LOST


def test_somebody_elses_reader_is_audited_by_the_name_of_its_class(
    postgres_url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.lost_events.race.PATIENCE_SECONDS", 0.5)
    options = ["--url", postgres_url, "--seconds", "0.5", "--writers", "2", "--no-node", "--seed", "42"]

    code = command.main(["tests.test_lost_events:Boaster", *options])

    printed = capsys.readouterr().out
    assert code == 1
    assert "seed 42" in printed
    assert "NOT AS PROMISED" in printed


def test_what_is_not_known_or_not_installed_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command.main(["nobody"])

    assert ended.value.code == 2
    assert "no adapter nobody" in capsys.readouterr().err


def test_the_table_is_written_between_its_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    races = [
        (raced(Promise.NOTHING_IS_LOST), load("rewindlog")),
        (raced(Promise.LOSES, missed=frozenset({A, B})), load("naive-cursor")),
    ]

    report.write_docs(page, races, writers=16, where="PostgreSQL 18")

    written = page.read_text()
    assert written.startswith(f"before\n{report.BEGIN}\n\n| reader | how it reads |")
    assert written.endswith(f"seed 7.\n\n{report.END}\nafter\n")
    assert "| x (control) | `where position > cursor` | 3 | 1 | 1 | 2 | 0 | 0 |" in written
    assert "old" not in written


def test_a_page_without_a_place_for_the_table_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has 0 places for the table"):
        report.write_docs(page, [(raced(Promise.LOSES), load("naive-cursor"))], writers=16, where="PostgreSQL 18")

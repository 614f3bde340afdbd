"""What an append and a read cost: round trips, locks, and rows that are looked at."""

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from psycopg import pq
from sqlalchemy import Connection, text

from eventlog.log import EventLog
from eventlog.query import PageQuery, Query
from tests.log_support import backend, note, opened


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        for number in range(10):
            log.append(note(f"the schema is checked once, and the statement prepared once: {number}"))
        yield log


def round_trips(log: EventLog, work: Callable[[], object], file: Path) -> int:
    """How often the server said that it is ready for the next query, on the one connection of the pool."""
    with log.engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
    with file.open("w") as trace:
        driver.pgconn.trace(trace.fileno())
        driver.pgconn.set_trace_flags(pq.Trace.SUPPRESS_TIMESTAMPS)
        work()
        driver.pgconn.untrace()
    return sum("ReadyForQuery" in line for line in file.read_text().splitlines())


def advisory_locks(connection: Connection) -> int:
    question = "select count(*) from pg_locks where locktype = 'advisory' and pid = :pid"
    return int(connection.scalar(text(question), {"pid": backend(connection)}) or 0)


def test_a_lone_append_is_one_round_trip(log: EventLog, tmp_path: Path) -> None:
    def append() -> None:
        for number in range(20):
            log.append(note(f"{number}"))

    assert round_trips(log, append, tmp_path / "trace") == 20


def test_an_append_in_the_callers_transaction_is_one_round_trip(log: EventLog, tmp_path: Path) -> None:
    """And one to begin the transaction, one to commit it."""

    def append() -> None:
        with log.engine.begin() as connection:
            for number in range(20):
                log.append(note(f"{number}"), tx=connection)

    assert round_trips(log, append, tmp_path / "trace") == 22


@pytest.mark.parametrize("streams", [1, 1_000])
def test_a_batch_of_a_thousand_is_as_many_round_trips_as_one_of_two(
    log: EventLog, tmp_path: Path, streams: int
) -> None:
    small, large = (
        [note(f"{number}", stream=f"{count}-{number % streams}") for number in range(count)] for count in (2, 1_000)
    )

    costs = [round_trips(log, lambda batch=batch: log.append(*batch), tmp_path / "trace") for batch in (small, large)]  # type: ignore[misc]

    assert costs[0] == costs[1] <= 3


def test_ten_thousand_appends_in_one_transaction_hold_one_lock(log: EventLog) -> None:
    with log.engine.begin() as connection:
        connection.execute(
            text(
                "do $$ begin for n in 1..10000 loop insert into eventlog.events (id, stream, version, type, data)"
                " values (gen_random_uuid(), 'loop', n, 't', '1'); end loop; end $$"
            )
        )
        for number in range(100):
            log.append(note(f"{number}"), tx=connection)

        assert advisory_locks(connection) == 1


def test_a_batch_over_ten_thousand_streams_holds_one_lock(log: EventLog) -> None:
    with log.engine.begin() as connection:
        log.append(*[note("one", stream=f"many-{number}") for number in range(10_000)], tx=connection)

        assert advisory_locks(connection) == 1


def test_a_read_holds_no_lock_of_ours(log: EventLog) -> None:
    with log.engine.connect() as connection:
        log.database.high_water_mark(connection)

        assert advisory_locks(connection) == 0


TAGGED = Query(tags=["one:77"])
QUERIES = {
    "the end of the log": PageQuery(after=19_990, until=20_001, limit=1_000),
    "a stream": PageQuery(after=0, until=20_001, limit=1_000, stream="fill-77"),
    "the end of a stream": PageQuery(after=19_000, until=20_001, limit=1_000, stream="fill-77"),
    "a tag": PageQuery(after=0, until=20_001, limit=1_000, matching=(TAGGED,)),
    "a tag, backwards": PageQuery(after=0, until=20_001, limit=1_000, backwards=True, matching=(TAGGED,)),
    "a tag and a type": PageQuery(after=0, until=20_001, limit=1_000, matching=(Query(types=["t"], tags=["one:77"]),)),
    "a tag of few events and one of all": PageQuery(
        after=0, until=20_001, limit=1_000, matching=(Query(tags=["one:77", "all"]),)
    ),
    "a tag of all events, the first ten": PageQuery(after=0, until=20_001, limit=10, matching=(Query(tags=["all"]),)),
    "a tag of all events, the last ten": PageQuery(
        after=0, until=20_001, limit=10, backwards=True, matching=(Query(tags=["all"]),)
    ),
    "one tag or another one": PageQuery(
        after=0, until=20_001, limit=1_000, matching=(TAGGED, Query(types=["t"], tags=["one:78"]))
    ),
    "a rare type": PageQuery(after=0, until=20_001, limit=1_000, types=("rare",)),
    "a rare type, from the middle": PageQuery(after=10_000, until=20_001, limit=1_000, types=("rare",)),
    "a rare type, backwards": PageQuery(after=0, until=20_001, limit=1_000, types=("rare",), backwards=True),
    "a rare type of some streams": PageQuery(
        after=0, until=20_001, limit=1_000, types=("rare",), stream_prefix="fill-7"
    ),
    "rare types": PageQuery(after=0, until=20_001, limit=1_000, types=("rare", "scarce", "never")),
    "rare types, backwards": PageQuery(
        after=0, until=20_001, limit=1_000, types=("rare", "scarce", "never"), backwards=True
    ),
    "rare types as a query": PageQuery(
        after=0, until=20_001, limit=1_000, matching=(Query(types=["rare", "scarce"]), Query(types=["never"]))
    ),
    "a type of nearly all events, the first ten": PageQuery(after=0, until=20_001, limit=10, types=("t",)),
    "types of nearly all events, the first ten": PageQuery(
        after=0, until=20_001, limit=10, types=("rare", "t", "scarce")
    ),
    "a tag, since a time": PageQuery(
        after=0, until=20_001, limit=1_000, matching=(TAGGED,), since=datetime(2020, 1, 1, tzinfo=UTC)
    ),
}


def filled(log: EventLog, *tables: str) -> None:
    """Fill the log, and have the server look through these tables, as it does by itself after a while."""
    with log.engine.begin() as connection:
        fill(connection)
    with log.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"analyze {', '.join(f'eventlog.{table}' for table in tables)}"))


def fill(connection: Connection) -> None:
    """Twenty thousand events in ten thousand streams, each with a tag of its stream and one that all have.

    One in a thousand is of a rare type, and one of another.
    """
    connection.execute(
        text(
            "insert into eventlog.events (id, stream, version, type, data, tags)"
            " select gen_random_uuid(), 'fill-' || n % 10000, 1 + n / 10000,"
            " case n % 1000 when 7 then 'rare' when 8 then 'scarce' else 't' end, '1',"
            " array['one:' || n % 10000, 'all']"
            " from generate_series(0, 19999) n"
        )
    )


def test_a_page_is_read_without_looking_at_the_rest_of_the_log(
    log: EventLog, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    filled(log, "events", "event_tags")
    for what, query in QUERIES.items():
        with subtests.test(what):
            ((plan,),) = explained(log, query, monkeypatch, "explain (analyze, format json)")
            assert looked_at(plan) < 100, plan


def test_a_page_of_rare_types_costs_its_own_rows_however_often_it_is_read(
    log: EventLog, subtests: pytest.Subtests
) -> None:
    """A plan that the server keeps is one for any types: it would scan the log, which is right for most of them."""
    filled(log, "events")
    fetched = text("select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relname = 'events'")
    rare, times = ("rare", "scarce"), 30
    for query in (
        PageQuery(after=0, until=20_001, limit=1_000, types=rare[:1]),
        PageQuery(after=0, until=20_001, limit=1_000, types=rare),
        PageQuery(after=0, until=20_001, limit=1_000, matching=(Query(types=rare),)),
    ):
        with subtests.test(str(query)), log.engine.begin() as connection:
            found = sum(len(log.database.page(connection, query)) for _ in range(times))
            assert found >= 20 * times
            assert connection.scalar(fetched) < 200 * times


def looked_at(plan: Any) -> int:
    """How many rows the nodes of a plan produced or threw away."""
    if isinstance(plan, list):
        return max(looked_at(part) for part in plan)
    if "Plan" in plan:
        return looked_at(plan["Plan"])
    own = int(plan["Actual Rows"]) + int(plan.get("Rows Removed by Filter", 0))
    return max([own, *[looked_at(part) for part in plan.get("Plans", [])]])


def test_a_stream_of_a_sqlite_file_is_read_by_its_index(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(sqlite_url) as log:
        query = PageQuery(after=0, until=3, limit=10, stream="note-1")
        plan = explained(log, query, monkeypatch, "explain query plan")

    assert any("(stream=?" in step[3] for step in plan), plan


def explained(log: EventLog, query: PageQuery, monkeypatch: pytest.MonkeyPatch, explain: str) -> list[Any]:
    """What the database says about the statement that reads a page."""
    answers: list[Any] = []
    rows = log.database._rows  # type: ignore[attr-defined]  # the statement itself is looked at

    def ask(connection: Connection, sql: str, values: Any, **_options: Any) -> list[Any]:
        answers.extend(rows(connection, f"{explain} {sql}", values))
        return []

    with monkeypatch.context() as patch, log.engine.connect() as connection:
        patch.setattr(log.database, "_rows", ask)
        log.database.page(connection, query)
    return answers


def test_a_tag_of_a_sqlite_file_is_read_by_its_index(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    with opened(sqlite_url) as log:
        for what, query in QUERIES.items():
            with subtests.test(what):
                plan = explained(log, query, monkeypatch, "explain query plan")

                scanned = {step[3].split()[1] for step in plan if step[3].startswith("SCAN")}
                assert not scanned & {"events", "event_tags", "e", "t0_0", "t0_1", "t1_0"}, plan
                index = "(tag=?" if any(one.tags for one in query.matching) else "(type=?"
                assert not (query.matching or query.types) or any(index in step[3] for step in plan), plan


def test_a_condition_looks_only_at_what_carries_its_first_tag_after_its_position(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty thousand events carry the tag; what is fetched are those after the position, with analysed tables."""
    filled(log, "event_tags")

    def fetched() -> int:
        """How many rows and index entries of event_tags were fetched, by this transaction."""
        question = "select idx_tup_fetch + seq_tup_read from pg_stat_xact_user_tables where relname = 'event_tags'"
        return int(connection.scalar(text(question)) or 0)

    for tags in (["all"], ["all", "one:77"], ["one:77", "all"]):
        with log.engine.begin() as connection:
            log.append(note("decided"), unless=Query(types=["other"], tags=tags, after=19_990), tx=connection)
            assert fetched() < 100, tags


def test_a_condition_costs_three_round_trips_in_the_callers_transaction(log: EventLog, tmp_path: Path) -> None:
    """One for its question and two for the savepoint that takes its locks back when it does not hold."""

    def append(*, unless: Sequence[Query] = ()) -> None:
        with log.engine.begin() as connection:
            for number in range(10):
                log.append(note(f"{number}"), tx=connection, unless=unless)

    append(unless=[Query(tags=["a"])])
    plain = round_trips(log, append, tmp_path / "trace")
    conditional = round_trips(log, lambda: append(unless=[Query(tags=["a"])]), tmp_path / "trace")

    assert conditional - plain == 30


def test_a_tagged_append_is_one_round_trip(log: EventLog, tmp_path: Path) -> None:
    def append() -> None:
        for number in range(20):
            log.append(note(f"{number}"), tags=["a", f"b:{number}"])

    append()
    assert round_trips(log, append, tmp_path / "trace") == 20

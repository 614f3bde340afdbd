"""Importing, on both databases: every event once, at its own place where that is safe, and nothing that is broken."""

from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from eventlog import postgres_carrying
from eventlog.carried import BATCH_EVENTS_MAX, read_line
from eventlog.errors import BrokenLineError, CheckFailedError, EventLogError, RefusedError
from eventlog.importing import Importing, Positions
from eventlog.log import EventLog
from tests.carried_support import emptied, exported, imported, line, lines, places
from tests.log_support import Background, note, notes, opened, wait_until, waiting_for_locks


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventlog.carried.BATCH_EVENTS_MAX", 2)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_carrying, "HOLD_TRIES_MAX", 2)
    monkeypatch.setattr(postgres_carrying, "PAUSE_SECONDS", 0.01)


def test_an_empty_log_gets_every_event_as_it_was(log: EventLog) -> None:
    """Holes in the positions, tags, metadata, spaces in the data: all there; and the log goes on after the last one."""
    given_lines = [
        line(3, version=1, data={"a": 1}, tags=["late", "customer:ada"], metadata={"user": "cyd"}),
        line(4, version=2).replace(b'{"said":"4"}', b'{ "said" : 4.50 }'),
        line(9, stream="note-2", version=1, type_version=3),
        line(5_000_000_000, version=3),
    ]
    done = imported(log, given_lines)
    assert (done.imported, done.first, done.last) == (4, 3, 5_000_000_000)
    assert exported(log) == given_lines
    assert (log.head(), log.high_water_mark()) == (5_000_000_000, 5_000_000_000)
    assert [one.position for one in log.read(tags=["customer:ada"])] == [3]
    (appended,) = log.append(note("next"))
    assert (appended.position, appended.version) == (5_000_000_001, 4)


def test_a_log_moves_from_one_database_to_the_other(sqlite_url: str, postgres_database_url: str) -> None:
    with opened(sqlite_url) as here, opened(postgres_database_url) as there:
        here.append(*notes(3), note("a", stream="note-2"), tags=["moved"])
        before = exported(here)
        imported(there, before)
        there.append(note("after the move"))
        assert exported(there)[:-1] == before


def test_what_is_here_already_is_passed_by(log: EventLog) -> None:
    imported(log, lines(5))
    done = imported(log, lines(7))
    assert (done.read, done.imported, done.known) == (7, 2, 5)
    assert len(places(log)) == 7


def test_an_import_that_was_cut_off_goes_on_where_it_was(log: EventLog, small_batches: None) -> None:
    next(Importing(log.database, lines(6)).run())
    assert len(places(log)) == 2
    again = Importing(log.database, lines(6))
    assert (again.positions, again.into_empty) == (Positions.KEPT, False)
    assert [done.imported for done in again.run()] == [0, 2, 4]
    assert exported(log) == lines(6)


def test_a_log_with_events_of_its_own_gives_new_positions_and_keeps_versions(log: EventLog) -> None:
    log.append(note("mine", stream="mine"))
    importing = Importing(log.database, [line(1), line(5, version=2)])
    assert (importing.positions, importing.into_empty) == (Positions.NEW, False)
    list(importing.run())
    first = importing.done.first or 0
    assert places(log)[1:] == [(first, "note-1", 1), (first + 1, "note-1", 2)]
    assert (first > 1, importing.done.last) == (True, first + 1)


def test_times_are_kept_where_positions_are_new(log: EventLog) -> None:
    log.append(note("mine", stream="mine"))
    imported(log, [line(1)])
    assert exported(log)[1].partition(b'"recorded_at"')[2] == line(1).partition(b'"recorded_at"')[2]


def test_positions_that_have_been_given_out_are_not_given_out_again(postgres_log: EventLog) -> None:
    """A reader may have passed what was rolled back."""
    with postgres_log.engine.connect() as connection:
        postgres_log.append(*notes(2), tx=connection)
        connection.rollback()
    importing = Importing(postgres_log.database, lines(2))
    assert (importing.positions, importing.into_empty) == (Positions.NEW, True)
    list(importing.run())
    assert [position for position, _, _ in places(postgres_log)] == [3, 4]


def test_an_append_between_two_batches_ends_the_import_that_keeps_positions(log: EventLog, small_batches: None) -> None:
    running = Importing(log.database, lines(6)).run()
    next(running)
    (mine,) = log.append(note("mine", stream="mine"))
    with pytest.raises(RefusedError, match=f"line 3: .* at position {mine.position}: positions cannot") as caught:
        next(running)
    assert "--new-positions" in caught.value.remedy
    with pytest.raises(RefusedError, match="line 3: "):
        imported(log, lines(6))
    done = imported(log, lines(6), new_positions=True)
    assert (done.imported, done.known, len(places(log))) == (4, 2, 7)
    assert imported(log, lines(6)).known == 6
    with pytest.raises(RefusedError, match="line 7: "):
        imported(log, lines(7))


def test_an_append_in_flight_keeps_positions_from_being_kept(postgres_log: EventLog, impatient: None) -> None:
    """The log looks empty, and is not: what is in flight would come in behind, or at the same place."""
    importing = Importing(postgres_log.database, lines(2))
    with postgres_log.engine.connect() as connection:
        postgres_log.append(note("mine"), tx=connection)
        with pytest.raises(RefusedError, match="stayed open for 2 tries"):
            list(importing.run())
        connection.rollback()
    assert places(postgres_log) == []


def test_an_append_that_meets_a_batch_waits_and_comes_after_it(postgres_log: EventLog) -> None:
    """It cannot get a position among those of the batch, nor a mark below them; readers see all or nothing."""
    database, events = postgres_log.database, [read_line(one, 1) for one in lines(3)]
    with opened(url_of(postgres_log)) as other:
        with database.transaction() as connection:
            head = database.hold_positions(connection, ["late"])
            appending = Background(lambda: other.append(note("live", stream="live"), tags=["late"]))
            wait_until(lambda: waiting_for_locks(postgres_log.engine) > 0, what="the append to wait")
            assert database.carry(connection, events, keep_positions=True)
            assert not appending.done
        live: Any = appending.result()
        assert (head, live[0].position, other.high_water_mark()) == (0, 4, 4)


def test_a_reader_that_asks_during_a_batch_waits_and_sees_no_part_of_it(postgres_log: EventLog) -> None:
    """All of it, as a rule. Nothing, where it wakes between the sequence's lock and the mark, which the server lets go
    one after the other: the mark still holds the import back then. Never a part.
    """
    database, events = postgres_log.database, [read_line(one, 1) for one in lines(3)]
    with opened(url_of(postgres_log)) as other:
        with database.transaction() as connection:
            database.hold_positions(connection, [])
            database.carry(connection, events, keep_positions=True)
            reading = Background(lambda: [one.position for one in other.read_stored()])
            wait_until(lambda: waiting_for_locks(postgres_log.engine) > 0, what="the reader to wait")
        assert reading.result() in ([], [1, 2, 3])
        assert [one.position for one in other.read_stored()] == [1, 2, 3]


def test_a_batch_that_is_taken_back_leaves_the_sequence_where_it_was(postgres_log: EventLog) -> None:
    """A sequence that had moved on would let readers pass what is imported when it is tried again."""
    with pytest.raises(BrokenLineError):
        imported(postgres_log, [line(1), line(2, version=7)])
    with postgres_log.database.transaction() as connection:
        postgres_log.database.hold_positions(connection, [])
        postgres_log.database.carry(connection, [read_line(one, 1) for one in lines(3)], keep_positions=True)
        connection.rollback()
    assert (postgres_log.head(), postgres_log.high_water_mark()) == (0, 0)
    assert imported(postgres_log, lines(3)).last == 3


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (b"{}\n", "position"),
        (line(4, version=9), "'note-1' is at version 3 here, and the event is version 9"),
        (line(4, version=2), "'note-1' is at version 3 here, and the event is version 2"),
        (line(2, id=4, version=4), "position 2 does not come after 3"),
        (line(4, id=3, version=4), "its id is that of line 3"),
        (line(4, id=1, version=4), "is recorded already, at position 1, with other content"),
    ],
    ids=["no event", "a gap", "twice a version", "out of order", "an id twice", "an id that is taken"],
)
def test_a_broken_line_is_named_and_nothing_of_its_batch_is_imported(
    log: EventLog, small_batches: None, broken: bytes, problem: str
) -> None:
    with pytest.raises(BrokenLineError) as caught:
        imported(log, [*lines(3), broken, line(5)])
    assert (caught.value.line, problem in str(caught.value)) == (4, True)
    assert exported(log) == lines(2)


def test_a_part_of_a_stream_is_numbered_anew_where_that_is_asked_for(log: EventLog) -> None:
    part = [line(7, version=4), line(8, version=9)]
    imported(log, part, new_versions=True)
    assert places(log) == [(7, "note-1", 1), (8, "note-1", 2)]
    assert imported(log, part, new_versions=True).known == 2


def test_lines_in_another_order_are_taken_at_new_positions(log: EventLog) -> None:
    imported(log, [line(2, version=1), line(1, version=2)], new_positions=True)
    assert [version for _, _, version in places(log)] == [1, 2]


def test_a_line_that_the_database_refuses_is_named(log: EventLog) -> None:
    """By a rule of somebody else's: what the log itself holds, it takes."""
    _refuse(log, "note.refused")
    with pytest.raises(BrokenLineError, match=r"line 2: the database refuses it: .*no such notes"):
        imported(log, [line(1), line(2, type="note.refused"), line(3)])
    assert places(log) == []


def test_what_changes_on_its_way_into_the_table_is_not_imported(postgres_log: EventLog) -> None:
    with postgres_log.engine.begin() as connection:
        connection.execute(
            text(
                "create function change() returns trigger language plpgsql as"
                " $$ begin new.data := '{}'; return new; end $$"
            )
        )
        connection.execute(
            text("create trigger change before insert on eventlog.events for each row execute function change()")
        )
    with pytest.raises(CheckFailedError, match="was not written as it came"):
        imported(postgres_log, lines(2))
    assert places(postgres_log) == []


def test_two_imports_at_once_are_one(log: EventLog, small_batches: None) -> None:
    """The second one finds what the first has written, batch by batch."""
    with opened(url_of(log)) as other:
        one, two = Importing(log.database, lines(6)).run(), Importing(other.database, lines(6)).run()
        for _ in range(3):
            next(one)
            next(two)
    assert exported(log) == lines(6)


def test_an_import_that_gives_new_positions_gets_along_with_appends_to_its_streams(
    log: EventLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody takes the version between the look and the copy: the batch is tried again, and numbered on."""
    log.append(note("mine", stream="mine"))
    carry = log.database.carry
    raced: list[bool] = []

    def overtaken(*arguments: object, **options: bool) -> bool:
        if not raced and log.engine.dialect.name == "postgresql":
            raced.append(True)
            with opened(url_of(log)) as other:
                other.append(note("first"))
        return bool(carry(*arguments, **options))  # type: ignore[arg-type]  # passed on as they came

    monkeypatch.setattr(log.database, "carry", overtaken)
    imported(log, lines(2), new_versions=True)
    assert [version for _, stream, version in places(log) if stream == "note-1"] == list(range(1, 3 + len(raced)))


def test_an_import_of_nothing_does_nothing(log: EventLog) -> None:
    assert imported(log, [b"\n"]).read == 0
    assert places(log) == []


def test_a_dry_run_counts_and_writes_nothing(log: EventLog) -> None:
    imported(log, lines(2))
    importing = Importing(log.database, lines(BATCH_EVENTS_MAX + 2))
    assert [(done.imported, done.known) for done in importing.dry_run()] == [(998, 2), (1_000, 2)]
    assert len(places(log)) == 2


@st.composite
def logs(draw: st.DrawFn) -> list[bytes]:
    """The lines of a log: a few streams, positions with holes, anything as data."""
    json = st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=2), inner, max_size=3),
        max_leaves=5,
    )  # fmt: skip
    versions: dict[str, int] = {}
    position, found = 0, []
    for _ in range(draw(st.integers(1, 12))):
        position += draw(st.sampled_from([1, 1, 1, 2, 1_000]))
        stream = draw(st.sampled_from(["a", "b", "ä ö"]))
        versions[stream] = versions.get(stream, 0) + 1
        tags = draw(st.lists(st.sampled_from(["x", "y", "z"]), unique=True, max_size=2))
        found.append(line(position, stream=stream, version=versions[stream], data=[draw(json)], tags=tags))
    return found


@pytest.fixture
def empty_log(log: EventLog, sqlite_template: object, tmp_path: object) -> Iterator[Callable[[], EventLog]]:
    """The log, empty again each time."""
    from pathlib import Path
    from shutil import copyfile

    if log.engine.dialect.name == "postgresql":
        yield lambda: emptied(log)
        return
    file = Path(str(log.engine.url.database))

    def fresh() -> EventLog:
        log.engine.dispose()
        for name in (f"{file}-wal", f"{file}-shm"):
            Path(name).unlink(missing_ok=True)
        copyfile(str(sqlite_template), file)
        return log

    yield fresh


@given(given_lines=logs(), cut=st.integers(0, 12))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_log_that_was_exported_and_imported_is_the_same_log(
    empty_log: Callable[[], EventLog], given_lines: list[bytes], cut: int
) -> None:
    """Also when the import was cut off somewhere, and run again."""
    log = empty_log()
    imported(log, given_lines[:cut])
    imported(log, given_lines)
    assert exported(log) == given_lines


@given(
    given_lines=logs(),
    spoiled=st.integers(0, 11),
    at=st.integers(0, 150),
    put=st.binary(max_size=2) | st.sampled_from([b"\\u0000", b"9", b'","', b"}"]),
)
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_spoiled_file_is_imported_or_refused_with_an_error_of_ours(
    empty_log: Callable[[], EventLog], given_lines: list[bytes], spoiled: int, at: int, put: bytes
) -> None:
    log = empty_log()
    place = spoiled % len(given_lines)
    one = given_lines[place]
    changed = [*given_lines[:place], one[:at] + put + one[at + len(put) :], *given_lines[place + 1 :]]
    try:
        done = imported(log, chain.from_iterable(part.splitlines(keepends=True) for part in changed))
    except EventLogError:
        assert places(log) == []
    else:
        assert len(places(log)) == done.imported


def url_of(log: EventLog) -> str:
    return log.engine.url.render_as_string(hide_password=False)


def _refuse(log: EventLog, event_type: str) -> None:
    with log.engine.begin() as connection:
        if log.engine.dialect.name == "postgresql":
            connection.exec_driver_sql(
                f"alter table eventlog.events add constraint \"no such notes\" check (type <> '{event_type}')"
            )
            return
        connection.exec_driver_sql(
            f"create trigger refuse_notes before insert on events when new.type = '{event_type}'"
            " begin select raise(abort, 'no such notes'); end"
        )

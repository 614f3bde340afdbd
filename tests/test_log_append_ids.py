"""Idempotent appends: the same id with the same content is recorded once."""

import re
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest

from eventlog.errors import IdConflictError, InvalidEventError, WrongExpectedVersionError
from eventlog.events import Event
from eventlog.ids import new_id
from eventlog.log import EventLog
from tests.log_support import at_once, everything, note, said


def test_an_event_keeps_the_id_it_was_given(log: EventLog) -> None:
    given = uuid4()

    log.append(note("first", id=given))

    assert log.get(given).id == given


def test_the_same_append_again_returns_what_was_recorded(log: EventLog) -> None:
    event = note("first", id=new_id())
    first = log.append(event)
    log.append(note("second"))

    assert log.append(event) == first
    assert said(everything(log)) == ["first", "second"]


def test_the_same_batch_again_returns_what_was_recorded_in_the_order_asked(log: EventLog) -> None:
    batch = [note("a", id=new_id()), note("b", stream="note-2", id=new_id()), note("c", id=new_id())]
    first = log.append(*batch)

    assert log.append(*batch) == first
    assert log.append(*reversed(batch)) == first[::-1]
    assert len(everything(log)) == 3


def test_the_same_append_again_in_the_callers_transaction_returns_what_was_recorded(log: EventLog) -> None:
    event = note("first", id=new_id())
    with log.engine.begin() as connection:
        first = log.append(event, tx=connection)
        again = log.append(event, tx=connection)

    assert again == first == everything(log)


def test_a_known_id_is_recognised_before_the_expected_version_is_compared(log: EventLog) -> None:
    event = note("first", id=new_id())
    first = log.append(event, expected="none")

    for expected in ("none", 0, 1, 5):
        assert log.append(event, expected=expected) == first


def test_a_known_batch_is_recognised_before_the_expected_version_is_compared(log: EventLog) -> None:
    batch = [note("a", id=new_id()), note("b", id=new_id())]
    first = log.append(*batch, expected="none")

    assert log.append(*batch, expected="none") == first


OTHERS = {
    "data": Event({"said": "other"}, type="note.taken", stream="note-1"),
    "stream": Event({"said": "first"}, type="note.taken", stream="note-2"),
    "type": Event({"said": "first"}, type="note.lost", stream="note-1"),
    "type version": Event({"said": "first"}, type="note.taken", stream="note-1", type_version=2),
}


def test_a_known_id_with_other_content_is_refused(log: EventLog, subtests: pytest.Subtests) -> None:
    known = new_id()
    log.append(note("first", id=known))

    for what, other in OTHERS.items():
        with subtests.test(what), pytest.raises(IdConflictError, match=str(known)) as refused:
            log.append(msgspec.structs.replace(other, id=known))

        assert refused.value.ids == (known,)
    assert said(everything(log)) == ["first"]


def test_values_that_only_look_alike_in_python_are_other_content(log: EventLog, subtests: pytest.Subtests) -> None:
    pairs: list[tuple[object, object]] = [
        (True, 1),
        (1, True),
        (0, False),
        (None, 0),
        ("1", 1),
        ([], {}),
        ([1], [True]),
    ]
    for recorded, given in pairs:
        known = new_id()
        log.append(Event({"value": recorded}, type="value.set", stream="value-1", id=known))

        with subtests.test(recorded=recorded, given=given), pytest.raises(IdConflictError):
            log.append(Event({"value": given}, type="value.set", stream="value-1", id=known))


def test_the_order_of_keys_is_not_content(log: EventLog) -> None:
    known = new_id()
    first = log.append(Event({"a": 1, "b": [2.5, None]}, type="value.set", stream="value-1", id=known))

    assert log.append(Event({"b": [2.5, None], "a": 1}, type="value.set", stream="value-1", id=known)) == first


def test_a_batch_that_is_known_in_part_is_refused(log: EventLog) -> None:
    known = note("known", id=new_id())
    log.append(known)

    with pytest.raises(IdConflictError, match="1 of the 2"):
        log.append(note("new", id=new_id()), known)

    assert said(everything(log)) == ["known"]


def test_a_known_id_beside_an_event_without_one_is_refused(log: EventLog) -> None:
    known = note("known", id=new_id())
    log.append(known)

    with pytest.raises(IdConflictError, match="1 of the 2"):
        log.append(known, note("new"))

    assert said(everything(log)) == ["known"]


def test_an_id_twice_in_one_append_is_refused(log: EventLog) -> None:
    twice = new_id()

    with pytest.raises(InvalidEventError, match="twice"):
        log.append(note("first", id=twice), note("second", id=twice))

    assert everything(log) == []


def test_an_id_that_was_rolled_back_is_free(log: EventLog) -> None:
    event = note("first", id=new_id())
    with log.engine.connect() as connection:
        log.append(event, tx=connection)
        connection.rollback()

    log.append(event)

    assert said(everything(log)) == ["first"]


def test_a_new_id_does_not_get_round_the_expected_version(log: EventLog) -> None:
    log.append(note("first", id=new_id()))

    with pytest.raises(WrongExpectedVersionError):
        log.append(note("first", id=new_id()), expected="none")


def test_one_event_appended_by_many_at_once_is_recorded_once(log: EventLog) -> None:
    event = note("first", id=new_id())

    outcomes = at_once(*[lambda: log.append(event)] * 8)

    assert outcomes == [everything(log)] * 8
    assert said(everything(log)) == ["first"]


def test_one_batch_appended_by_many_at_once_is_recorded_once(log: EventLog) -> None:
    batch = [note(f"{number}", stream=f"note-{number % 2}", id=new_id()) for number in range(4)]

    outcomes = at_once(*[lambda: log.append(*batch)] * 8)

    assert outcomes == [everything(log)] * 8
    assert len(everything(log)) == 4


def test_an_id_that_is_no_uuid_is_refused(log: EventLog) -> None:
    given: list[Any] = ["6f1e…", "6f1e2f9e-0000-7000-8000-000000000000", 7, b"0123456789abcdef", True]
    for one in given:
        with pytest.raises(InvalidEventError, match="UUID"):
            log.append(note("first", id=one))

    assert everything(log) == []


def test_ids_the_log_makes_are_of_version_7_and_rise_with_time(log: EventLog) -> None:
    before = datetime.now(UTC).timestamp()

    ids = [log.append(note(f"{number}"))[0].id for number in range(5)] + [new_id() for _ in range(100_000)]

    assert ids == sorted(set(ids))
    assert all(re.fullmatch(r".{14}7.{4}[89ab].+", str(one)) for one in ids[:100])
    assert abs((ids[0].int >> 80) / 1000 - before) < 60


def test_ids_made_in_many_threads_are_all_different() -> None:
    made = at_once(*[lambda: [new_id() for _ in range(5_000)]] * 8)

    assert len({one for ids in made if isinstance(ids, list) for one in ids}) == 40_000

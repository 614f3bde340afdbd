"""`verify`: a log and subscribers that are sound hold, and each damage that is done to stored rows is found."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import Connection, text, update

from eventlog import log_audit
from eventlog.errors import RefusedError
from eventlog.log_audit import audit_log
from eventlog.projections.rebuild import rebuild_in_place
from eventlog.subscribers import accounting, control
from eventlog.subscribers.control.lifecycle import stand_still
from eventlog.subscribers.control.rebuilds import begin_rebuild
from eventlog.subscribers.keys import partition_of
from tests.cli_support import Shop
from tests.damage import damaged, run, tampering
from tests.log_support import engine_of, note
from tests.subscribers_support import Bench, Lost, Sent
from tests.verify_support import DAMAGES, Sold, wrong


@pytest.fixture
def sold(bench: Bench) -> Sold:
    return Sold(bench).sell()


def test_every_damage_is_found_by_its_check_and_by_no_other(
    sold: Sold, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    dialect = sold.database.engine.dialect.name
    for name, damage in DAMAGES.items():
        if damage.only in (None, dialect):
            with subtests.test(name), damaged(sold.database, monkeypatch, *damage.sql.split(";")):
                audit = audit_log(sold.database, reached=lambda _: None) if damage.of is None else sold.audit(damage.of)
                checks = [one.check for one in wrong(audit)]
                found = next(one for one in wrong(audit) if one.check == damage.check)
                # That the triggers are out of the way is one of the findings of the log.
                expected = [damage.check, *damage.beside, *(["tables"] if damage.of is None else [])]
                assert set(checks) == set(expected), wrong(audit)
                assert damage.said in found.said
                assert damage.remedy in found.remedy


def test_a_sound_log_holds_and_so_do_its_subscribers(sold: Sold) -> None:
    audit = audit_log(sold.database, reached=lambda _: None)
    assert (wrong(audit), audit.account.events, audit.account.streams) == ([], 5, 4)
    assert (audit.account.first, audit.account.last, audit.account.high_water_mark) == (1, 5, 5)
    assert sold.account() == {"handled": 1, "parked": 1, "filtered_out": 2}
    assert sold.account("board") == {"handled": 2, "filtered_out": 2}


def test_what_operators_do_is_accounted_for(sold: Sold) -> None:
    """Step by step: each of them changes what the same positions come to."""
    database, log = sold.database, sold.bench.log
    control.skip(database, "mail", [2], reason="enough")
    control.advance(database, "mail", control.after_position(5))
    assert sold.account() == {"handled": 1, "skipped": 1, "passed_over": 1, "filtered_out": 2}
    control.undo(database, control.last_move(database, "mail"))
    assert sold.account() == {"handled": 1, "skipped": 1, "filtered_out": 2}
    control.seek(database, "mail", control.after_position(5))
    control.rename(database, "mail", "post")
    log.append(Sent(6), note("three"))
    sold.app.subscribers["mail"].name = "post"
    sold.app._subscribers["post"] = sold.app._subscribers.pop("mail")
    sold.app.drain()
    assert sold.account("post") == {"handled": 2, "skipped": 1, "passed_over": 1, "filtered_out": 3}
    control.rewind(database, "post", control.after_position(2), resend=True)
    assert sold.account("post") == {"handled": 1, "skipped": 1}
    sold.app.drain()
    assert sold.account("post") == {"handled": 3, "skipped": 1, "filtered_out": 3}
    control.rewind(database, "post", control.to_start, resend=True)
    assert sold.account("post") == {}


def test_positions_that_were_never_used_are_told_apart_from_events(bench: Bench) -> None:
    sold = Sold(bench)
    with bench.transaction() as connection:
        bench.log.append(Sent(1), note("x"), tx=connection)
        connection.rollback()
    sold.sell()
    audit = audit_log(sold.database, reached=lambda _: None)
    holes = 2 if bench.postgres else 0
    assert (wrong(audit), audit.account.unused) == ([], holes)
    assert sold.account("board") == {"handled": 2, "filtered_out": 2} | ({"unused": holes} if holes else {})


def test_types_that_were_taken_on_later_are_not_missed_before(sold: Sold) -> None:
    """Events of it that were passed before are of another type then; what is passed afterwards is not."""
    sold.bench.log.append(Lost(7))
    sold.app.drain()

    @sold.app.subscribers["mail"]
    def lost(crate: Lost) -> None: ...

    assert sold.account() == {"handled": 2, "parked": 1, "filtered_out": 3}
    sold.app.register()
    assert sold.account() == {"handled": 2, "parked": 1, "filtered_out": 3}
    position = sold.bench.log.append(Lost(8))[0].position
    with tampering(sold.database) as connection:
        run(connection, sold.database, f"update {{checkpoints}} set position = {position}, in_hand = {position}")
    (found,) = wrong(sold.audit())
    assert found.said.endswith(f"passed over: {position}")


@pytest.mark.parametrize("key", [None, "number"])
def test_partitions_that_stand_apart_are_accounted_for_each(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """The stretches are short, so that there are many; the third partition is then moved past events of its own."""
    monkeypatch.setattr(accounting, "STRETCH_POSITIONS", 7)
    sold = Sold(bench, partitions=3, key=key)
    rule = sold.app.subscribers["mail"].key
    sent = bench.log.append(*(Sent(number) for number in range(1, 31)))
    of = {one.position: partition_of(one.stream if key is None else str(one.data.number), partitions=3) for one in sent}
    sold.app.register()
    runtime = sold.app.runtime()
    runtime.feed.refresh()
    first = sold.app.partitions(runtime, ["mail"])[0]
    first.turn()
    first.release()
    audit = sold.audit(key=rule)
    common, apart = audit.accounts
    assert (common.until, apart.partition, apart.until) == (0, 0, 30)
    mine = sum(one == 0 for one in of.values())
    assert (apart.handled + apart.parked, apart.other_partition, apart.adds_up) == (mine, 30 - mine, True)
    assert not wrong(audit)

    table = sold.database.tables.checkpoints
    with bench.transaction() as connection:
        connection.execute(
            update(table).where(table.c.subscriber == "mail", table.c.partition == 2).values(position=20, in_hand=20)
        )
    found = wrong(sold.audit(key=rule))
    theirs = [position for position, one in of.items() if one == 2 and position <= 20]
    assert [one.check for one in found] == ["accounts"]
    assert f"mail/2: {len(theirs)} events of its types between 1 and 20 were handed to nobody" in found[0].said
    if key is not None:
        assert [one.check for one in sold.audit().findings if one.status == "note"] == ["accounts"]
        assert not wrong(sold.audit())


def test_a_rebuilt_projection_is_accounted_for(sold: Sold) -> None:
    control.advance(sold.database, "board", control.after_position(5))
    assert sold.account("board") == {"handled": 2, "filtered_out": 2, "passed_over": 1}
    begin_rebuild(sold.database, sold.app.subscribers["board"])
    sold.app.drain()
    assert sold.account("board") == {"handled": 3, "filtered_out": 2}
    rebuild_in_place(sold.database, "board")
    assert sold.account("board") == {}


def test_a_large_log_is_gone_through_in_stretches(sold: Sold, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream goes on from one page of the index to the next; what is told of progress ends at the whole."""
    monkeypatch.setattr(log_audit, "EVENTS_AT_ONCE", 3)
    for number in range(4):
        sold.bench.log.append(*(note("x", stream=f"long-{number}") for _ in range(number + 1)))
    told: list[int] = []
    audit = audit_log(sold.database, reached=told.append)
    assert (wrong(audit), audit.account.events, audit.account.streams) == ([], 15, 8)
    assert told == sorted(told)
    assert told[-1] == 30


@pytest.mark.parametrize("kind", ["effect", "projection"])
def test_a_subscriber_beyond_its_log_is_stopped_and_says_so(
    sold: Sold, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The events are put back to an earlier copy, and the checkpoints are not."""
    name = {"effect": "mail", "projection": "board"}[kind]
    sold.app.drain()
    with tampering(sold.database) as connection:
        run(connection, sold.database, "delete from {event_tags}", "delete from {events} where position > 3")
        if sold.bench.postgres:
            run(connection, sold.database, "select setval('eventlog.events_position_seq', 3)")
    assert (sold.bench.status(name).state, sold.bench.status(name).ahead) == ("ahead", True)
    with pytest.raises(RefusedError, match=f"{name} stands at 5, beyond the head 3") as refused:
        sold.app.drain([name])
    assert f"{name} stands at 5, beyond the head 3" in caplog.text
    assert refused.value.remedy.startswith("before anything is appended: `eventlog re")
    assert refused.value.remedy in caplog.text
    status = sold.bench.status(name)
    assert (status.state, status.ahead) == ("ahead", True)
    assert "restored to an earlier point" in str(status.state_reason)

    sold.bench.log.append(*map(Sent, range(14, 18)))
    assert sold.bench.status(name).state == "paused"
    with pytest.raises(RefusedError, match=f"{name} was stopped by a worker, and has not been moved since"):
        control.resume(sold.database, name)

    if kind == "effect":
        control.rewind(sold.database, name, control.after_position(3), resend=True)
    else:
        rebuild_in_place(sold.database, name)
    control.resume(sold.database, name)
    sold.bench.log.append(Sent(4))
    assert sold.app.drain([name]).handled == (5 if kind == "effect" else 7)
    assert sold.bench.status(name).ahead is False


def test_one_that_was_stopped_may_go_on_where_it_stands_by_an_operators_word(sold: Sold) -> None:
    stand_still(sold.database, "mail", reason="mail stands at 9, beyond the head 5")

    assert control.resume(sold.database, "mail", anyway=True).changed
    control.pause(sold.database, "mail")
    assert control.resume(sold.database, "mail").changed


@pytest.fixture
def drained(shop: Shop) -> Shop:
    shop.orders(1, -1, 1)
    shop.drain()
    return shop


def test_the_command_tells_what_came_of_every_position(drained: Shop) -> None:
    ran = drained.cli("verify", "mail", "board", "--log")
    assert (ran.code, ran.err) == (0, "Everything holds.\n")
    assert "mail: 1 to 3: 2 handled + 1 parked + 0 never used = 3" in ran.out.splitlines()
    assert ran.out.startswith("The log: 3 events in 3 streams up to the high-water mark 3, 0 positions never used\n")
    document = drained.json("verify", "--all")
    assert (document["ok"], document["log"]["events"]) == (True, 3)
    assert [one["name"] for one in document["subscribers"]] == ["board", "mail"]
    assert {one["subscriber"] for one in document["findings"]} == {None, "board", "mail"}
    assert len(drained.cli("verify", "-o", "jsonl").lines) == 8


def test_the_command_ends_with_4_3_or_2_where_it_has_to(drained: Shop) -> None:
    with opened_database(drained.url) as connection:
        table = "checkpoints" if drained.url.startswith("sqlite") else "eventlog.checkpoints"
        connection.execute(text(f"update {table} set position = 9 where subscriber = 'mail'"))
    ran = drained.cli("verify", "mail")
    assert (ran.code, ran.err) == (4, "2 things do not hold.\n")
    assert "WRONG checkpoints     mail stands at 9, beyond the head 3" in ran.out
    assert "-> before anything is appended: `eventlog rewind mail --from 4 --resend`" in ran.out
    status = drained.cli("status")
    assert "mail is ahead of the log" in status.err
    assert drained.cli("check", "mail").code == 4
    assert drained.json("verify", "board")["subscribers"][0]["ok"] is True
    assert drained.cli("verify", "board", "--all").code == 2
    unknown = drained.cli("verify", "log", "-o", "json")
    assert (unknown.code, "`eventlog verify`" in unknown.error["remedy"]) == (3, True)


APART = """
import os

from sqlalchemy import Column, Integer, MetaData, Table

from eventlog import App

app = App(os.environ["SHOP_URL"])
table = Table("seen", MetaData(), Column("number", Integer))
board = app.projection("board", tables=[table], database=os.environ["SHOP_URL"].replace("log.db", "apart.db"))


@board.on("clishop.*")
def count(recorded):
    pass
"""


@pytest.mark.parametrize("replaced", ["gone", "another"])
def test_a_projection_elsewhere_that_is_ahead_of_its_log_is_found_by_all(sqlite_shop: Shop, replaced: str) -> None:
    """The log's file is put back to a copy, and grows again to where the board has been."""
    shop = sqlite_shop
    shop.module("apart", APART)
    words = ("--app", "apart:app")
    shop.orders(1)
    file = shop.folder / "log.db"
    with opened_database(shop.url) as connection:
        connection.exec_driver_sql("vacuum into 'copy.db'")
    shop.orders(1, 1)
    shop.cli("run", "--drain", *words)
    assert shop.cli("verify", "board", *words).code == 0
    assert shop.cli("verify", "board").code == 3
    for ending in ("", "-wal", "-shm"):
        Path(f"{file}{ending}").unlink(missing_ok=True)
    shutil.copyfile(shop.folder / "copy.db", file)
    shop.module("apart", APART)
    if replaced == "another":
        shop.orders(1, 1)
    said = "board stands at 3, beyond the head 1" if replaced == "gone" else "board stands at 3, at event "
    ran = shop.cli("verify", "board", *words)
    assert (ran.code, said in ran.out) == (4, True), ran
    doctor = shop.cli("doctor", *words)
    assert (doctor.code, said in doctor.out) == (4, True), doctor
    board = next(one for one in shop.json("status", *words)["subscribers"] if one["name"] == "board")
    assert (board["state"], board["ahead"]) == ("ahead", True)
    assert shop.cli("run", "--drain", *words).code == 2
    assert shop.cli("rewind", "board", "--to-start", "--yes", *words).code == 0
    assert shop.cli("resume", "board", *words).code == 0
    assert shop.cli("run", "--drain", *words).code == 0
    assert shop.cli("verify", "--all", *words).code == 0


@contextmanager
def opened_database(url: str) -> Iterator[Connection]:
    with engine_of(url, isolation_level="AUTOCOMMIT") as engine, engine.connect() as connection:
        yield connection

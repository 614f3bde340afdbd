"""`export` and `import` as they are typed: files, pipes, archives, consent, and what is left of one that was killed."""

import io
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from eventlog.cli.carried_files import Lines
from eventlog.events import Event, caused_by
from tests.carried_support import exported, line, lines, places
from tests.cli_support import DEADLINE_SECONDS, Shop, command, on_terminal, ran_to_end
from tests.log_support import note, notes, opened, wait_until


def other(shop: Shop) -> str:
    """The URL of one more log, empty."""
    url = f"sqlite:///{shop.folder / 'other.db'}"
    assert shop.cli("init", "--url", url).code == 0
    return url


def but_its_time(written: bytes) -> dict[str, Any]:
    """SQLite keeps milliseconds."""
    return {name: value for name, value in msgspec.json.decode(written).items() if name != "recorded_at"}


def filled(shop: Shop, count: int = 3) -> list[bytes]:
    with opened(shop.url) as log:
        log.append(*notes(count))
        return exported(log)


def test_an_export_is_imported_into_an_empty_log_at_the_same_places(shop: Shop) -> None:
    written = filled(shop)
    assert shop.json("export", "notes.jsonl") == {
        "file": "notes.jsonl",
        "format": "events",
        "events": 3,
        "first": 1,
        "last": 3,
    }
    assert (shop.folder / "notes.jsonl").read_bytes() == b"".join(written)
    url = other(shop)
    done = shop.json("import", "notes.jsonl", "--url", url)
    assert done == {
        "read": 3,
        "imported": 3,
        "known": 0,
        "first": 1,
        "last": 3,
        "positions": "kept",
        "dry_run": False,
    }
    ran = shop.cli("import", "notes.jsonl", "--url", url)
    assert (ran.code, ran.out) == (0, "Imported 0 events, 3 were here already\n")
    with opened(url) as log:
        assert list(map(but_its_time, exported(log))) == list(map(but_its_time, written))


def test_an_export_goes_to_stdout_and_its_summary_to_stderr(sqlite_shop: Shop) -> None:
    written = filled(sqlite_shop)
    ran = sqlite_shop.cli("export", "--from", 2)
    assert ran.out.encode() == b"".join(written[1:])
    assert ran.err == "Exported 2 events, positions 2 to 3\n"


def test_an_export_is_narrowed_down_as_a_read_is(sqlite_shop: Shop) -> None:
    with opened(sqlite_shop.url) as log:
        log.append(note("a", stream="x"), note("b", stream="y"), note("c", stream="y"), tags=["late"])
        log.append(Event({"total": 19.5}, type="order.placed", stream="order-1"))

    def exports(*options: str) -> list[int]:
        return [one["position"] for one in sqlite_shop.cli("export", *options).lines]

    assert exports("--stream", "y", "--until", "2") == [2]
    assert exports("--where", "total:=19.5") == [4]
    assert exports("--tag", "late", "--where", "said=c") == [3]
    assert exports("--type", "order.*", "--since", "1h") == [4]
    assert exports("--before", "1h") == []


def test_a_name_that_ends_in_zst_is_an_archive(sqlite_shop: Shop) -> None:
    written = filled(sqlite_shop, 50)
    assert sqlite_shop.cli("export", "notes.jsonl.zst").code == 0
    archive = (sqlite_shop.folder / "notes.jsonl.zst").read_bytes()
    assert archive.startswith(b"\x28\xb5\x2f\xfd")
    assert len(archive) < len(b"".join(written)) // 4
    assert sqlite_shop.json("import", "notes.jsonl.zst", "--url", other(sqlite_shop))["imported"] == 50


@pytest.mark.parametrize("damage", ["cut", "spoiled"])
def test_an_archive_that_is_damaged_is_said_to_be(sqlite_shop: Shop, damage: str) -> None:
    filled(sqlite_shop, 50)
    sqlite_shop.cli("export", "notes.jsonl.zst")
    file = sqlite_shop.folder / "notes.jsonl.zst"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage == "cut" else whole[:40] + b"\0\1\2\3" * 20)
    ran = sqlite_shop.cli("import", "notes.jsonl.zst", "--url", other(sqlite_shop), "-o", "json")
    assert (ran.code, "cannot be read to its end" in ran.error["message"]) == (2, True)


def test_without_a_library_an_archive_is_refused_with_the_way_to_get_one(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    for library in ("backports.zstd", "compression.zstd"):
        monkeypatch.setitem(sys.modules, library, None)
    ran = sqlite_shop.cli("export", "notes.jsonl.zst")
    assert (ran.code, "pip install 'rewindlog[zstd]'" in ran.err) == (2, True)
    assert not list(sqlite_shop.folder.glob("*.zst*"))


def test_a_file_is_not_overwritten_unasked_and_appears_when_it_is_whole(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(sqlite_shop)
    file = sqlite_shop.folder / "notes.jsonl"
    file.write_text("mine")
    ran = sqlite_shop.cli("export", "notes.jsonl")
    assert (ran.code, "--overwrite" in ran.err, file.read_text()) == (2, True, "mine")

    def explode(_event: object) -> bytes:
        assert (sqlite_shop.folder / "notes.jsonl.part").exists()
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr("eventlog.cli.carry_commands.event_line", explode)
        assert sqlite_shop.cli("export", "notes.jsonl", "--overwrite").code == 1
    assert (file.read_text(), list(sqlite_shop.folder.glob("*.part"))) == ("mine", [])
    assert sqlite_shop.cli("export", "notes.jsonl", "--overwrite").code == 0
    assert file.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("name", ["nowhere/notes.jsonl", "."])
def test_a_place_that_cannot_be_written_is_refused(sqlite_shop: Shop, name: str) -> None:
    assert sqlite_shop.cli("export", name, "--overwrite").code == 2


def test_cloud_events_have_the_attributes_that_are_documented(sqlite_shop: Shop) -> None:
    """Their names, types and bounds are those of CloudEvents 1.0, which knows neither nesting nor long integers."""
    with opened(sqlite_shop.url) as log:
        (cause,) = log.append(Event({"total": 19.5}, type="order.placed", stream="order-1", tags=["late"]))
        log.append(note("after"), metadata={"user": "cyd", **caused_by(cause)})
    first, second = sqlite_shop.cli(
        "export", "--format", "cloudevents", "--source", "https://shop.example/orders"
    ).lines
    assert first == {
        "specversion": "1.0",
        "id": str(cause.id),
        "source": "https://shop.example/orders",
        "type": "order.placed",
        "subject": "order-1",
        "time": msgspec.to_builtins(cause.recorded_at),
        "datacontenttype": "application/json",
        "position": "1",
        "streamversion": "1",
        "typeversion": 1,
        "tags": '["late"]',
        "data": {"total": 19.5},
    }
    assert (second["correlationid"], second["causationid"]) == (str(cause.id), str(cause.id))
    assert msgspec.json.decode(second["metadata"]) == {"user": "cyd"}
    for name, value in [*first.items(), *second.items()]:
        assert name.isalnum()
        assert name.islower()
        assert name == "data" or isinstance(value, str) or (isinstance(value, int) and value < 2**31)
    assert sqlite_shop.cli("export", "--format", "cloudevents").lines[0]["source"] == "/eventlog"
    assert sqlite_shop.cli("export", "--source", "https://shop.example").code == 2


def test_a_log_that_is_not_empty_wants_consent(sqlite_shop: Shop) -> None:
    filled(sqlite_shop)
    (sqlite_shop.folder / "more.jsonl").write_bytes(line(1, stream="more", id=1_000))
    ran = sqlite_shop.cli("import", "more.jsonl", "-o", "json")
    assert (ran.code, "--yes" in ran.error["remedy"]) == (2, True)
    assert sqlite_shop.json("import", "more.jsonl", "--dry-run")["imported"] == 1
    assert sqlite_shop.json("import", "more.jsonl", "--yes")["positions"] == "new"
    assert "The log is not empty: events get new positions." in sqlite_shop.cli("import", "more.jsonl", "--yes").err


def test_consent_is_asked_for_on_a_terminal(sqlite_shop: Shop) -> None:
    filled(sqlite_shop)
    (sqlite_shop.folder / "more.jsonl").write_bytes(line(1, stream="more", id=1_000))
    ran = on_terminal("import", "more.jsonl", cwd=sqlite_shop.folder, asked="[y/N]", answer=b"y\n")
    assert (ran.code, "new positions 4 to 4" in ran.out) == (0, True)


def test_a_broken_line_is_told_with_what_was_imported_before_it(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventlog.carried.BATCH_EVENTS_MAX", 2)
    (sqlite_shop.folder / "notes.jsonl").write_bytes(b"".join([*lines(3), b"{}\n"]))
    ran = sqlite_shop.cli("import", "notes.jsonl")
    assert (ran.code, "Error: line 4: " in ran.err) == (2, True)
    assert "; 2 events imported until then: the same command goes on there" in ran.err
    assert sqlite_shop.cli("import", "notes.jsonl", "-o", "json").error["code"] == "broken_line"


def test_a_file_that_is_not_there_is_not_found(sqlite_shop: Shop) -> None:
    assert sqlite_shop.cli("import", "nowhere.jsonl").code == 3
    assert sqlite_shop.cli("import", ".").code == 2


def test_an_import_reads_stdin(sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"".join(lines(3)))))
    assert sqlite_shop.json("import", "-")["imported"] == 3


def test_the_reader_of_an_export_that_has_enough_is_no_error(sqlite_shop: Shop) -> None:
    filled(sqlite_shop, 2_000)
    exporting = shlex.join(command("export"))
    ran = ran_to_end(["bash", "-o", "pipefail", "-c", f"{exporting} | head -1"], cwd=sqlite_shop.folder)
    assert (ran.code, len(ran.lines)) == (0, 1)


def test_an_import_that_is_killed_goes_on_when_it_is_run_again(postgres_shop: Shop) -> None:
    """Killed with one batch committed and part of the next one read; positions are kept to the end."""
    shop, given = postgres_shop, lines(1_500)
    with opened(shop.url) as log:
        with subprocess.Popen(
            command("import", "-"), cwd=shop.folder, env=os.environ, stdin=subprocess.PIPE
        ) as running:
            assert running.stdin is not None
            running.stdin.write(b"".join(given[:1_200]))
            running.stdin.flush()
            wait_until(lambda: log.head() >= 1_000, what="the first batch")
            running.send_signal(signal.SIGKILL)
            assert running.wait(DEADLINE_SECONDS) == -signal.SIGKILL
        assert places(log)[-1] == (1_000, "note-1", 1_000)
        (shop.folder / "notes.jsonl").write_bytes(b"".join(given))
        done: Any = shop.json("import", "notes.jsonl")
        assert (done["imported"], done["known"], done["positions"]) == (500, 1_000, "kept")
        assert exported(log) == given


def test_control_c_ends_an_import_with_130_and_says_how_to_go_on(
    sqlite_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(lines_read: Lines) -> Iterator[bytes]:
        yield from lines(2)
        raise KeyboardInterrupt

    monkeypatch.setattr("eventlog.carried.BATCH_EVENTS_MAX", 1)
    monkeypatch.setattr(Lines, "__iter__", interrupted)
    (sqlite_shop.folder / "notes.jsonl").touch()
    ran = sqlite_shop.cli("import", "notes.jsonl")
    assert ran.code == 130
    assert "Left unfinished; 2 events imported until then: the same command goes on there" in ran.err

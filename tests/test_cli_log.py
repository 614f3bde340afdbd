"""`init`, `append` and `read` from the command line, on both databases."""

import io
import shlex
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from eventlog.events import Event
from tests.cli_support import Shop, ran_to_end
from tests.log_support import as_other_code, opened


@pytest.fixture
def empty_shop(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    return Shop.open(tmp_path, empty_database_url, monkeypatch=monkeypatch, capsys=capsys)


def test_init_says_what_it_did(empty_shop: Shop) -> None:
    assert empty_shop.json("init")["tables"] == "created"
    assert empty_shop.json("init")["tables"] == "unchanged"
    assert "Nothing to do" in empty_shop.cli("init").out


def test_init_makes_the_log_of_the_name_that_is_asked_for(empty_shop: Shop) -> None:
    empty_shop.cli("init", "--schema", "second")
    assert empty_shop.cli("read", "--schema", "second").code == 0
    assert empty_shop.cli("read").code == 5


def test_append_tells_where_the_event_is(shop: Shop) -> None:
    (event,) = shop.json("append", "note.taken", "--stream", "note-1", "-d", "said=hello")["events"]
    assert set(event) >= {"position", "id", "stream", "version"}
    assert (event["stream"], event["version"]) == ("note-1", 1)


def test_fields_are_text_or_json(shop: Shop) -> None:
    shop.cli("append", "note.taken", "-s", "note-1", "-d", "said=5=5", "-d", "count:=5", "-d", "tags:=[1, null]")
    (event,) = shop.cli("read", "-o", "jsonl").lines
    assert event["data"] == {"said": "5=5", "count": 5, "tags": [1, None]}


def test_metadata_is_recorded(shop: Shop) -> None:
    shop.cli("append", "note.taken", "-s", "note-1", "--metadata", "who=ada", "--metadata", "try:=2")
    (event,) = shop.cli("read", "-o", "jsonl").lines
    assert event["metadata"] == {"who": "ada", "try": 2}


def test_every_line_of_stdin_is_an_event(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, '{"n": 1}\n\n{"n": 2}\n')
    events = shop.json("append", "note.taken", "-s", "note-1", "--data", "-", "--expected", "none")["events"]
    assert [event["version"] for event in events] == [1, 2]


def test_a_wrong_line_of_stdin_is_named_and_nothing_is_appended(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, '{"n": 1}\n{"n": \n')
    ran = shop.cli("append", "note.taken", "-s", "note-1", "--data", "-")
    assert (ran.code, "line 2" in ran.err) == (2, True)
    assert shop.cli("read", "-o", "jsonl").out == ""


def test_appending_nothing_is_no_error(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    _type(monkeypatch, "")
    assert shop.json("append", "note.taken", "-s", "note-1", "--data", "-") == {"events": []}


def test_an_id_makes_an_append_idempotent(shop: Shop) -> None:
    once = ("append", "note.taken", "-s", "note-1", "-d", "said=hello", "--id", str(uuid4()))
    assert shop.json(*once) == shop.json(*once)
    assert len(shop.cli("read", "-o", "jsonl").lines) == 1


def test_a_stream_at_another_version_is_a_conflict(shop: Shop) -> None:
    shop.cli("append", "note.taken", "-s", "note-1")
    ran = shop.cli("append", "note.taken", "-s", "note-1", "--expected", "none", "-o", "json")
    assert (ran.code, ran.error["code"]) == (1, "wrong_expected_version")


@pytest.mark.parametrize(
    "wrong",
    [
        ("note taken", "-s", "note-1"),
        ("note.taken", "-s", ""),
        ("note.taken", "-s", "note-1", "-d", "said"),
        ("note.taken", "-s", "note-1", "-d", "said:=hello"),
        ("note.taken", "-s", "note-1", "-d", "a=1", "-d", "a=2"),
        ("note.taken", "-s", "note-1", "-d", "a=1", "--data", "{}"),
        ("note.taken", "-s", "note-1", "--data", "NaN"),
        ("note.taken", "-s", "note-1", "--expected", "soon"),
        ("note.taken", "-s", "note-1", "--id", "7"),
        ("note.taken",),
    ],
)
def test_what_cannot_be_appended_is_refused_with_a_remedy(shop: Shop, wrong: tuple[str, ...]) -> None:
    ran = shop.cli("append", *wrong, "-o", "json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error["message"]
    assert ran.error["remedy"]


def test_read_gives_one_recorded_event_a_line(shop: Shop) -> None:
    with opened(shop.url) as log:
        (recorded,) = log.append(
            Event({"said": "hé\n"}, type="note.taken", stream="note-1", metadata={"by": "ada"}, tags=["desk:7"])
        )
    for form in ("json", "jsonl"):
        (event,) = shop.cli("read", "--output", form).lines
        assert event.pop("recorded_at").startswith(recorded.recorded_at.isoformat()[:19])
        assert event == {
            "position": recorded.position,
            "id": str(recorded.id),
            "stream": "note-1",
            "version": 1,
            "type": "note.taken",
            "type_version": 1,
            "data": {"said": "hé\n"},
            "metadata": {"by": "ada"},
            "tags": ["desk:7"],
        }


def test_what_no_class_can_read_is_read_all_the_same(shop: Shop) -> None:
    with opened(shop.url) as log, as_other_code():
        log.append(Event({"number": "not one"}, type="clishop.placed", stream="clishop-1"))
    shop.cli("register", "--app", "shop:app")
    (event,) = shop.cli("read", "--app", "shop:app", "-o", "jsonl").lines
    assert event["data"] == {"number": "not one"}


def test_numbers_are_read_as_they_were_written(shop: Shop) -> None:
    with opened(shop.url) as log:
        log.append(Event({"n": 1}, type="note.taken", stream="note-1"))
        with log.database.transaction() as connection:
            connection.exec_driver_sql(
                _insert(shop.url, '{"precise": 1.10,\n "large": 123456789012345678901234567890}')
            )
    *_, last = shop.cli("read", "-o", "jsonl").out.splitlines()
    assert '"data":{"precise":1.10,"large":123456789012345678901234567890}' in last


def test_a_range_a_stream_and_patterns_narrow_what_is_read(shop: Shop) -> None:
    with opened(shop.url) as log:
        kinds = ("a.one", "a.two", "b.one", "a.b.one")
        positions = [log.append(Event({}, type=kind, stream=f"s-{kind[0]}"))[0].position for kind in kinds]

    def read(*options: str | int) -> list[int]:
        return [event["position"] for event in shop.cli("read", "-o", "jsonl", *options).lines]

    assert read("--after", positions[1]) == read("--from", positions[2]) == positions[2:]
    assert read("--until", positions[1]) == positions[:2]
    assert read("--type", "a.*") == positions[:2]
    assert read("--type", "b.one", "--type", "a.**") == positions
    assert read("--stream", "s-b") == [positions[2]]
    assert read("--limit", 1) == positions[:1]


def test_after_and_from_together_are_refused(shop: Shop) -> None:
    assert shop.cli("read", "--after", 1, "--from", 1).code == 2


def test_a_table_in_a_pipe_is_plain_text_with_whole_cells(shop: Shop) -> None:
    said = "x" * 300
    shop.cli("append", "note.taken", "-s", "note-1", "-d", f"said={said}")
    header, line = shop.cli("read").out.splitlines()
    assert header.split() == ["POSITION", "RECORDED", "STREAM", "TYPE", "DATA"]
    assert said in line
    assert "\x1b" not in line


def test_a_reader_that_has_enough_is_no_error(sqlite_url: str, tmp_path: Path) -> None:
    with opened(sqlite_url) as log:
        log.append(*(Event({"said": "x" * 200}, type="note.taken", stream="note-1") for _ in range(3_000)))
    program = shlex.join([sys.executable, "-m", "eventlog.cli", "--url", sqlite_url])
    script = f"{program} read -o jsonl | head -n 1; echo ${{PIPESTATUS[0]}}"
    ran = ran_to_end(["bash", "-c", script], cwd=tmp_path)
    assert ran.out.splitlines()[-1] == "0"
    assert ran.err == ""


def _type(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def _insert(url: str, data: str) -> str:
    table = "events" if url.startswith("sqlite") else "eventlog.events"
    clock = ", recorded_at" if url.startswith("sqlite") else ""
    now = ", strftime('%Y-%m-%dT%H:%M:%fZ', 'now')" if clock else ""
    return (
        f"insert into {table} (id, stream, version, type, data{clock})"
        f" values ('{uuid4()}', 'note-2', 1, 'note.taken', '{data}'{now})"
    )

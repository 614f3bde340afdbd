"""`types`, `types check`, `types lock` and `types export` from the command line."""

from pathlib import Path
from typing import Any

import pytest

from eventlog.events import Event
from tests.cli_support import Ran, Shop, on_terminal
from tests.log_support import opened

pytestmark = pytest.mark.usefixtures("own_declarations")

DEPOT = '''"""A depot: parcels, weighed in grams since version 2, and boxes that were called cases."""

import msgspec

from eventlog import App, event, upcast

app = App("{url}")


@event("depot.weighed", version=2, stream="parcel-{{number}}")
class Weighed(msgspec.Struct, frozen=True):
    number: int
    grams: int


@event("box.closed", stream="box-{{number}}", aliases=("case.shut",))
class BoxClosed(msgspec.Struct, frozen=True):
    number: int


@event("box.burnt")
class BoxBurnt(msgspec.Struct, frozen=True):
    number: int


@upcast("depot.weighed", version=1)
def in_grams(data: dict) -> dict:
    return {{"number": data["number"], "grams": round(data["kilograms"] * 1000)}}
'''


@pytest.fixture
def shop(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    shop = Shop.open(tmp_path, database_url, monkeypatch=monkeypatch, capsys=capsys)
    depot(shop)
    return shop


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shop:
    """A shop whose database nobody can reach."""
    url = "postgresql://nobody@127.0.0.1:1/nowhere"
    shop = Shop.open(tmp_path, url, monkeypatch=monkeypatch, capsys=capsys)
    depot(shop)
    return shop


def depot(shop: Shop, *changes: tuple[str, str]) -> None:
    """Write the app, as it is after some changes of its text; what it declared before is forgotten."""
    text = DEPOT.format(url=shop.url)
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    shop.module("depot", text)
    from eventlog import event_types, upcasting

    for registry in (event_types._by_name, event_types._by_class, upcasting._steps):
        registry.clear()


def record(shop: Shop, *events: Event[Any]) -> list[int]:
    with opened(shop.url) as log:
        return [one.position for one in log.append(*events)]


def weighed(number: int, version: int = 2, **data: Any) -> Event[Any]:
    return Event({"number": number, **data}, type="depot.weighed", stream=f"parcel-{number}", type_version=version)


def shut(number: int) -> Event[Any]:
    return Event({"number": number}, type="case.shut", stream=f"box-{number}")


def lock(shop: Shop, *arguments: str) -> Ran:
    return shop.cli("types", "lock", "--app", "depot:app", *arguments)


def check_lock(shop: Shop) -> Ran:
    return shop.cli("types", "check", "--app", "depot:app", "--lock", "eventlog.lock.json", "--output", "json")


def test_types_counts_what_is_recorded_by_type_and_version(shop: Shop) -> None:
    positions = record(shop, weighed(1, 1, kilograms=1), shut(1), weighed(2, grams=2), weighed(3, grams=3))

    listed = shop.json("types")["types"]

    assert [(one["type"], one["version"], one["count"], one["first"], one["last"]) for one in listed] == [
        ("case.shut", 1, 1, positions[1], positions[1]),
        ("depot.weighed", 1, 1, positions[0], positions[0]),
        ("depot.weighed", 2, 2, positions[2], positions[3]),
    ]
    assert {one["declared"] for one in listed} == {None}


def test_types_with_an_app_says_which_class_reads_what(shop: Shop) -> None:
    record(shop, weighed(1, 1, kilograms=1), shut(1), Event({}, type="note.taken", stream="note"))

    listed = shop.json("types", "--app", "depot:app")["types"]
    table = shop.cli("types", "--app", "depot:app").out.splitlines()

    assert [(one["type"], one["version"], one["count"], one["declared"], one["declared_as"]) for one in listed] == [
        ("box.burnt", 1, 0, "depot.BoxBurnt", "box.burnt"),
        ("box.closed", 1, 0, "depot.BoxClosed", "box.closed"),
        ("case.shut", 1, 1, "depot.BoxClosed", "box.closed"),
        ("depot.weighed", 1, 1, "depot.Weighed", "depot.weighed"),
        ("depot.weighed", 2, 0, "depot.Weighed", "depot.weighed"),
        ("note.taken", 1, 1, None, None),
    ]
    assert [line.split("  ")[-1].strip() for line in table[1:]] == [
        "depot.BoxBurnt",
        "depot.BoxClosed",
        "depot.BoxClosed, now box.closed",
        "depot.Weighed, version 2",
        "depot.Weighed",
        "not declared",
    ]


@pytest.mark.parametrize(
    ("arguments", "version"),
    [
        ([], 1),
        (["--app", "depot:app"], 2),
        (["--type-version", "7"], 7),
        (["--app", "no:app", "--type-version", "7"], 7),
    ],
)
def test_appended_data_has_the_form_the_app_declares_or_the_one_that_is_named(
    shop: Shop, arguments: list[str], version: int
) -> None:
    shop.json("append", "depot.weighed", "-s", "parcel-1", "-d", "number:=1", "-d", "grams:=2", *arguments)

    assert [one["version"] for one in shop.json("types")["types"]] == [version]


def test_types_of_an_empty_log_says_so(shop: Shop) -> None:
    ran = shop.cli("types")

    assert (ran.code, ran.out, ran.err) == (0, "", "No events are recorded yet.\n")


def test_types_counts_nothing_above_the_high_water_mark(
    tmp_path: Path, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An open transaction with an earlier position holds back what was committed after it."""
    shop = Shop.open(tmp_path, postgres_database_url, monkeypatch=monkeypatch, capsys=capsys)
    depot(shop)
    record(shop, shut(1))
    with opened(shop.url) as log, log.engine.connect() as connection, connection.begin() as open_transaction:
        log.append(shut(2), tx=connection)
        record(shop, shut(3))

        assert [one["count"] for one in shop.json("types")["types"]] == [1]
        assert shop.json("types", "check", "--app", "depot:app", "--all")["checked"] == 1
        assert shop.json("types", "check", "--app", "depot:app")["checked"] == 1
        open_transaction.rollback()


def test_check_reads_every_type_and_version_through_the_classes(shop: Shop) -> None:
    record(shop, weighed(1, 1, kilograms=1.5), weighed(2, grams=2), shut(1))

    ran = shop.cli("types", "check", "--app", "depot:app")

    assert ran.code == 0
    assert [line.split()[:4] for line in ran.out.splitlines()[1:]] == [
        ["case.shut", "1", "1", "0"],
        ["depot.weighed", "1", "1", "0"],
        ["depot.weighed", "2", "1", "0"],
    ]


def test_check_names_the_positions_that_cannot_be_read_and_exits_with_4(shop: Shop) -> None:
    positions = record(
        shop, weighed(1, 1, kilograms=1.5), weighed(2, 1, stones=1), weighed(3), shut(1), weighed(4, 1, kilograms=None)
    )

    ran = shop.cli("types", "check", "--app", "depot:app", "--all", "--output", "json")

    assert ran.code == 4
    assert (ran.json["checked"], ran.json["failed"]) == (5, 3)
    assert {(one["type"], one["version"]): one["positions"] for one in ran.json["types"]} == {
        ("case.shut", 1): [],
        ("depot.weighed", 1): [positions[1], positions[4]],
        ("depot.weighed", 2): [positions[2]],
    }
    assert "KeyError: 'kilograms'" in ran.json["types"][1]["error"]


def test_check_shows_a_person_the_first_positions(shop: Shop) -> None:
    positions = record(shop, *(weighed(number) for number in range(7)))

    ran = shop.cli("types", "check", "--app", "depot:app", "--all")

    assert ran.code == 4
    assert ", ".join(map(str, positions[:5])) + " ..." in ran.out
    assert "missing required field `grams`" in ran.out


def test_a_sample_has_the_first_the_last_and_some_between_of_every_type_and_version(shop: Shop) -> None:
    """Thirty parcels with a rare box among them: the parcels that cannot be read are the first and the last one."""
    record(shop, weighed(0), *(weighed(number, grams=1) for number in range(1, 15)), shut(1))
    record(shop, *(weighed(number, grams=1) for number in range(15, 29)), weighed(29))

    ran = shop.cli("types", "check", "--app", "depot:app", "--sample", "5", "--output", "json")

    assert ran.code == 4
    box, parcel = ran.json["types"]
    assert (box["checked"], box["failed"]) == (1, 0)
    assert (parcel["checked"], parcel["failed"]) == (5, 2)


def test_a_sample_as_large_as_the_log_is_all_of_it(shop: Shop) -> None:
    record(shop, *(weighed(number, grams=1) for number in range(12)))

    assert shop.json("types", "check", "--app", "depot:app", "--sample", "100")["checked"] == 12


def test_check_says_which_types_have_no_class(shop: Shop) -> None:
    record(shop, Event({"n": 1}, type="note.taken", stream="note"))

    ran = shop.cli("types", "check", "--app", "depot:app")

    assert ran.code == 0
    assert "No class is declared for note.taken" in ran.err


def test_check_fails_for_upcasters_that_lead_nowhere(shop: Shop) -> None:
    depot(shop, ("version=2, stream", "version=3, stream"))

    ran = shop.cli("types", "check", "--app", "depot:app", "--output", "json")

    assert ran.code == 4
    assert "no upcaster from version 2 to 3" in ran.json["problems"][0]


@pytest.mark.parametrize("arguments", [["--all", "--sample", "3"], ["--lock", "x.json", "--all"], ["--sample", "1"]])
def test_checks_that_do_not_go_together_are_refused(offline: Shop, arguments: list[str]) -> None:
    assert offline.cli("types", "check", "--app", "depot:app", *arguments).code == 2


@pytest.mark.parametrize("command", [["check"], ["lock"], ["export"], ["check", "--lock", "x.json"]])
def test_what_looks_at_classes_wants_an_app(offline: Shop, command: list[str]) -> None:
    ran = offline.cli("types", *command)

    assert ran.code == 2
    assert "--app module:attribute" in ran.err


def test_a_database_that_does_not_answer_is_said(offline: Shop) -> None:
    assert offline.cli("types").code == 5
    assert offline.cli("types", "check", "--app", "depot:app").code == 5


def test_a_lock_of_the_classes_of_today_holds_without_a_database(offline: Shop) -> None:
    written = lock(offline)
    ran = check_lock(offline)

    assert (written.code, written.out) == (0, "Locked 3 types in eventlog.lock.json, 3 changes.\n")
    assert (ran.code, ran.json) == (0, {"lock": "eventlog.lock.json", "changes": [], "problems": []})


def test_a_lock_is_the_same_whenever_it_is_written(offline: Shop) -> None:
    lock(offline)
    first = Path("eventlog.lock.json").read_text()
    lock(offline)

    assert Path("eventlog.lock.json").read_text() == first
    assert first.endswith("}\n")


BREAKING = {
    "a required field": (("    grams: int", "    grams: int\n    depot: str"), "$.depot: is required now"),
    "a narrower field": (("    grams: int", "    grams: bool"), "$.grams: integer is no longer read"),
    "a version lowered": (("version=2, stream", "version=1, stream"), "the class is declared with version 1"),
    "a type renamed": (('"box.burnt"', '"box.burned"'), "is declared no more"),
    "an alias dropped": ((', aliases=("case.shut",)', ""), "no longer read under its old name 'case.shut'"),
    "a version without its step": (("version=2, stream", "version=3, stream"), "no upcaster leads from version 2 to 3"),
}


@pytest.mark.parametrize("name", BREAKING)
def test_a_change_that_breaks_recorded_events_is_found_without_a_database(offline: Shop, name: str) -> None:
    change, said = BREAKING[name]
    lock(offline)
    depot(offline, change)

    ran = check_lock(offline)

    assert ran.code == 4
    assert any(said in one["problem"] and one["breaking"] for one in ran.json["changes"])


HARMLESS = {
    "a field with a default": (("    grams: int", '    grams: int\n    depot: str = "JFK"'), "reads what was recorded"),
    "a wider field": (("    grams: int", "    grams: int | None"), "reads what was recorded"),
    "a rename with an alias": (('"box.burnt"', '"box.burned", aliases=("box.burnt",)'), "is named 'box.burned' now"),
    "another stream": (('"parcel-', '"package-'), "its streams are named 'package-{number}' now"),
    "other tags": (
        ('stream="parcel-{number}")', 'stream="parcel-{number}", tags=["parcel:{number}"])'),
        "its tags are ['parcel:{number}'] now, and were []",
    ),
    "a version that reads the one before": (('@event("box.burnt"', '@event("box.burnt", version=2'), "2 is declared"),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_a_change_that_breaks_nothing_is_news(offline: Shop, name: str) -> None:
    change, said = HARMLESS[name]
    lock(offline)
    depot(offline, change)

    ran = check_lock(offline)

    assert ran.code == 0
    assert any(said in one["problem"] for one in ran.json["changes"])
    assert not any(one["breaking"] for one in ran.json["changes"])


def test_a_new_version_with_its_step_breaks_nothing_whatever_the_class_became(offline: Shop) -> None:
    step = '@upcast("depot.weighed", version=1)'
    lock(offline)
    depot(
        offline,
        ("version=2, stream", "version=3, stream"),
        ("    grams: int", "    ounces: float"),
        (step, f'upcast("depot.weighed", version=2)(dict)\n\n\n{step}'),
    )

    ran = check_lock(offline)

    assert (ran.code, [one["breaking"] for one in ran.json["changes"]]) == (0, [False])


def test_older_versions_stay_in_the_lock_and_keep_their_upcasters_alive(offline: Shop) -> None:
    """Two versions on, taking the first step away would still make recorded events unreadable."""
    step = '@upcast("depot.weighed", version=1)'
    second = ("version=2, stream", "version=3, stream"), (step, f'upcast("depot.weighed", version=2)(dict)\n\n\n{step}')
    depot(offline, ("version=2, stream", "version=1, stream"), (step, "# no step yet:"))
    lock(offline)
    depot(offline)
    lock(offline)
    depot(offline, *second)
    lock(offline)
    assert check_lock(offline).code == 0

    depot(offline, second[0], (step, 'upcast("depot.weighed", version=2)(dict)\n\n\n#'))

    ran = check_lock(offline)
    assert ran.code == 4
    assert [(one["version"], one["problem"]) for one in ran.json["changes"]] == [
        (1, "no upcaster leads from version 1 to 2")
    ]


def test_a_type_keeps_its_locked_versions_under_a_new_name(offline: Shop) -> None:
    lock(offline)
    renamed = ('"box.burnt"', '"box.burned", version=2, aliases=("box.burnt",)')
    depot(offline, renamed)
    lock(offline)
    assert check_lock(offline).code == 0

    depot(
        offline,
        renamed,
        (
            "class BoxBurnt(msgspec.Struct, frozen=True):\n    number: int",
            "class BoxBurnt(msgspec.Struct):\n    number: str",
        ),
    )

    ran = check_lock(offline)
    assert ran.code == 4
    assert {one["version"] for one in ran.json["changes"] if one["breaking"]} == {1, 2}


def test_a_change_that_breaks_is_not_locked_without_consent(offline: Shop) -> None:
    lock(offline)
    before = Path("eventlog.lock.json").read_text()
    depot(offline, ("    grams: int", "    grams: bool"))

    refused = lock(offline)
    assert refused.code == 2
    assert "$.grams: integer is no longer read" in refused.err
    assert Path("eventlog.lock.json").read_text() == before

    assert lock(offline, "--yes").code == 0
    assert check_lock(offline).code == 0


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "types": {"a": {}}}', "\xff"])
def test_a_file_that_is_no_lock_is_refused(offline: Shop, text: str) -> None:
    Path("eventlog.lock.json").write_text(text, encoding="latin-1")

    ran = check_lock(offline)

    assert ran.code == 2
    assert "eventlog.lock.json is no lock file" in ran.error["message"]


def test_a_lock_of_a_later_release_is_refused(offline: Shop) -> None:
    Path("eventlog.lock.json").write_text('{"format": 2, "types": []}')

    ran = check_lock(offline)

    assert (ran.code, ran.error["remedy"]) == (2, "upgrade rewindlog here")


def test_a_lock_that_is_not_there_is_not_found(offline: Shop) -> None:
    assert check_lock(offline).code == 3


def test_a_lock_that_cannot_be_written_is_said(offline: Shop) -> None:
    ran = lock(offline, "no/such/folder.json")

    assert ran.code == 2
    assert "cannot be written" in ran.err


def test_a_person_sees_what_breaks_and_what_to_do(offline: Shop) -> None:
    lock(offline)
    depot(offline, ("    grams: int", "    grams: bool"))

    ran = on_terminal(
        *("types", "check", "--app", "depot:app", "--lock", "eventlog.lock.json"), cwd=offline.folder, columns=120
    )

    assert ran.code == 4
    assert "$.grams: integer is no longer read" in ran.out
    assert "give the type a new version and an upcaster" in " ".join(ran.out.split())

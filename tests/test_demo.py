"""`eventlog demo` from end to end, on both databases, and the folder it leaves for the reader to mend."""

import asyncio
import csv
import dataclasses
import gzip
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from email import message_from_bytes
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session
from sqlalchemy import Engine

from eventlog.cli.demo import deeds
from eventlog.cli.demo.workspace import BUG, FIX
from eventlog.cli.main import main
from tests import warm_python
from tests.cli_support import Ran, as_process, on_terminal, started
from tests.log_support import engine_of, wait_until
from tests.small_demo import FLIGHTS, of_one_day

ROOT = Path(__file__).parent.parent
FIRST = {"delays": {"handled": 6_043, "failed": 18}, "carrier-days": {"handled": 18_259, "failed": 0}}
EVENTS = {"flight.scheduled": 6_099, "flight.departed": 6_064, "flight.arrived": 6_061, "flight.cancelled": 35}
VERY_LATE = 87
NEXT = ("cd flights", "status", "failures", "app.py", "retry", "run --drain", "rewind carrier-days --to-start")
DEMO_SECONDS_MAX = 110.0
SMALL = ("-m", "tests.small_demo")


class Post:
    """What an aiosmtpd server does with a message: it keeps it."""

    def __init__(self) -> None:
        self.address = ""
        self.envelopes: list[Envelope] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802  # aiosmtpd's
        self.envelopes.append(envelope)
        return "250 ok"

    def message_ids(self) -> list[str]:
        contents = [envelope.original_content or b"" for envelope in self.envelopes]
        return [str(message_from_bytes(content)["Message-ID"]) for content in contents]


class OnAnyPort(Controller):
    """A mail server on a free port: before it tries itself, it has to be told which one it got."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]  # aiosmtpd says nothing of its types


class Tour:
    """A folder the demo has left, and the commands a reader types in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, *arguments: str, **environment: str) -> Ran:
        ran = as_process(*arguments, cwd=self.folder, **environment)
        assert ran.code == 0, ran.err
        return ran

    def json(self, *arguments: str, **environment: str) -> Any:
        return self.run(*arguments, "--output", "json", **environment).json

    def board(self) -> dict[str, tuple[int, int, int, int]]:
        with engine_of(f"sqlite:///{self.folder / 'flights.db'}") as engine, engine.connect() as connection:
            rows = connection.exec_driver_sql("select airport, arrivals, late, minutes, worst from airport_delays")
            return {row[0]: (row[1], row[2], row[3], row[4]) for row in rows}

    def mend(self) -> None:
        file = self.folder / "app.py"
        file.write_text(file.read_text().replace(BUG, FIX))


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What a demo with a folder has left: there, on the screen, and at the mail server."""

    here: Path
    printed: str
    message_ids: list[str]
    processor_seconds: float


def small_demo(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """Start the demo of one day as a process of its own."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("EVENTLOG_")}
    piped: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return warm_python.started(*SMALL, *arguments, cwd=ROOT, env=clean | environment, **piped)


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("URL", "APP", "SCHEMA", "OUTPUT", "DEMO_SMTP"):
        monkeypatch.delenv(f"EVENTLOG_{name}", raising=False)


def board_of_the_data(*days: int) -> dict[str, tuple[int, int, int, int]]:
    """Arrivals, late ones, minutes and worst by airport, in plain Python over the rows of the data."""
    packed = (files("eventlog.cli.demo") / "flights-2013-01-01..07.csv.gz").read_bytes()
    delays: dict[str, list[int]] = defaultdict(list)
    for row in csv.DictReader(gzip.decompress(packed).decode().splitlines()):
        if row["arr_time"] not in ("", "NA") and int(row["day"]) in days:
            delay = 0 if row["arr_delay"] in ("", "NA") else int(row["arr_delay"])
            delays[row["dest"]].append(max(delay, 0))
    return {
        airport: (len(minutes), sum(one >= 15 for one in minutes), sum(minutes), max(minutes))
        for airport, minutes in delays.items()
    }


@pytest.fixture(scope="module")
def expected_board() -> dict[str, tuple[int, int, int, int]]:
    return board_of_the_data(*range(1, 8))


@pytest.fixture(scope="module")
def post() -> Iterator[Post]:
    """A mail server that is not ours."""
    handler = Post()
    controller = OnAnyPort(handler, hostname="127.0.0.1", port=0)
    controller.start()
    handler.address = f"127.0.0.1:{controller.port}"
    yield handler
    controller.stop()


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, post: Post) -> Left:
    """A folder the demo has left, not to be touched; its mails went to a server the environment named.

    It was run on a terminal, and `printed` is what stood there.
    """
    here = tmp_path_factory.mktemp("here")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EVENTLOG_DEMO_SMTP", post.address)
        patch.setenv("EVENTLOG_URL", f"sqlite:///{here / 'other.db'}")
        patch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        before = os.times()
        ran = on_terminal("demo", "flights", cwd=here, columns=80)
        after = os.times()
    assert ran.code == 0, ran.out
    spent = (after.children_user + after.children_system) - (before.children_user + before.children_system)
    return Left(here=here, printed=ran.out, message_ids=post.message_ids(), processor_seconds=spent)


@pytest.fixture
def tour(left: Left, tmp_path: Path) -> Tour:
    return Tour(shutil.copytree(left.here / "flights", tmp_path / "flights"))


@pytest.fixture(scope="module")
def temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the demo that prints `document` makes its temporary folder."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="module")
def document(temporary: Path) -> Any:
    """What `eventlog demo --output json` prints of one day."""
    with small_demo("--output", "json", TMPDIR=str(temporary)) as process:
        out, err = process.communicate(timeout=DEMO_SECONDS_MAX)
    assert (process.returncode, err) == (0, "")
    return msgspec.json.decode(out)


def facts(document: Any) -> Any:
    """The document without what differs from run to run."""
    return {key: value for key, value in document.items() if not key.endswith("seconds")}


def test_the_demo_counts_flights_events_mails_and_failures(left: Left, tour: Tour) -> None:
    assert "Append 6,099 flights" in left.printed
    assert {one["type"]: one["count"] for one in tour.json("types")["types"]} == EVENTS
    handled = {name: f"{one['handled']:,}  {name}" for name, one in FIRST.items()}
    assert [one for one in (*handled.values(), "6,061  delay-mail", "18 failed") if one not in left.printed] == []


def test_the_document_counts_what_there_was(document: Any) -> None:
    arrived = sum(one[0] for one in board_of_the_data(1).values())
    events, failed = document["events"], document["failures_before_fix"]
    assert (document["flights"], events["flight.scheduled"], events["flight.arrived"]) == (FLIGHTS, FLIGHTS, arrived)
    assert document["subscribers"] == {
        "delays": {"handled": arrived - failed, "failed": failed},
        "carrier-days": {"handled": sum(events.values()), "failed": 0},
        "delay-mail": {"handled": arrived, "failed": 0},
    }
    assert (failed > 0, document["failures_after_fix"]) == (True, 0)


def test_the_board_says_what_the_data_says(document: Any) -> None:
    board = {one["airport"]: (one["arrivals"], one["late"], one["minutes"], one["worst"]) for one in document["board"]}
    assert board == board_of_the_data(1)


def test_the_board_begins_with_most_minutes_of_delay(document: Any) -> None:
    minutes = [one["minutes"] for one in document["board"]]
    assert minutes == sorted(minutes, reverse=True)
    assert document["board"][0]["average"] == round(minutes[0] / document["board"][0]["arrivals"], 1)


def test_the_demo_is_quick_on_sqlite(left: Left) -> None:
    """The processor's time, which the neighbours of a test change least."""
    assert left.processor_seconds < 15


def test_postgresql_gives_the_same(
    postgres_empty_url: str,
    document: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deeds, "read_flights", of_one_day)
    assert main(["demo", "--url", postgres_empty_url, "--output", "json"]) == 0
    assert facts(msgspec.json.decode(capsys.readouterr().out)) == facts(document)
    with engine_of(postgres_empty_url) as engine:
        assert_sums_are_those_of_the_log(engine, events="eventlog.events", least=10)

    folder = tmp_path / "flights"
    assert main(["demo", str(folder), "--url", postgres_empty_url]) == 2
    assert "has a table 'airport_delays' already" in capsys.readouterr().err
    assert not folder.exists()


def test_a_temporary_demo_leaves_nothing_behind(document: Any, temporary: Path) -> None:
    assert document["flights"] == FLIGHTS
    assert list(temporary.iterdir()) == []


def test_a_folder_holds_the_app_its_settings_and_the_database(left: Left) -> None:
    assert sorted(path.name for path in (left.here / "flights").iterdir()) == ["app.py", "eventlog.toml", "flights.db"]


def test_a_folder_prints_the_board_as_it_is_and_the_commands_that_mend_it(left: Left) -> None:
    commands = left.printed.partition("Try next")[2]
    assert "18 arrivals missing here: in the ledger." in left.printed
    assert [one for one in NEXT if one not in commands] == []


def test_settings_of_the_surroundings_lead_into_no_other_database(left: Left) -> None:
    assert [path.name for path in left.here.iterdir()] == ["flights"]
    assert "unset EVENTLOG_URL" in left.printed


def test_the_reader_mends_the_line_and_the_board_heals(tour: Tour, expected_board: dict[str, Any]) -> None:
    """With no flags, and no mail server: nothing of the mails is delivered again."""
    assert sum(one[0] for one in tour.board().values()) == 6_043
    assert len(tour.json("failures")["failures"]) == 18

    tour.mend()
    assert tour.json("retry")["changed"] == 18
    assert tour.json("run", "--drain")["subscribers"]["delays"] == {"handled": 18, "failed": 0}

    assert tour.json("failures")["failures"] == []
    assert tour.board() == expected_board


def test_a_retry_without_the_fix_fails_again(tour: Tour) -> None:
    before = tour.board()
    tour.run("retry")
    assert tour.json("run", "--drain")["subscribers"]["delays"] == {"handled": 0, "failed": 18}
    assert tour.board() == before


def test_a_rewind_of_the_board_makes_it_anew(tour: Tour, expected_board: dict[str, Any]) -> None:
    tour.mend()
    tour.run("rewind", "delays", "--to-start", "--yes")
    assert tour.board() == {}
    assert tour.json("run", "--drain")["subscribers"]["delays"] == {"handled": 6_061, "failed": 0}
    assert tour.board() == expected_board


def test_read_models_made_anew_beside_the_live_ones_are_sums_of_plain_sql_over_the_log(tour: Tour) -> None:
    tour.mend()
    for name in ("delays", "carrier-days"):
        tour.run("rebuild", name, "--yes")
    with engine_of(f"sqlite:///{tour.folder / 'flights.db'}") as engine:
        assert_sums_are_those_of_the_log(engine, events="events")


def assert_sums_are_those_of_the_log(engine: Engine, *, events: str, least: int = 90) -> None:
    """Compare both read models with what SQL, and nothing of ours, makes of the recorded events."""
    field = "(data ->> '{}')" if engine.dialect.name == "postgresql" else "json_extract(data, '$.{}')"
    late = f"cast(coalesce({field.format('delay')}, '0') as integer)"
    minutes = f"case when type = 'flight.arrived' and {late} > 0 then {late} else 0 end"
    counts = ", ".join(
        f"sum(case when type = 'flight.{one}' then 1 else 0 end)"
        for one in ("scheduled", "departed", "arrived", "cancelled")
    )
    board = f"""select {field.format("dest")}, count(*), sum(case when {late} >= 15 then 1 else 0 end), sum({minutes}),
        max({minutes}) from {events} where type = 'flight.arrived' group by 1"""
    days = f"""select {field.format("carrier")}, {field.format("day")}, {counts}, sum({minutes})
        from {events} group by 1, 2"""
    with engine.connect() as connection:
        for table, question in (("airport_delays", board), ("carrier_days", days)):
            stored = {tuple(map(str, row)) for row in connection.exec_driver_sql(f"select * from {table}")}
            summed = {tuple(map(str, row)) for row in connection.exec_driver_sql(question.replace("%", "%%"))}
            assert stored == summed
            assert len(stored) >= least


def test_the_app_shows_its_board(tour: Tour) -> None:
    shown = subprocess.run(
        [sys.executable, "app.py"], cwd=tour.folder, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert shown[0].split()[:3] == ["FLL", "275", "arrivals,"]
    assert shown[-1] == "94 airports, 6,043 arrivals"


def test_each_very_late_arrival_is_mailed_about_once(left: Left) -> None:
    assert (len(left.message_ids), len(set(left.message_ids))) == (VERY_LATE, VERY_LATE)
    assert f"{VERY_LATE} mails sent" in left.printed


def test_mails_sent_again_have_the_ids_they_had(left: Left, tour: Tour, post: Post) -> None:
    post.envelopes.clear()
    tour.run("rewind", "delay-mail", "--to-start", "--resend", "--yes")
    tour.run("run", "--drain", EVENTLOG_DEMO_SMTP=post.address)
    assert post.message_ids() == left.message_ids


def test_an_interrupted_demo_leaves_no_half_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "flights"
    with started("demo", "flights", cwd=tmp_path, stdout=subprocess.PIPE) as process:
        wait_until((folder / "flights.db").exists, what="the database")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
    assert not folder.exists()


def test_a_reader_who_goes_away_does_not_stop_the_demo(tmp_path: Path, document: Any) -> None:
    with small_demo(str(tmp_path / "flights")) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(timeout=DEMO_SECONDS_MAX) == 0
    assert len(Tour(tmp_path / "flights").json("failures")["failures"]) == document["failures_before_fix"]


def test_on_a_terminal_the_story_fits_its_width(left: Left) -> None:
    lines = left.printed.splitlines()
    steps = [line.split()[1] for line in lines if line[:1].isdigit() and line[1:3] == "  "]
    assert steps == ["Append", "Deliver", "Look"]
    assert [line for line in lines if len(line) > 80 and "\r" not in line] == []

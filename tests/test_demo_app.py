"""The application of the demo, `app.py`, in a folder of its own: one transaction for a flight's row and its events."""

import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from eventlog.cli.demo.deeds import MAIL, VERY_LATE_MINUTES, mails_sent, open_failures
from eventlog.cli.demo.flights import Flight, read_flights
from eventlog.cli.demo.workspace import APP_FILE, BUG, FIX, FlightsApp, bug_line, environment, fix, importable, load
from eventlog.cli.demo.workspace import workspace as demo_workspace
from eventlog.errors import InvalidEventError


@pytest.fixture
def flights(empty_database_url: str, tmp_path: Path) -> Iterator[FlightsApp]:
    with (
        demo_workspace(tmp_path / "flights", url=empty_database_url) as folder,
        importable(),
        environment(EVENTLOG_URL=empty_database_url),
    ):
        loaded = load(folder / APP_FILE)
        loaded.create_tables()
        yield loaded
        loaded.app.engine.dispose()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    with demo_workspace(tmp_path / "flights", url=None) as folder:
        yield folder / APP_FILE


def first(count: int) -> list[Flight]:
    return [flight for flight, _ in zip(read_flights(), range(count), strict=False)]


def rows(flights: FlightsApp) -> int:
    with flights.app.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(flights.flights)) or 0


def test_a_flight_is_a_row_and_its_events_in_a_stream_of_their_own(flights: FlightsApp) -> None:
    [flight] = first(1)
    flights.record(flight)
    recorded = list(flights.app.log.read(stream="flight-UA1545-2013-01-01-EWR"))
    assert [one.type for one in recorded] == ["flight.scheduled", "flight.departed", "flight.arrived"]
    assert rows(flights) == 1


def test_a_flight_that_never_left_is_scheduled_and_cancelled(flights: FlightsApp) -> None:
    flights.record(next(flight for flight in read_flights() if flight.departure is None))
    assert [one.type for one in flights.app.log.read()] == ["flight.scheduled", "flight.cancelled"]


def test_what_is_read_back_is_what_happened(flights: FlightsApp) -> None:
    [flight] = first(1)
    flights.record(flight)
    scheduled, departed, arrived = (one.data for one in flights.app.log.read())
    assert (scheduled.departs, scheduled.arrives) == (flight.departs, flight.arrives)
    assert flight.departure is not None
    assert (departed.at, departed.delay) == (flight.departure.at, flight.departure.delay)
    assert flight.arrival is not None
    assert (arrived.at, arrived.delay) == (flight.arrival.at, flight.arrival.delay)


def test_a_refused_append_leaves_no_row(flights: FlightsApp) -> None:
    """A flight without a carrier has a row, and no stream."""
    [flight] = first(1)
    with pytest.raises(InvalidEventError):
        flights.record(msgspec.structs.replace(flight, carrier=""))
    assert (rows(flights), flights.app.log.head()) == (0, 0)


def test_a_refused_row_leaves_no_event(flights: FlightsApp) -> None:
    [flight] = first(1)
    flights.record(flight)
    with pytest.raises(IntegrityError):
        flights.record(flight)
    assert (rows(flights), len(list(flights.app.log.read()))) == (1, 3)


def test_the_bug_is_one_line_and_so_is_the_fix(file: Path) -> None:
    before = file.read_text().splitlines()
    repair = fix(file)
    after = file.read_text().splitlines()
    assert [number for number, pair in enumerate(zip(before, after, strict=True), start=1) if len(set(pair)) == 2] == [
        repair.line
    ]
    assert (BUG in repair.before, FIX in repair.after) == (True, True)


def test_a_comment_points_at_the_bug(file: Path) -> None:
    lines = file.read_text().splitlines()
    number = bug_line(file)
    assert "THE BUG" in lines[number - 3]
    assert "arrival.delay or 0" in lines[number - 2]


def test_a_url_with_a_password_is_written_for_its_owner_only(tmp_path: Path) -> None:
    url = "postgresql://shop:secret@db.example/shop"
    with demo_workspace(tmp_path / "flights", url=url) as folder:
        assert {path.name: path.stat().st_mode & 0o777 for path in folder.iterdir()} == {
            "app.py": 0o600,
            "eventlog.toml": 0o600,
        }
        assert url in (folder / APP_FILE).read_text()


def test_a_mail_server_that_is_down_fills_the_ledger_and_loses_nothing(
    flights: FlightsApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setattr(flights, "MAIL_SERVER", f"127.0.0.1:{nobody.getsockname()[1]}")
        for flight in first(150):
            flights.record(flight)
        flights.app.drain(only=[MAIL])
    very_late = [one for one in first(150) if one.arrival is not None and (one.arrival.delay or 0) > VERY_LATE_MINUTES]
    assert len(very_late) > 0
    assert [one.entry.error_type for one in open_failures(flights)] == ["ConnectionRefusedError"] * len(very_late)
    assert mails_sent(flights) == 0

"""The flights of the demo: what the data says of itself holds, and nothing is made up where it is silent."""

import csv
import gzip
from datetime import date, datetime, time, timedelta, timezone
from importlib.resources import files

import pytest

from eventlog.cli.demo.flights import DATA, FLIGHTS, Arrival, Departure, Flight, clock_time, read_flights

NEW_YORK = timezone(timedelta(hours=-5))


@pytest.fixture(scope="module")
def flights() -> list[Flight]:
    return list(read_flights())


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    packed = (files("eventlog.cli.demo") / DATA).read_bytes()
    return list(csv.DictReader(gzip.decompress(packed).decode().splitlines()))


def test_there_are_as_many_flights_as_are_announced(flights: list[Flight]) -> None:
    assert len(flights) == FLIGHTS == 6_099


def test_the_holes_of_the_data_stay_holes(flights: list[Flight]) -> None:
    never_left = [flight for flight in flights if flight.departure is None]
    nowhere = [flight for flight in flights if flight.arrival is None]
    assert (len(never_left), len(nowhere)) == (35, 38)


def test_eighteen_flights_arrived_without_a_delay(flights: list[Flight]) -> None:
    diverted = [flight for flight in flights if flight.arrival is not None and flight.arrival.delay is None]
    assert len(diverted) == 18


def test_a_flight_is_known_by_carrier_number_day_and_origin(flights: list[Flight]) -> None:
    assert len({(one.carrier, one.number, one.day, one.origin) for one in flights}) == len(flights)


def test_a_row_is_read_as_it_stands(flights: list[Flight]) -> None:
    assert flights[0] == Flight(
        carrier="UA",
        number=1545,
        day=date(2013, 1, 1),
        origin="EWR",
        dest="IAH",
        aircraft="N14228",
        departs=datetime(2013, 1, 1, 5, 15, tzinfo=NEW_YORK),
        arrives=time(8, 19),
        departure=Departure(at=datetime(2013, 1, 1, 5, 17, tzinfo=NEW_YORK), delay=2),
        arrival=Arrival(at=time(8, 30), delay=11),
    )


def test_every_departure_shows_the_time_that_was_written_down(
    flights: list[Flight], rows: list[dict[str, str]]
) -> None:
    """The instant is computed from the delay; the data also says the time, and the two must agree."""
    computed = [f"{one.departure.at:%H:%M}" for one in flights if one.departure is not None]
    written = [f"{clock_time(row['dep_time']):%H:%M}" for row in rows if row["dep_time"] not in ("", "NA")]
    assert computed == written


@pytest.mark.parametrize(
    ("text", "shown"), [("517", "05:17"), ("5", "00:05"), ("1200", "12:00"), ("2359", "23:59"), ("2400", "00:00")]
)
def test_a_time_is_read_from_its_digits(text: str, shown: str) -> None:
    assert f"{clock_time(text):%H:%M}" == shown

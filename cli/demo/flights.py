"""The flights of the demo: 6,099 real ones, out of New York in the first week of 2013, as typed rows.

The data is shipped beside this file and described in `flights.md`. It is read as it is, with its holes: what is missing
is None, and no time is made up. Departures are instants, since the data says New York's local time and the hour in UTC;
arrivals are what the clock on the wall at the destination showed, since the data does not say its time zone.
"""

import csv
import gzip
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from importlib.resources import files

import msgspec

DATA = "flights-2013-01-01..07.csv.gz"
FLIGHTS = 6_099
"""How many flights the data holds, for those who show progress."""


class Departure(msgspec.Struct, frozen=True, kw_only=True):
    """When a flight left, and how many minutes after its time; negative when early."""

    at: datetime
    delay: int


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """When a flight arrived, on the destination's clock, and how many minutes late: not known for a diverted one."""

    at: time
    delay: int | None


class Flight(msgspec.Struct, frozen=True, kw_only=True):
    """One scheduled flight and what became of it: no departure if it never left, no arrival where none is known."""

    carrier: str
    number: int
    day: date
    origin: str
    dest: str
    aircraft: str | None
    departs: datetime
    arrives: time
    departure: Departure | None
    arrival: Arrival | None


def read_flights() -> Iterator[Flight]:
    """Read the flights in the order of the data: by day, then by actual departure; those that never left come last."""
    with (
        (files("eventlog.cli.demo") / DATA).open("rb") as packed,
        gzip.open(packed, "rt", encoding="utf-8", newline="") as text,
    ):
        yield from map(_flight, csv.DictReader(text))


def clock_time(text: str) -> time:
    """Read a time written as HMM or HHMM: 5 is five past midnight, 517 is 05:17, and 2400 is midnight."""
    hours, minutes = divmod(int(text), 100)
    return time(hours % 24, minutes)


def _flight(row: dict[str, str]) -> Flight:
    departs = _scheduled_departure(row)
    return Flight(
        carrier=row["carrier"],
        number=int(row["flight"]),
        day=departs.date(),
        origin=row["origin"],
        dest=row["dest"],
        aircraft=_known(row["tailnum"]),
        departs=departs,
        arrives=clock_time(row["sched_arr_time"]),
        departure=_departure(departs, delay=_minutes(row["dep_delay"])),
        arrival=_arrival(_known(row["arr_time"]), delay=_minutes(row["arr_delay"])),
    )


def _scheduled_departure(row: dict[str, str]) -> datetime:
    """New York's clock and the same hour in UTC give the offset, so that nobody has to know a time zone."""
    local_hour = datetime(int(row["year"]), int(row["month"]), int(row["day"]), int(row["hour"]), tzinfo=UTC)
    offset = local_hour - datetime.fromisoformat(row["time_hour"])
    return local_hour.replace(minute=int(row["minute"]), tzinfo=timezone(offset))


def _departure(scheduled: datetime, *, delay: int | None) -> Departure | None:
    """The delay tells the day as well, which the time alone does not for a flight that left after midnight."""
    return None if delay is None else Departure(at=scheduled + timedelta(minutes=delay), delay=delay)


def _arrival(at: str | None, *, delay: int | None) -> Arrival | None:
    return None if at is None else Arrival(at=clock_time(at), delay=delay)


def _minutes(text: str) -> int | None:
    known = _known(text)
    return None if known is None else int(known)


def _known(text: str) -> str | None:
    return None if text in ("", "NA") else text

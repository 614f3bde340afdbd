"""The order of the demo's deeds, and what is told about each on the way.

    append -> deliver -> look into the ledger -> fix one line -> retry -> rewind -> the board

A demo with a folder of its own stops after the ledger: the bug stays in, and the rest is left to the reader.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from eventlog.cli.demo import deeds
from eventlog.cli.demo.deeds import BOARD, Airport, Failure
from eventlog.cli.demo.mailbox import Mailbox
from eventlog.cli.demo.screen import Screen
from eventlog.cli.demo.workspace import (
    APP_FILE,
    DATABASE_FILE,
    FlightsApp,
    environment,
    fix,
    importable,
    load,
    workspace,
)
from eventlog.cli.opening import database_errors
from eventlog.clock import SystemClock
from eventlog.subscribers.worker import Counts

MAIL_SERVER = "EVENTLOG_DEMO_SMTP"
"""The variable that names a mail server, as host:port; the demo has one of its own otherwise."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """What `--output json` prints. `subscribers` is what the first delivery did, before anything was fixed."""

    flights: int
    events: dict[str, int]
    subscribers: dict[str, Counts]
    mails: int
    failures_before_fix: int
    failures_after_fix: int | None
    board: list[Airport]
    seconds: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How things stand: what is open in the ledger, and the board."""

    ledger: list[Failure]
    board: list[Airport]


def play(screen: Screen, *, folder: Path | None, url: str | None) -> Document:
    """Do it all, in a folder that stays or in a temporary one, with the database `url` or a file in the folder."""
    watch = _Watch()
    with workspace(folder, url=url) as place, _mail_server() as mailbox, importable(), _quiet_worker():
        screen.begin()
        with environment(EVENTLOG_URL=url or f"sqlite:///{place.absolute() / DATABASE_FILE}"):
            document, outcome = _first_delivery(load(place / APP_FILE), screen, mailbox)
            screen.ledger(outcome.ledger)
            if folder is None:
                outcome = _heal(place / APP_FILE, screen)
    screen.board(outcome.board, missing=sum(one.entry.subscriber == BOARD for one in outcome.ledger))
    document = msgspec.structs.replace(
        document,
        failures_after_fix=len(outcome.ledger) if folder is None else None,
        board=outcome.board,
        seconds=round(watch.total(), 2),
    )
    screen.end(
        flights=document.flights,
        events=sum(document.events.values()),
        mails=document.mails,
        seconds=document.seconds,
    )
    return document


def _first_delivery(flights: FlightsApp, screen: Screen, mailbox: Mailbox | None) -> tuple[Document, Outcome]:
    with database_errors(flights.app.log):
        watch = _Watch()
        count = deeds.append_all(flights, progress=screen.following)
        events = deeds.events_by_type(flights)
        screen.appended(events, flights=count, seconds=watch.lap())
        with screen.working("Delivering to three subscribers"):
            drained = flights.app.drain()
        mails = deeds.mails_sent(flights) if mailbox is None else mailbox.count
        screen.delivered(drained, mails=mails, seconds=watch.lap())
        outcome = _outcome(flights)
    document = Document(
        flights=count,
        events=events,
        subscribers=drained.subscribers,
        mails=mails,
        failures_before_fix=len(outcome.ledger),
        failures_after_fix=None,
        board=outcome.board,
        seconds=0,
    )
    return document, outcome


def _heal(file: Path, screen: Screen) -> Outcome:
    """Fix the handler, load the application again, and have it put right what went wrong."""
    screen.repaired(fix(file))
    flights = load(file)
    with database_errors(flights.app.log):
        retried = deeds.retry_board(flights)
        screen.retried(retried, left=len(deeds.open_failures(flights)))
        watch = _Watch()
        with screen.working("Rewinding"):
            rewound = deeds.rewind_counts(flights)
        screen.rewound(rewound, seconds=watch.lap())
        return _outcome(flights)


def _outcome(flights: FlightsApp) -> Outcome:
    return Outcome(ledger=deeds.open_failures(flights), board=deeds.board(flights))


@contextmanager
def _mail_server() -> Iterator[Mailbox | None]:
    """Run a mailbox for the application's mails, unless the environment names a mail server."""
    if os.environ.get(MAIL_SERVER):
        yield None
        return
    with Mailbox() as mailbox, environment(**{MAIL_SERVER: mailbox.address}):
        yield mailbox


@contextmanager
def _quiet_worker() -> Iterator[None]:
    """Failures are shown from the ledger; the worker's own lines about them would stand in between."""
    logger = logging.getLogger("eventlog.worker")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)


class _Watch:
    """A stop watch."""

    def __init__(self) -> None:
        self._clock = SystemClock()
        self._began = self._lap = self._clock.monotonic()

    def lap(self) -> float:
        """Return the seconds since the last lap."""
        before, self._lap = self._lap, self._clock.monotonic()
        return self._lap - before

    def total(self) -> float:
        """Return the seconds since the beginning."""
        return self._clock.monotonic() - self._began

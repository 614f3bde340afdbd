"""Where a subscriber begins that has just been registered, and what lies ahead of it.

An effect on a log that has been there for a year begins at its first event unless it says otherwise, and would do a
year's work once more. Whoever registers it is told so, in numbers.
"""

import logging

import msgspec

from eventlog.counting import count_types
from eventlog.database import Database, events_of, translated
from eventlog.patterns import covers
from eventlog.subscribers.declaration import Kind, Subscriber
from eventlog.subscribers.registration import read_subscriber

logger = logging.getLogger("eventlog.worker")


class Beginning(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber begins after `position`, with so many events of its types ahead; estimated where not `exact`."""

    position: int
    events: int
    exact: bool

    @property
    def said(self) -> str:
        """Say it in half a sentence."""
        if self.events == 0:
            return "begins with what comes"
        where = "at the first event" if self.position == 0 else f"after {self.position:,}"
        about = "" if self.exact else "about "
        return f"begins {where}, {about}{self.events:,} event{'' if self.events == 1 else 's'} ahead"


def read_beginning(database: Database, subscriber: Subscriber) -> Beginning:
    """Read where a registered subscriber begins. Costs what `count_types` does. Raises `UnknownSubscriberError`."""
    with translated(database), database.reader() as connection:
        position = read_subscriber(connection, database, subscriber.name).start_position
        with events_of(database, connection) as (log, there):
            counted = count_types(there, log, after=position, until=log.high_water_mark(there))
    patterns = subscriber.routes.patterns
    wanted = [one.count for one in counted.types if any(covers(pattern, one.type) for pattern in patterns)]
    return Beginning(position=position, events=sum(wanted), exact=counted.exact)


def other_beginning(subscriber: Subscriber, beginning: Beginning) -> str | None:
    """Say what an effect could do instead of what lies ahead of it; None where nothing does, and for projections."""
    if subscriber.kind is not Kind.EFFECT or beginning.events == 0:
        return None
    name = subscriber.name
    return f'`eventlog advance {name} --to-end` passes over them; declared with start="now" it begins with what comes'


def log_beginning(database: Database, subscriber: Subscriber) -> None:
    """Tell in the log of the worker where a subscriber begins that it has registered; nothing is counted for nobody."""
    if not logger.isEnabledFor(logging.INFO):
        return
    beginning = read_beginning(database, subscriber)
    other = other_beginning(subscriber, beginning)
    hint = "" if other is None else f"; {other}"
    logger.info("%s: registered, %s%s", subscriber.name, beginning.said, hint, extra={"subscriber": subscriber.name})

"""Metrics for Prometheus (`pip install rewindlog[metrics]`): where the log and its subscribers are, at each scrape.

    from eventlog.subscribers.metrics import export_metrics

    export_metrics(app)             # then serve prometheus_client's registry, as the service does for its own metrics

Lag, checkpoints and failures belong to the log and not to a process: they are read from the database when somebody
scrapes, with one set of queries for all subscribers, so that it does not matter which worker is asked, or how many
there are. A database that does not answer is `eventlog_up 0`, never a failed scrape. Calls of handlers belong to the
process that makes them: they are counted around each call (`app.around`), and an app that exports nothing pays nothing.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, CollectorRegistry

from eventlog.clock import Clock, SystemClock
from eventlog.errors import first_line
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.status import Status, SubscriberStatus, read_status_of

logger = logging.getLogger("eventlog.metrics")

SCRAPE_SECONDS_MAX = 8.0
"""How long a scrape waits for another one that the database keeps waiting, before it says that the log is not up."""

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_exported: WeakKeyDictionary[App, list[CollectorRegistry]] = WeakKeyDictionary()

STATES = ("running", "paused", "halted", "outage", "ahead")


def export_metrics(app: App, *, registry: CollectorRegistry = REGISTRY) -> None:
    """Export the log's metrics, and count the calls of the app's handlers from now on. Once for each registry.

    Call it before a worker is made. Nothing is connected until the first scrape.
    """
    registry.register(LogCollector(app))
    measure_handlers(app, registry=registry)
    _exported.setdefault(app, []).append(registry)


def is_exported(app: App, *, registry: CollectorRegistry = REGISTRY) -> bool:
    """Tell whether `export_metrics` has been called."""
    return registry in _exported.get(app, ())


def measure_handlers(app: App, *, registry: CollectorRegistry = REGISTRY, clock: Clock | None = None) -> None:
    """Count the calls of the app's handlers, and how long they take: of this process alone. Once for each registry.

    A call is one of a handler: a list of events is one call, and an event of a transaction that is run again has two.
    """
    seconds = Histogram(
        "eventlog_handler_seconds",
        "How long calls of handlers took",
        ("subscriber", "outcome"),
        buckets=BUCKETS,
        registry=registry,
    )
    events = Counter(
        "eventlog_handler_events", "Events that handlers were called for", ("subscriber", "outcome"), registry=registry
    )
    now = (clock or SystemClock()).monotonic

    @app.around
    def measured(ctx: Context) -> Iterator[None]:
        began = now()
        outcome = "failed"
        try:
            yield
            outcome = "handled"
        finally:
            seconds.labels(ctx.subscriber, outcome).observe(now() - began)
            events.labels(ctx.subscriber, outcome).inc(len(ctx.events))


class LogCollector(Collector):
    """Reads how everything stands at each scrape. Raises nothing."""

    def __init__(self, app: App, *, clock: Clock | None = None) -> None:
        self._app = app
        self._clock: Clock = clock or SystemClock()
        self._one_at_a_time = threading.Lock()
        self._said: str | None = None

    def describe(self) -> list[Metric]:
        """Name what is exported; without it a registry would ask the database when the collector is registered."""
        return [*_about_scrape(up=0.0, seconds=0.0), *_of_log(None), *_of_subscribers(())]

    def collect(self) -> Iterator[Metric]:
        began = self._clock.monotonic()
        found = self._read()
        seconds = self._clock.monotonic() - began
        yield from _about_scrape(up=0.0 if found is None else 1.0, seconds=seconds)
        if found is not None:
            yield from _of_log(found)
            yield from _of_subscribers(found.subscribers)

    def _read(self) -> Status | None:
        """Read the status; None when the database does not answer, or keeps another scrape waiting."""
        if not self._one_at_a_time.acquire(timeout=SCRAPE_SECONDS_MAX):
            return None
        try:
            found = read_status_of(self._app.homes)
        except Exception as error:  # whatever it is, a scrape reports it and does not fail
            self._say_once(error)
            return None
        finally:
            self._one_at_a_time.release()
        self._said = None
        return found

    def _say_once(self, error: Exception) -> None:
        kind = type(error).__name__
        if kind != self._said:
            logger.warning("the log cannot be scraped: %s: %s", kind, first_line(error))
        self._said = kind


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfLog:
    name: str
    help: str
    value: Callable[[Status], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class _OfSubscriber:
    name: str
    help: str
    value: Callable[[SubscriberStatus], float | None]


_OF_LOG = (
    _OfLog(
        name="eventlog_head_position",
        help="The highest position allocated so far",
        value=lambda found: found.head,
    ),
    _OfLog(
        name="eventlog_high_water_mark_position",
        help="The highest position at or below which nothing can appear any more",
        value=lambda found: found.high_water_mark,
    ),
    _OfLog(
        name="eventlog_held_back_seconds",
        help="How long the oldest event has been there that an open transaction keeps from being read",
        value=lambda found: found.held_back_seconds,
    ),
    _OfLog(
        name="eventlog_appends_in_flight",
        help="Transactions that have appended, are open, and hold the high-water mark back",
        value=lambda found: len(found.held_back_by),
    ),
    _OfLog(name="eventlog_workers", help="Workers that are alive", value=lambda found: found.workers),
)

_OF_SUBSCRIBERS = (
    _OfSubscriber(
        name="eventlog_subscriber_lag_events",
        help="Events between a subscriber's checkpoint and the high-water mark; above 10,000 the distance of positions",
        value=lambda one: one.lag,
    ),
    _OfSubscriber(
        name="eventlog_subscriber_lag_seconds",
        help="How long the oldest event has been there that a subscriber is not done with",
        value=lambda one: one.lag_seconds,
    ),
    _OfSubscriber(
        name="eventlog_subscriber_checkpoint_position",
        help="The last position a subscriber is done with, of its partitions the least",
        value=lambda one: one.checkpoint,
    ),
)


def _about_scrape(*, up: float, seconds: float) -> Iterator[Metric]:
    yield GaugeMetricFamily("eventlog_up", "Whether the log's database answered the scrape", value=up)
    yield GaugeMetricFamily("eventlog_scrape_seconds", "How long it took the database to answer", value=seconds)


def _of_log(found: Status | None) -> Iterator[Metric]:
    for one in _OF_LOG:
        yield GaugeMetricFamily(one.name, one.help, value=None if found is None else one.value(found))


def _of_subscribers(subscribers: Sequence[SubscriberStatus]) -> Iterator[Metric]:
    for of_each in _OF_SUBSCRIBERS:
        family = GaugeMetricFamily(of_each.name, of_each.help, labels=("subscriber",))
        for one in subscribers:
            value = of_each.value(one)
            if value is not None:
                family.add_metric((one.name,), value)
        yield family
    yield _failures(subscribers)
    yield _states(subscribers)


def _failures(subscribers: Sequence[SubscriberStatus]) -> Metric:
    """The open states are there also with nothing in them: an alert must tell none from not known."""
    family = GaugeMetricFamily(
        "eventlog_subscriber_failures", "Entries of a subscriber's failure ledger", labels=("subscriber", "state")
    )
    for one in subscribers:
        for state, count in {**dict.fromkeys(OPEN_STATES, 0), **one.failures}.items():
            family.add_metric((one.name, state), count)
    return family


def _states(subscribers: Sequence[SubscriberStatus]) -> Metric:
    family = GaugeMetricFamily(
        "eventlog_subscriber_state", "1 for the state a subscriber is in, else 0", labels=("subscriber", "state")
    )
    for one in subscribers:
        for state in dict.fromkeys((*STATES, one.state)):
            family.add_metric((one.name, state), float(state == one.state))
    return family

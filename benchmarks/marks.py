"""What is to be reached, and whether it is: the claims about speed, each computed from the figures of a run."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.contestants import PEERS
from benchmarks.results import Measured
from eventlog.subscribers.feed import PAGE_EVENTS

OURS = "rewindlog"


class Figures:
    """Medians of a run, by workload, contestant and unit."""

    def __init__(self, measured: Iterable[Measured]) -> None:
        self._measured = {(one.workload, one.contestant): one for one in measured}

    def __call__(self, workload: str, contestant: str, unit: str = "rate") -> float:
        """Return a median. Raises `KeyError` if it was not measured."""
        return self._measured[workload, contestant].median(unit)

    def of_peers(self, workload: str, unit: str = "rate") -> list[float]:
        """Return the medians of the peers that took part. Raises `KeyError` if none did."""
        found = [self._measured[workload, peer] for peer in PEERS if (workload, peer) in self._measured]
        medians = [one.median(unit) for one in found if unit in one.rounds]
        if not medians:
            raise KeyError((workload, "peers"))
        return medians


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One claim: a value of a workload is at least, or at most, a bound."""

    workload: str
    claim: str
    value: Callable[[Figures], float]
    at_least: float | None = None
    at_most: float | None = None

    def judge(self, figures: Figures) -> "Judged":
        """Compute it; what was not measured is neither reached nor missed."""
        try:
            value = self.value(figures)
        except KeyError:
            return Judged(mark=self, value=None, reached=None)
        above = self.at_least is None or value >= self.at_least
        below = self.at_most is None or value <= self.at_most
        return Judged(mark=self, value=value, reached=above and below)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A mark with what was found."""

    mark: Mark
    value: float | None
    reached: bool | None


def times(workload: str, least: float, other: str) -> Mark:
    """Our rate is at least so many times that of another."""
    return Mark(
        workload=workload,
        claim=f"at least {least:g} x {other}",
        value=lambda figures: figures(workload, OURS) / figures(workload, other),
        at_least=least,
    )


def ahead(workload: str, unit: str = "rate") -> Mark:
    """We are faster than the best of the peers."""

    def value(figures: Figures) -> float:
        ours, peers = figures(workload, OURS, unit), figures.of_peers(workload, unit)
        return ours / max(peers) if unit == "rate" else min(peers) / ours

    return Mark(workload=workload, claim="ahead of every peer", value=value, at_least=1.0)


def at_most(workload: str, most: float, what: str, contestant: str, unit: str) -> Mark:
    """A figure by itself is at most so much."""
    return Mark(
        workload=workload,
        claim=f"at most {most:g} {what}",
        value=lambda figures: figures(workload, contestant, unit),
        at_most=most,
    )


def _growth(figures: Figures) -> float:
    """What each subscriber from the 11th to the 50th costs an event, in parts of what the 2nd to the 10th cost."""
    few, more, many = (figures(f"W8-{number}", OURS, "cpu") for number in (1, 10, 50))
    return (many - more) / 40 / ((more - few) / 9)


MARKS = (
    times("W1", 0.8, "raw"),
    times("W1", 3, "eventsourcing"),
    times("W1t", 0.8, "raw"),
    times("W2-8", 0.6, "raw"),
    ahead("W2-8"),
    times("W2-32", 0.6, "raw"),
    times("W2-32", 4, "eventsourcing"),
    ahead("W2-32"),
    times("W3", 0.6, "raw"),
    times("W3", 2.5, "eventsourcing"),
    ahead("W3"),
    times("W4", 0.6, "raw"),
    times("W4", 50, "eventsourcing"),
    ahead("W4"),
    times("W5", 0.7, "raw"),
    times("W5", 30, "eventsourcing"),
    ahead("W5"),
    times("W5p", 0.8, "raw"),
    Mark(
        workload="W6",
        claim="p50 at most 2 x raw-notify",
        value=lambda figures: figures("W6", OURS, "p50") / figures("W6", "raw-notify", "p50"),
        at_most=2,
    ),
    Mark(
        workload="W6",
        claim="p99 at most 4 x p50",
        value=lambda figures: figures("W6", OURS, "p99") / figures("W6", OURS, "p50"),
        at_most=4,
    ),
    ahead("W6", "p50"),
    times("W7-1", 0.6, "raw"),
    times("W7-1", 4, "eventsourcing"),
    ahead("W7-1"),
    times("W7-100", 0.6, "raw"),
    times("W7-100", 25, "eventsourcing"),
    ahead("W7-100"),
    at_most("W8-50", 1.01, "reads an event", OURS, "reads"),
    at_most("W8-50", 1.01, "decodings an event", OURS, "decodes"),
    Mark(
        workload="W8-50",
        claim="a subscriber more costs at most 1.2 x what it costs among few",
        value=_growth,
        at_most=1.2,
    ),
    Mark(
        workload="W9-4",
        claim="at least 3.4 x one process",
        value=lambda figures: figures("W9-4", OURS) / figures("W9-1", OURS),
        at_least=3.4,
    ),
    Mark(
        workload="W10-append",
        claim="takes at most 1.2 x as long as in an empty log",
        value=lambda figures: figures("W10-append", "empty-log") / figures("W10-append", "large-log"),
        at_most=1.2,
    ),
    Mark(
        workload="W10-head",
        claim="takes at most 1.2 x as long as in an empty log",
        value=lambda figures: figures("W10-head", "large-log", "p50") / figures("W10-head", "empty-log", "p50"),
        at_most=1.2,
    ),
    Mark(
        workload="W10-sparse",
        claim="reads at most 1.1 rows for each event it handles, beside the page that tells that these are few",
        value=lambda figures: (
            (figures("W10-sparse", "large-log", "rows") - PAGE_EVENTS) / figures("W10-sparse", "large-log", "events")
        ),
        at_most=1.1,
    ),
    at_most("W10-status", 1, "s", "large-log", "seconds"),
    at_most("W10-rewind", 1, "s", "large-log", "seconds"),
    Mark(
        workload="W11",
        claim="at most 10 MB more after ten times the events",
        value=lambda figures: figures("W11", OURS, "megabytes_many") - figures("W11", OURS, "megabytes_few"),
        at_most=10,
    ),
)


def judge(measured: Iterable[Measured]) -> list[Judged]:
    """Judge every mark by what was measured."""
    figures = Figures(measured)
    return [mark.judge(figures) for mark in MARKS]

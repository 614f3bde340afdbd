"""The table of `status`, for one look and for the live screen: what its columns say, and what is said beside it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eventlog.cli.output import Column, age, moment, number
from eventlog.database import Holder
from eventlog.subscribers.ledger import EntryState
from eventlog.subscribers.status import Status, SubscriberStatus

STATES_SHOWN = (EntryState.PARKED, EntryState.RETRYING, EntryState.BLOCKED, EntryState.SKIPPED, EntryState.RESOLVED)
"""The order in which failures are counted up; superseded ones come again by themselves and are left out."""

_LEFT_OUT: tuple[tuple[str, ...], ...] = (
    (),
    ("owner",),
    ("last error",),
    ("owner", "last error"),
    ("owner", "last error", "kind"),
)
"""Of the columns: what is left out where there is no room, the least of it."""

_FAILURES_WIDTH = 12
_NEEDS_SOMEBODY = ("ahead", "halted", "outage", "paused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Columns, and their cells row by row."""

    columns: Sequence[Column]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One column: what it says of a subscriber; `optional` ones are left out where they say nothing of any."""

    column: Column
    cell: Callable[[SubscriberStatus], str]
    optional: bool = False


def status_table(subscribers: Sequence[SubscriberStatus], *, width: int | None, rated: bool) -> Table:
    """Set subscribers in columns that fit a width; None for who picks the table apart, and gets every column whole.

    On a terminal, what says nothing of any subscriber is left out, and of the others what `--output json` and `workers`
    tell as well, until the rest fits. `rated` is whether there are rates at all: one look has none.
    """
    parts = [part for part in _PARTS if rated or part.column.title != "rate"]
    if width is not None:
        parts = [part for part in parts if not part.optional or _says_something(part, subscribers)]
        choices = [[part for part in parts if part.column.title not in titles] for titles in _LEFT_OUT]
        parts = next((kept for kept in choices if _natural_width(kept, subscribers) <= width), choices[-1])
    return Table(
        columns=[part.column for part in parts],
        rows=[tuple(part.cell(one) for part in parts) for one in subscribers],
    )


def by_urgency(subscribers: Sequence[SubscriberStatus]) -> list[SubscriberStatus]:
    """Put those first that need somebody, for a screen that has no room for all."""
    ranks = {state: rank for rank, state in enumerate(_NEEDS_SOMEBODY)}
    return sorted(subscribers, key=lambda one: (ranks.get(one.state, len(ranks)), -(one.lag_seconds or 0.0), one.name))


def log_line(found: Status) -> str:
    """Write where the log is."""
    line = f"Head {number(found.head)}, high-water mark {number(found.high_water_mark)}"
    return line if found.rate is None else f"{line}, {rate(found.rate)} appended"


def what_next(one: SubscriberStatus) -> str | None:
    """Write what is to be done about a subscriber that goes on by nobody else's doing; None where all is well."""
    app = " --app ..." if one.log is not None else ""
    if one.state == "ahead":
        return (
            f"{one.name} is ahead of the log, which was restored to an earlier point; nothing is delivered to it:"
            f" `eventlog verify {one.name}{app}` tells what to do"
        )
    if one.state == "halted":
        shows = f"`eventlog failures {one.name}{app}` shows it"
        return f"{one.name} is halted at a failure: {shows}, `eventlog retry {one.name}{app}` tries again"
    if one.state == "outage":
        return (
            f"{one.name}: {one.outage_handler} has failed at everything since {moment(one.outage_since)}; it is"
            f" tried again and again, and `eventlog retry {one.name}{app}` tries at once"
        )
    return None


def held_back_line(holder: Holder) -> str:
    """Write who holds the high-water mark back."""
    who = f"pid {holder.pid} ({holder.application or 'no application name'}, user {holder.user})"
    if holder.pid is None:
        who = f"the prepared transaction {holder.application!r} (user {holder.user})"
    since = f", open since {moment(holder.since)}" if holder.since is not None else ""
    return f"The high-water mark is held back at {number(holder.position)} by {who}{since}"


def rate(value: float | None) -> str:
    """Write events a second: to a whole one, or to a tenth where they are few."""
    if value is None:
        return "-"
    return f"{value:.1f}/s" if 0 < value < 10 else f"{number(round(value))}/s"


def _says_something(part: _Part, subscribers: Sequence[SubscriberStatus]) -> bool:
    return any(part.cell(one) != "-" for one in subscribers)


def _natural_width(parts: Sequence[_Part], subscribers: Sequence[SubscriberStatus]) -> int:
    """How wide a table would be whose cells are not broken over lines, but for the failures."""
    widths = [
        max(part.column.width_min, *(len(text) for text in (part.column.title, *map(part.cell, subscribers))))
        for part in parts
    ]
    return sum(
        3 + (min(width, _FAILURES_WIDTH) if part.column.title == "failures" else width)
        for part, width in zip(parts, widths, strict=True)
    )


def _lag(one: SubscriberStatus) -> str:
    return "?" if one.lag is None else f"{'' if one.lag_exact else '~'}{number(one.lag)}"


def _age(one: SubscriberStatus) -> str:
    if one.lag_seconds is None:
        return "?"
    return age(one.lag_seconds) if one.lag else "-"


def _failures(one: SubscriberStatus) -> str:
    parts = [f"{number(one.failures[state])} {state}" for state in STATES_SHOWN if state in one.failures]
    return ", ".join(parts) or "-"


def _last_error(one: SubscriberStatus) -> str:
    error = one.last_error
    return "-" if error is None else f"{error.error_type.rpartition('.')[2]} at {number(error.position)}"


_PARTS = (
    _Part(column=Column(title="subscriber"), cell=lambda one: one.name),
    _Part(column=Column(title="kind"), cell=lambda one: one.kind),
    _Part(column=Column(title="state"), cell=lambda one: one.state),
    _Part(column=Column(title="checkpoint", right=True), cell=lambda one: number(one.checkpoint)),
    _Part(column=Column(title="lag", right=True), cell=_lag),
    _Part(column=Column(title="age", right=True, width_min=4), cell=_age, optional=True),
    _Part(column=Column(title="rate", right=True), cell=lambda one: rate(one.rate), optional=True),
    _Part(column=Column(title="failures", wraps=True), cell=_failures),
    _Part(column=Column(title="last error", wraps=True), cell=_last_error, optional=True),
    _Part(column=Column(title="owner", wraps=True), cell=lambda one: one.owner or "-"),
)

"""`check`: one line and an exit code, in the manner of monitoring plugins."""

from collections.abc import Iterator, Sequence

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.opening import opened_databases
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import age, counted, number, printable, show, show_json
from eventlog.cli.parsing import seconds as parse_seconds
from eventlog.cli.settings import Settings, read_settings
from eventlog.cli.status_table import held_back_line
from eventlog.errors import DatabaseError, UnknownSubscriberError
from eventlog.nearest import did_you_mean
from eventlog.schema.tables import OPEN_STATES
from eventlog.subscribers.status import Status, SubscriberStatus, read_status_of

NEVER_WELL = ("halted", "outage", "ahead")
"""The states that no limit allows: nothing goes on until somebody acts, or a partner comes back."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is still well; None is no limit."""

    lag: int | None = None
    age_seconds: float | None = None
    failed: int | None = None


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was checked: of a subscriber, or of the log where it is None."""

    subscriber: str | None
    what: str
    value: float | str | None
    limit: float | None
    ok: bool
    said: str


@click.command()
@subscriber_argument("names", metavar="[SUBSCRIBER]...", nargs=-1)
@click.option("--max-lag", metavar="EVENTS", type=click.IntRange(min=0), help="So many events may lie ahead of it.")
@click.option("--max-age", metavar="DURATION", help="The oldest event not done may be so old: 90s, 5m, 2h.")
@click.option("--max-failed", metavar="NUMBER", type=click.IntRange(min=0), help="So many failures may be open.")
@shared_options
def check(names: tuple[str, ...], max_lag: int | None, max_age: str | None, max_failed: int | None) -> int:
    """Check lag, age and failures, for a monitoring system.

    Of all subscribers, or those that are named. One that is halted, in an outage or ahead of the log never
    holds. Age also counts what an open transaction keeps from being read. Prints one line, with performance data behind
    the bar; exit code 0 when everything holds, 4 when something does not, 5 when the database does not answer or has no
    log.

    \b
      eventlog check --max-lag 1000 --max-age 5m --max-failed 0
      eventlog check mail --max-failed 10
    """
    settings = read_settings()
    limits = Limits(
        lag=max_lag,
        age_seconds=None if max_age is None else parse_seconds(max_age, option="--max-age"),
        failed=max_failed,
    )
    try:
        with opened_databases(settings) as databases:
            found = read_status_of(databases)
    except DatabaseError as error:
        if settings.json:
            raise
        show(printable(f"EVENTLOG UNKNOWN - {error}"))
        return Exit.DATABASE
    return _told(found, names, limits, settings)


def checked(found: Status, subscribers: Sequence[SubscriberStatus], limits: Limits) -> Iterator[Checked]:
    """Hold what was found against the limits, one thing at a time."""
    for one in subscribers:
        yield Checked(
            subscriber=one.name,
            what="state",
            value=one.state,
            limit=None,
            ok=one.state not in NEVER_WELL,
            said=f"{one.name} is {_state(one)}",
        )
        open_failures = sum(one.failures.get(state, 0) for state in OPEN_STATES)
        yield _within(one.name, "lag", one.lag, limits.lag, "lags by {}")
        yield _within(one.name, "age", one.lag_seconds, limits.age_seconds, "has an event waiting for {}")
        yield _within(one.name, "failed", open_failures, limits.failed, "has {}")
    held_back = found.held_back_seconds
    who = f", {printable(held_back_line(found.held_back_by[0]))}" if found.held_back_by else ""
    yield _within(None, "held_back", held_back, limits.age_seconds, f"events are held back for {{}}{who}")


def _within(subscriber: str | None, what: str, value: float | None, limit: float | None, said: str) -> Checked:
    text = said.format("an unknown distance" if value is None else _shown(what, value))
    return Checked(
        subscriber=subscriber,
        what=what,
        value=value,
        limit=limit,
        ok=limit is None or (value is not None and value <= limit),
        said=text if subscriber is None else f"{subscriber} {text}",
    )


def _shown(what: str, value: float) -> str:
    """A number with what it counts, or a time."""
    counts = {"lag": "event", "failed": "open failure"}
    return counted(int(value), counts[what]) if what in counts else age(value)


def _state(one: SubscriberStatus) -> str:
    if one.state == "halted" and one.last_error is not None:
        return f"halted at event {number(one.last_error.position)}"
    if one.state == "ahead":
        return "ahead of the log, which was restored to an earlier point"
    return f"in an outage of {one.outage_handler}" if one.state == "outage" else one.state


def _told(found: Status, names: Sequence[str], limits: Limits, settings: Settings) -> int:
    results = list(checked(found, _chosen(found, names), limits))
    wrong = [one for one in results if not one.ok]
    if settings.json:
        show_json({"ok": not wrong, "checks": results})
    else:
        count = len({one.subscriber for one in results} - {None})
        line = f"EVENTLOG CRITICAL - {'; '.join(one.said for one in wrong)}" if wrong else _all_well(count)
        show(printable(f"{line} | {' '.join(_performance(one) for one in results if one.what != 'state')}"))
    return Exit.CHECK_FAILED if wrong else Exit.OK


def _all_well(count: int) -> str:
    return f"EVENTLOG OK - {count} subscriber{'' if count == 1 else 's'}, everything holds"


def _performance(one: Checked) -> str:
    """`'label'=value[unit];warning;critical`, as plugins write it; what is not known is U."""
    label = one.what if one.subscriber is None else f"{one.subscriber} {one.what}"
    unit = "s" if one.what in ("age", "held_back") else ""
    value = "U" if one.value is None else f"{one.value:.6g}" if isinstance(one.value, float) else f"{one.value}"
    limit = "" if one.limit is None else f"{one.limit:g}"
    return f"'{label.replace(chr(39), '')}'={value}{unit};;{limit}"


def _chosen(found: Status, names: Sequence[str]) -> list[SubscriberStatus]:
    known = {one.name: one for one in found.subscribers}
    for name in names:
        if name not in known:
            hint = did_you_mean(name, known)
            raise UnknownSubscriberError(
                f"no subscriber {name!r} is registered" + (f".{hint}" if hint else ""),
                remedy=f"registered are: {', '.join(known) or 'none'}",
            )
    return [known[name] for name in names] if names else list(found.subscribers)

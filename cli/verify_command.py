"""`verify`: whether the log is whole, and whether its subscribers have passed nothing by, from what is stored."""

import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec
from sqlalchemy import func, select

from eventlog.cli.exits import Exit
from eventlog.cli.opening import load_app, opened_databases
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import Format, counted, is_terminal, number, printable, say, show, show_items, show_json, width
from eventlog.cli.progress import shown_progress
from eventlog.cli.settings import Settings, read_settings
from eventlog.database import Database, translated
from eventlog.doctor import Finding, FindingStatus
from eventlog.errors import UnknownSubscriberError, UsageError
from eventlog.log_audit import LogAccount, LogAudit, audit_log
from eventlog.subscribers.accounting import Account, Outcome
from eventlog.subscribers.audit import Audit, audit_subscriber, checkpoint_range
from eventlog.subscribers.keys import KeyRule
from eventlog.subscribers.registration import unknown

PROGRESS_FROM = 100_000
"""From how much on there is time to look at progress."""

_MARKS = {FindingStatus.OK: "ok", FindingStatus.NOTE: "note", FindingStatus.WRONG: "WRONG"}

_WORDS = {
    Outcome.HANDLED: "handled",
    Outcome.RESOLVED: "resolved",
    Outcome.RETRYING: "retrying",
    Outcome.PARKED: "parked",
    Outcome.BLOCKED: "blocked",
    Outcome.SKIPPED: "skipped",
    Outcome.PASSED_OVER: "passed over by an operator",
    Outcome.FILTERED_OUT: "of other types",
    Outcome.OTHER_PARTITION: "of other partitions",
    Outcome.UNACCOUNTED: "NOT ACCOUNTED FOR",
}


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A finding, with the subscriber it is about: None for the log."""

    subscriber: str | None
    check: str
    status: FindingStatus
    said: str
    remedy: str


class Accounted(msgspec.Struct, frozen=True, kw_only=True):
    """A subscriber in the document: where it stands, and what came of everything up to there."""

    name: str
    kind: str
    ok: bool
    checkpoint: int | None
    entries: int
    accounts: tuple[Account, ...]


@click.command()
@subscriber_argument("names", metavar="[SUBSCRIBER]...", nargs=-1)
@click.option("--log", "the_log", is_flag=True, help="The log, beside the subscribers that are named.")
@click.option("--all", "everything", is_flag=True, help="The log and all its subscribers.")
@shared_options
def verify(names: tuple[str, ...], the_log: bool, everything: bool) -> int:
    """Hold the log and its subscribers against what they promise.

    Without a name the log: every position, id and version once, no hole in any stream, documents that can be read,
    tags that are found, and what keeps it so in place. Of a subscriber every position from where it began to its
    checkpoint: handled, in its ledger, passed over by an operator, of other types, or never used, and nothing else; its
    ledger, entry by entry; and whether it stands beyond a log that was restored to an earlier point. With --app also
    those whose rows are in another database, and partitions that go by something else than the stream.

    Nothing is changed, and nothing has to be stopped; the log is read from end to end. What is handled leaves no row,
    so it is what is left when everything else is accounted for, up to the highest position that was ever handed out.
    Exit code 4 when something does not hold, 3 for a name that is not registered.

    \b
      eventlog verify
      eventlog verify mail board
      eventlog verify --all --output json | jq .subscribers
    """
    settings = read_settings()
    if everything and names:
        raise UsageError("--all is everything, and subscribers are named", remedy="leave the one or the other out")
    with opened_databases(settings) as databases:
        homes = _homes(databases, names, everything=everything)
        audited = _audit_log(databases[0]) if everything or the_log or not names else None
        audits = [_audit(home, name, settings) for name, home in homes]
    told = [*_told(None, audited.findings if audited else ())]
    for one in audits:
        told += _told(one.name, one.findings)
    holds = all(one.status is not FindingStatus.WRONG for one in told)
    if settings.output is Format.JSONL:
        show_items("findings", told, settings.output)
    elif settings.json:
        show_json(_document(audited, audits, told, ok=holds))
    else:
        _show(audited, audits, told)
    return Exit.OK if holds else Exit.CHECK_FAILED


def _homes(databases: Sequence[Database], names: Sequence[str], *, everything: bool) -> list[tuple[str, Database]]:
    """Find the database that each subscriber's rows are in. Raises `UnknownSubscriberError`."""
    if everything:
        return [(name, home) for home in databases for name in _registered(home)]
    return [(name, _home(databases, name)) for name in dict.fromkeys(names)]


def _home(databases: Sequence[Database], name: str) -> Database:
    for home in databases:
        if name in _registered(home):
            return home
    with translated(databases[0]), databases[0].reader() as connection:
        error = unknown(connection, databases[0], name)
    if name == "log":
        raise UnknownSubscriberError(str(error), remedy="the log itself: `eventlog verify`, or --log beside names")
    raise error


def _registered(home: Database) -> list[str]:
    table = home.tables.subscribers
    with translated(home), home.reader() as connection:
        return list(connection.scalars(select(table.c.name).order_by(table.c.name)))


def _audit_log(database: Database) -> LogAudit:
    events = database.tables.events
    with translated(database), database.reader() as connection:
        count = connection.scalar(select(func.count()).select_from(events)) or 0
    with shown_progress(2 * count, what="rows of the log", from_on=PROGRESS_FROM) as progress:
        return audit_log(database, reached=progress.reached)


def _audit(home: Database, name: str, settings: Settings) -> Audit:
    positions = checkpoint_range(home, name)
    with shown_progress(positions, what=f"positions of {name}", from_on=PROGRESS_FROM) as progress:
        return audit_subscriber(home, name, key=_key(name, settings), reached=progress.reached)


def _key(name: str, settings: Settings) -> KeyRule | None:
    declared = None if settings.app is None else load_app(settings).subscribers.get(name.partition("@")[0])
    return None if declared is None else declared.key


def _told(subscriber: str | None, findings: Sequence[Finding]) -> Iterator[Told]:
    for one in findings:
        yield Told(subscriber=subscriber, check=one.check, status=one.status, said=one.said, remedy=one.remedy)


def _document(audited: LogAudit | None, audits: Sequence[Audit], told: Sequence[Told], *, ok: bool) -> dict[str, Any]:
    return {
        "ok": ok,
        "log": None if audited is None else audited.account,
        "subscribers": [
            Accounted(
                name=one.name,
                kind=one.kind,
                ok=all(found.status is not FindingStatus.WRONG for found in one.findings),
                checkpoint=one.checkpoint,
                entries=one.entries,
                accounts=one.accounts,
            )
            for one in audits
        ],
        "findings": told,
    }


def _show(audited: LogAudit | None, audits: Sequence[Audit], told: Sequence[Told]) -> None:
    if audited is not None:
        _show_wrapped(_log_line(audited.account))
        _show_findings(None, told)
    for one in audits:
        for account in one.accounts:
            _show_wrapped(_account_line(one.name, account))
        _show_findings(one.name, told)
    wrong = sum(one.status is FindingStatus.WRONG for one in told)
    say("Everything holds." if not wrong else f"{counted(wrong, 'thing')} {'does' if wrong == 1 else 'do'} not hold.")


def _show_wrapped(text: str) -> None:
    """On a terminal a line is broken between its words."""
    for line in textwrap.wrap(printable(text), _wide(), subsequent_indent="    "):
        show(line)


def _wide() -> int:
    return max(60, width()) if is_terminal() else 10_000


def _log_line(account: LogAccount) -> str:
    return (
        f"The log: {counted(account.events, 'event')} in {counted(account.streams, 'stream')} up to the high-water mark"
        f" {number(account.high_water_mark)}, {counted(account.unused, 'position')} never used"
    )


def _account_line(name: str, account: Account) -> str:
    who = name if account.partition is None else f"{name}/{account.partition}"
    counts = {one: getattr(account, one) for one in Outcome}
    parts = [f"{number(count)} {_WORDS[one]}" for one, count in counts.items() if count or one is Outcome.HANDLED]
    parts.append(f"{number(account.unused)} never used")
    total = number(account.until - account.after)
    return f"{who}: {number(account.after + 1)} to {number(account.until)}: {' + '.join(parts)} = {total}"


def _show_findings(subscriber: str | None, told: Sequence[Told]) -> None:
    for one in told:
        if one.subscriber == subscriber:
            for line in _lines(one):
                show(line)


def _lines(one: Told) -> Iterator[str]:
    begin = f"  {_MARKS[one.status]:<6}{one.check:<15} "
    wide, rest = _wide(), " " * len(begin)
    yield from textwrap.wrap(printable(one.said), wide, initial_indent=begin, subsequent_indent=rest)
    if one.remedy:
        arrow = f"{rest}-> "
        yield from textwrap.wrap(printable(one.remedy), wide, initial_indent=arrow, subsequent_indent=f"{rest}   ")

"""`replay` and `replays`: a range of the log once more for one effect, beside its live checkpoint."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.ledger_commands import problem
from eventlog.cli.logs import Logs
from eventlog.cli.opening import opened_app, opened_log
from eventlog.cli.options import Position, limit_option, shared_options, subscriber_argument
from eventlog.cli.output import Column, counted, moment, number, printable, say, show, show_items, show_json, show_table
from eventlog.cli.parsing import since as parse_time
from eventlog.cli.plan import ask
from eventlog.cli.progress import Progress, shown_progress
from eventlog.cli.settings import Settings, read_settings
from eventlog.clock import SystemClock
from eventlog.database import Database
from eventlog.errors import UsageError
from eventlog.log import EventLog
from eventlog.subscribers.control.replay_failures import read_replay_failures
from eventlog.subscribers.control.replays import (
    Executor,
    Range,
    Replay,
    ReplayPlan,
    ReplayState,
    cancel_replay,
    read_replay,
    read_replays,
    start_replay,
)
from eventlog.subscribers.heartbeat import Heartbeat
from eventlog.subscribers.registration import check_contract, read_subscriber
from eventlog.subscribers.replaying import Replaying
from eventlog.subscribers.runtime import Runtime

if TYPE_CHECKING:
    from eventlog.subscribers.app import App  # only the foreground runs handlers

LOOK_SECONDS = 0.3
FAILURES_SHOWN = 1_000
FAILURES_NAMED = 10
"""So many of the events that a replay failed at are named when it has ended; `replays --failed` lists all."""


@click.command()
@subscriber_argument(required=False)
@click.option("--from", "from_position", metavar="POSITION", type=Position(min=1), help="The first event.")
@click.option("--until", metavar="POSITION", type=Position(min=1), help="The last event; the checkpoint otherwise.")
@click.option("--since", metavar="TIME", help="Only what was recorded since: 2h, 2026-01-31T09:30+01:00.")
@click.option("--before", metavar="TIME", help="Only what was recorded before.")
@click.option("--type", "types", metavar="PATTERN", multiple=True, help="Only these types; may be given several times.")
@click.option("--stream", metavar="STREAM", help="Only events of one stream.")
@click.option("--new-keys", is_flag=True, help="Give partners new idempotency keys, so that they do not drop it.")
@click.option("--foreground", is_flag=True, help="Execute it here, with --app, and not by the running workers.")
@click.option("--wait", is_flag=True, help="Return when it has ended.")
@click.option("--resume", "resumed", metavar="OPERATION", type=int, help="Execute here what was left unfinished.")
@click.option("--cancel", "cancelled", metavar="OPERATION", type=int, help="Stop a replay where it is.")
@click.option("--reason", help="Why, for the record.")
@click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
@click.option("-y", "--yes", is_flag=True, help="Do it unasked.")
@shared_options
def replay(
    *,
    subscriber: str | None,
    from_position: int | None,
    until: int | None,
    since: str | None,
    before: str | None,
    types: tuple[str, ...],
    stream: str | None,
    new_keys: bool,
    foreground: bool,
    wait: bool,
    resumed: int | None,
    cancelled: int | None,
    reason: str | None,
    dry_run: bool,
    yes: bool,
) -> int:
    """Deliver a range of the log once more to an effect.

    Beside live delivery: neither its checkpoint nor its failures are touched, and events whose failure is open are left
    out. The running workers do it, or this process with --foreground. Ends with 1 when events failed.

    \b
      eventlog replay mail --since 2h --type "order.*" --dry-run
      eventlog replay mail --from 900 --until 1200 --new-keys --wait
      eventlog replay --cancel 17
    """
    settings = read_settings()
    if cancelled is not None:
        return _cancel(cancelled, settings, reason)
    if resumed is not None:
        return _resume(resumed, settings)
    if subscriber is None:
        raise UsageError("a replay wants a subscriber", remedy="name it: eventlog replay mail --from 900 --until 1200")
    chosen = Range(
        after=(from_position or 1) - 1,
        until=until,
        types=types,
        stream=stream,
        since=None if since is None else parse_time(since),
        before=None if before is None else parse_time(before),
    )
    deed = partial(_start, subscriber=subscriber, chosen=chosen, new_keys=new_keys, reason=reason, settings=settings)
    if foreground and not dry_run:
        with opened_app(settings) as app:
            return _in_foreground(app, subscriber, deed, settings, yes=yes)
    with opened_log(settings) as log:
        plan = deed(log, dry_run=dry_run, yes=yes)
        if dry_run or plan.operation is None:
            return _show_started(log, plan, settings, dry_run=True)
        if not wait:
            return _show_started(log, plan, settings, dry_run=False)
        return _wait(log, plan.operation, settings)


@click.command()
@subscriber_argument(required=False)
@click.option("--failed", "operation", metavar="OPERATION", type=int, help="The events that this replay failed at.")
@limit_option(FAILURES_SHOWN, help="With --failed: at most so many.")
@shared_options
def replays(subscriber: str | None, operation: int | None, limit: int) -> None:
    """List the replays, and how far they are.

    With --failed the events that one of them failed at, and why. They are in no ledger: a replay of just these events
    tries them again.

    \b
      eventlog replays mail
      eventlog replays --failed 17
      eventlog replays --failed 17 --output json | jq -r '.failures[0].traceback'
    """
    settings = read_settings()
    if operation is not None:
        if subscriber is not None:
            raise UsageError("--failed names a replay, and with it its subscriber", remedy=f"leave {subscriber} out")
        _show_failed(operation, limit, settings)
        return
    with opened_log(settings) as log:
        found = read_replays(log.database, subscriber=subscriber)
    if settings.json:
        show_items("replays", map(_as_document, found), settings.output)
        return
    if not found:
        say("There has been no replay.")
        return
    columns = [
        Column(title="operation", right=True),
        Column(title="subscriber"),
        Column(title="state"),
        Column(title="position", right=True),
        Column(title="until", right=True),
        Column(title="handled", right=True),
        Column(title="failed", right=True),
        Column(title="owner", wraps=True),
    ]
    show_table(columns, [_as_row(one) for one in found])
    failed = next((one for one in found if one.failed), None)
    if failed is not None:
        say(f"`eventlog replays --failed {failed.operation}` lists what that one failed at.")


def _show_failed(operation: int, limit: int, settings: Settings) -> None:
    with opened_log(settings) as log:
        found = read_replay_failures(log.database, operation, limit=limit + 1)
    shown = found[:limit]
    if settings.json:
        show_items("failures", shown, settings.output)
    elif not shown:
        say(f"Replay {operation} has failed at nothing.")
    else:
        columns = [
            Column(title="subscriber"),
            Column(title="position", right=True),
            Column(title="at"),
            Column(title="error", wraps=True),
        ]
        rows = [(one.subscriber, number(one.position), moment(one.at), problem(one)) for one in shown]
        show_table(columns, rows)
        say(f"`eventlog show {shown[0].position}` shows such an event; tracebacks are in --output json.")
    if len(found) > limit:
        say(f"There are more than {number(limit)}; --limit shows more of them.")


def _cancel(operation: int, settings: Settings, reason: str | None) -> int:
    with opened_log(settings) as log:
        done = cancel_replay(log.database, operation, reason=reason)
    if settings.json:
        show_json(_as_document(done))
    else:
        show(f"Replay {operation} of {done.subscriber}: cancelled at {number(done.position)}")
    return Exit.OK


def _start(
    log: EventLog,
    *,
    subscriber: str,
    chosen: Range,
    new_keys: bool,
    reason: str | None,
    settings: Settings,
    dry_run: bool,
    yes: bool,
    executor: Executor | None = None,
) -> ReplayPlan:
    """Show the plan, ask, and start it."""
    plan = start_replay(log.database, subscriber, chosen, new_keys=new_keys, dry_run=True)
    if not settings.json:
        _show_plan(plan, dry_run=dry_run)
    if dry_run:
        return plan
    ask(f"Replay {_counted(plan)} to {subscriber}?", yes=yes, dry_run_offered=True)
    return start_replay(log.database, subscriber, chosen, new_keys=new_keys, reason=reason, executor=executor)


def _in_foreground(app: "App", name: str, deed: Callable[..., ReplayPlan], settings: Settings, *, yes: bool) -> int:
    """Start a replay as ours, so that no worker takes it up first, and execute it."""
    runtime = app.runtime()
    with app.log.database.reader() as connection:
        registered = read_subscriber(connection, app.log.database, name)
    check_contract(registered, app.chosen([name])[0], app.log.database)
    executor = Executor(owner=runtime.owner, lease_seconds=runtime.lease_seconds)
    plan = deed(app.log, dry_run=False, yes=yes, executor=executor)
    assert plan.operation is not None
    return _execute(app, runtime, plan.operation, settings)


def _resume(operation: int, settings: Settings) -> int:
    with opened_app(settings) as app:
        return _execute(app, app.runtime(), operation, settings)


def _execute(app: "App", runtime: Runtime, operation: int, settings: Settings) -> int:
    """Run a replay in this process until it has ended; ^C leaves it to the workers, or to be resumed."""
    found = read_replay(app.log.database, operation)
    replaying = Replaying(runtime, app.chosen([found.subscriber])[0], operation)
    logs = Logs(form=None, level=logging.DEBUG if settings.verbose else logging.ERROR)
    try:
        with (
            logs.written(),
            Heartbeat(runtime, list, also=[replaying]),
            shown_progress(found.until - found.position) as progress,
        ):
            _turns(replaying, runtime, app.log, found, progress)
    except KeyboardInterrupt:
        say(
            f"Left unfinished; running workers go on with it, or `eventlog replay --resume {operation}` here;"
            f" `eventlog replay --cancel {operation}` ends it"
        )
        raise
    finally:
        replaying.release()
    return _show_ended(app.log.database, read_replay(app.log.database, operation), settings)


def _turns(replaying: Replaying, runtime: Runtime, log: EventLog, found: Replay, progress: Progress) -> None:
    while True:
        done = replaying.turn()
        now = read_replay(log.database, found.operation)
        progress.reached(now.position - found.position)
        if now.state is not ReplayState.RUNNING:
            return
        if not done.moved:
            runtime.clock.wait(runtime.stop, LOOK_SECONDS)


def _wait(log: EventLog, operation: int, settings: Settings) -> int:
    with _waited_for(log, operation) as ended:
        return _show_ended(log.database, ended, settings)


@contextmanager
def _waited_for(log: EventLog, operation: int) -> Iterator[Replay]:
    clock, stop = SystemClock(), threading.Event()
    found = now = read_replay(log.database, operation)
    with shown_progress(found.until - found.position) as progress:
        while now.state is ReplayState.RUNNING:
            clock.wait(stop, LOOK_SECONDS)
            now = read_replay(log.database, operation)
            progress.reached(now.position - found.position)
    yield now


def _show_plan(plan: ReplayPlan, *, dry_run: bool) -> None:
    line = show if dry_run else say
    line(f"{plan.subscriber}: {_counted(plan)} after {number(plan.after)} up to {number(plan.until)}")
    for name, count in sorted(plan.by_type.items(), key=lambda one: (-one[1], one[0])):
        line(f"  {number(count):>9}  {name}")
    if plan.estimated:
        line("  estimated from a sample; types with few events may be missing")
    if plan.first_recorded_at is not None:
        line(f"  recorded {moment(plan.first_recorded_at)} to {moment(plan.last_recorded_at)}")
    if plan.left_out:
        line(f"  {counted(plan.left_out, 'open failure')} left out: `eventlog retry {plan.subscriber}` tries them")
    line("  with new idempotency keys" if plan.new_keys else "  with the idempotency keys they had")


def _counted(plan: ReplayPlan) -> str:
    return ("about " if plan.estimated else "") + counted(plan.events, "event")


def _show_started(log: EventLog, plan: ReplayPlan, settings: Settings, *, dry_run: bool) -> int:
    if settings.json:
        state: dict[str, object] = {"state": None, "position": plan.after, "handled": 0, "failed": 0}
        if plan.operation is not None:
            state = _as_document(read_replay(log.database, plan.operation))
        show_json({**msgspec.structs.asdict(plan), **state, "until": plan.until, "dry_run": dry_run})
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"Replay {plan.operation} of {plan.subscriber} was started; the running workers execute it")
        show(f"  undo: {plan.undo}")
    return Exit.OK


def _show_ended(database: Database, ended: Replay, settings: Settings) -> int:
    """Tell how it ended, and what it failed at first."""
    failures = read_replay_failures(database, ended.operation, limit=FAILURES_NAMED) if ended.failed else []
    if settings.json:
        show_json({**_as_document(ended), "failures": failures})
    else:
        counts = f"{number(ended.handled)} handled, {number(ended.failed)} failed"
        show(f"Replay {ended.operation} of {ended.subscriber}: {ended.state} at {number(ended.position)}, {counts}")
        for one in failures:
            show(f"  event {number(one.position)}: {printable(problem(one))}")
        if failures:
            more = ended.failed - len(failures)
            every = f"and {number(more)} more: " if more > 0 else ""
            say(f"  {every}`eventlog replays --failed {ended.operation}` lists them, with --output json in full")
    return Exit.FAILED if ended.failed or ended.state is not ReplayState.DONE else Exit.OK


def _as_document(one: Replay) -> dict[str, object]:
    return msgspec.structs.asdict(one)


def _as_row(one: Replay) -> tuple[str, ...]:
    numbers = (number(one.position), number(one.until), number(one.handled), number(one.failed))
    return (str(one.operation), one.subscriber, one.state, *numbers, one.owner or "-")

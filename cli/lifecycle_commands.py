"""`pause`, `resume`, `partitions`, `rename`, `remove`: what a subscriber is, and whether it runs."""

import click
import msgspec

from eventlog.cli.exits import Exit
from eventlog.cli.opening import opened_database
from eventlog.cli.options import shared_options, subscriber_argument
from eventlog.cli.output import counted, number, say, show, show_json
from eventlog.cli.plan import ask, reaching
from eventlog.cli.settings import read_settings
from eventlog.subscribers import control

_reason = click.option("--reason", help="Why, for the record.")
_dry_run = click.option("--dry-run", is_flag=True, help="Show the plan, and change nothing.")
_yes = click.option("-y", "--yes", is_flag=True, help="Do it unasked.")


@click.command()
@subscriber_argument()
@_reason
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    help="How long to wait for workers to let go.",
)
@shared_options
def pause(subscriber: str, reason: str | None, timeout: float) -> int:
    """Stop deliveries to a subscriber.

    Returns when nothing of it is in hand any more: workers let go after the events at hand. It stays paused until it is
    resumed, whatever is started meanwhile. Exits with 1 when somebody is still at it after the time-out.

    \b
      eventlog pause mail --reason "the provider is being moved"
    """
    settings = read_settings()

    def waiting(owners: tuple[str, ...]) -> None:
        say(f"Waiting for {', '.join(owners)} to let go")

    with opened_database(settings, subscriber) as database:
        told = None if settings.json else waiting
        done = control.pause(database, subscriber, reason=reason, wait_seconds=timeout, waiting=told)
    if settings.json:
        show_json(done)
    else:
        show(f"{subscriber}: paused" if done.changed else f"{subscriber} was paused already")
        if done.changed:
            show(f"  undo: {reaching(f'eventlog resume {subscriber}', subscriber, database, settings)}")
        if done.in_hand_of:
            say(f"Still in hand of {', '.join(done.in_hand_of)} after {timeout:g} s; nothing new is handed out")
    return Exit.FAILED if done.in_hand_of else Exit.OK


@click.command()
@subscriber_argument()
@click.option("--anyway", is_flag=True, help="Also where it stands beyond what its restored log had.")
@_reason
@shared_options
def resume(subscriber: str, reason: str | None, anyway: bool) -> None:
    """Let deliveries to a paused subscriber go on.

    From its checkpoint: nothing was passed over meanwhile. One that a worker has stopped, since its log was restored to
    an earlier point, has to be moved first.

    \b
      eventlog resume mail
    """
    settings = read_settings()
    with opened_database(settings, subscriber) as database:
        done = control.resume(database, subscriber, reason=reason, anyway=anyway)
    if settings.json:
        show_json(done)
    else:
        show(f"{subscriber}: running" if done.changed else f"{subscriber} was running already")


@click.command()
@subscriber_argument()
@click.argument("count", metavar="NUMBER", type=click.IntRange(min=1))
@_reason
@_dry_run
@_yes
@shared_options
def partitions(subscriber: str, count: int, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Give a subscriber another number of partitions.

    Nothing is lost or handled twice, and events of one key stay in order. Workers may run meanwhile; those whose code
    declares another number get no lease from then on: deploy the code with `partitions=NUMBER` right after it.

    \b
      eventlog partitions mail 8 --dry-run
    """
    settings = read_settings()
    with opened_database(settings, subscriber) as database:
        done = control.repartition(database, subscriber, count, dry_run=True)
        if not settings.json:
            _show_partitions(done, dry_run=dry_run)
        if not dry_run:
            ask(f"Give {subscriber} {counted(count, 'partition')}?", yes=yes, dry_run_offered=True)
            done = control.repartition(database, subscriber, count, reason=reason)
            done = msgspec.structs.replace(done, undo=reaching(done.undo, subscriber, database, settings))
    if settings.json:
        show_json({**msgspec.structs.asdict(done), "dry_run": dry_run})
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"{subscriber}: {counted(done.before, 'partition')} -> {number(count)}")
        show(f"  undo: {done.undo}")


@click.command()
@subscriber_argument()
@click.argument("new_name")
@_reason
@_dry_run
@_yes
@shared_options
def rename(subscriber: str, new_name: str, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Give a subscriber another name.

    Its checkpoint, its failures and its history go with it, and its idempotency keys stay what they were. Stop its
    workers first, and deploy code that declares the new name after it: code with the old name would begin anew.

    \b
      eventlog rename mail mail-v2
    """
    settings = read_settings()
    with opened_database(settings, subscriber) as database:
        done = control.rename(database, subscriber, new_name, dry_run=True)
        if not dry_run:
            ask(f"Rename {subscriber} to {new_name}?", yes=yes, dry_run_offered=True)
            done = control.rename(database, subscriber, new_name, reason=reason)
    if settings.json:
        show_json({**msgspec.structs.asdict(done), "dry_run": dry_run})
    elif dry_run:
        show(f"{subscriber} would be called {new_name}; nothing was changed.")
    else:
        show(f"{subscriber} is called {new_name} now")
        show(f"  undo: {reaching(f'eventlog rename {new_name} {subscriber}', subscriber, database, settings)}")


@click.command()
@subscriber_argument()
@_reason
@_dry_run
@_yes
@shared_options
def remove(subscriber: str, reason: str | None, dry_run: bool, yes: bool) -> None:
    """Forget a subscriber: its checkpoint, its failures, its receipts.

    Its operations and attempts stay as history, and the tables of a projection are left alone. Stop the workers that
    declare it first, and deploy code without it: code that still declares it would begin anew.

    \b
      eventlog remove old-mail --reason "replaced by mail"
    """
    settings = read_settings()
    with opened_database(settings, subscriber) as database:
        done = control.remove(database, subscriber, dry_run=True)
        if not settings.json:
            _show_removed(done, dry_run=dry_run)
        if not dry_run:
            ask(f"Remove {subscriber}?", yes=yes, dry_run_offered=True)
            done = control.remove(database, subscriber, reason=reason)
    if settings.json:
        show_json({**msgspec.structs.asdict(done), "dry_run": dry_run})
    elif dry_run:
        say("Nothing was changed.")
    else:
        show(f"{subscriber}: removed")


def _show_partitions(plan: control.Repartitioned, *, dry_run: bool) -> None:
    line = show if dry_run else say
    line(f"{plan.subscriber}: {counted(plan.before, 'partition')} -> {number(plan.partitions)}")
    line(f"  all begin at checkpoint {number(plan.position)}")
    if plan.floor > plan.position:
        line(f"  up to {number(plan.floor)} what is done with is passed by")


def _show_removed(plan: control.Removed, *, dry_run: bool) -> None:
    line = show if dry_run else say
    line(f"{plan.subscriber}: checkpoint {number(plan.checkpoint)}, {counted(plan.open_failures, 'open failure')}")
    if plan.tables:
        line(f"  left alone: {', '.join(plan.tables)}")

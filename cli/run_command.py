"""`run`: the handlers of an app, until the log has no more for them (`--drain`) or until somebody stops it.

SIGTERM and ^C ask a worker to stop: it finishes the events at hand, releases its leases, and the command ends with 0
for SIGTERM and 130 for ^C. The second signal ends it at once; what was in hand is then delivered again. With
`--processes` this process runs nothing by itself: it keeps so many others running (`supervising.py`).
"""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from eventlog.cli.exits import Exit
from eventlog.cli.logs import FORMS, LEVELS, Logs
from eventlog.cli.opening import opened_app
from eventlog.cli.options import declared_names, shared_options
from eventlog.cli.output import Column, counted, number, say, show_json, show_table
from eventlog.cli.run_options import Asked, address
from eventlog.cli.settings import Settings, read_settings
from eventlog.cli.stopping import signals_stop
from eventlog.cli.supervised import Child, child_of
from eventlog.cli.working import work
from eventlog.errors import UsageError
from eventlog.subscribers.app import App
from eventlog.subscribers.runtime import Runtime
from eventlog.subscribers.worker import Drained

logger = logging.getLogger("eventlog.worker")

PROCESSES_MAX = 64


@click.command()
@click.option(
    "--only",
    metavar="NAME",
    multiple=True,
    shell_complete=declared_names,
    help="Only this subscriber; may be given several times.",
)
@click.option("--drain", "drains", is_flag=True, help="Deliver what there is, with the retries that are due, and end.")
@click.option(
    "--processes",
    metavar="NUMBER",
    type=click.IntRange(1, PROCESSES_MAX),
    default=1,
    help="So many processes, which share the partitions; one that dies is started again.",
)
@click.option(
    "--listen-url",
    metavar="URL",
    envvar="EVENTLOG_LISTEN_URL",
    show_envvar=True,
    help="The way past a pooler to the same database, to be woken by appends.",
)
@click.option(
    "--health-file",
    metavar="PATH",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="EVENTLOG_HEALTH_FILE",
    show_envvar=True,
    help="Written every few seconds while all is well; a probe looks at its age.",
)
@click.option(
    "--metrics-port",
    "metrics_port",
    metavar="[HOST:]PORT",
    envvar="EVENTLOG_METRICS_PORT",
    show_envvar=True,
    help="Serve metrics for Prometheus here; on this machine alone if no host is said.",
)
@click.option(
    "--log",
    "form",
    type=click.Choice(FORMS),
    envvar="EVENTLOG_LOG",
    show_envvar=True,
    help="Write the log on stderr so, whatever the app has set up.",
)
@click.option(
    "--log-level",
    "level",
    type=click.Choice(LEVELS),
    envvar="EVENTLOG_LOG_LEVEL",
    show_envvar=True,
    help="Of our own log; info if not said, error for --drain.",
)
@shared_options
def run(
    *,
    only: tuple[str, ...],
    drains: bool,
    processes: int,
    listen_url: str | None,
    health_file: Path | None,
    metrics_port: str | None,
    form: str | None,
    level: str | None,
) -> int:
    """Run the handlers of an app.

    Until it is stopped: after SIGTERM or ^C it finishes the events at hand, gives its leases back and ends with 0, or
    130 for ^C. A second signal ends it at once, as that signal ends any program (143 and 130 in a shell); what was in
    hand is delivered again. Several may run at once, on several machines.

    Events whose handler failed are in the ledger, and are no reason to fail here: --drain ends with 0 and says how many
    there were.

    \b
      eventlog run --app shop:app
      eventlog run --app shop:app --only mail --drain
      eventlog run --app shop:app --processes 4 --log json --metrics-port 9464
    """
    settings = read_settings()
    asked = Asked(
        only=only,
        drains=drains,
        processes=processes,
        listen_url=listen_url,
        level=level,
        health_file=health_file,
        metrics=None if metrics_port is None else address(metrics_port),
    )
    _refuse_with_drain(asked)
    child = child_of(os.environ)
    logs = Logs(
        form=form, level=_level(settings, level, drains=drains), with_process=processes > 1 or child is not None
    )
    with logs.written():
        if processes > 1:
            return _run_processes(asked, settings, logs)
        if child is not None:
            child.prepare()
        with opened_app(settings) as app:
            logs.insist()
            return _run(app, asked, settings, logs, child=child)


def _run(app: App, asked: Asked, settings: Settings, logs: Logs, *, child: Child | None) -> int:
    _refuse_empty(app, asked)
    if asked.listen_url is not None:
        app.log.listen_on(asked.listen_url)
    with _measured(app, asked, child=child):
        runtime = app.runtime()
        with signals_stop(runtime, line=logs.line) as stopped_by:
            if asked.drains:
                done = _drain(app, asked.only, runtime)
            else:
                gone = None if child is None else child.is_orphaned
                done = work(app, asked.only, runtime, health_file=asked.health_file, gone=gone)
    if child is None:
        _show_done(done, settings, drained=asked.drains, talks=logs.form != "json")
    return Exit.INTERRUPTED if signal.SIGINT in stopped_by else Exit.OK


def _run_processes(asked: Asked, settings: Settings, logs: Logs) -> int:
    """Look whether it can be run at all, and then have others run it."""
    from eventlog.cli.supervising import supervise

    with opened_app(settings) as app:
        logs.insist()
        _refuse_empty(app, asked)
        partitions = sum(one.partitions for one in app.chosen(asked.only))
        if partitions < asked.processes:
            logger.warning(
                "%d processes share %s: some will have none", asked.processes, counted(partitions, "partition")
            )
        return supervise(app, asked, settings, logs)


def _refuse_with_drain(asked: Asked) -> None:
    unfit = {
        "--processes": asked.processes > 1,
        "--health-file": asked.health_file is not None,
        "--metrics-port": asked.metrics is not None,
    }
    named = ", ".join(name for name, given in unfit.items() if given)
    if asked.drains and named:
        raise UsageError(
            f"{named} is for a worker that runs on, and --drain ends",
            remedy="leave --drain out, or the others: what a drain has done is its output",
        )


def _refuse_empty(app: App, asked: Asked) -> None:
    if not app.chosen(asked.only):
        raise UsageError("the app declares no subscribers", remedy="declare one: app.subscriber(...)")


@contextmanager
def _measured(app: App, asked: Asked, *, child: Child | None) -> Iterator[None]:
    """Count the calls of handlers, and serve that and the log's own metrics, where it is wanted."""
    if child is not None:
        if child.measures:
            from eventlog.cli.metrics_server import measured

            measured(app)
        yield
        return
    if asked.metrics is None:
        yield
        return
    from eventlog.cli.metrics_server import exported

    with exported(app, host=asked.metrics.host, port=asked.metrics.port):
        yield


def _drain(app: App, only: tuple[str, ...], runtime: Runtime) -> Drained:
    told: set[str] = set()

    def waiting(name: str) -> None:
        if name not in told:
            told.add(name)
            say(f"{name}: another worker runs it; waiting until it has come as far, or is gone")

    return app.drain(only, waiting=waiting, runtime=runtime)


def _show_done(done: Drained, settings: Settings, *, drained: bool, talks: bool) -> None:
    if settings.json:
        show_json(done)
    elif drained:
        columns = [Column(title="subscriber"), Column(title="handled", right=True), Column(title="failed", right=True)]
        show_table(columns, [(name, number(one.handled), number(one.failed)) for name, one in done.subscribers.items()])
    if done.failed and talks:
        say(f"{counted(done.failed, 'attempt')} failed; `eventlog failures` shows what stands in the ledger.")


def _level(settings: Settings, level: str | None, *, drains: bool) -> int:
    """A worker tells what happens, one line each; a drain sums up at its end, unless it is asked to tell as well."""
    if level is not None:
        return logging.getLevelNamesMapping()[level.upper()]
    if settings.verbose:
        return logging.DEBUG
    return logging.ERROR if drains else logging.INFO

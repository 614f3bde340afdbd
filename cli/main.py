"""The command `eventlog`: its list of commands, each loaded when it is called, and the one way out for errors."""

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click
from click.shell_completion import CompletionItem

from eventlog.cli.exits import Exit, Report
from eventlog.cli.options import shared_options
from eventlog.cli.output import Format
from eventlog.errors import EventLogError
from eventlog.nearest import did_you_mean

COMMANDS: dict[str, dict[str, tuple[str, str]]] = {
    "The log": {
        "init": ("log_commands:init", "Create the tables of the log, or upgrade them."),
        "append": ("log_commands:append", "Append events to a stream."),
        "read": ("log_commands:read", "Read events in the order of the log."),
        "show": ("show_command:show_event", "Show one event in full, and what belongs to it."),
        "streams": ("census_commands:streams", "List the streams of the last events, the newest first."),
        "stats": ("census_commands:stats", "Show how large the log is, and how fast it grows."),
        "export": ("carry_commands:export", "Write events to a file, one a line, as JSON."),
        "import": ("carry_commands:import_events", "Import events that `eventlog export` has written."),
        "schema": ("schema_commands:schema", "Tell or write down at which revision the tables are."),
    },
    "Subscribers": {
        "status": ("status_command:status", "Show how far everything is, and what failed."),
        "check": ("check_command:check", "Check lag, age and failures, for a monitoring system."),
        "doctor": ("doctor_command:doctor", "Examine the log: what is wrong with it, and what to do."),
        "verify": ("verify_command:verify", "Hold the log and its subscribers against what they promise."),
        "subscribers": ("subscriber_commands:subscribers", "List the registered subscribers."),
        "register": ("subscriber_commands:register", "Register the subscribers of an app."),
        "run": ("run_command:run", "Run the handlers of an app."),
        "workers": ("workers_command:workers", "List the workers, and the partitions each of them has."),
        "operations": ("operations_command:operations", "List what was done to subscribers, by whom and why."),
        "pause": ("lifecycle_commands:pause", "Stop deliveries to a subscriber."),
        "resume": ("lifecycle_commands:resume", "Let deliveries to a paused subscriber go on."),
        "partitions": ("lifecycle_commands:partitions", "Give a subscriber another number of partitions."),
        "rename": ("lifecycle_commands:rename", "Give a subscriber another name."),
        "remove": ("lifecycle_commands:remove", "Forget a subscriber: its checkpoint, its failures, its receipts."),
    },
    "Failures": {
        "failures": ("ledger_commands:failures", "List the events whose handler failed."),
        "failure": ("failure_command:failure", "Show one failure in full: the event, every attempt, the traceback."),
        "retry": ("ledger_commands:retry", "Make failures due now; a worker runs them."),
        "skip": ("ledger_commands:skip", "Give failures up, with a reason."),
    },
    "Replay": {
        "rewind": ("move_commands:rewind", "Move a subscriber back, so that events are delivered again."),
        "advance": ("move_commands:advance", "Move a subscriber forward: what lies between is not delivered to it."),
        "seek": ("move_commands:seek", "Move a subscriber to a place, whichever way that is."),
        "replay": ("replay_command:replay", "Deliver a range of the log once more to an effect."),
        "replays": ("replay_command:replays", "List the replays, and how far they are."),
        "undo": ("move_commands:undo", "Take a rewind, an advance or a seek back."),
        "rebuild": ("rebuild_command:rebuild", "Make a projection anew from the log."),
        "rebuilds": ("rebuild_command:rebuilds", "List the rebuilds, the latest first."),
    },
    "Event types": {
        "types": ("types_commands:types", "List the event types, their versions and counts."),
    },
    "To begin with": {
        "completion": ("completion:completion", "Print the script that completes `eventlog` in a shell."),
        "demo": ("demo.command:demo", "See it all on a week of real flights out of New York."),
    },
}
"""By section: where each command is, and its line in the list; the module is loaded when the command is called."""

_PLACES = {name: place for section in COMMANDS.values() for name, (place, _) in section.items()}


class _PipeClosedError(Exception):
    """Whoever read stdout has enough. Not an OSError, which click would turn into an exit code of its own."""


class Commands(click.Group):
    """The group: commands that are loaded when called, listed by section, and suggested when misspelt."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_PLACES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _PLACES:
            return None
        module, _, attribute = _PLACES[cmd_name].partition(":")
        command = getattr(import_module(f"eventlog.cli.{module}"), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _PLACES and not args[0].startswith("-"):
            hint = did_you_mean(args[0], _PLACES)
            raise click.UsageError(f"There is no command {args[0]!r}.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete commands from the list, without loading any."""
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        lines = {name: line for section in COMMANDS.values() for name, (_, line) in section.items()}
        return [CompletionItem(name, help=line) for name, line in lines.items() if name.startswith(incomplete)]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name, line) for name, (_, line) in section.items()], col_max=14)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise _PipeClosedError from error


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="rewindlog", message="%(package)s %(version)s")
@shared_options
def eventlog() -> None:
    """An event log in the database you already have, with subscribers that rewind.

    Settings come from flags, else from EVENTLOG_URL, EVENTLOG_APP, EVENTLOG_SCHEMA and EVENTLOG_OUTPUT, else from
    eventlog.toml or [tool.eventlog] in pyproject.toml in the current directory; the log is sqlite:///eventlog.db
    otherwise. Try `eventlog demo`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    _speak_unicode()
    try:
        code = _run(given)
        sys.stdout.flush()
    except (BrokenPipeError, _PipeClosedError):
        _forget_stdout()
        return Exit.OK
    return code


def _run(given: list[str]) -> int:
    verbose = bool({"-v", "--verbose"} & set(given))
    errors = Report(as_json=_wants_json(given), verbose=verbose, given=tuple(given))
    try:
        result = eventlog.main(args=given, prog_name="eventlog", standalone_mode=False, color=_color())
    except (click.Abort, KeyboardInterrupt):
        return errors.of_interrupt()
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return Exit.REFUSED
    except click.ClickException as error:
        return errors.of_usage(error)
    except EventLogError as error:
        return errors.of_ours(error)
    except _PipeClosedError:
        raise
    except UnicodeEncodeError as error:
        if all(_is_text(word) for word in given):
            return errors.of_bug(error)
        return errors.of_usage(click.UsageError("An argument is not text: it has bytes that are not UTF-8."))
    except Exception as error:
        return errors.of_bug(error)
    return result if isinstance(result, int) else Exit.OK


def _is_text(word: str) -> bool:
    """Bytes that the system could not decode stand in a word as surrogates, which nothing can write."""
    return not any("\ud800" <= letter <= "\udfff" for letter in word)


def _wants_json(given: Sequence[str]) -> bool:
    """Tell how to print an error, even one about the very arguments that say so."""
    output = os.environ.get("EVENTLOG_OUTPUT", "")
    for place, argument in enumerate(given):
        if argument in ("-o", "--output"):
            output = given[place + 1] if place + 1 < len(given) else output
        elif argument.startswith(("--output=", "-o")):
            output = argument.removeprefix("--output=").removeprefix("-o")
    return output in (Format.JSON, Format.JSONL)


def _color() -> bool | None:
    """NO_COLOR and FORCE_COLOR, which click does not look at by itself."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def _speak_unicode() -> None:
    """JSON in a pipe is UTF-8 whatever the locale; a terminal gets what it can show of a text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _forget_stdout() -> None:
    """What is still buffered has no reader; Python would complain about it at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)

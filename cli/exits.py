"""Exit codes, and the one form in which every error leaves: what happened, and what to do about it.

0  done              3  something named is not there
1  failed            4  a check did not hold
2  usage, refused    5  the database does not answer, or has no such log
                   130  interrupted
"""

import json
import traceback
from dataclasses import dataclass
from enum import IntEnum

import click

from eventlog.cli.output import say
from eventlog.cli.secrets import hide
from eventlog.errors import CheckFailedError, DatabaseError, EventLogError, NotFoundError, NotHandledError, UsageError


class Exit(IntEnum):
    """What a command tells the shell."""

    OK = 0
    FAILED = 1
    REFUSED = 2
    NOT_FOUND = 3
    CHECK_FAILED = 4
    DATABASE = 5
    INTERRUPTED = 130


_BY_BRANCH: tuple[tuple[type[EventLogError], Exit], ...] = (
    (DatabaseError, Exit.DATABASE),
    (NotFoundError, Exit.NOT_FOUND),
    (UsageError, Exit.REFUSED),
    (CheckFailedError, Exit.CHECK_FAILED),
    (NotHandledError, Exit.CHECK_FAILED),
)


def exit_code(error: EventLogError) -> Exit:
    """Tell the exit code of an error by the branch of the tree it stands on."""
    return next((code for branch, code in _BY_BRANCH if isinstance(error, branch)), Exit.FAILED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How errors are printed: as a line of JSON or as text, and then with the traceback if that is wanted."""

    as_json: bool
    verbose: bool
    given: tuple[str, ...] = ()
    """The command line, whose passwords are hidden."""

    def of_ours(self, error: EventLogError) -> Exit:
        """Print one of our errors, and return its exit code."""
        self._print(error, code=error.code, message=str(error), remedy=error.remedy)
        return exit_code(error)

    def of_usage(self, error: click.ClickException) -> Exit:
        """Print an error of the command line itself."""
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "eventlog"
        self._print(error, code="usage", message=error.format_message(), remedy=f"`{path} --help` shows how it is used")
        return Exit.REFUSED

    def of_bug(self, error: Exception) -> Exit:
        """Print an error nobody expected."""
        self._print(
            error, code="internal", message=f"{type(error).__name__}: {error}", remedy="--verbose shows the traceback"
        )
        return Exit.FAILED

    def of_interrupt(self) -> Exit:
        """Say that somebody pressed ^C."""
        if self.as_json:
            self._print(KeyboardInterrupt(), code="interrupted", message="interrupted", remedy="")
        else:
            say("\nInterrupted.")
        return Exit.INTERRUPTED

    def _print(self, error: BaseException, *, code: str, message: str, remedy: str) -> None:
        if self.as_json:
            said = {"code": code, "message": self._hide(message), "remedy": self._hide(remedy)}
            say(json.dumps({"error": said}, ensure_ascii=False))
            return
        if self.verbose:
            say(self._hide("".join(traceback.format_exception(error))))
        say(self._hide(f"Error: {message}"))
        if remedy:
            say(self._hide(f"  {remedy}"))

    def _hide(self, text: str) -> str:
        return hide(text, self.given)

"""docs/cli.md, the reference of the command line: written from the commands themselves, never by hand.

    python -m tests.cli_page            writes it anew
    python -m tests.cli_page --check    says whether it is up to date, and ends with 1 if it is not

It holds what `--help` says of each command, in the order and the sections of `eventlog --help`, and what is common to
all of them: the shared options, once, the forms of output, and the exit codes. A command that is added to the list in
`cli/main.py`, or an option that is added to a command, is in it the next time it is written; nothing is told here.
"""

import inspect
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import dedent

import click

from eventlog.cli.exits import Exit
from eventlog.cli.main import COMMANDS, eventlog
from eventlog.cli.options import shared_options
from eventlog.cli.output import Format
from tests.docs_support import DOCS

PAGE = DOCS / "cli.md"
REMEDY = "docs/cli.md is not what the commands say: write it anew by `python -m tests.cli_page`, and commit it"

HEAD = """\
# The command line

Every command of `eventlog`, as its `--help` tells it. This page is written from the commands, by
`python -m tests.cli_page`, and never edited.
"""

COMMON = """\
Data goes to stdout, talk and errors to stderr. With JSON an error is one line on stderr,
`{"error": {"code", "message", "remedy"}}`. What moves, gives up or takes away has `--dry-run`, and asks first;
where nobody can be asked it is refused unless `--yes` says so.
"""

EXITS = {
    Exit.OK: "done, or nothing was to be done",
    Exit.FAILED: "failed: the error says at what",
    Exit.REFUSED: "wrong usage, or refused: nothing was changed",
    Exit.NOT_FOUND: "something that was named is not there",
    Exit.CHECK_FAILED: "a check did not hold",
    Exit.DATABASE: "the database does not answer, or has no log that this release can work with",
    Exit.INTERRUPTED: "interrupted by ^C",
}

FORMATS = {
    Format.TABLE: "for people: a table that fits the terminal; in a pipe every cell whole, in columns of plain text",
    Format.JSON: "for programs: one document",
    Format.JSONL: "for programs: one line of JSON for each item of a list, as they come",
}


@shared_options
def _nothing() -> None:
    """Bears the shared options."""


SHARED = click.command(_nothing)


def page() -> str:
    """Return the page as it has to be today."""
    return "\n".join([HEAD, *_contents(), *_common(), *_sections()]).rstrip() + "\n"


def _contents() -> Iterator[str]:
    for title, commands in COMMANDS.items():
        yield f"**{title}**: {', '.join(f'[{name}](#eventlog-{name})' for name in commands)}\n"


def _common() -> Iterator[str]:
    yield "## What all of them have in common\n"
    yield f"{_prose(eventlog.help)}\n"
    yield "These options may stand before the command's name or after it:\n"
    yield from _options(SHARED, known=())
    yield "Where a flag is not given, its environment variable decides, then the file, then the default.\n"
    yield "| `--output` | |"
    yield "|---|---|"
    yield from (f"| `{one}` | {FORMATS[one]} |" for one in Format)
    yield ""
    yield COMMON
    yield "| exit code | |"
    yield "|---|---|"
    yield from (f"| {int(code)} | {EXITS[code]} |" for code in Exit)
    yield ""


def _sections() -> Iterator[str]:
    for title, commands in COMMANDS.items():
        yield f"## {title}\n"
        for name in commands:
            command = eventlog.get_command(click.Context(eventlog), name)
            assert command is not None, f"there is no command {name}"
            yield from command_lines(command, f"eventlog {name}", depth=3)


def command_lines(command: click.Command, path: str, *, depth: int) -> Iterator[str]:
    """Yield the pieces that tell a command, and those below it where it is a group."""
    context = click.Context(command, info_name=path)
    pieces = " ".join(command.collect_usage_pieces(context))
    yield f"{'#' * depth} {path}\n"
    yield f"```text\n{path} {pieces}\n```\n"
    yield f"{_prose(command.help)}\n"
    shared = {option.name for option in SHARED.params}
    yield from _options(command, known=shared)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None, f"there is no command {path} {name}"
            yield from command_lines(below, f"{path} {name}", depth=depth + 1)


def _options(command: click.Command, *, known: Iterable[str | None]) -> Iterator[str]:
    """A table of options, without those that are known: name, what it does, environment variable, default."""
    rows = [
        _row(option, click.Context(command))
        for option in command.params
        if isinstance(option, click.Option) and option.name not in known and not option.hidden
    ]
    if rows:
        yield "| option | | environment | default |"
        yield "|---|---|---|---|"
        yield from rows
        yield ""


def _row(option: click.Option, context: click.Context) -> str:
    record = option.get_help_record(context)
    assert record is not None
    written, said = record[0], option.help or ""
    # The shared options read their variables in settings.py, and say so at the end of their help.
    named = re.search(r"\s*\[env: (\w+)\]", said)
    variable = named[1] if named else option.envvar
    told = said.replace(named[0], "") if named else said
    shown = variable if isinstance(variable, str) else ", ".join(variable or ())
    cells = (f"`{written}`", told, f"`{shown}`" if shown else "", _default(option))
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _default(option: click.Option) -> str:
    """The default where there is one that says something: a switch is off, and a list empty, unless it is told."""
    if option.required:
        return "required"
    said = option.show_default if isinstance(option.show_default, str) else option.default
    return f"`{said}`" if isinstance(said, str | int | float) and not isinstance(said, bool) else ""


def _prose(told: str | None) -> str:
    """A help text as Markdown: what click is told not to wrap is an example, and becomes a block."""
    paragraphs = re.split(r"\n\s*\n", dedent(inspect.cleandoc(told or "")))
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    unwrapped = text.strip("\n").removeprefix("\b\n")
    return text if unwrapped == text else f"```sh\n{dedent(unwrapped)}\n```"


def write(file: Path) -> bool:
    """Write the page, and tell whether it has changed."""
    today = page()
    changed = not file.exists() or file.read_text() != today
    file.write_text(today)
    return changed


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        if not PAGE.exists() or PAGE.read_text() != page():
            sys.exit(REMEDY)
    else:
        sys.stdout.write(f"{PAGE}: {'written anew' if write(PAGE) else 'was up to date'}\n")

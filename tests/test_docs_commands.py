"""Every command that a page tells is one that the command line takes, with these arguments and options."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eventlog.cli.main import eventlog

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))

_SPAN = re.compile(r"(?<!`)`(eventlog [^`]+)`")
_LINE = re.compile(r"^(?:\s{4}|\$ )?(eventlog [a-z][^|>]*?)(?:\s*[|>].*|\s+(?:2>|&&|#).*)?$", re.M)
_PLACES = {"N": "1", "NUMBER": "1", "POSITION": "1", "OPERATION": "1", "TIME": "2h"}


def commands(page: Path) -> Iterator[str]:
    """The commands of a page: those within a line, and those that stand by themselves."""
    text = page.read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    blocks = "\n".join(re.findall(r"^```(?:sh|console)\n(.*?)^```$", text, re.M | re.S))
    yield from (re.sub(r"\s+", " ", found) for found in _SPAN.findall(prose))
    yield from _LINE.findall(blocks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_tells_to_type_is_taken(page: Path) -> None:
    for told in commands(page):
        words = [_PLACES.get(word, word) for word in shlex.split(told)[1:]]
        try:
            _parse(words)
        except click.MissingParameter as error:
            if len(words) > 1:  # one word names a command, and is not typed
                pytest.fail(f"{told}: {error.format_message()}")
        except click.UsageError as error:
            pytest.fail(f"{told}: {error.format_message()}")
        except click.exceptions.Exit:
            pass  # --help and --version end here


def test_the_pages_tell_many_commands() -> None:
    assert sum(len(list(commands(page))) for page in PAGES) > 200


def _parse(words: list[str]) -> None:
    """As the command line does, but for calling what was found."""
    command: click.Command = eventlog
    context = command.make_context("eventlog", words)
    while isinstance(command, click.Group) and (rest := [*context._protected_args, *context.args]):
        name, found, words = command.resolve_command(context, rest)
        assert found is not None
        command = found
        context = command.make_context(name, words, parent=context)

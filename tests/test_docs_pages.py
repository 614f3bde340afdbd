"""The pages for who comes from elsewhere, and for who runs it; the reference of the command line; links."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from eventlog.cli.exits import Exit
from eventlog.cli.main import COMMANDS, eventlog
from eventlog.cli.output import Format
from tests import cli_page
from tests.docs_support import DOCS, assert_page_holds

PLAYED = (
    "coming-from-celery.md",
    "coming-from-kafka.md",
    "coming-from-nestjs.md",
    "coming-from-rabbitmq.md",
    "personal-data-and-growth.md",
    "runbook-stuck-subscriber.md",
)
PAGES = [DOCS.parent / "README.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?:`|^\$ )eventlog ([a-z][^`|>\n]*)", re.MULTILINE)
LISTED = re.compile(r"^- \[\d{4}\]\(([^)]+)\): (.+)$", re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _name(page: Path) -> str:
    return str(page.relative_to(DOCS.parent))


@pytest.mark.parametrize("page", PLAYED)
def test_the_page_does_what_it_says(page: str, tmp_path: Path) -> None:
    assert_page_holds(DOCS / page, tmp_path)


def test_the_reference_of_the_command_line_is_up_to_date() -> None:
    assert cli_page.PAGE.read_text() == cli_page.page(), cli_page.REMEDY


def test_the_reference_has_every_command_option_exit_code_and_format() -> None:
    told = cli_page.page()
    missing = [one for one in _all_there_is() if one not in told]
    assert not missing


def test_every_decision_is_listed_by_its_title() -> None:
    folder = DOCS / "decisions"
    listed = {match[1]: match[2] for match in LISTED.finditer((folder / "README.md").read_text())}

    assert listed == {
        page.name: page.read_text().splitlines()[0].removeprefix("# ") for page in folder.glob("[0-9]*.md")
    }


def test_a_command_below_another_one_is_in_the_reference() -> None:
    @click.command()
    @click.option("--deep", envvar="DEEP", default=3, help="How deep.")
    def below() -> None:
        """Go below.

        \b
          eventlog above below
        """

    above = click.Group("above", commands={"below": below}, help="Stay above.")
    told = "\n".join(cli_page.command_lines(above, "eventlog above", depth=3))

    assert "#### eventlog above below\n" in told
    assert "| `--deep INTEGER` | How deep. | `DEEP` | `3` |" in told
    assert "```sh\neventlog above below\n```" in told


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_command_that_a_page_names_is_there_and_takes_what_it_is_given(page: Path) -> None:
    assert not [line for line in COMMAND.findall(page.read_text()) if not _is_known(line)]


@pytest.mark.parametrize("line", ["rewound mail", "rewind mail --resent", "types locks", "skip --reason 'x' --onto y"])
def test_a_command_or_an_option_that_is_not_there_is_found(line: str) -> None:
    assert not _is_known(line)
    assert _is_known("rewind mail --from 4 --resend")
    assert _is_known("types lock --output=json")


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(BLOCK.sub("", page.read_text())) if "://" not in target]
    assert not [target for target in targets if not _resolves(page, target)]


def test_a_link_to_a_file_or_a_heading_that_is_not_there_is_found() -> None:
    page = DOCS / "cli.md"
    assert _resolves(page, "log.md")
    assert _resolves(page, "log.md#what-it-costs")
    assert _resolves(page, "#the-log")
    assert not _resolves(page, "logs.md")
    assert not _resolves(page, "log.md#what-it-gains")


def _all_there_is() -> Iterator[str]:
    for name in (name for section in COMMANDS.values() for name in section):
        yield f"\n### eventlog {name}\n"
        command = eventlog.get_command(click.Context(eventlog), name)
        assert command is not None
        yield from (one.opts[-1] for one in command.params if isinstance(one, click.Option) and not one.hidden)
    yield from (f"\n| {int(code)} | " for code in Exit)
    yield from (f"\n| `{one}` | " for one in Format)


def _is_known(line: str) -> bool:
    """Tell whether a command line is one: the command, the one below it where there are such, and all its options."""
    words = iter(re.sub(r"""(["']).*?\1""", "", line).split())
    command: click.Command | None = eventlog
    while isinstance(command, click.Group):
        name = next(words, None)
        if name is None:
            return command is not eventlog
        command = command.get_command(click.Context(command), name)
    if command is None:
        return False
    taken = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
    return {word.partition("=")[0] for word in words if word.startswith("--")} <= taken


def _resolves(page: Path, target: str) -> bool:
    name, _, anchor = target.partition("#")
    file = page.parent / name if name else page
    return file.exists() and (not anchor or anchor in _anchors(file))


def _anchors(file: Path) -> set[str]:
    """What headings are called in a link: lower case, without what is no letter, digit, space or hyphen."""
    headings = HEADING.findall(BLOCK.sub("", file.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}

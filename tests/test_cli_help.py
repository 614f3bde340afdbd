"""Help: it is there for every command, with an example, and says the same everywhere."""

import click
import pytest

from eventlog.cli.main import COMMANDS, eventlog

SUMMARIES = {name: line for section in COMMANDS.values() for name, (_, line) in section.items()}


@pytest.fixture(params=SUMMARIES)
def command(request: pytest.FixtureRequest) -> click.Command:
    found = eventlog.get_command(click.Context(eventlog), request.param)
    assert found is not None
    return found


def test_the_list_of_commands_says_what_their_own_help_says(command: click.Command) -> None:
    assert command.name is not None
    assert command.help is not None
    assert command.help.splitlines()[0] == SUMMARIES[command.name]


def test_every_help_has_an_example(command: click.Command) -> None:
    assert command.help is not None
    assert f"  eventlog {command.name}" in command.help


def test_every_option_and_every_setting_is_explained(command: click.Command) -> None:
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert not [one.name for one in options if not one.help]
    assert {"--url", "--app", "--schema", "--output", "--verbose"} <= {name for one in options for name in one.opts}


def test_a_help_fits_80_columns(command: click.Command) -> None:
    with click.Context(command, info_name=command.name, terminal_width=80) as context:
        assert max(len(line) for line in command.get_help(context).splitlines()) <= 80


def test_commands_are_loaded_when_they_are_called() -> None:
    context = click.Context(eventlog)
    assert eventlog.list_commands(context) == list(SUMMARIES)
    assert eventlog.get_command(context, "nothing") is None

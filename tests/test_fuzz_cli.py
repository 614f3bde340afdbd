"""Random arguments of every command: it does what it is told, or says with an error of ours why not.

Whatever is written on the command line, there is no traceback, the exit code is one of those that are documented, an
error as JSON is one line with a remedy, and where the exit code says that it was refused nothing has changed.

Left out is what does not end by itself: `--follow`, `--watch`, a worker without `--drain`, waiting without a time
limit, servers; and `demo`. `EVENTLOG_SOAK=N` in the environment runs so many.
"""

import io
import os
from collections.abc import Iterator
from typing import Any

import click
import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, create_engine, text

from eventlog.cli import exits
from eventlog.cli.exits import Exit
from eventlog.cli.main import eventlog
from tests.cli_support import Ran, Shop

EXAMPLES = {"sqlite": int(os.environ.get("EVENTLOG_SOAK", "80")), "postgresql": 20}
if "EVENTLOG_SOAK" in os.environ:
    EXAMPLES["postgresql"] = EXAMPLES["sqlite"] // 5

ENOUGH = 500
"""After so many, commands must have been done, refused, and told of what is not there."""

ENDLESS = {"follow", "interval", "wait", "metrics", "metrics_port", "processes", "listen_url", "health_file"}
"""Parameters that make a command run on, or start a server."""

NUMBERS = ("0", "1", "2", "3", "5", "-1", "1,234", "9223372036854775807", "18446744073709551616", "1e3", "٣", "")
TEXTS = (
    "mail",
    "board",
    "nobody",
    "board@rebuild-1",
    "log",
    "",
    " ",
    "-",
    "--",
    "clishop.placed",
    "clishop.*",
    "**",
    "a..b",
    "clishop-1",
    "total<0",
    "total=1",
    "$.a.b>=x",
    "{}",
    '{"number": 1, "total": -1}',
    '{"number": 1e999}',
    "[1]",
    "null",
    '"\\ud800"',
    "any",
    "none",
    "2h",
    "-1s",
    "99999999999d",
    "2024-01-01",
    "9999-12-31T23:59:59+14:00",
    "0001-01-01T00:00:00Z",
    "out.jsonl",
    "in.jsonl",
    "/",
    "no/where/x",
    "01890000-0000-7000-8000-000000000001",
    "x" * 600,
    "'; drop table events; --",
    "ünï\u2028cödé\U0001f600",
    "\udcff",
    "%s",
    "[bold]x[/bold]",
)
LINES = ("", "{}\n", '{"type": "clishop.placed", "data": {"number": 1}}\n', "[\n", "\x00\n")
URLS = ("sqlite:///none.db", "postgresql://127.0.0.1:1/x", "mysql://x/y", "://", "sqlite:///in.jsonl")
APPS = ("shop:app", "shop:make", "shop:none", "shop", ":", "no.where:app", "shop:totals")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that there is, with the words that call it."""
    if not isinstance(command, click.Group):
        yield path, command
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        if found is not None and name != "demo":
            yield from commands(found, (*path, name))


COMMANDS = tuple(commands(eventlog))


def values_of(parameter: click.Parameter) -> st.SearchStrategy[str]:
    if isinstance(parameter.type, click.Choice):
        return st.sampled_from([*parameter.type.choices, "other"])
    if parameter.name == "url":
        return st.sampled_from(URLS)
    if parameter.name in ("subscriber", "names"):
        return st.sampled_from(("mail", "mail", "board", "board", *TEXTS))
    if parameter.name == "app":
        return st.sampled_from(APPS)
    return st.sampled_from(NUMBERS) | st.sampled_from(TEXTS)


@st.composite
def words(draw: st.DrawFn) -> list[str]:
    """A command line: some of its options and arguments, in some order, now and then one too many."""
    path, command = draw(st.sampled_from(COMMANDS))
    given: list[list[str]] = []
    for parameter in command.params:
        if parameter.name in ENDLESS:
            continue
        if isinstance(parameter, click.Argument):
            given += [
                [draw(values_of(parameter))] for _ in range(draw(st.integers(0, 2 if parameter.nargs < 0 else 1)))
            ]
        elif draw(st.integers(0, 3)) == 0:
            flag = draw(st.sampled_from(parameter.opts))
            is_flag = isinstance(parameter, click.Option) and parameter.is_flag
            given.append([flag] if is_flag else [flag, draw(values_of(parameter))])
    if draw(st.integers(0, 9)) == 0:
        given.append([draw(st.sampled_from([*TEXTS, "--nothing", "-z", "--dry-run", "--yes"]))])
    ordered = draw(st.permutations(given))
    ends = {"run": ["--drain"], "pause": ["--timeout", "0"]}.get(path[0], [])
    output = draw(st.sampled_from([[], ["-o", "json"], ["--output=jsonl"]]))
    return [*path, *(word for one in ordered for word in one), *ends, *output]


class Fuzzed:
    """One log, on which one command after the other is called."""

    def __init__(self, shop: Shop) -> None:
        self.shop = shop
        self.bugs: list[BaseException] = []
        self.engine: Engine = create_engine(shop.url)
        found, record = exits.Report.of_bug, self.bugs.append

        def of_bug(report: exits.Report, error: Exception) -> Exit:
            record(error)
            return found(report, error)

        shop.monkeypatch.setattr(exits.Report, "of_bug", of_bug)
        (shop.folder / "in.jsonl").write_text("[\n")

    def call(self, given: list[str], stdin: str) -> Ran:
        """Call it, where `mail` and `board` are, with something to do."""
        self.shop.monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        before = self.content()
        ran = self.shop.cli(*given)
        if self.bugs:
            raise AssertionError(f"{given} ended with an error that is not ours") from self.bugs.pop()
        assert ran.code in set(Exit), (given, ran)
        assert "Traceback (most recent call last)" not in ran.err or "-v" in given or "--verbose" in given, (given, ran)
        if ran.code == Exit.REFUSED and given[0] != "run":
            assert self.content() == before, f"{given} was refused, and has changed something"
        return ran

    def content(self) -> dict[str, list[Any]]:
        with self.engine.connect() as connection:
            return {name: sorted(map(repr, rows_of(connection, name))) for name in tables_of(connection)}


def tables_of(connection: Connection) -> list[str]:
    if connection.dialect.name == "sqlite":
        return list(connection.scalars(text("select name from sqlite_master where type = 'table' order by 1")))
    question = "select table_schema || '.' || table_name from information_schema.tables where table_type = 'BASE TABLE'"
    return list(connection.scalars(text(f"{question} and table_schema in ('eventlog', 'public') order by 1")))


def rows_of(connection: Connection, name: str) -> list[Any]:
    return list(connection.execute(text(f"select * from {name}")).all())


def errors_as_json(given: list[str], ran: Ran) -> None:
    """With JSON asked for, an error is one line that programs can read, and tells what to do."""
    lines = [line for line in ran.err.split("\n") if line.startswith('{"error"')]
    if ran.code in (Exit.OK, Exit.CHECK_FAILED, Exit.INTERRUPTED) or not lines:
        return
    error = msgspec.json.decode(lines[-1])["error"]
    assert error["code"] != "internal", (given, error)
    assert error["message"], (given, error)
    assert error["remedy"], (given, error)


def test_any_arguments_are_done_or_refused_with_an_error_of_ours(shop: Shop) -> None:
    fuzzed = Fuzzed(shop)
    shop.orders(1, -1, 1)
    shop.drain()
    database = "sqlite" if shop.url.startswith("sqlite") else "postgresql"
    codes: set[int] = set()

    @hypothesis.settings(max_examples=EXAMPLES[database], deadline=None, database=None)
    @hypothesis.given(given=words(), stdin=st.sampled_from(LINES))
    def run(given: list[str], stdin: str) -> None:
        ran = fuzzed.call(given, stdin)
        codes.add(ran.code)
        if any(one in given for one in ("json", "--output=jsonl")):
            errors_as_json(given, ran)
        if given[0] in ("remove", "rename") and ran.code == Exit.OK:
            shop.cli("register", "--app", "shop:app")

    run()
    fuzzed.engine.dispose()
    if EXAMPLES[database] >= ENOUGH:
        assert codes >= {Exit.OK, Exit.REFUSED, Exit.NOT_FOUND}, "these words have called nothing"


@pytest.mark.parametrize("name", sorted({" ".join(path) for path, _ in COMMANDS}))
def test_an_argument_too_many_is_refused_by_every_command(sqlite_shop: Shop, name: str) -> None:
    assert sqlite_shop.cli(*name.split(), "--nothing-of-this-name").code == Exit.REFUSED

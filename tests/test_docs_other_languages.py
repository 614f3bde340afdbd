"""docs/other-languages.md is played here: its SQL by psql, its programs by Node, and what they print is compared."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from eventlog.log import EventLog
from tests.clients import Clients
from tests.log_support import opened

PAGE = Path(__file__).parent.parent / "docs" / "other-languages.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^\$ (.*)\n", re.MULTILINE)
FILE = re.compile(r"// ([\w.]+)\n")
VARYING = (
    (re.compile(r"line \d+ at"), "line N at"),
    (re.compile(r"\.c:\d+"), ".c:N"),
    (re.compile(r"[ \t]+$", re.MULTILINE), ""),
)


@pytest.fixture
def log(postgres_database_url: str) -> Iterator[EventLog]:
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def role(log: EventLog) -> Iterator[str]:
    """What the role of the page is called here: roles belong to the whole server."""
    name = f"eventlog_test_{uuid.uuid4().hex}"
    yield name
    with log.engine.begin() as connection:
        connection.execute(text(f"drop owned by {name}"))
        connection.execute(text(f"drop role {name}"))


@pytest.fixture
def sqlite_log(tmp_path: Path) -> Iterator[EventLog]:
    with opened(f"sqlite:///{tmp_path / 'eventlog.db'}") as log:
        log.init()
        yield log


def test_the_page_does_what_it_prints(
    log: EventLog, sqlite_log: EventLog, postgres_clients: Clients, role: str
) -> None:
    blocks = BLOCK.findall(PAGE.read_text())
    printed = [(said, play(postgres_clients, kind, said.replace("shop", role))) for kind, said in blocks]

    assert [same(said) for said, _done in printed] == [same(done.replace(role, "shop")) for _said, done in printed]
    assert [(event.stream, event.version, event.type) for event in log.read()] == [
        ("order-41", 1, "order.placed"),
        ("order-41", 2, "order.paid"),
        ("order-42", 1, "order.placed"),
        ("order-42", 2, "order.paid"),
        ("order-42", 3, "order.packed"),
        ("order-42", 4, "order.shipped"),
        ("order-43", 1, "order.placed"),
    ]
    assert [(event.stream, event.data) for event in sqlite_log.read()] == [("order-44", {"total": 7})]


def play(clients: Clients, kind: str, said: str) -> str:
    """Do what a block says, and return it as it would read with today's output."""
    if kind == "sql":
        clients.psql(said)
    elif kind == "js":
        named = FILE.match(said)
        assert named is not None, "a program begins with the name of its file"
        (clients.folder / named[1]).write_text(said)
    elif kind == "console":
        return "\n".join(f"$ {command}\n{clients.shell(command)}" for command in COMMAND.findall(said))
    return said


def same(shown: str) -> str:
    """Without line numbers of the server's sources, blank lines and spaces at ends."""
    for varying, fixed in VARYING:
        shown = varying.sub(fixed, shown)
    return "\n".join(line for line in shown.splitlines() if line)

"""docs/postgres.md: its grants are made, and each role does with them what the page says it can."""

import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine, make_url, text

from eventlog.doctor import examine
from eventlog.errors import PermissionDeniedError, WrongExpectedVersionError
from eventlog.log import EventLog
from eventlog.query import Query
from eventlog.subscribers import control
from eventlog.subscribers.app import App
from eventlog.subscribers.context import Context
from eventlog.subscribers.retry import Retry
from eventlog.subscribers.status import read_failures, read_status
from tests.clients import Clients
from tests.log_support import engine_of, everything, note, notes, opened, said
from tests.subscribers_support import BugError, Sent, eventually

PAGE = Path(__file__).parent.parent / "docs" / "postgres.md"
GRANTS = re.compile(r"^```sql\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROLES = ("shop", "service", "worker", "auditor")


@pytest.fixture
def owner(postgres_database_url: str) -> Iterator[Engine]:
    with engine_of(postgres_database_url) as engine:
        yield engine


@pytest.fixture
def urls(owner: Engine, postgres_clients: Clients) -> Iterator[dict[str, str]]:
    """How each role of the page reaches the database; roles belong to the whole server, so they get other names."""
    names = {role: f"eventlog_test_{role}_{uuid.uuid4().hex}" for role in ROLES}
    (grants,) = GRANTS.findall(PAGE.read_text())
    postgres_clients.psql(re.sub(rf"\b({'|'.join(ROLES)})\b(?=;| login)", lambda named: names[named[0]], grants))
    with owner.begin() as connection:
        for name in names.values():
            connection.execute(text(f"alter role {name} password 'secret'"))
    url = make_url(postgres_clients.url)
    yield {
        role: url.set(username=name, password="secret").render_as_string(hide_password=False)
        for role, name in names.items()
    }
    with owner.begin() as connection:
        for name in names.values():
            connection.execute(text(f"drop owned by {name}"))
            connection.execute(text(f"drop role {name}"))


def test_who_appends_by_the_function_can_do_that_alone(urls: dict[str, str], owner: Engine) -> None:
    with opened(urls["shop"]) as log:
        with log.engine.begin() as connection:
            connection.execute(text("select eventlog.append('s', 'note.taken', '{\"said\" : \"shop\"}')"))
        with pytest.raises(PermissionDeniedError, match="permission denied for table events") as denied:
            everything(log)

    assert "docs/postgres.md" in denied.value.remedy
    assert said(everything(EventLog(owner))) == ["shop"]


def test_a_service_appends_reads_and_decides(urls: dict[str, str]) -> None:
    with opened(urls["service"]) as log:
        log.append(note("one"))
        log.append(*notes(2), expected=1)
        with pytest.raises(WrongExpectedVersionError):
            log.append(note("late"), expected=1)
        log.append(note("decided"), unless=Query(tags=["course:42"], after=0))

        assert said(everything(log)) == ["one", "note-1 1", "note-1 2", "decided"]
        assert list(log.read(tags=["course:42"])) == []


def test_a_worker_delivers_and_an_operator_acts(urls: dict[str, str]) -> None:
    app = App(urls["worker"])
    failing = [True]

    @app.subscriber("mail", retry=Retry(attempts=1))
    def send(crate: Sent, ctx: Context) -> None:
        ctx.append(note("sent"))
        if failing[0] and crate.number == 2:
            raise BugError

    database = app.log.database
    try:
        sent = [one.position for one in app.log.append(Sent(1), Sent(2))]
        with app.worker():
            eventually(lambda: read_failures(database, subscriber="mail"), what="a failure")
        failing[0] = False
        control.retry(database, "mail", [sent[1]])
        app.drain()
        control.rewind(database, "mail", control.to_start, resend=True, reason="a test")
        assert app.drain().handled == 2
    finally:
        app.engine.dispose()


def test_doctor_tells_each_role_what_it_may_do(urls: dict[str, str]) -> None:
    told: dict[str, str] = {}
    for role, url in urls.items():
        with opened(url) as log:
            (told[role],) = [one.said.partition(" may ")[2] for one in examine(log.database) if one.check == "rights"]
    assert told["worker"] == "read, append, run handlers and operate"
    assert told["service"].startswith("read, append, and lacks what it needs to run handlers and operate:")
    assert told["auditor"].startswith("read, and lacks what it needs to append: insert on events;")
    assert told["shop"].startswith("do nothing here, and lacks")


def test_an_auditor_looks_and_cannot_append(urls: dict[str, str], owner: Engine) -> None:
    EventLog(owner).append(note("one"))
    with opened(urls["auditor"]) as log:
        assert said(everything(log)) == ["one"]
        assert read_status(log.database).head == 1
        with pytest.raises(PermissionDeniedError):
            log.append(note("two"))

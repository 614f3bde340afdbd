"""The databases of the tests.

`database_url` is the one to ask for: a test that takes it runs twice, on SQLite and on PostgreSQL, each time with a
database of its own that has the log's schema and nothing else; `log` is that log, opened, and `shop` a folder to run
commands in. The others name one database, or one without the
schema (`..._empty_url`). Making a database is cheap: the migrations run once a session and their files are copied from
then on, with what the first connection to a database makes.
"""

import dataclasses
import os
import shutil
import signal
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy

from eventlog import event_types, upcasting
from eventlog.log import EventLog
from tests import shared_statements
from tests.cli_support import Shop
from tests.clients import Clients, clients
from tests.log_support import opened
from tests.pgbouncer_server import pgbouncer_server
from tests.postgres_server import postgres_server
from tests.server_process import memory
from tests.subscribers_support import Bench

DATABASES = ("sqlite", "postgres")
SCHEMA = "eventlog"
TEMPORARY_BYTES_MIN = 3 << 30

# The machine's load decides how long an example takes; what hangs is stopped by the time-out of the test.
hypothesis.settings.register_profile("eventlog", deadline=None, print_blob=True)
hypothesis.settings.load_profile("eventlog")

shared_statements.share()

# SQLite waits for its disk with every commit. pytest looks at this when the first temporary folder is asked for.
if (in_memory := memory(bytes_min=TEMPORARY_BYTES_MIN)) is not None:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(in_memory))


LONG = (
    "test_alembic_tree.py",
    "test_demo.py",
    "test_docs_*.py",
    "test_embedding.py",
    "test_example_fastapi.py",
    "test_log_histories.py",
    "test_log_limits.py",
    "test_projections_beside.py",
    "test_readme.py",
    "test_subscribers_alone.py",
    "test_subscribers_crash.py",
    "test_subscribers_state_machine.py",
)
"""Begun first: a file is the share of one xdist worker, and with a long one at the end the others would be idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: not any(item.path.match(name) for name in LONG))


# Started in the background, as some runners do it, a process ignores ^C, and so do the ones it starts: tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def own_declarations(monkeypatch: pytest.MonkeyPatch) -> None:
    """No event type and no upcaster is declared but those the test declares, which are gone after it."""
    monkeypatch.setattr(event_types, "_by_name", {})
    monkeypatch.setattr(event_types, "_by_class", {})
    monkeypatch.setattr(upcasting, "_steps", {})


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """The server's own database, from an account that may create others; every xdist worker has its server."""
    with postgres_server() as url:
        yield url


@pytest.fixture(scope="session")
def postgres_server_of_tests(postgres_url: str) -> Iterator["_Server"]:
    """The server, by one connection that makes and drops everybody's databases."""
    engine = sqlalchemy.create_engine(postgres_url, isolation_level="AUTOCOMMIT", pool_size=1, pool_pre_ping=True)
    yield _Server(engine=engine, options=_cheapest_copy(engine))
    engine.dispose()


@pytest.fixture
def postgres_empty_url(postgres_server_of_tests: "_Server") -> Iterator[str]:
    """A PostgreSQL database with nothing in it, gone after the test whoever is still connected."""
    with postgres_server_of_tests.databases() as create:
        yield create("template1")


@pytest.fixture
def postgres_database_url(postgres_server_of_tests: "_Server", postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database with the log's schema, gone after the test whoever is still connected."""
    with postgres_server_of_tests.databases() as create:
        yield create(postgres_template)


@pytest.fixture
def new_postgres_database(postgres_server_of_tests: "_Server", postgres_template: str) -> Iterator[Callable[[], str]]:
    """Make as many PostgreSQL databases with the log's schema as a test asks for, gone after it."""
    with postgres_server_of_tests.databases() as create:
        yield lambda: create(postgres_template)


@pytest.fixture(scope="session")
def pgbouncer_url(postgres_url: str, pytestconfig: pytest.Config) -> Iterator[str]:
    """The server's own database through PgBouncer in transaction mode."""
    with pgbouncer_server(postgres_url, pytestconfig.cache.mkdir("pgbouncer")) as url:
        yield url


@pytest.fixture
def pooled_url(pgbouncer_url: str, postgres_database_url: str) -> str:
    """The database of `postgres_database_url` through PgBouncer: three server connections for all of a test's."""
    return _through(pgbouncer_url, postgres_database_url)


@pytest.fixture
def pooled_empty_url(pgbouncer_url: str, postgres_empty_url: str) -> str:
    """The database of `postgres_empty_url` through PgBouncer."""
    return _through(pgbouncer_url, postgres_empty_url)


@pytest.fixture
def postgres_clients(postgres_database_url: str, tmp_path: Path, pytestconfig: pytest.Config) -> Clients:
    """psql and Node, led to the database of `postgres_database_url`."""
    return clients(postgres_database_url, tmp_path, pytestconfig.cache.mkdir("node"))


@pytest.fixture
def sqlite_empty_url(tmp_path: Path) -> str:
    """A SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'log.db'}"


@pytest.fixture
def sqlite_url(tmp_path: Path, sqlite_template: Path) -> str:
    """A SQLite file with the log's schema."""
    return f"sqlite:///{shutil.copyfile(sqlite_template, tmp_path / 'log.db')}"


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest) -> str:
    """A database with the log's schema; the test runs once for each kind."""
    fixture = {"sqlite": "sqlite_url", "postgres": "postgres_database_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture(params=DATABASES)
def empty_database_url(request: pytest.FixtureRequest) -> str:
    """A database with nothing in it; the test runs once for each kind."""
    fixture = {"sqlite": "sqlite_empty_url", "postgres": "postgres_empty_url"}[request.param]
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def log(database_url: str) -> Iterator[EventLog]:
    """A log of its own; the test runs once on each kind of database."""
    with opened(database_url) as log:
        yield log


@pytest.fixture
def postgres_log(postgres_database_url: str) -> Iterator[EventLog]:
    """A log of its own on PostgreSQL."""
    with opened(postgres_database_url) as log:
        yield log


@pytest.fixture
def shop(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    """A folder to run commands in, beside a log; once on each kind of database."""
    return Shop.open(tmp_path, database_url, monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def sqlite_shop(
    tmp_path: Path, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    """A folder to run commands in, beside a log on SQLite: for what does not depend on the database."""
    return Shop.open(tmp_path, sqlite_url, monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def postgres_shop(
    tmp_path: Path, postgres_database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shop:
    """The same on PostgreSQL: for what only that database has."""
    return Shop.open(tmp_path, postgres_database_url, monkeypatch=monkeypatch, capsys=capsys)


@pytest.fixture
def bench(database_url: str) -> Iterator[Bench]:
    """A log with applications of a service on it; once on each kind of database."""
    bench = Bench(database_url)
    yield bench
    bench.close()


@pytest.fixture(scope="session")
def postgres_template(postgres_server_of_tests: "_Server") -> Iterator[str]:
    """The name of a migrated database that nobody may be connected to while it is copied."""
    with postgres_server_of_tests.databases() as create:
        url = create("template1")
        _upgrade(url)
        yield str(sqlalchemy.make_url(url).database)


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file that nobody has open: its write-ahead log is merged, one file is the whole database."""
    file = tmp_path_factory.mktemp("template") / "log.db"
    _upgrade(f"sqlite:///{file}")
    return file


def _through(pgbouncer_url: str, url: str) -> str:
    database = sqlalchemy.make_url(url).database
    return sqlalchemy.make_url(pgbouncer_url).set(database=database).render_as_string(hide_password=False)


def _upgrade(url: str) -> None:
    from eventlog.schema.migrate import upgrade

    engine = sqlalchemy.create_engine(url)
    upgrade(engine, schema=SCHEMA)
    engine.dispose()


def _cheapest_copy(engine: sqlalchemy.Engine) -> str:
    """Files are copied fastest as files, as long as the server does not wait until each of them is on its disk."""
    with engine.connect() as connection:
        return "strategy file_copy" if connection.exec_driver_sql("show fsync").scalar_one() == "off" else ""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Server:
    """Databases with names of their own: the server may be shared with others."""

    engine: sqlalchemy.Engine
    options: str

    @contextmanager
    def databases(self) -> Iterator[Callable[[str], str]]:
        """Give what makes a database from the template it is told; all of them are dropped after the block."""
        names: list[str] = []

        def create(template: str) -> str:
            name = f"eventlog_test_{uuid.uuid4().hex}"
            self._execute(f"create database {name} template {template} {self.options}")
            names.append(name)
            return self.engine.url.set(database=name).render_as_string(hide_password=False)

        try:
            yield create
        finally:
            for name in reversed(names):
                self._execute(f"drop database {name} with (force)")

    def _execute(self, statement: str) -> None:
        """Outside a transaction, as statements about whole databases must be."""
        with self.engine.connect() as connection:
            connection.exec_driver_sql(statement)

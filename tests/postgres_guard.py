"""A guard around a server process: when the process that started the guard ends, so does the server.

It holds even when that process is killed with SIGKILL, where no clean-up of its own can run: the guard's standard
input is a pipe from it, and the kernel closes a pipe with the last process that holds it. Then the guard stops
the server and removes its directories. A byte on that pipe asks for the same. A server that ends by itself leaves its
directories to whoever wants to know why.

Run as a script, in a session of its own so that Ctrl-C in a terminal does not reach it:

    python -I postgres_guard.py USER:GROUP DIRECTORY... -- COMMAND...

USER and GROUP are numbers, both empty for the account of the guard. Only the standard library is imported: the
guard is up before the server is.
"""

import os
import select
import shutil
import signal
import subprocess
import sys

POLL_SECONDS = 0.2
STOP_SECONDS_MAX = 10.0


def main(account: str, *words: str) -> int:
    directories, command = words[: words.index("--")], words[words.index("--") + 1 :]
    user, group = (int(number) if number else None for number in account.split(":"))
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        cwd="/",
        user=user,
        group=group,
        extra_groups=None if user is None else [],
    )
    while server.poll() is None:
        if _asked_to_stop():
            _stop(server)
            for directory in directories:
                shutil.rmtree(directory, ignore_errors=True)
    return server.returncode


def _asked_to_stop() -> bool:
    readable, _, _ = select.select([sys.stdin], [], [], POLL_SECONDS)
    return bool(readable)


def _stop(server: subprocess.Popen[bytes]) -> None:
    """Stop PostgreSQL as SIGINT does: connections are cut, the data directory is left in order."""
    server.send_signal(signal.SIGINT)
    try:
        server.wait(STOP_SECONDS_MAX)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)
        server.wait()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(main(*sys.argv[1:]))

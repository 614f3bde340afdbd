"""The crash matrix: deeds, the points they were counted to have, and a database for each process that is killed.

What a deed begins with is made once for each kind of database, and copied: a SQLite file, or a PostgreSQL database by
its template. `EVENTLOG_SOAK` in the environment has every point tried; without it a sample is drawn from the seed
`EVENTLOG_TEST_SEED`, or from a new one, which a failure names.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import sqlalchemy

from tests.crash_server import Answer, Request
from tests.crash_service import Site, state_of

ROOT = Path(__file__).parent.parent
SOAK = "EVENTLOG_SOAK" in os.environ
SEED = os.environ.get("EVENTLOG_TEST_SEED") or str(random.SystemRandom().randrange(10**9))
LEAVE_SECONDS_MAX = 10.0


class Forks:
    """The process that forks, and what it is asked for."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash_server"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, request: Request) -> Answer:
        """Have a step done, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(request).decode() + "\n")
        self._process.stdin.flush()
        return msgspec.json.decode(self._process.stdout.readline(), type=Answer)

    def close(self) -> None:
        self._process.communicate(timeout=LEAVE_SECONDS_MAX)


class Files:
    """Databases that are SQLite files, one in each folder."""

    def __init__(self, template: Path) -> None:
        self._template = template

    def with_schema(self, folder: Path) -> str:
        shutil.copyfile(self._template, folder / "log.db")
        return self.empty(folder)

    def empty(self, folder: Path) -> str:
        return f"sqlite:///{folder / 'log.db'}"

    def copy(self, _url: str, folder: Path) -> str:
        """The file has been copied with the folder that it is in."""
        return self.empty(folder)

    def drop(self, _url: str) -> None:
        """It goes with its folder."""


class Databases:
    """Databases of a PostgreSQL server, of which some serve as templates for others."""

    def __init__(self, url: str, template: str) -> None:
        self._template = template
        self._url = sqlalchemy.make_url(url)
        self._engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT")
        self._made: list[str] = []

    def with_schema(self, _folder: Path) -> str:
        return self._create(self._template)

    def empty(self, _folder: Path) -> str:
        return self._create("template0")

    def copy(self, url: str, _folder: Path) -> str:
        """Whoever prepared it has ended, and the server notices that within moments."""
        ends = time.monotonic() + LEAVE_SECONDS_MAX
        while True:
            with contextlib.suppress(sqlalchemy.exc.OperationalError):
                return self._create(str(sqlalchemy.make_url(url).database))
            assert time.monotonic() < ends, f"somebody stays connected to {url}"
            time.sleep(0.01)

    def drop(self, url: str) -> None:
        name = str(sqlalchemy.make_url(url).database)
        self._execute(f"drop database if exists {name} with (force)")
        self._made.remove(name)

    def close(self) -> None:
        for name in self._made:
            self._execute(f"drop database if exists {name} with (force)")
        self._engine.dispose()

    def _create(self, template: str) -> str:
        name = f"eventlog_crash_{uuid.uuid4().hex}"
        self._execute(f"create database {name} template {template}")
        self._made.append(name)
        return self._url.set(database=name).render_as_string(hide_password=False)

    def _execute(self, statement: str) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(statement)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """A deed on one kind of database: what stands before it, its points, and the states that its commits leave."""

    deed: str
    site: Site
    points: Sequence[str]
    states: Sequence[Sequence[str]]

    def commits_before(self, point: int) -> int:
        """How many commits have come through when a process is killed at a point."""
        return sum(name.startswith("after ") for name in self.points[:point])


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A process that was killed at a point, and the database it has left; `recover` is the service started again."""

    counted: Counted
    point: int
    site: Site
    recover: Callable[[], None]

    @property
    def name(self) -> str:
        return (
            f"{self.counted.deed!r}, killed at point {self.point}, {self.counted.points[self.point - 1]} (seed {SEED})"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Kills processes on one kind of database."""

    forks: Forks
    databases: Files | Databases
    folder: Path
    _dice: random.Random = field(default_factory=lambda: random.Random(SEED))

    def count(self, deed: str, *, with_schema: bool = True) -> Counted:
        """Prepare a deed, do it once, and count its points."""
        folder = self._new_folder()
        url = self.databases.with_schema(folder) if with_schema else self.databases.empty(folder)
        before = Site(url=url, folder=folder)
        self._step(deed, "prepare", before)
        site = self._copy(before)
        self._step(deed, "act", site, watched=True)
        points = msgspec.json.decode((site.folder / "points.json").read_bytes(), type=list[str])
        states = msgspec.json.decode((site.folder / "states.json").read_bytes(), type=list[list[str]])
        self._forget(site)
        return Counted(deed=deed, site=before, points=points, states=[state_of(before.url), *states])

    def sample(self, counted: Counted, *, some: int, commits: bool) -> list[int]:
        """Choose points: all of them for a soak, else so many, and with `commits` those around each commit."""
        everywhere = range(1, len(counted.points) + 1)
        if SOAK:
            return list(everywhere)
        at_commits = [point for point in everywhere if commits and counted.points[point - 1].startswith("after ")]
        return sorted({*at_commits, *self._dice.sample(everywhere, min(some, len(everywhere)))})

    @contextlib.contextmanager
    def killed(self, counted: Counted, point: int, *, may_end: bool = False) -> Iterator[Killed]:
        """Do a deed in a process that is killed at a point; what fails in the block is told where that was.

        With threads a deed has not always the same number of points, and `may_end` before it comes to this one.
        """
        site = self._copy(counted.site)
        killed = Killed(
            counted=counted, point=point, site=site, recover=lambda: self._step(counted.deed, "recover", site)
        )
        try:
            answer = self._ask(counted.deed, "act", site, watched=True, kill_at=point)
            assert answer.ended == -signal.SIGKILL or (may_end and answer.ended == 0), (
                f"it ended with {answer.ended}: {answer.said}"
            )
            yield killed
        except BaseException as error:
            error.add_note(killed.name)
            raise
        finally:
            self._forget(site)

    def heal(self, killed: Killed, *kinds: str) -> None:
        """Have an operator try again what is open, with code that does not fail any more."""
        self._step(f"heal {' '.join(kinds)}", "recover", killed.site)

    def _step(self, deed: str, step: str, site: Site, *, watched: bool = False) -> None:
        answer = self._ask(deed, step, site, watched=watched)
        assert answer.ended == 0, f"{deed}, {step}: ended with {answer.ended}\n{answer.said}"

    def _ask(self, deed: str, step: str, site: Site, *, watched: bool = False, kill_at: int | None = None) -> Answer:
        folder = str(site.folder)
        return self.forks.ask(
            Request(deed=deed, step=step, url=site.url, folder=folder, watched=watched, kill_at=kill_at)
        )

    def _copy(self, site: Site) -> Site:
        folder = self._new_folder()
        shutil.copytree(site.folder, folder, dirs_exist_ok=True)
        (folder / "calls").unlink(missing_ok=True)
        return Site(url=self.databases.copy(site.url, folder), folder=folder)

    def _forget(self, site: Site) -> None:
        self.databases.drop(site.url)
        shutil.rmtree(site.folder)

    def _new_folder(self) -> Path:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

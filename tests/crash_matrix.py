"""The crash matrix: deeds, the points they were counted to have, and a database for each process that is killed.

What a deed begins with is made once for each kind of database, and copied: a SQLite file, or a PostgreSQL database by
its template. `EVENTLOG_SOAK` in the environment has every point tried; without it a sample is drawn from the seed
`EVENTLOG_TEST_SEED`, or from a new one, which a failure names.
"""

import contextlib
import itertools
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

_numbers = itertools.count(1)


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
        """Have a step done, and wait for its end. A test that was interrupted may have left an answer behind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(request).decode() + "\n")
        self._process.stdin.flush()
        while True:
            answer = msgspec.json.decode(self._process.stdout.readline(), type=Answer)
            if answer.number == request.number:
                return answer

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

    def __init__(self, url: str, template: str, *, options: str = "") -> None:
        self._template = template
        self._options = options
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
        self._execute(f"create database {name} template {template} {self._options}")
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
    seconds: float

    def commits_before(self, point: int) -> int:
        """How many commits have come through when a process is killed at a point."""
        return sum(name.startswith("after ") for name in self.points[:point])


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """When a process is killed: at a point, or after so many seconds, which may be within a statement or a commit."""

    point: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Killed:
    """A process that was killed, and the database it has left; `recover` is the service started again."""

    counted: Counted
    at: Moment
    site: Site
    recover: Callable[[], None]

    @property
    def name(self) -> str:
        at = f"after {self.at.seconds} s"
        if self.at.point is not None:
            at = f"at point {self.at.point}, {self.counted.points[self.at.point - 1]}"
        return f"{self.counted.deed!r}, killed {at} (EVENTLOG_TEST_SEED={SEED})"


Beside = Callable[[Site], contextlib.AbstractContextManager[object]]
"""What goes on while a deed is done and killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """Kills processes on one kind of database."""

    forks: Forks
    databases: Files | Databases
    folder: Path
    dice: random.Random = field(default_factory=lambda: random.Random(SEED))

    def count(self, deed: str, *, with_schema: bool = True, with_states: bool = False) -> Counted:
        """Prepare a deed, do it once, and count its points."""
        folder = self._new_folder()
        url = self.databases.with_schema(folder) if with_schema else self.databases.empty(folder)
        before = Site(url=url, folder=folder)
        self._step(deed, "prepare", before)
        site = self._copy(before)
        answer = self._step(deed, "act", site, watched=True, with_states=with_states)
        points = msgspec.json.decode((site.folder / "points.json").read_bytes(), type=list[str])
        states = msgspec.json.decode((site.folder / "states.json").read_bytes(), type=list[list[str]])
        self._forget(site)
        if with_states:
            states.insert(0, state_of(before.url))
        return Counted(deed=deed, site=before, points=points, states=states, seconds=answer.seconds)

    def moments(self, counted: Counted, *, some: int, commits: bool) -> list[Moment]:
        """Choose when to kill: for a soak at all points, else at some, and with `commits` right after each commit; and
        at some moments, whatever they meet.
        """
        everywhere = range(1, len(counted.points) + 1)
        after_commits = [point for point in everywhere if commits and counted.points[point - 1].startswith("after ")]
        drawn = everywhere if SOAK else {*after_commits, *self.dice.sample(everywhere, min(some, len(everywhere)))}
        times = [self.dice.uniform(0.0, counted.seconds) for _ in range(20 if SOAK else 1)]
        return [*(Moment(point=point) for point in sorted(drawn)), *(Moment(seconds=seconds) for seconds in times)]

    @contextlib.contextmanager
    def killed(self, counted: Counted, at: Moment, *, beside: Beside | None = None) -> Iterator[Killed]:
        """Do a deed in a process that is killed; what fails in the block is told where that was.

        What takes its time, as a batch does, may have fewer points in one run than in another, and then comes to its
        end.
        """
        site = self._copy(counted.site)
        killed = Killed(
            counted=counted, at=at, site=site, recover=lambda: self._step_again(counted.deed, "recover", site)
        )
        try:
            with beside(site) if beside is not None else contextlib.nullcontext():
                answer = self._ask(
                    counted.deed, "act", site, watched=True, kill_at=at.point, kill_after_seconds=at.seconds
                )
                ends = (-signal.SIGKILL, 0) if at.point is not None else (-signal.SIGALRM, 0)
                assert answer.ended in ends, f"it ended with {answer.ended}: {answer.said}"
                yield killed
        except BaseException as error:
            error.add_note(killed.name)
            raise
        finally:
            self._forget(site)

    def heal(self, killed: Killed, *kinds: str) -> None:
        """Have an operator try again what is open, with code that does not fail any more."""
        self._step(f"heal {' '.join(kinds)}", "recover", killed.site)

    def _step_again(self, deed: str, step: str, site: Site) -> None:
        self._step(deed, step, site)

    def _step(self, deed: str, step: str, site: Site, *, watched: bool = False, with_states: bool = False) -> Answer:
        answer = self._ask(deed, step, site, watched=watched, with_states=with_states)
        assert answer.ended == 0, f"{deed}, {step}: ended with {answer.ended}\n{answer.said}"
        return answer

    def _ask(
        self,
        deed: str,
        step: str,
        site: Site,
        *,
        watched: bool = False,
        kill_at: int | None = None,
        kill_after_seconds: float | None = None,
        with_states: bool = False,
    ) -> Answer:
        return self.forks.ask(
            Request(
                number=next(_numbers),
                deed=deed,
                step=step,
                url=site.url,
                folder=str(site.folder),
                watched=watched,
                kill_at=kill_at,
                kill_after_seconds=kill_after_seconds,
                with_states=with_states,
            )
        )

    def _copy(self, site: Site) -> Site:
        folder = self._new_folder()
        shutil.copytree(site.folder, folder, dirs_exist_ok=True)
        return Site(url=self.databases.copy(site.url, folder), folder=folder)

    def _forget(self, site: Site) -> None:
        self.databases.drop(site.url)
        shutil.rmtree(site.folder)

    def _new_folder(self) -> Path:
        folder = self.folder / uuid.uuid4().hex
        folder.mkdir()
        return folder

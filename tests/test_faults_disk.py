"""A disk that is full, under a SQLite file with its log, its checkpoints and its ledger.

Where file systems can be mounted the file lies on a small one, which somebody else fills. It is tried, too, with SQLite
told how many pages a file may have, which then says the same; that way needs no rights.
"""

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from shutil import copyfile

import pytest
from sqlalchemy import Engine, event

from eventlog.errors import DatabaseFullError
from eventlog.subscribers.retry import Retry
from tests.fault_load import ROUNDS, Load
from tests.subscribers_support import Bench, BugError, Sent, eventually

DISK_BYTES = 16 * 1024 * 1024
PAGE_BYTES = 4096
REFUSED = 5
AS_MANY_PAGES_AS_IT_LIKES = 1_000_000
PATIENT = Retry(attempts=1_000, first_seconds=0.05, longest_seconds=0.05)


class Disk:
    """Where a file lies: `fill` leaves no room for it, `free` makes room again."""

    def __init__(self, url: str, *, fill: Callable[[], None], free: Callable[[], None]) -> None:
        self.url = url
        self.fill = fill
        self.free = free


@pytest.fixture(params=["a file system that is full", "as many pages as are used"])
def disk(request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path) -> Iterator[Disk]:
    if request.param == "a file system that is full" and _mount(tmp_path / "disk"):
        try:
            yield _filled_by_others(tmp_path / "disk", sqlite_template)
        finally:
            subprocess.run(["umount", "--lazy", tmp_path / "disk"], check=True)
        return
    with _limited(copyfile(sqlite_template, tmp_path / "log.db")) as disk:
        yield disk


def _mount(place: Path) -> bool:
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(place)]
    try:
        return subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _filled_by_others(place: Path, template: Path) -> Disk:
    ballast = place / "ballast"

    def fill() -> None:
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(b"\0" * PAGE_BYTES)

    file = copyfile(template, place / "log.db")
    return Disk(f"sqlite:///{file}", fill=fill, free=ballast.unlink)


@contextmanager
def _limited(file: Path) -> Iterator[Disk]:
    """A connection forgets the limit, and is told of it whenever it is lent."""
    limit = [AS_MANY_PAGES_AS_IT_LIKES]

    def tell(driver: object, _record: object, _proxy: object) -> None:
        driver.execute(f"pragma max_page_count = {limit[0]}")  # type: ignore[attr-defined] # a connection of sqlite3

    def fill() -> None:
        limit[0] = 1  # SQLite makes it as many as are there.

    def free() -> None:
        limit[0] = AS_MANY_PAGES_AS_IT_LIKES

    event.listen(Engine, "checkout", tell)
    try:
        yield Disk(f"sqlite:///{file}", fill=fill, free=free)
    finally:
        event.remove(Engine, "checkout", tell)


def is_refused(load: Load, times: int) -> bool:
    return load.refused >= times


def test_a_full_disk_is_waited_for_and_costs_nothing(disk: Disk) -> None:
    with Load(disk.url, direct=disk.url).running() as load:
        load.goes_on()
        for number in range(1, ROUNDS + 1):
            disk.fill()
            eventually(partial(is_refused, load, number * REFUSED), what="appends find no room")
            disk.free()
            load.goes_on()
    load.totals_are_exact(unknown_max=ROUNDS)
    load.said_at_most(40 * ROUNDS)


def test_who_appends_is_told_that_the_disk_is_full(disk: Disk) -> None:
    bench = Bench(disk.url)
    bench.send(1)
    disk.fill()
    with pytest.raises(DatabaseFullError, match="disk is full") as told:
        send_until_it_is_refused(bench)
    assert "make room" in told.value.remedy
    before = bench.log.head()
    disk.free()
    assert bench.send(1) == [before + 1]
    bench.close()


def send_until_it_is_refused(bench: Bench) -> None:
    for _ in range(1_000):
        bench.send(20)


def test_a_failure_that_the_ledger_has_no_room_for_is_not_passed(disk: Disk, caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(disk.url)
    sent = bench.send(3)
    app = bench.app()
    filled: list[int] = []

    @app.subscriber("mail", retry=PATIENT)
    def send(crate: Sent) -> None:
        if crate.number == 2:
            if not filled:
                disk.fill()
                filled.append(crate.number)
            raise BugError("a message that takes some room" * 1_000)

    with app.worker():
        eventually(lambda: "disk is full" in caplog.text, what="the ledger has had no room")
        assert bench.position("mail") < sent[1]
        assert bench.states("mail") == {}
        disk.free()
        eventually(lambda: bench.position("mail") == sent[-1], what="it goes on")
    assert bench.states("mail") == {sent[1]: "retrying"}
    bench.close()

"""A SQLite file that another one is moved over, as a backup is, while a service has it open."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import make_url

from eventlog.subscribers.context import Context
from tests.log_support import opened
from tests.subscribers_support import Bench, Sent, eventually


@pytest.fixture
def bench(sqlite_url: str) -> Iterator[Bench]:
    bench = Bench(sqlite_url)
    yield bench
    bench.close()


def file_of(bench: Bench) -> Path:
    return Path(str(make_url(str(bench.log.engine.url)).database))


def put_back(bench: Bench, copy: Path) -> None:
    """Move a copy over the file. What is open stays open, with nothing of it beside the new one."""
    copy.replace(file_of(bench))
    for ending in ("-wal", "-shm"):
        Path(f"{file_of(bench)}{ending}").unlink(missing_ok=True)


def backup(bench: Bench) -> Path:
    copy = file_of(bench).with_suffix(".backup")
    with bench.log.engine.connect() as connection:
        connection.exec_driver_sql("commit")
        connection.exec_driver_sql(f"vacuum into '{copy}'")
        connection.exec_driver_sql("begin")
    return copy


def test_what_is_appended_goes_into_the_file_that_is_there(bench: Bench) -> None:
    bench.send(1)
    copy = backup(bench)
    bench.send(2, first=2)
    put_back(bench, copy)
    assert [one.data.number for one in bench.log.read()] == [1]

    bench.send(1, first=9)
    with opened(bench.url) as other:
        assert [one.data.number for one in other.read()] == [1, 9]


def test_a_worker_goes_on_with_the_file_that_is_there(bench: Bench) -> None:
    app = bench.app(lease_seconds=0.5)
    handled: list[int] = []

    @app.subscriber("mail")
    def mail(crate: Sent, _ctx: Context) -> None:
        handled.append(crate.number)

    app.register()
    copy = backup(bench)
    with app.worker():
        bench.send(2)
        eventually(lambda: handled == [1, 2], what="the events before are handled")
        put_back(bench, copy)
        with opened(bench.url) as other:
            other.append(Sent(11), Sent(12))
        eventually(lambda: handled == [1, 2, 11, 12], what="those in the other file are handled")


def test_a_file_that_is_gone_is_not_made_anew(bench: Bench, tmp_path: Path) -> None:
    bench.send(1)
    shutil.move(file_of(bench), tmp_path / "away.db")

    assert [one.data.number for one in bench.log.read()] == [1]
    assert not file_of(bench).exists()

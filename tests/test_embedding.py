"""A worker in a web service, under a real uvicorn: two processes, a reload, a shutdown in the middle of a handler."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.errors import DatabaseError
from eventlog.subscribers.app import App
from tests import warm_python
from tests.subscribers_support import Bench, Sent, eventually

ROOT = Path(__file__).parent.parent


class Service:
    """A running uvicorn, the files its handler writes and looks at, and the log it reads."""

    def __init__(self, bench: Bench, folder: Path, *, port: int) -> None:
        self.bench = bench
        self.calls_file = folder / "calls"
        self.hold = folder / "hold"
        self.port = port
        self.calls_file.touch()
        self.processes: list[subprocess.Popen[str]] = []

    def start(self, *options: str) -> "subprocess.Popen[str]":
        words = ["-m", "uvicorn", "tests.embedding_service:service", "--port", str(self.port)]
        environment = {
            **os.environ,
            "LOG_URL": self.bench.url,
            "CALLS": str(self.calls_file),
            "HOLD": str(self.hold),
        }
        process = warm_python.started(
            *words, "--log-level", "warning", *options, cwd=ROOT, env=environment, start_new_session=True
        )
        self.processes.append(process)
        return process

    def calls(self, what: str = "end") -> list[tuple[int, bool, int]]:
        """The calls that have begun or ended: number, redelivery, process."""
        words = [line.split() for line in self.calls_file.read_text().splitlines()]
        return [(int(number), again == "True", int(pid)) for deed, number, again, pid in words if deed == what]

    def numbers(self) -> list[int]:
        return sorted(number for number, _, _ in self.calls())

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as answer:
                return "process" in json.load(answer)
        except OSError:
            return False

    def owners(self) -> set[str | None]:
        table = self.bench.log.database.tables.checkpoints
        return {row.owner for row in self.bench.rows(table.select())}

    def workers(self) -> int:
        return len(self.bench.rows(self.bench.log.database.tables.workers.select()))


@pytest.fixture
def service(bench: Bench, tmp_path: Path) -> Iterator[Service]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    service = Service(bench, tmp_path, port=port)
    yield service
    for process in service.processes:
        with process:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_two_web_processes_share_the_partitions_and_each_event_is_handled_once(service: Service) -> None:
    service.start("--workers", "2")
    eventually(lambda: len(service.owners()) == 2 and None not in service.owners(), what="two owners")
    service.bench.log.append(*[Sent(number) for number in range(40)])
    eventually(lambda: len(service.numbers()) >= 40, what="all events")

    assert service.numbers() == list(range(40))
    assert len({pid for _, _, pid in service.calls()}) == 2


def test_when_a_web_process_is_killed_the_other_takes_its_partitions_over(service: Service) -> None:
    service.start("--workers", "2")
    eventually(lambda: len(service.owners()) == 2 and None not in service.owners(), what="two owners")
    service.bench.log.append(*[Sent(number) for number in range(20)])
    eventually(lambda: len(service.numbers()) >= 20, what="the first events")
    os.kill(service.calls()[0][2], signal.SIGKILL)

    service.bench.log.append(*[Sent(number) for number in range(20, 40)])
    eventually(lambda: set(service.numbers()) == set(range(40)), what="the others, after the lease")


def test_a_shutdown_in_the_middle_of_a_handler_lets_it_finish_and_nothing_is_done_twice(service: Service) -> None:
    service.hold.touch()
    process = service.start()
    service.bench.send(1)
    eventually(lambda: service.calls("begin"), what="the handler")
    process.send_signal(signal.SIGTERM)
    service.hold.unlink()
    process.wait(timeout=30)

    assert service.numbers() == [1]
    assert service.owners() == {None}
    assert service.workers() == 0
    service.start()
    service.bench.send(1, first=2)
    eventually(lambda: len(service.numbers()) >= 2, what="what came after the restart")
    assert service.calls("begin")[1][:2] == (2, False)


def test_a_reload_hands_over_to_the_new_code_and_repeats_nothing(service: Service, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "code.py").write_text("first = 1\n")
    service.start("--reload", "--reload-dir", str(watched))
    service.bench.send(1)
    eventually(lambda: service.numbers() == [1], what="the old code")
    (watched / "code.py").write_text("second = 2\n")
    old = service.calls()[0][2]
    eventually(lambda: not Path(f"/proc/{old}").exists(), what="the old process to end")
    service.bench.send(1, first=2)
    eventually(lambda: service.numbers() == [1, 2], what="the new code")

    assert [again for _, again, _ in service.calls()] == [False, False]


def test_a_service_without_its_database_does_not_come_up_and_says_why(tmp_path: Path) -> None:
    app = App("postgresql+psycopg://nobody@127.0.0.1:1/none")
    app.subscriber("mail")(_send)

    async def live() -> None:
        async with app.lifespan()(object()):
            raise AssertionError("it came up")

    with pytest.raises(DatabaseError, match=r"127\.0\.0\.1"):
        asyncio.run(live())


def _send(_crate: Sent) -> None: ...


def test_a_second_worker_in_the_process_shares_with_the_first(bench: Bench) -> None:
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("mail", partitions=2)
    def send(crate: Sent) -> None:
        calls.append(crate.number)

    with app.worker(), app.worker():
        bench.send(20)
        eventually(lambda: len(calls) >= 20, what="all events")
    assert sorted(calls) == list(range(1, 21))


def test_a_drain_beside_a_worker_waits_until_that_one_has_come_as_far(bench: Bench) -> None:
    app = bench.app()
    calls: list[int] = []

    @app.subscriber("mail")
    def send(crate: Sent) -> None:
        calls.append(crate.number)

    with app.worker():
        bench.send(20)
        app.drain()
        assert sorted(calls) == list(range(1, 21))


def test_starting_and_stopping_do_not_hold_the_event_loop_up(bench: Bench) -> None:
    """While the worker stops, a handler stands; other tasks of the application go on meanwhile."""
    bench.send(1)
    app = bench.app()
    began, let_go = threading.Event(), threading.Event()

    @app.subscriber("mail")
    def send(_crate: Sent) -> None:
        began.set()
        assert let_go.wait(30)

    async def live() -> bool:
        async with app.lifespan()(object()):
            await asyncio.to_thread(began.wait, 30)
            asyncio.get_running_loop().call_later(0.2, let_go.set)
        return let_go.is_set()

    assert asyncio.run(live())
    assert bench.position("mail") == 1

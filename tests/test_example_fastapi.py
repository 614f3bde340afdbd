"""The FastAPI example of the docs, under a real server, on both databases; the client is the standard library's."""

import json
import os
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from tests import warm_python
from tests.log_support import WAIT_SECONDS_MAX, engine_of, opened, wait_until

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


class Service:
    """A running service, and its database."""

    def __init__(self, process: "subprocess.Popen[str]", *, port: int, database_url: str) -> None:
        self.process = process
        self.address = f"http://127.0.0.1:{port}"
        self.database_url = database_url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(f"{self.address}{path}", timeout=WAIT_SECONDS_MAX) as answer:
            return json.load(answer)

    def place(self, number: int, *, total: float) -> tuple[int, Any]:
        """Place an order, and return the status and what was answered."""
        body = json.dumps({"number": number, "customer": "ada", "total": total}).encode()
        asked = urllib.request.Request(f"{self.address}/orders", body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(asked, timeout=WAIT_SECONDS_MAX) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def rows(self) -> list[int]:
        """The numbers of the orders in the service's own table."""
        with engine_of(self.database_url) as engine, engine.connect() as connection:
            return list(connection.scalars(text("select number from orders order by number")))

    def recorded(self) -> list[str]:
        with opened(self.database_url) as log:
            return [event.stream for event in log.read()]

    def answers(self) -> bool:
        assert self.process.poll() is None, "the service has ended"
        try:
            return bool(self.get("/customers/nobody") == {"total": 0})
        except OSError:
            return False


@pytest.fixture
def service(empty_database_url: str) -> Iterator[Service]:
    with serving(empty_database_url) as running:
        yield running


@contextmanager
def serving(database_url: str) -> Iterator[Service]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        words = ["-m", "uvicorn", "fastapi_shop:service", "--fd", str(listening.fileno())]
        listening.listen()
        environment = {**os.environ, "SHOP_URL": database_url.replace("sqlite:", "sqlite+aiosqlite:")}
        process = warm_python.started(
            *(*words, "--log-level", "warning", "--timeout-graceful-shutdown", "5"),
            cwd=EXAMPLES,
            env=environment,
            pass_fds=[listening.fileno()],
            text=True,
        )
    with process:
        try:
            running = Service(process, port=port, database_url=database_url)
            wait_until(running.answers, what="the service")
            yield running
        finally:
            process.kill()


def test_an_order_is_a_row_and_an_event(service: Service) -> None:
    status, answer = service.place(1, total=20)
    assert (status, service.rows(), service.recorded()) == (201, [1], ["order-1"])
    (event,) = service.get("/orders/1/events")
    assert event["data"] == {"number": 1, "customer": "ada", "total": 20}
    assert event["position"] == answer["position"]


def test_a_request_that_fails_after_the_append_leaves_neither(service: Service) -> None:
    status, _ = service.place(1, total=2_000)
    assert (status, service.rows(), service.recorded()) == (402, [], [])
    assert service.place(1, total=20)[0] == 201


def test_the_worker_of_the_process_reacts(service: Service) -> None:
    service.place(1, total=20)
    service.place(2, total=5)
    wait_until(lambda: service.get("/customers/ada") == {"total": 25}, what="both orders in the read model")


def test_a_client_follows_what_comes(service: Service) -> None:
    service.place(1, total=20)
    with urllib.request.urlopen(f"{service.address}/events", timeout=WAIT_SECONDS_MAX) as lines:
        first = json.loads(lines.readline())
        service.place(2, total=5)
        second = json.loads(lines.readline())
    assert [first["stream"], second["stream"]] == ["order-1", "order-2"]


def test_a_service_that_is_stopped_gives_its_leases_back(service: Service) -> None:
    service.place(1, total=20)
    wait_until(lambda: service.get("/customers/ada") == {"total": 20}, what="the order in the read model")
    service.process.terminate()
    assert service.process.wait(timeout=WAIT_SECONDS_MAX) in (0, -15)
    with opened(service.database_url) as log, log.database.reader() as connection:
        checkpoints = log.database.tables.checkpoints
        assert list(connection.execute(checkpoints.select().with_only_columns(checkpoints.c.owner))) == [(None,)]

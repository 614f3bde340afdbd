"""`run` as it is watched and kept running: its log, its health file, its metrics, and several processes under one."""

import dataclasses
import io
import json
import logging
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from eventlog.cli import health, supervising, working
from eventlog.cli.health import HealthFile, age_of
from eventlog.cli.logs import Logs
from eventlog.cli.run_options import Asked
from eventlog.cli.supervised import Child, child_of, environment_of
from eventlog.cli.supervising import (
    LASTED_SECONDS,
    RESTART_SECONDS_MAX,
    RESTART_SECONDS_MIN,
    Process,
    Supervisor,
)
from eventlog.cli.working import work
from eventlog.clock import SystemClock, wall_milliseconds
from eventlog.errors import UsageError
from eventlog.subscribers.fleet import read_workers
from eventlog.subscribers.log_lines import FIELDS
from eventlog.subscribers.worker import Counts
from tests.cli_support import DEADLINE_SECONDS, Shop, command
from tests.log_support import engine_of, opened
from tests.server_process import free_port
from tests.subscribers_support import Background, Bench, Sent, eventually
from tests.test_metrics import over_http

START_SECONDS_MAX = 60.0
"""How long three interpreters may take to start, one after the other, on a machine that has much else to do."""

SLOW_SHOP = '''
"""Mails that take until somebody has written the file `go`; each is noted, with the process that sends it."""

import os
import time
from pathlib import Path

from eventlog import App

app = App(os.environ["SHOP_URL"], lease_seconds=4)
mail = app.subscriber("mail", partitions=2)


@mail.on("clishop.*")
def send(recorded):
    Path(f"sending-{os.getpid()}").touch()
    while not Path("go").exists():
        time.sleep(0.01)
    with Path("sent").open("a") as file:
        file.write(f"{recorded.position}\\n")
'''


def test_a_line_of_json_has_its_facts_as_fields(sqlite_shop: Shop) -> None:
    (position,) = sqlite_shop.orders(-1)
    ran = sqlite_shop.cli("run", "--drain", "--log", "json", "--log-level", "info", "--app", "shop:app")
    lines = [json.loads(line) for line in ran.err.splitlines()]
    failed = next(line for line in lines if line.get("state") == "parked")
    assert {"at", "level", "logger", "process", "message"} <= set(failed)
    assert (failed["level"], failed["process"]) == ("warning", os.getpid())
    assert {name: failed[name] for name in ("subscriber", "partition", "position", "attempt", "error_type")} == {
        "subscriber": "mail",
        "partition": 0,
        "position": position,
        "attempt": 1,
        "error_type": "ValueError",
    }
    assert failed["epoch"] > 0
    assert "a total of" not in ran.err, "payloads are not for logs"
    assert any("lease taken" in line["message"] for line in lines)


def test_a_retry_that_has_success_is_a_line(sqlite_shop: Shop) -> None:
    (position,) = sqlite_shop.orders(-1)
    sqlite_shop.drain()
    sqlite_shop.cli("retry", "mail")
    sqlite_shop.monkeypatch.setenv("FIXED", "1")
    ran = sqlite_shop.cli("run", "--drain", "--log", "json", "--log-level", "info", "--app", "shop:app")
    resolved = [json.loads(line) for line in ran.err.splitlines() if '"resolved"' in line]
    assert [(one["position"], one["attempt"]) for one in resolved] == [(position, 2)]


def test_the_level_is_that_of_our_own_log(sqlite_shop: Shop) -> None:
    sqlite_shop.orders(-1)
    assert (
        "parked"
        in sqlite_shop.cli("run", "--drain", "--log", "text", "--log-level", "warning", "--app", "shop:app").err
    )
    sqlite_shop.cli("rewind", "mail", "--to-start", "--resend", "--yes")
    quiet = sqlite_shop.cli("run", "--drain", "--log", "text", "--log-level", "error", "--app", "shop:app").err
    assert quiet == "1 attempt failed; `eventlog failures` shows what stands in the ledger.\n"


def test_a_log_that_was_asked_for_is_written_whatever_the_app_has_set_up(sqlite_shop: Shop) -> None:
    sqlite_shop.module(
        "set_up",
        "import logging.config\n"
        "logging.config.dictConfig({'version': 1, 'root': {'handlers': [], 'level': 'CRITICAL'}})\n"
        "from shop import app\n",
    )
    sqlite_shop.orders(-1)
    ran = sqlite_shop.cli("run", "--drain", "--log", "json", "--log-level", "warning", "--app", "set_up:app")
    assert json.loads(ran.err.splitlines()[0])["state"] == "parked"


def test_the_set_up_of_whoever_runs_a_command_is_left_as_it_was(sqlite_shop: Shop) -> None:
    root = logging.getLogger()
    before = (list(root.handlers), root.level, logging.getLogger("eventlog").level)
    sqlite_shop.cli("run", "--drain", "--log", "json", "--log-level", "debug", "--app", "shop:app")
    assert (list(root.handlers), root.level, logging.getLogger("eventlog").level) == before


def test_what_handlers_log_and_every_traceback_is_one_line() -> None:
    logs, stream = Logs(form="json", level=logging.INFO), io.StringIO()
    handler = logs._handler
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    with logs.written():
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("shop").exception("it %s", "failed", extra={"order": 7, "when": {1, 2}})
    (line,) = stream.getvalue().splitlines()
    read = json.loads(line)
    assert (read["message"], read["order"], read["level"]) == ("it failed", 7, "error")
    assert "ValueError: two\nlines" in read["traceback"]
    assert not set(FIELDS) & set(vars(logging.makeLogRecord({}))), "a field must not be one of a record's own"


def test_what_watches_a_worker_does_not_go_with_a_drain(shop: Shop) -> None:
    for words in (("--processes", 2), ("--health-file", "h"), ("--metrics-port", 9464)):
        ran = shop.cli("run", "--drain", *words, "--app", "shop:app")
        assert (ran.code, f"{words[0]} is for a worker that runs on" in ran.err) == (2, True)
    assert shop.cli("run", "--metrics-port", "everywhere", "--app", "shop:app").code == 2


def test_the_health_file_is_fresh_while_the_worker_gets_answers(bench: Bench, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(health, "WRITE_SECONDS", 0.0)
        file, app = tmp_path / "health.json", bench.app()

        @app.subscriber("mail")
        def send(crate: Sent) -> None: ...

        runtime = app.runtime()
        working_on = Background(lambda: work(app, (), runtime, health_file=file))
        bench.send(2)
        eventually(lambda: _read(file).get("handled") == 2, what="it tells what was handled")
        assert {name: _read(file)[name] for name in ("state", "process", "owner", "subscribers")} == {
            "state": "running",
            "process": os.getpid(),
            "owner": runtime.owner,
            "subscribers": {"mail": {"handled": 2, "failed": 0}},
        }
        workers = bench.log.database.tables.sql_name("workers")
        _run(bench.url, f"alter table {workers} rename to away")
        bench.send(1, first=3)
        _stands_still(file)
        _run(bench.url, f"alter table {workers.replace('workers', 'away')} rename to workers")
        written = file.stat().st_mtime_ns
        eventually(lambda: file.stat().st_mtime_ns > written, what="it goes on")
        runtime.stop.set()
        working_on.join()
    assert not file.exists(), "who has ended in order is not ill"
    assert [one.name for one in tmp_path.iterdir() if "health" in one.name] == []


def test_a_health_file_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"health file .* cannot be written: No such file"):
        HealthFile(tmp_path / "not-there" / "health.json")
    assert age_of(tmp_path / "nothing", now=0.0) is None


def test_a_health_file_is_never_seen_half_written(tmp_path: Path) -> None:
    """Whoever has opened the one before reads that one to its end: the new one takes its place, and not its content."""
    file = HealthFile(tmp_path / "health.json")
    with file.path.open() as before:
        file.write({"state": "running", "long": "x" * 100_000})
        assert json.loads(before.read()) == {"state": "starting"}
    assert _read(file.path)["state"] == "running"
    age = age_of(file.path, now=wall_milliseconds() / 1000)
    assert age is not None
    assert age < 10


def test_a_process_that_is_killed_is_started_again_and_all_end_as_one(postgres_shop: Shop) -> None:
    shop = postgres_shop
    shop.module("slow", SLOW_SHOP)
    (shop.folder / "go").touch()
    port, health_file = free_port(), shop.folder / "health.json"
    words = ("--processes", 2, "--log", "json", "-o", "json", "--health-file", health_file, "--metrics-port", port)
    with _running(shop, "run", "--app", "slow:app", *words) as supervisor:
        first = shop.orders(*[1] * 8)
        _wait(supervisor, lambda: _sent(shop) >= set(first), what="all were sent")
        _wait(supervisor, lambda: _read(health_file).get("processes") == 2, what="both are well")
        _wait(supervisor, lambda: len(_alive(shop)) == 2, what="both have joined")
        victim = max(_alive(shop))
        counted = over_http(port).value("eventlog_handler_events_total", subscriber="mail", outcome="handled")
        os.kill(victim, signal.SIGKILL)
        second = shop.orders(*[1] * 8)
        _wait(supervisor, lambda: _sent(shop) >= set(second), what="what came meanwhile was sent")
        _wait(supervisor, lambda: len(_alive(shop) - {victim}) == 2, what="another process is there")
        found = over_http(port)
        supervisor.send_signal(signal.SIGTERM)
        out, err = supervisor.communicate(timeout=DEADLINE_SECONDS)
    lines = [json.loads(line) for line in err.splitlines()]
    died = [line for line in lines if "has died" in line["message"]]
    assert (supervisor.returncode, len(died), "SIGKILL" in died[0]["message"]) == (0, 1, True)
    assert json.loads(out)["restarts"] == 1
    assert json.loads(out)["processes"] == 2
    assert counted == 8
    assert found.value("eventlog_handler_events_total", subscriber="mail", outcome="handled") >= 16
    assert found.value("eventlog_up") == 1
    assert not health_file.exists()
    assert (_alive(shop), shop.status("mail")["owner"]) == (set(), None)
    assert shop.checkpoint("mail") == max(second)


def test_who_finds_its_supervisor_gone_stops_in_order(bench: Bench, tmp_path: Path) -> None:
    app, file, gone = bench.app(), tmp_path / "health.json", [False]
    app.subscriber("mail").on("**")(lambda recorded: None)
    app.register()
    working_on = Background(lambda: work(app, (), app.runtime(), health_file=file, gone=lambda: gone[0]))
    eventually(lambda: bench.status("mail").owner, what="it has its lease")
    gone[0] = True
    working_on.join()
    assert bench.status("mail").owner is None
    assert _read(file)["state"] == "stopped", "what it has done is left for whoever looks after it"


def test_a_process_knows_its_supervisor_by_its_environment() -> None:
    child = Child(supervisor=os.getppid(), number=3, measures=True)
    assert child_of(environment_of(child)) == child
    assert child_of({}) is None
    assert not child.is_orphaned()
    assert dataclasses.replace(child, supervisor=os.getpid()).is_orphaned()


def test_what_dies_again_and_again_is_started_less_often(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process that ends at once, and a clock that is moved by hand."""
    clock = HandClock()
    process = Process(1, Programs(tmp_path, "exit 7"), clock)
    starts: list[float] = []
    for _ in range(2_000):
        was_running = process.runs
        process.keep()
        if process.runs and not was_running:
            starts.append(clock.now)
            _ended(process)
        clock.now += 0.1
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    wanted = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, *[30.0] * (len(pauses) - 6)]
    assert len(pauses) > 8
    assert pauses == pytest.approx([seconds + 0.2 for seconds in wanted], abs=0.15), "found dead, and started, by ticks"
    assert "(exit code 7)" in caplog.text


def test_what_has_lasted_is_started_again_soon(tmp_path: Path) -> None:
    clock = HandClock()
    process = Process(1, Programs(tmp_path, "exit 7"), clock)
    for _ in range(5):
        process.keep()
        _ended(process)
        process.keep()
        clock.now += RESTART_SECONDS_MAX
    process.keep()
    clock.now += LASTED_SECONDS
    _ended(process)
    process.keep()
    clock.now += RESTART_SECONDS_MIN
    process.keep()
    assert process.runs
    _ended(process)


def test_what_was_done_is_told_once_however_often_it_died(tmp_path: Path) -> None:
    """Each writes that it has handled three events; the last one dies before it has written anything."""
    told = '{"handled": 3, "failed": 1, "subscribers": {"mail": {"handled": 3, "failed": 1}}}'
    clock, programs = HandClock(), Programs(tmp_path, f"echo '{told}' > {tmp_path}/health-1.json")
    process = Process(1, programs, clock)
    for script in (programs.script, programs.script, "exit 1"):
        process._starts = Programs(tmp_path, script)
        process.keep()
        _ended(process)
        process.keep()
        clock.now += RESTART_SECONDS_MAX
    assert process.done.subscribers == {"mail": Counts(handled=6, failed=2)}
    assert process.done.handled == 6


def test_a_second_signal_is_passed_on_and_whoever_minds_neither_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "END_SECONDS_MAX", 0.2)
    programs = Programs(
        tmp_path, f"trap 'echo . >> {tmp_path}/asked' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    )
    supervisor, came = Supervisor(programs, None), list[int]()
    running = Background(lambda: supervisor.run(came))
    eventually((tmp_path / "up").exists, what="it runs")
    came.append(signal.SIGTERM)
    eventually((tmp_path / "asked").exists, what="it was asked to stop")
    assert running.running
    came.append(signal.SIGTERM)
    running.join()
    assert (tmp_path / "asked").read_text().count(".") == 2
    assert supervisor.failed


@pytest.mark.parametrize("script", ["sleep 60", "exit 3", "trap 'exit 0' TERM; while :; do sleep 0.05; done"])
def test_who_is_starting_waiting_or_running_when_it_is_to_stop_has_ended_in_order(tmp_path: Path, script: str) -> None:
    supervisor, came = Supervisor(Programs(tmp_path, f"touch {tmp_path}/up; {script}"), None), list[int]()
    running = Background(lambda: supervisor.run(came))
    eventually((tmp_path / "up").exists, what="it runs")
    if script == "exit 3":
        eventually(lambda: supervisor.told()["restarts"], what="it was found dead")
    came.append(signal.SIGTERM)
    running.join()
    assert not supervisor.failed


def test_who_ends_with_a_failure_when_it_is_to_stop_is_told(tmp_path: Path) -> None:
    script = f"trap 'exit 5' TERM; touch {tmp_path}/up; while :; do sleep 0.05; done"
    supervisor, came = Supervisor(Programs(tmp_path, script), None), list[int]()
    running = Background(lambda: supervisor.run(came))
    eventually((tmp_path / "up").exists, what="it runs")
    came.append(signal.SIGTERM)
    running.join()
    assert supervisor.failed


def test_what_cannot_be_started_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class NoMore(Programs):
        def start(self, number: int) -> "subprocess.Popen[bytes]":
            raise BlockingIOError(11, "Resource temporarily unavailable")

    clock = HandClock()
    process = Process(1, NoMore(tmp_path, ""), clock)
    process.keep()
    assert (process.runs, process.restarts) == (False, 1)
    assert "could not be started: Resource temporarily unavailable; started again in 0.5 s" in caplog.text


def test_an_app_that_cannot_be_run_is_told_once_and_not_by_every_process(shop: Shop) -> None:
    ran = shop.cli("run", "--processes", 2, "--app", "nowhere:app")
    assert (ran.code, "no module 'nowhere'" in ran.err) == (2, True)


class HandClock(SystemClock):
    """Moved by hand."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


class Programs:
    """Starts a shell where the supervisor would start a worker."""

    def __init__(self, folder: Path, script: str) -> None:
        self.script = script
        self.asked = Asked(
            only=(), drains=False, processes=1, listen_url=None, level=None, health_file=None, metrics=None
        )
        self._folder = folder

    def start(self, number: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(["sh", "-c", self.script], stdin=subprocess.DEVNULL, process_group=0)

    def health_file(self, number: int) -> Path:
        return self._folder / f"health-{number}.json"


def _ended(process: Process) -> None:
    assert process._running is not None
    process._running.wait(DEADLINE_SECONDS)


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except FileNotFoundError:
        return {}
    return found


def _stands_still(file: Path) -> None:
    """Wait until the file has not been written for a while: the worker needs a moment to notice."""
    clock = SystemClock()
    written, since = file.stat().st_mtime_ns, clock.monotonic()

    def is_still() -> bool:
        nonlocal written, since
        now = file.stat().st_mtime_ns
        if now != written:
            written, since = now, clock.monotonic()
        return clock.monotonic() - since > 5 * working.LOOK_SECONDS

    eventually(is_still, what="the health file grows old")


def _run(url: str, statement: str) -> None:
    with engine_of(url) as engine, engine.begin() as connection:
        connection.exec_driver_sql(statement)


def _sent(shop: Shop) -> set[int]:
    file = shop.folder / "sent"
    return set(map(int, file.read_text().split())) if file.exists() else set()


def _alive(shop: Shop) -> set[int]:
    with opened(shop.url) as log, log.database.reader() as connection:
        return {one.process for one in read_workers(connection, log.database, alive_only=True)}


def _wait(process: "subprocess.Popen[str]", fact: Callable[[], object], *, what: str) -> None:
    """Ask now and then: asking costs the processes that are waited for their time."""
    clock, never = SystemClock(), threading.Event()
    deadline = clock.monotonic() + START_SECONDS_MAX
    while not fact():
        assert process.poll() is None, process.communicate()
        assert clock.monotonic() < deadline, f"waited {START_SECONDS_MAX:g} s for {what}"
        clock.wait(never, 0.1)


@contextmanager
def _running(shop: Shop, *words: str | int | Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        command(*map(str, words)), cwd=shop.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            yield process
        finally:
            process.kill()

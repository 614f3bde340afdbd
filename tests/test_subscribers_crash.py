"""Workers that are killed: real processes, stopped at a named point, and started again.

What must hold each time: no event is skipped, no failure is silent, only the owner commits.
"""

import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eventlog.subscribers import control
from eventlog.subscribers.control.rebuilds import RebuildState, read_rebuilds
from tests import warm_python
from tests.subscribers_child import APPLIED, service
from tests.subscribers_support import DEADLINE_SECONDS, Bench, BugError, eventually

ROOT = Path(__file__).parent.parent
STARTS_MAX = 8
KINDS = pytest.mark.parametrize("kind", ["board", "mail"])


class Child:
    """The service in a process of its own, and the lines it says."""

    def __init__(self, url: str, kind: str, mode: str, *deed: str, on_failure: str = "park") -> None:
        self._process = warm_python.started(
            *("-m", "tests.subscribers_child", url, kind, on_failure, mode, *deed),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.lines: list[str] = []
        self._unread: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def calls(self) -> list[tuple[int, bool]]:
        """The number and the redelivery flag of each call of the handler."""
        words = [line.split() for line in self.lines if line.startswith("call ")]
        return [(int(number), flag == "True") for _, number, flag in words]

    def wait_for(self, line: str) -> None:
        ends = time.monotonic() + DEADLINE_SECONDS
        while self._unread.get(timeout=max(0.01, ends - time.monotonic())) != line:
            pass

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def send(self, number: signal.Signals) -> None:
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        assert self.end() == -signal.SIGKILL

    def end(self) -> int:
        """Wait for the process to end, and return its exit code."""
        code = self._process.wait(DEADLINE_SECONDS)
        self._reader.join(DEADLINE_SECONDS)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        return code

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())
            self._unread.put(line.strip())


class Crashes(Bench):
    """A bench that starts processes, and leaves none behind."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.children: list[Child] = []

    def start(self, kind: str, mode: str, *deed: str, on_failure: str = "park") -> Child:
        child = Child(self.url, kind, mode, *deed, on_failure=on_failure)
        self.children.append(child)
        return child

    def drain(self, kind: str, *, on_failure: str = "park") -> list[tuple[int, bool]]:
        """Drain in a process without a bug, and return the calls it made."""
        child = self.start(kind, "drain", on_failure=on_failure)
        assert child.end() == 0
        return child.calls

    def restart_until_drained(self, kind: str, *deed: str, on_failure: str = "park") -> list[tuple[int, bool]]:
        """Start a service that dies again and again, as a supervisor would; return all the calls it made."""
        calls: list[tuple[int, bool]] = []
        for _ in range(STARTS_MAX):
            child = self.start(kind, "drain", *deed, on_failure=on_failure)
            code = child.end()
            calls += child.calls
            if code == 0:
                return calls
            self.expire_lease(kind)
        raise AssertionError(f"died {STARTS_MAX} times: a crash loop, with the ledger at {self.states(kind)}")

    def close(self) -> None:
        for child in self.children:
            if not child.ended:
                child.kill()
        super().close()


@pytest.fixture
def bench(database_url: str) -> Iterator[Crashes]:
    bench = Crashes(database_url)
    yield bench
    bench.close()


def test_a_projection_whose_worker_is_killed_in_a_batch_has_exact_totals(bench: Crashes) -> None:
    sent = bench.send(20)
    child = bench.start("board", "run", "stand", "12")
    child.wait_for("inside 12")
    child.kill()
    assert bench.applied(APPLIED) == []
    bench.expire_lease("board")
    bench.drain("board")
    assert bench.applied(APPLIED) == sent
    assert bench.states("board") == {}


def test_a_worker_that_was_killed_is_replaced_when_its_lease_has_run_out(bench: Crashes) -> None:
    """Nobody touches the lease: the second worker waits the two seconds that it lasts."""
    sent = bench.send(5)
    first = bench.start("board", "run", "stand", "3")
    first.wait_for("inside 3")
    first.kill()
    second = bench.start("board", "run")
    eventually(lambda: bench.position("board") == sent[-1], what="the second worker takes over")
    second.send(signal.SIGTERM)
    assert second.end() == 0
    assert bench.applied(APPLIED) == sent


def test_an_effect_whose_worker_is_killed_loses_nothing_and_flags_what_it_repeats(bench: Crashes) -> None:
    bench.send(20)
    child = bench.start("mail", "run", "stand", "12")
    child.wait_for("inside 12")
    child.kill()
    announced = bench.checkpoint("mail")
    assert (announced.position, announced.in_hand) == (0, 20)
    bench.expire_lease("mail")
    later = bench.send(3, first=21)
    again = bench.drain("mail")
    assert child.calls == [(number, False) for number in range(1, 13)]
    assert again == [(number, True) for number in range(1, 21)] + [(number, False) for number in range(21, 24)]
    assert (bench.position("mail"), bench.states("mail")) == (later[-1], {})


@KINDS
def test_what_was_settled_before_a_kill_is_not_delivered_again(bench: Crashes, kind: str) -> None:
    bench.send(3)
    child = bench.start(kind, "run", "stand", "5")
    eventually(lambda: child.lines, what="the worker is there")
    eventually(lambda: bench.position(kind) == 3, what="the first three are settled")
    sent = bench.send(3, first=4)
    child.wait_for("inside 5")
    child.kill()
    bench.expire_lease(kind)
    calls = bench.drain(kind)
    assert bench.position(kind) == sent[-1]
    if kind == "mail":
        assert not {number for number, _ in calls} & {1, 2, 3}
    else:
        assert bench.applied(APPLIED) == [1, 2, 3, *sent]


def test_the_only_event_in_hand_of_a_worker_that_died_is_a_failed_attempt(bench: Crashes) -> None:
    sent = bench.send(1)
    child = bench.start("mail", "run", "stand", "1")
    child.wait_for("inside 1")
    child.kill()
    bench.expire_lease("mail")
    assert bench.drain("mail") == [(1, True)]
    died, resolved = bench.attempts("mail")
    assert (died.outcome, died.error_type, resolved.outcome) == ("failed", "WorkerDied", "resolved")
    assert bench.states("mail") == {sent[0]: "resolved"}


@KINDS
@pytest.mark.parametrize("on_failure", ["park", "halt"])
def test_an_event_that_always_kills_its_worker_ends_in_the_ledger(bench: Crashes, kind: str, on_failure: str) -> None:
    sent = bench.send(6)
    calls = bench.restart_until_drained(kind, "die", "4", on_failure=on_failure)
    assert bench.states(kind) == {sent[3]: "parked"}
    assert [row.error_type for row in bench.attempts(kind)] == ["WorkerDied"] * 3
    through = sent if on_failure == "park" else sent[:3]
    assert bench.position(kind) == through[-1]
    if kind == "board":
        assert bench.applied(APPLIED) == [one for one in through if one != sent[3]]
    else:
        assert {number for number, _ in calls} == set(range(1, len(through) + 1)) | {4}


@KINDS
def test_a_deadly_event_behind_a_skipped_one_ends_in_the_ledger_too(bench: Crashes, kind: str) -> None:
    """Under `halt` the checkpoint stays before the skipped event until the next one is through."""
    sent = bench.send(2)
    app = bench.app()

    def fail(number: int) -> None:
        if number == 1:
            raise BugError

    service(app, kind, deed=fail, on_failure="halt").drain()
    control.skip(app.log.database, kind, sent[:1], reason="so that the next one is met")
    bench.restart_until_drained(kind, "die", "2", on_failure="halt")
    assert bench.states(kind) == {sent[0]: "skipped", sent[1]: "parked"}


@KINDS
def test_a_deadly_event_that_an_operator_skips_lets_the_others_through(bench: Crashes, kind: str) -> None:
    sent = bench.send(4)
    bench.restart_until_drained(kind, "die", "2", on_failure="halt")
    control.skip(bench.app().log.database, kind, [sent[1]], reason="deadly")
    bench.drain(kind, on_failure="halt")
    assert (bench.position(kind), bench.states(kind)) == (sent[-1], {sent[1]: "skipped"})


@KINDS
def test_a_worker_asked_to_stop_finishes_the_event_at_hand_and_frees_its_lease(bench: Crashes, kind: str) -> None:
    sent = bench.send(5)
    child = bench.start(kind, "run", "stand", "2")
    child.wait_for("inside 2")
    child.send(signal.SIGTERM)
    child.wait_for("stopping")
    child.go_on()
    assert child.end() == 0
    row = bench.checkpoint(kind)
    assert (row.position, row.in_hand, row.owner) == (sent[1], sent[1], None)
    rest = bench.drain(kind)
    if kind == "board":
        assert bench.applied(APPLIED) == sent
    else:
        assert [number for number, _ in child.calls + rest] == [1, 2, 3, 4, 5]


def test_workers_in_two_processes_of_which_one_is_killed_now_and_then_have_exact_totals(bench: Crashes) -> None:
    """Whoever comes first holds the lease; it is killed while events pour in, and the other takes over."""
    sent: list[int] = []
    workers = [bench.start("board", "run") for _ in range(3)]
    for worker in workers:
        worker.wait_for("ready")
    for victim in workers[:2]:
        for _ in range(10):
            sent += bench.send(15, first=len(sent) + 1)
        victim.kill()
        bench.expire_lease("board")
    eventually(lambda: bench.position("board") == sent[-1], what="everything is applied")
    workers[2].send(signal.SIGTERM)
    assert workers[2].end() == 0
    assert bench.applied(APPLIED) == sent


def test_a_rebuild_whose_worker_is_killed_goes_on_and_the_live_tables_serve(
    bench: Crashes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new version is killed within its second page; another start goes on from there, and takes it into use."""
    sent = bench.send(600)
    bench.drain("board")
    monkeypatch.setenv("VERSION", "2")
    monkeypatch.setenv("PAGE_EVENTS", "500")
    child = bench.start("board", "run", "stand", "550")
    child.wait_for("inside 550")
    child.kill()
    rebuild = read_rebuilds(bench.log.database)[0]
    assert (bench.position(rebuild.shadow), len(bench.applied(APPLIED))) == (500, 600)
    bench.expire_lease(rebuild.shadow)

    bench.drain("board")

    assert read_rebuilds(bench.log.database)[0].state is RebuildState.DONE
    assert bench.applied(APPLIED) == sent

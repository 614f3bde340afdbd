"""The simulation: some seeds of it, with `EVENTLOG_SOAK=N` in the environment so many; and a seed is a schedule."""

import os
import shutil
from pathlib import Path

import pytest

from eventlog.subscribers.retrying import Retrying
from tests import simulation
from tests.simulation import Deaths, Schedule, make_template
from tests.subscribers_support import Bench, Sent
from tests.test_subscribers_state_machine import DiedError

SOAK = "EVENTLOG_SOAK" in os.environ
SCHEDULES = int(os.environ.get("EVENTLOG_SOAK", "200"))
STEPS = simulation.STEPS if SOAK else 6
FIRST_SEED = int.from_bytes(os.urandom(4), "big") if SOAK else 1


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("simulation"))


def test_random_schedules_hold(tmp_path: Path, template: Path) -> None:
    for seed in range(FIRST_SEED, FIRST_SEED + SCHEDULES):
        schedule = Schedule(seed, tmp_path, template)
        failed = schedule.run(steps=STEPS)
        assert failed is None, "\n".join([*schedule.lines, repr(failed)])


@pytest.mark.parametrize("seed", [16, 21])
def test_a_seed_is_a_schedule(tmp_path: Path, template: Path, seed: int) -> None:
    """Step by step the same, and the same in the tables; one in each world."""
    first, second = Schedule(seed, tmp_path, template), None
    assert first.run(steps=15) is None
    second = Schedule(seed, tmp_path, template)
    assert second.run(steps=15) is None
    assert first.lines == second.lines
    assert len(first.lines) == 31


def test_a_loss_is_found_and_its_schedule_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What waits behind an entry is run wherever it stands, as it was until a schedule lost an event by it."""
    before = Retrying._behind

    def behind(retrying: Retrying, entry: object, *, until: int) -> object:
        return before(retrying, entry, until=2**62)  # type: ignore[arg-type]

    monkeypatch.setattr(Retrying, "_behind", behind)
    assert simulation.main(["--seed", "16"]) == 1
    printed = capsys.readouterr().out
    assert "is lost" in printed
    assert "  repartition 1\n" in printed
    assert printed.endswith("again: python -m tests.simulation --seed 16\n1 schedules, 1 failed\n")


@pytest.mark.parametrize("committed", [False, True])
def test_a_process_dies_within_the_transaction_that_was_chosen_or_right_after_it(
    tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch, *, committed: bool
) -> None:
    bench = Bench(f"sqlite:///{shutil.copyfile(template, tmp_path / 'log.db')}")
    deaths = Deaths(monkeypatch)

    def send(number: int) -> None:
        with bench.transaction() as connection:
            bench.log.append(Sent(number), tx=connection)

    with deaths.within(1, committed=committed):
        send(1)
        with pytest.raises(DiedError):
            send(2)
    send(3)
    assert [one.data.number for one in bench.log.read()] == ([1, 2, 3] if committed else [1, 3])
    bench.close()

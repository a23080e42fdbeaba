"""The dealer on a simulated host: the same seeds on every machine, whatever its hashes, and no promise broken."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sim.campaign import campaign
from sim.faults import Faults
from sim.journal_model import JournalModel
from sim.schedule import run
from sim.shrink import shrink

SCHEDULES = 20_000
SECONDS = 60.0  # the share of a normal run of the tests; `make sim` knows no such bound
FIRST = 1


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_promise_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """What is told of a failure repeats it."""
    schedules = int(os.environ.get("SIM_SEEDS", SCHEDULES))
    seconds = float(os.environ.get("SIM_SECONDS", SECONDS))
    result = campaign(FIRST, schedules, cores=os.cpu_count() or 1, seconds=seconds)
    with capsys.disabled():
        sys.stdout.write(f"\n{result.summary()}\n")
    assert not result.failures, "\n".join(f"{text}\nmake sim SEED={seed}" for seed, text in result.failures)
    assert not result.missing, "no schedule had these faults"


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_the_same_seeds_give_the_same_schedules_whatever_the_hashes() -> None:
    tests = Path(__file__).resolve().parents[1]
    path = f"{tests.parent / 'internal'}:{tests}"
    command = [sys.executable, "-m", "sim", "--hashes", "--first", "1000", "--seeds", "30"]
    runs = [
        subprocess.run(
            command, env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": seed}, capture_output=True, text=True
        ).stdout
        for seed in ("0", "1", "random")
    ]
    assert len(runs[0].splitlines()) == 30
    assert runs[0] == runs[1] == runs[2]


def test_faults_can_be_left_out_one_by_one() -> None:
    """Shrinking leaves out what is not needed; the fault that does the harm stays."""
    faults = Faults(7, dealer_may_end=True, deleted=frozenset({2}))
    faults.sudden = {"worker_killed": 1}
    drawn = [faults.draw_sudden() for _ in range(3)]
    assert drawn == ["worker_killed", None, "worker_killed"]
    assert faults.seen["worker_killed"] == 2


@pytest.mark.slow
def test_a_failing_schedule_shrinks_to_few_faults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted here: a journal that has forgotten every batch."""
    monkeypatch.setattr(JournalModel, "stored_batch", lambda journal_model, name: None)
    whole = next(tried for tried in map(run, range(1, 200)) if tried.violation is not None and len(tried.fired) > 4)
    shrunk = shrink(whole.seed, seconds=10)
    assert shrunk.violation is not None and whole.violation is not None
    assert shrunk.violation.partition(":")[0] == whole.violation.partition(":")[0]
    assert len(shrunk.fired) < len(whole.fired)
    assert shrunk.trace

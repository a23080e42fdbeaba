"""A small chaos run in every test run; the large one is `make chaos`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from proof.chaos import Chaos, Plan
from support.harness import tell

DEADLINE_SECONDS = 150.0


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_what_is_accepted_survives_kills_of_dealer_workers_and_generators(pool: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("TASKPOOL_SEED") or random.SystemRandom().randrange(2**32))
    plan = Plan(jobs=240, dealer_kills=4, worker_kills=24, generator_kills=3, seed=seed, job_seconds=0.03)
    tell(f"repeat: TASKPOOL_SEED={seed} pytest tests/proof/test_chaos.py")
    audit = Chaos(plan, pool, tmp_path).run(DEADLINE_SECONDS)
    tell(audit.text())
    assert not audit.problems
    assert set(audit.kills) == {"dealer", "worker", "generator"}, "how many of each, the machine decides"
    assert (audit.lost, audit.recorded_twice, audit.overlapping) == (0, 0, 0)
    assert audit.done == audit.attempted

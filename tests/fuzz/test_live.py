"""A running dealer under hostile messages; the large number of them is `make fuzz`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from random import SystemRandom

import pytest

from fuzz.live import Live
from support.harness import Stage, tell

MESSAGES = 4_000


@pytest.fixture
def stage(pool: str, tmp_path: Path) -> Iterator[Stage]:
    with Stage(pool, tmp_path) as stage:
        yield stage


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_dealer_under_fire(stage: Stage) -> None:
    seed = int(os.environ.get("TASKPOOL_SEED") or SystemRandom().randrange(2**32))
    tell(f"repeat: TASKPOOL_SEED={seed} pytest tests/fuzz/test_live.py")
    live = Live(stage, seed, MESSAGES)
    live.run()
    tell(f"{live.sent} messages, {live.batches} batches meanwhile")

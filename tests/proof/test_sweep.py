"""A sample of the sweep in every test run; the whole of it is `make sweep`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from random import SystemRandom

import pytest

from proof.sweep_trace import KILL, Call, Point, points_of, sample
from support.harness import tell
from support.source_tree import ROOT

POINTS = 18
FOUND_ONCE = (  # what the sweep has found stays in the sample
    "dealer epoll_create1@* ENOMEM",  # a dealer that failed half way up left a journal that could not be opened
    "dealer clone3@3 E*",  # the same, for want of a thread
    "generator pipe2@1 ENFILE",  # a traceback in place of a text
    "generator fchmod@1 *",  # a reply queue that stayed
)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.needs_tool("strace")
def test_a_sample_of_all_points_keeps_every_promise(tmp_path: Path) -> None:
    _need_ptrace()
    seed = os.environ.get("TASKPOOL_SEED") or str(SystemRandom().randrange(2**32))
    tell(f"repeat: TASKPOOL_SEED={seed} pytest tests/proof/test_sweep.py")
    command = [sys.executable, "-m", "proof.sweep", "--sample", str(POINTS), "--seed", seed, "--parallel", "3"]
    command += ["--always", *FOUND_ONCE, "--journal", str(tmp_path / "points.jsonl")]
    env = os.environ | {"PYTHONPATH": f"{ROOT}/internal:{ROOT}/tests"}
    swept = subprocess.run(command, cwd=ROOT / "tests", env=env, capture_output=True, text=True, timeout=380)
    tell(swept.stdout)
    assert swept.returncode == 0, swept.stdout + swept.stderr
    assert "violations: 0" in swept.stdout
    counts = re.search(r"points run: (\d+) .*reached: (\d+)", swept.stdout, re.S)
    assert counts is not None
    assert int(counts[2]) * 4 >= int(counts[1]) * 3, "the whole sweep reaches 97 of 100 points"


def _need_ptrace() -> None:
    """A container may have strace and not let it trace."""
    tried = subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        text = f"strace may not trace here (--cap-add SYS_PTRACE): {tried.stderr.strip()}"
        if os.environ.get("CI") == "true":
            pytest.fail(text, pytrace=False)
        pytest.skip(text)


def test_every_kill_is_a_point_and_errors_strike_the_ends_of_each_site() -> None:
    calls = [Call("fsync", when, "", "fsync a", True) for when in (1, 2, 3)] + [Call("poll", 1, "", "poll", False)]
    points = points_of("dealer", calls)
    assert [point.when for point in points if point.fault == KILL] == [1, 2, 3]
    assert {point.when for point in points if point.fault == "EIO"} == {1, 3}
    assert {point.call for point in points if point.fault == "EINTR"} == {"fsync", "poll"}
    assert len({point.key for point in points}) == len(points)


def test_a_sample_is_spread_and_repeats_itself() -> None:
    points = [Point(who, call, n, KILL) for who in ("dealer", "worker") for call in ("fsync", "kill") for n in range(9)]
    chosen = sample(points, 8, seed=3)
    assert sample(points, 8, seed=3) == chosen
    assert len(set(chosen)) == 8
    assert {point.sort for point in chosen} == {point.sort for point in points}
    assert sample(points, 99, seed=3) and set(sample(points, 99, seed=3)) == set(points)

"""1,000 jobs of all kinds, some of them harmful: every one gets the one outcome it deserves."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest

from support.harness import QUARANTINED, Stage, alive, tell
from support.ledger import SCRIPT, WORKLOAD, Ledger

JOBS = 1_000
BIG_BYTES = 5_000_000
FIB = [0, 1]
while len(FIB) < 24:
    FIB.append(FIB[-1] + FIB[-2])

Outcome = dict[str, Any]


@dataclass(frozen=True)
class Sort:
    """A sort of job: how many of 1,000 are of it, what they do, and what their outcome says."""

    share: int
    kind: str
    work: str
    outcome: Outcome
    more: Outcome  # other fields of the job object
    innocent: bool = True


def harmful(share: int, kind: str, work: str, outcome: Outcome, **more: object) -> Sort:
    return Sort(share, kind, work, outcome, more, innocent=False)


HANG = {"timeout": "0.5s"}
BIG = {"state": "succeeded", "stdout": None}
SORTS = {
    "fib": Sort(300, "fib", "", {"state": "succeeded"}, {}),
    "python": Sort(270, "python", "", {"state": "succeeded", "value": "mine"}, {}),
    "command": Sort(250, "command", "echo=mine", {"state": "succeeded", "stdout": "mine\n", "exit_status": 0}, {}),
    "python big": Sort(5, "python", f"print={BIG_BYTES}", BIG, {}),
    "command big": Sort(5, "command", f"print={BIG_BYTES}", BIG, {}),
    "python grandchild": Sort(30, "python", "grandchild", {"state": "succeeded"}, {}),
    "command grandchild": Sort(30, "command", "grandchild", {"state": "succeeded"}, {}),
    "python raises": harmful(30, "python", "raise=no", {"state": "failed", "crashes": 0}),
    "command exits 7": harmful(30, "command", "exit=7", {"state": "failed", "exit_status": 7, "crashes": 0}),
    "python hangs": harmful(8, "python", "hang", {"state": "timed-out"}, **HANG),
    "python is deaf": harmful(2, "python", "deaf", {"state": "timed-out"}, **HANG),
    "command hangs": harmful(10, "command", "sleep=3600", {"state": "timed-out"}, **HANG),
    "python segfaults": harmful(10, "python", "segv", {"state": "quarantined", "signal": 11}, crash_limit=1),
    "python exits 3": harmful(10, "python", "exit=3", {"state": "quarantined", "exit_status": 3}, crash_limit=1),
    "command segfaults": harmful(10, "command", "segv", {"state": "quarantined", "signal": 11}, crash_limit=2),
}
assert sum(sort.share for sort in SORTS.values()) == JOBS


def job_object(seq: int, name: str, ledger: Ledger) -> Outcome:
    sort = SORTS[name]
    job: Outcome = {"kind": sort.kind, "label": name, **sort.more}
    directory = str(ledger.directory)
    if sort.kind == "fib":
        return job | {"n": seq % len(FIB)}
    if sort.kind == "python":
        arguments = [directory, str(seq), sort.work, "mine"]
        return job | {"call": "workload:work", "args": arguments, "path": [str(WORKLOAD)]}
    return job | {"argv": ["sh", SCRIPT, directory, str(seq), sort.work]}


def check_outcome(outcome: Outcome, ledger: Ledger) -> None:
    sort = SORTS[outcome["label"]]
    told = {key: outcome[key] for key in sort.outcome}
    assert told == sort.outcome, outcome
    if sort.kind == "fib":
        assert outcome["value"] == FIB[outcome["seq"] % len(FIB)]
    if sort.innocent:
        assert outcome["crashes"] == 0, outcome
    if "big" in outcome["label"]:
        assert os.stat(outcome["stdout_file"]).st_size == BIG_BYTES
    if "grandchild" in outcome["label"]:
        left = [pid for word, job, pid in ledger.lines() if word == "grandchild" and job == str(outcome["seq"])]
        assert left, outcome
        assert not any(alive(int(pid)) for pid in left), f"a grandchild outlives its attempt: {outcome}"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_every_job_gets_the_outcome_it_deserves(stage: Stage, ledger: Ledger) -> None:
    seed = int(os.environ.get("TASKPOOL_SEED", "0")) or int.from_bytes(os.urandom(4))
    tell(f"TASKPOOL_SEED={seed} mixes the jobs in the same way")
    names = [name for name, sort in SORTS.items() for _ in range(sort.share)]
    random.Random(seed).shuffle(names)
    file = ledger.directory / "jobs.jsonl"
    file.write_text("".join(json.dumps(job_object(*job, ledger)) + "\n" for job in enumerate(names, 1)))
    run = stage.private("jobs", "--workers", 4, "--spares", 2, "--output", "json", file, stdout=subprocess.PIPE)
    assert run.popen.stdout is not None
    outcomes = []
    for line in run.popen.stdout:  # each is judged the moment it is told
        outcomes.append(json.loads(line))
        check_outcome(outcomes[-1], ledger)
    run.ends(QUARANTINED)  # in the order of precedence before the failed ones
    assert Counter(job["seq"] for job in outcomes) == Counter(range(1, JOBS + 1))
    assert {job["seq"]: job["label"] for job in outcomes} == dict(enumerate(names, 1))
    ledger.check_no_overlap()
    starts = ledger.jobs("start")
    for job in outcomes:
        if job["kind"] != "fib":
            assert starts[str(job["seq"])] >= 1
        # A python job that crashed in a frame of several was executed once more, uncounted.
        if job["kind"] == "command":
            assert starts[str(job["seq"])] <= job["attempts"], job
    # Not those with grandchildren, whose end may take so long that their frame is stopped for its silence.
    ledger.check_no_start_behind_an_end({str(job["seq"]) for job in outcomes if job["label"] == "python"})

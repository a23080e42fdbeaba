"""Jobs that ended badly run again: each new run has exactly one outcome, whatever is killed meanwhile."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest

from support.harness import FAILED, OK, QUARANTINED, USAGE, Program, Stage, dealer_of, kill, until
from support.ledger import Ledger

JOBS = ["a", "b", "c", "d"]
# Fails until the cure is there; writes down that it was executed.
SCRIPT = 'echo "$1" >>"$0/executed"; [ "$1" = a ] || [ -e "$0/cure" ]'


def failing(stage: Stage, *options: object) -> list[str]:
    return [*map(str, options), "--", "sh", "-c", SCRIPT, str(stage.directory), "{}", ":::", *JOBS]


def executed(stage: Stage) -> Counter[str]:
    return Counter((stage.directory / "executed").read_text().split())


def cure(stage: Stage) -> None:
    (stage.directory / "cure").touch()


def outcomes(path: Path) -> list[tuple[int, int, str]]:
    """(seq, run, state) in the order of the jobs and their runs."""
    records = map(json.loads, path.read_text().splitlines())
    return sorted((record["seq"], record["run"], record["state"]) for record in records)


FIRST = [(1, 1, "succeeded"), *((seq, 1, "failed") for seq in (2, 3, 4))]


def test_what_failed_in_a_private_batch_runs_again(stage: Stage) -> None:
    results = stage.directory / "results"
    run = stage.private("command", *failing(stage, "--workers", 1, "--results", results)).ends(FAILED)
    assert run.says(r"To run again what did not succeed: \S+ rerun (\S+)$")[1] == stage.pool
    again = stage.generator("rerun", stage.pool, "--jobs", "2-3").ends(FAILED)
    assert executed(stage) == {"a": 1, "b": 2, "c": 2, "d": 1}
    assert "4 jobs: 1 succeeded, 3 failed (2 in earlier runs); 2 attempts" in again.stderr
    cure(stage)
    stage.generator("rerun", stage.pool, "--failed", "--jobs", "3").ends(OK)  # by the new outcomes
    stage.generator("rerun", stage.pool, "--timed-out").ends(USAGE)
    stage.generator("rerun", stage.pool).ends(OK)
    assert outcomes(results) == sorted(
        [*FIRST, (2, 2, "failed"), (3, 2, "failed"), (3, 3, "succeeded"), (2, 3, "succeeded"), (4, 2, "succeeded")]
    )
    nothing = stage.generator("rerun", stage.pool).ends(USAGE)
    assert "nothing is to run again" in nothing.stderr
    row = next(r for r in stage.generator("batches", "--json").ends(OK).objects() if r["batch"] == stage.pool)
    assert (row["state"], row["states"]) == ("succeeded", {"succeeded": 4})


def test_a_dealer_that_cannot_start_is_told_of(stage: Stage) -> None:
    stage.private("command", *failing(stage, "--workers", 1)).ends(FAILED)
    again = stage.generator("rerun", stage.pool, "--metrics", "many").ends(USAGE)
    assert "tp-dealer: --metrics many: expected HOST:PORT" in again.stderr
    assert "Traceback" not in again.stderr


def test_every_end_but_success_can_be_chosen(stage: Stage) -> None:
    jobs = [
        {"kind": "command", "argv": ["sh", "-c", "exit 3"]},
        {"kind": "command", "argv": ["sleep", "60"], "timeout": 0.2},
        {"kind": "command", "argv": ["sh", "-c", "kill -SEGV $$"], "crash_limit": 1},
        {"kind": "command", "argv": ["true"]},
    ]
    data = "".join(json.dumps(job) + "\n" for job in jobs).encode()
    stage.private("jobs", "--workers", 1, "-", stdin=data).ends(QUARANTINED)
    for options, seqs in (
        (["--timed-out"], [2]),
        (["--quarantined", "--failed"], [1, 3]),
        (["--all"], [1, 2, 3]),
        (["--jobs", "1,3-4"], [1, 3]),
    ):
        again = stage.generator("rerun", stage.pool, *options, "--output", "json")
        again.wait()
        assert sorted(outcome["seq"] for outcome in again.objects()) == seqs, options
    assert "expected numbers and ranges" in stage.generator("rerun", stage.pool, "--jobs", "3-1").ends(USAGE).stderr


def test_a_batch_of_a_named_pool_runs_again(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1, "--journal", stage.directory / "journal")
    words = failing(stage, "--pool", stage.pool, "--batch", "night")
    stage.generator("command", *words).ends(FAILED)
    assert "has not ended badly" in stage.generator("requeue", "--pool", stage.pool, "night/1").ends(USAGE).stderr
    assert stage.ask("requeue", "night/2") == {"requeued": 1}
    stage.generator("wait", "--pool", stage.pool, "night").ends(FAILED)
    assert executed(stage)["b"] == 2
    dealer.send(SIGTERM)
    dealer.ends(OK)
    dealer = stage.dealer("--workers", 1, "--journal", stage.directory / "journal")
    cure(stage)
    again = stage.generator("rerun", "--pool", stage.pool, "night", "--output", "json").ends(OK)
    # The outcome of the run that was asked for with `requeue` was not told to any generator before.
    runs = sorted((outcome["seq"], outcome["run"]) for outcome in again.objects())
    assert runs == [(2, 2), (2, 3), (3, 2), (4, 2)]
    stage.generator("wait", "--pool", stage.pool, "night").ends(OK)


def test_a_named_pools_batch_is_told_with_where_its_outcomes_go(stage: Stage) -> None:
    """The command that is printed writes to the same places, from any directory: the pool has no note of them."""
    stage.dealer("--workers", 1, "--journal", stage.directory / "journal")
    words = failing(stage, "--pool", stage.pool, "--batch", "night", "--output-dir", "out", "--results", "results")
    run = stage.generator("command", *words, cwd=stage.directory).ends(FAILED)
    printed = run.says(r"^\[TaskGenerator\] To run again what did not succeed: \S+ (rerun .*)$")[1].split()
    assert f"--output-dir={stage.directory}/out" in printed and f"--results={stage.directory}/results" in printed
    again = stage.generator(*printed).ends(FAILED)
    assert again.says(r"To run again what did not succeed: \S+ (rerun .*)$")[1].split() == printed
    cure(stage)
    assert "To run again" not in stage.generator(*printed).ends(OK).stderr
    outcome = json.loads((stage.directory / "out" / "2" / "outcome.json").read_text())
    assert (outcome["run"], outcome["state"]) == (3, "succeeded")
    assert len(outcomes(stage.directory / "results")) == 4 + 3 + 3


def started(stage: Stage, ledger: Ledger, results: Path) -> Program:
    """A rerun of four gated jobs that failed before, with one of them under way."""
    work = ["sh", "-c", '[ -e "$0/cure" ] || exit 3; exec "$@"', str(stage.directory), *ledger.command("gate")]
    options = ["--workers", "1", "--results", str(results)]
    stage.private("command", *options, "--", *work, ":::", *JOBS).ends(FAILED)
    cure(stage)
    run = stage.generator("rerun", stage.pool)
    ledger.wait("start", 1)
    return run


@pytest.mark.parametrize("victims", ["dealer", "generator", "both"])
def test_a_rerun_that_is_killed_goes_on(stage: Stage, ledger: Ledger, victims: str) -> None:
    results = stage.directory / "results"
    with ledger.gate():
        run = started(stage, ledger, results)
        for pid in {"dealer": [dealer_of(run)], "generator": [run.pid], "both": [dealer_of(run), run.pid]}[victims]:
            kill(pid)
    if victims == "dealer":
        run.ends(OK)
    else:
        run.ends(-SIGKILL)
        stage.generator("resume", stage.pool).ends(OK)
    until(lambda: len(outcomes(results)) == 8, "an outcome of each run")
    ends = [(seq, run, state) for seq in (1, 2, 3, 4) for run, state in ((1, "failed"), (2, "succeeded"))]
    assert outcomes(results) == ends
    ledger.check_no_overlap()

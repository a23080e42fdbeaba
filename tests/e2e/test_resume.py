"""What outlives a kill: batches that are gone on with, dealers that come back, answers from any terminal."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import shutil
import sqlite3
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGKILL, SIGTERM

import pytest

from support.harness import (
    FAILED,
    HALTED,
    INTERRUPTED,
    OK,
    UNREACHABLE,
    USAGE,
    Program,
    Stage,
    dealer_of,
    kill,
    opened,
    state_of,
    tell,
    until,
)
from support.ledger import Ledger

JOBS = 12
WORKERS = 2
TIMED_OUT = 124
SEED = int(os.environ.get("TASKPOOL_RESUME_SEED", "0")) or int(time.time())
JOURNAL = {"journal.db", "journal.db-wal"}
LONG_S = 600


def names(count: int = JOBS) -> list[str]:
    return [f"j{number}" for number in range(1, count + 1)]


def private(stage: Stage, ledger: Ledger, work: str, *options: object) -> Program:
    """A private run with results in a file."""
    results = ["--results", str(stage.directory / "results")]
    return stage.private(
        "command", "--workers", WORKERS, *results, *options, "--", *work_of(ledger, work), ":::", *names()
    )


def named(stage: Stage, ledger: Ledger, work: str, *options: object, count: int = JOBS) -> Program:
    """A run in the named pool, as batch `b`, with results in a file."""
    where = ["--pool", stage.pool, "--batch", "b", "--results", str(stage.directory / "results")]
    return stage.generator("command", *where, *options, "--", *work_of(ledger, work), ":::", *names(count))


def journaled(stage: Stage, *options: object) -> Program:
    """A dealer of the named pool with its journal; the same again after a kill."""
    return stage.dealer("--workers", WORKERS, "--journal", stage.directory / "journal", *options)


def resumed(stage: Stage, run: Program) -> Program:
    """What the run says is to be typed."""
    return stage.start(shlex.split(run.says(r"To resume: (.*)$")[1]))


def check_results(stage: Stage, count: int = JOBS, state: str = "succeeded") -> None:
    """Exactly one outcome of each job is in the file."""
    records = [json.loads(line) for line in (stage.directory / "results").read_text().splitlines()]
    assert Counter(record["seq"] for record in records) == dict.fromkeys(range(1, count + 1), 1)
    assert {record["state"] for record in records} == {state}


def work_of(ledger: Ledger, *work: str) -> list[str]:
    """The words of a command job that also writes down in which life of the dealer it runs."""
    life = 'echo "life $2 ${TP_WORKER%/*}" >>"$1/lines"; exec sh "$@"'
    return ["sh", "-c", life.replace("$2", "$3").replace("$1", "$2"), "sh", *ledger.command(*work)[1:]]


def check_ledger(ledger: Ledger, count: int = JOBS) -> int:
    """Every job ended, and was begun anew only in another life of the dealer. Returns how often that was."""
    ledger.check_no_overlap()
    assert ledger.jobs("end").keys() == set(names(count))
    lives = Counter((job, life) for word, job, life in ledger.lines() if word == "life")
    assert set(lives.values()) == {1}, [each for each, number in lives.items() if number > 1]
    return len(lives) - count


# --- a private pool ----------------------------------------------------------------------------------------


def test_ctrl_c_and_resume(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        run = private(stage, ledger, "gate", "-v", "--drain-timeout", "40s")
        ledger.wait("start", WORKERS)
        run.send(SIGINT)
        run.says("Draining")
    run.ends(INTERRUPTED)
    assert state_of(stage.pool).exists()
    resumed(stage, run).ends(OK)
    check_results(stage)
    assert set(ledger.jobs("start").values()) == {1}
    assert state_of(stage.pool).exists(), "it has a name"


def test_a_killed_generator_and_resume(stage: Stage, ledger: Ledger) -> None:
    run = private(stage, ledger, "sleep=0.05")
    ledger.wait("end", 3)
    kill(run.pid)
    run.ends(-SIGKILL)
    again = private(stage, ledger, "sleep=0.05", "--resume").ends(OK)  # at once: the dealer is still leaving
    assert f"{JOBS} jobs: {JOBS} succeeded" in again.stderr
    check_results(stage)
    check_ledger(ledger)


def acknowledged(stage: Stage) -> int:
    """What the journal of the batch says, which its dealer has locked: of a copy."""
    copy = stage.directory / "copy"
    shutil.copytree(state_of(stage.pool), copy, dirs_exist_ok=True, ignore=lambda _, names: set(names) - JOURNAL)
    with closing(sqlite3.connect(copy / "journal.db")) as journal:
        found: tuple[int] = journal.execute("SELECT acknowledged FROM batches").fetchone()
    return found[0]


def test_what_a_killed_generator_had_printed_is_not_printed_again(stage: Stage, ledger: Ledger) -> None:
    words = ["--workers", 1, "--", "sh", "-c", f'echo $2; [ $2 = a ] || [ -e "$1/go" ] || exec sleep {LONG_S}', "sh"]
    run = stage.private("command", *words, stage.directory, "{}", ":::", "a", "b")
    until(lambda: run.lines == ["a"] and acknowledged(stage) == 1, "the acknowledgement of the first job")
    kill(run.pid)
    run.ends(-SIGKILL)
    (stage.directory / "go").touch()
    assert stage.generator("resume", stage.pool).ends(OK).lines == ["b"]


def test_a_killed_private_dealer_is_started_again(stage: Stage, ledger: Ledger) -> None:
    run = private(stage, ledger, "sleep=0.05")
    for number in (1, 2):
        ledger.wait("end", 3 * number)
        dealer = dealer_of(run)
        kill(dealer)
        run.says(rf"PID {dealer} was killed by SIGKILL; starting it again \({number} of 5 times\)")
    run.ends(OK)
    check_results(stage)
    check_ledger(ledger)


def test_a_second_run_of_a_batch_leaves_the_first_alone(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        run = private(stage, ledger, "gate")
        ledger.wait("start", WORKERS)
        again = stage.private("command", "--resume", "--", *work_of(ledger, "gate"), ":::", *names()).ends(UNREACHABLE)
        assert f"in use by another tp-generator, whose dealer is PID {dealer_of(run)}: wait" in again.stderr
    run.ends(OK)
    check_results(stage)
    assert ledger.jobs("start") == dict.fromkeys(names(), 1)


def test_without_a_journal_a_killed_private_dealer_is_the_end(stage: Stage, ledger: Ledger) -> None:
    run = private(stage, ledger, "sleep=3600", "--journal", "none")
    ledger.wait("start", WORKERS)
    kill(dealer_of(run))
    run.ends(UNREACHABLE)
    assert f"{JOBS} jobs without an outcome, gone without a journal" in run.stderr
    assert not state_of(stage.pool).exists()


def test_both_killed_and_resume(stage: Stage, ledger: Ledger) -> None:
    run = private(stage, ledger, "sleep=0.05")
    ledger.wait("end", 3)
    kill(dealer_of(run))
    kill(run.pid)
    run.ends(-SIGKILL)
    private(stage, ledger, "sleep=0.05", "--resume").ends(OK)
    check_results(stage)
    check_ledger(ledger)


def test_both_killed_while_the_dealer_is_started_again(stage: Stage, ledger: Ledger) -> None:
    """The dealer that comes up without its generator and that of the next run are not in each other's way."""
    run = private(stage, ledger, "sleep=0.05")
    ledger.wait("end", 3)
    killed = dealer_of(run)
    kill(killed)
    until(lambda: dealer_of(run) != killed, "another dealer")
    kill(run.pid)
    again = private(stage, ledger, "sleep=0.05", "--resume").ends(OK)
    assert "in use" not in run.stderr + again.stderr
    check_results(stage)
    check_ledger(ledger)


@pytest.mark.parametrize("when", ["now", "soon"])
def test_halt_and_resume(stage: Stage, ledger: Ledger, when: str) -> None:
    run = private(stage, ledger, "exit=1", "--halt", f"{when},fail=2").ends(HALTED)
    assert "did not run" in run.stderr
    assert ledger.count("start") < JOBS
    resumed(stage, run).ends(HALTED)
    private(stage, ledger, "exit=1", "--resume").ends(FAILED)
    check_results(stage, state="failed")
    assert state_of(stage.pool).exists(), "not all have succeeded"


def test_a_batch_without_a_name_is_resumed_too(stage: Stage, ledger: Ledger) -> None:
    failing = stage.generator("command", "--workers", 1, "--", "sh", "-c", "exit {}", ":::", "0", "3").ends(FAILED)
    kept = Path(failing.says(r"is kept in (\S+), until")[1])
    assert kept.exists()
    assert "To resume" not in failing.stderr, "nothing is left to run"
    again = stage.generator("resume", kept.name).ends(FAILED)
    assert "2 jobs: 1 succeeded, 1 failed (2 in earlier runs)" in again.stderr
    stage.generator("forget", kept.name).ends(OK)
    assert not kept.exists()


def test_a_journal_in_a_place_of_its_own(stage: Stage, ledger: Ledger) -> None:
    journal = stage.directory / "own"
    run = private(stage, ledger, "sleep=0.05", "--journal", journal, "--journal-sync", "normal", "--retain", "1h")
    ledger.wait("end", 2)
    run.send(SIGTERM)
    run.wait()
    assert journal.exists()
    resumed(stage, run).ends(OK)
    check_results(stage)
    assert journal.exists()


def test_batches_that_share_a_journal(stage: Stage, ledger: Ledger) -> None:
    journal = stage.directory / "shared"
    first, second = stage.pool, f"{stage.pool}-2"
    stage.pools += [second, f"{stage.pool}-0"]
    empty = stage.generator("command", "--batch", f"{stage.pool}-0", "--journal", journal, "--", "true", stdin=b"")
    empty.ends(OK)

    def run(batch: str, *options: object) -> Program:
        words = ["--", *ledger.command("gate"), ":::", *(f"{batch}-{name}" for name in ("a", "b"))]
        return stage.generator("command", "--batch", batch, "--workers", 4, "--journal", journal, *options, *words)

    def started(job: str) -> bool:
        return job in ledger.jobs("start")

    with ledger.gate():
        for batch in (first, second):
            begun = run(batch, "-v")
            until(partial(started, f"{batch}-b"), f"a job of {batch} that runs")
            begun.send(SIGINT)
            begun.says("Draining")
            begun.send(SIGINT)
            begun.ends(INTERRUPTED)
    run(first, "--resume").ends(OK)
    told = run(second, "--resume", "--output", "json").ends(OK)
    assert sorted(outcome["seq"] for outcome in told.objects()) == [1, 2]
    # The first batch's dealer began the second's jobs, and stopped those that still ran when it left: they run again.
    assert ledger.jobs("end").keys() == {f"{batch}-{name}" for batch in (first, second) for name in ("a", "b")}
    ledger.check_no_overlap()


# --- input that changed ------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["private", "named"])
def test_changed_input_is_refused(stage: Stage, ledger: Ledger, where: str) -> None:
    dealer = journaled(stage) if where == "named" else None
    pool = [] if dealer is None else ["--pool", stage.pool]
    results = stage.directory / "results"
    common = ["--batch", stage.pool, *pool, "--results", results, "--output", "json", "--"]
    script = ["sh", "-c", '[ "{}" != b ]', ":::"]
    stage.generator("command", *common, *script, "a", "b", "c").ends(FAILED)
    before = results.read_text()
    exists = stage.generator("command", *common, *script, "a", "b", "c").ends(USAGE)
    assert "exists already" in exists.stderr
    assert "--resume" in exists.stderr
    assert results.read_text() == before, "what is refused costs no results"
    for words, complaint in ((["a", "x", "y"], "job 2"), (["a", "b"], "job 3"), (["a", "b", "c", "d"], "job 4|not 4")):
        refused = stage.generator("command", "--resume", *common, *script, *words).ends(USAGE)
        assert re.search(rf"the input has changed: .*({complaint})", refused.stderr), refused.stderr
    again = stage.generator("command", "--resume", *common, *script, "a", "b", "c").ends(FAILED)
    assert again.stdout == ""
    assert "3 jobs: 2 succeeded, 1 failed" in again.stderr
    assert results.read_text() == before
    if dealer is not None:
        dealer.send(SIGTERM)
        dealer.ends(OK)


def test_a_private_batch_never_takes_a_named_pools_state(stage: Stage) -> None:
    dealer = stage.dealer("--workers", 1)
    refused = stage.private("fib", "20").ends(USAGE)
    assert "a pool of that name" in refused.stderr
    dealer.send(SIGTERM)
    dealer.ends(OK)
    assert state_of(stage.pool).exists()


# --- a named pool ------------------------------------------------------------------------------------------


def test_a_dealer_that_comes_back(stage: Stage, ledger: Ledger) -> None:
    dealer = journaled(stage)
    run = named(stage, ledger, "sleep=0.05")
    ledger.wait("end", 3)
    with opened(f"/tp.{stage.pool}.control") as control:
        kill(dealer.pid)
        dealer.wait()
        again = journaled(stage)
        assert os.fstat(control.mqd).st_nlink == 0, "generators see by this that there is another dealer"
    run.ends(OK)
    check_results(stage)
    check_ledger(ledger)
    again.send(SIGTERM)
    again.ends(OK)


@pytest.mark.parametrize("dealer_too", [False, True])
def test_a_generator_that_comes_back(stage: Stage, ledger: Ledger, dealer_too: bool) -> None:
    """The exit code is that of the whole batch, whichever generator was told of the job that failed."""
    dealer = journaled(stage)
    fail = ["--", "sh", "-c", '"$@"; [ "$TP_SEQ" != 1 ]', "sh", *work_of(ledger, "sleep=0.1"), ":::", *names()]
    words = ["--pool", stage.pool, "--batch", "b", "--results", str(stage.directory / "results"), "--output", "json"]
    run = stage.generator("command", *words, *fail)
    until(lambda: len(run.lines) >= 3, "outcomes")
    kill(run.pid)
    if dealer_too:
        kill(dealer.pid)
    run.ends(-SIGKILL)
    if dealer_too:
        dealer.wait()
        dealer = journaled(stage)
    again = stage.generator("command", "--resume", *words, *fail).ends(FAILED)
    assert f"{JOBS} jobs: {JOBS - 1} succeeded, 1 failed" in again.stderr
    told = Counter(json.loads(line)["seq"] for line in run.lines + again.lines if line.endswith("}"))
    assert told.keys() == set(range(1, JOBS + 1))
    records = [json.loads(line) for line in (stage.directory / "results").read_text().splitlines()]
    assert Counter(record["seq"] for record in records) == dict.fromkeys(range(1, JOBS + 1), 1)
    check_ledger(ledger)
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_wait_results_and_logs(stage: Stage, ledger: Ledger) -> None:
    dealer = journaled(stage)
    pool = ["--pool", stage.pool]
    script = 'echo "out $1"; echo "err $1" >&2; read -r line <"$0"; exit "$1"'
    gate = stage.directory / "fifo"
    os.mkfifo(gate)
    words = ["--", "sh", "-c", script, str(gate), "{}", ":::", "0", "5"]
    stage.generator("command", *pool, "--batch", "w", "--detach", *words).ends(OK)
    late = stage.generator("wait", "w", *pool, "--timeout", "0.2s").ends(TIMED_OUT)
    assert "2 without an outcome" in late.stderr
    assert "has no outcome" in stage.generator("logs", "w/1", *pool).ends(USAGE).stderr
    waiting = stage.generator("wait", "w", *pool)
    with gate.open("w") as opened:
        opened.write("go\ngo\n")
        opened.flush()
        waiting.ends(FAILED)
    assert "no batch 'nix'" in stage.generator("wait", "nix", *pool).ends(USAGE).stderr
    for life in (1, 2):
        if life == 2:
            kill(dealer.pid)
            dealer.wait()
            dealer = journaled(stage)
        assert "1 succeeded, 1 failed" in stage.generator("wait", "w", *pool).ends(FAILED).stderr
        assert sorted(stage.generator("results", "w", *pool).ends(OK).lines) == ["out 0", "out 5"]
        found = stage.generator("results", "w", *pool, "--output", "json").ends(OK).objects()
        assert {job["seq"]: job["state"] for job in found} == {1: "succeeded", 2: "failed"}
        logs = stage.generator("logs", "w/2", *pool).ends(OK)
        assert (logs.stdout, logs.stderr) == ("out 5\n", "err 5\n")
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_wait_outlives_its_dealer(stage: Stage, ledger: Ledger) -> None:
    dealer = journaled(stage)
    with ledger.gate():
        words = ["--pool", stage.pool, "--batch", "b", "--detach", "--", *ledger.command("gate"), ":::", *names()]
        stage.generator("command", *words).ends(OK)
        waiting = stage.generator("wait", "b", "--pool", stage.pool, "-v")
        ledger.wait("start", WORKERS)
        kill(dealer.pid)
        dealer.wait()
        dealer = journaled(stage)
    waiting.ends(OK)
    dealer.send(SIGTERM)
    dealer.ends(OK)


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_five_hundred_jobs_under_kills(stage: Stage, ledger: Ledger) -> None:
    """Generator, dealer or both are killed at random moments. TASKPOOL_RESUME_SEED repeats one."""
    tell(f"TASKPOOL_RESUME_SEED={SEED}")
    chance = random.Random(SEED)
    count = 500
    dealer = journaled(stage)
    run = named(stage, ledger, "sleep=0.01", count=count)
    for victims in ("dealer", "generator", "both", "dealer", "both", "generator"):
        ledger.wait("end", min(count - 20, ledger.count("end") + chance.randint(5, 60)))
        pids = {"dealer": [dealer.pid], "generator": [run.pid], "both": [run.pid, dealer.pid]}[victims]
        for pid in pids:
            kill(pid)
        if victims != "generator":
            dealer.wait()
            dealer = journaled(stage)
        if victims != "dealer":
            run.wait()
            run = named(stage, ledger, "sleep=0.01", "--resume", count=count)
    run.ends(OK, 120)
    assert f"{count} jobs: {count} succeeded" in run.stderr
    check_results(stage, count)
    tell(f"{check_ledger(ledger, count)} executions more than jobs")
    dealer.send(SIGTERM)
    dealer.ends(OK)

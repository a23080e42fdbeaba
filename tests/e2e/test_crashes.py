"""Workers die, by their own jobs and by other hands; every job still gets its one right outcome."""

from __future__ import annotations

import json
import re
from collections import Counter

import pytest

from support.harness import OK, QUARANTINED, Program, Stage, dealer_of, kill, tell, until, workers_of
from support.ledger import WORKLOAD, Ledger

FIB = {20: 6765, 21: 10946, 22: 17711, 23: 28657, 24: 46368, 25: 75025}
SEED = 7

KILLS_MIN = 200
JOBS = 500
WORKERS = 4
HELD = 2 * WORKERS  # jobs that wait at the gate, more than there are workers
ENDS_BETWEEN_KILLS = 10
TINY_JOBS = 450


def a_third_crashes(stage: Stage, *kind: object, seed: int = SEED) -> Program:
    chaos = f"crash=0.33,seed={seed}"
    name, *arguments = kind
    return stage.private(
        name, "--workers", 4, "--chaos", chaos, "--crash-limit", "unlimited", "-v", *arguments
    )  # fmt: skip


def test_a_third_of_the_attempts_crash_and_every_result_is_right(stage: Stage) -> None:
    done = a_third_crashes(stage, "fib", "20-25", "--repeat", 2).ends(OK)
    assert Counter(map(int, done.lines)) == Counter(2 * list(FIB.values()))
    check_log(done.stderr, stage.pool)
    check_summary(done.stderr)


def check_log(log: str, pool: str) -> None:
    assert f"[TaskGenerator] Queue created: /tp.{pool}.reply.0\n" in log
    for seq, n in enumerate([*FIB, *FIB], 1):
        assert re.search(rf"^\[Dealer\] Sent job {seq} -> fib\({n}\)$", log, re.MULTILINE)
        result = rf"^\[Dealer\] Received result for job {seq}: {FIB[n]} from worker PID \[(\d+)\]$"
        assert len(re.findall(result, log, re.MULTILINE)) == 1
    started = set(re.findall(r"^\[Worker (\d+)\] Starting up$", log, re.MULTILINE))
    crashed = re.findall(r"^\[Worker (\d+)\] Simulated crash!$", log, re.MULTILINE)
    exited = re.findall(r"^\[Supervisor\] Worker PID (\d+) killed by SIGSEGV$", log, re.MULTILINE)
    assert crashed
    assert sorted(crashed) == sorted(exited)
    assert set(crashed) <= started
    resent = set(re.findall(r"^\[Recovery\] Resent job \d+ after crash of (\d+)", log, re.MULTILINE))
    assert resent
    assert resent <= set(crashed)
    assert log.count("[Dealer] All jobs completed. Shutting down workers...\n") == 1


def check_summary(log: str) -> None:
    last = log.splitlines()[-1]
    counted = re.fullmatch(
        r"\[TaskGenerator\] 12 jobs: 12 succeeded; (\d+) attempts, (\d+) crash(?:es)?, (\d+) respawns?; "
        r"\S+ wall; CPU \S+ of \S+ available \(\d+%\)",
        last,
    )
    assert counted, last
    attempts, crashes, respawns = map(int, counted.groups())
    assert attempts >= 12 + crashes
    assert 0 < crashes <= log.count("Simulated crash!")
    assert respawns > 0


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(("fib", "20-25", "--repeat", 2), id="tiny"),
        pytest.param(("command", "--", "sleep", ":::", *["0.02"] * 12), id="long"),
    ],
)
def test_the_same_seed_crashes_the_same_tries(stage: Stage, kind: tuple[object, ...]) -> None:
    runs = [a_third_crashes(stage, kind[0], "--output", "json", *kind[1:]).ends(OK).objects() for _ in range(2)]
    first, second = ({job["seq"]: job["crashes"] for job in run} for run in runs)
    assert first == second
    assert sum(first.values()) > 0


def test_a_poison_job_is_quarantined_and_its_neighbours_are_not(stage: Stage, ledger: Ledger) -> None:
    poison, innocent = ledger.command("segv"), ledger.command("echo=fine")
    batch = [poison if seq == 5 else innocent for seq in range(1, 11)]
    lines = [
        {"kind": "command", "argv": [str(seq) if w == "{}" else w for w in argv]} for seq, argv in enumerate(batch, 1)
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    done = stage.private("jobs", "--workers", 2, "--crash-limit", 2, "--output", "json", "-", stdin=text).ends(
        QUARANTINED
    )
    outcomes = {job["seq"]: job for job in done.objects()}
    assert {seq for seq, job in outcomes.items() if job["state"] == "succeeded"} == set(range(1, 11)) - {5}
    assert (outcomes[5]["state"], outcomes[5]["signal"], outcomes[5]["crashes"]) == ("quarantined", 11, 2)
    assert ledger.jobs("start")["5"] == 2
    assert sum(job["crashes"] for job in outcomes.values()) == 2


@pytest.mark.timeout(180)
def test_what_ended_before_a_crash_in_its_frame_is_not_executed_again(stage: Stage, ledger: Ledger) -> None:
    """Tiny jobs share frames. Of those that had ended in one when a later job killed the worker, none was reported."""
    deadly = {"kill": {"signal": 9}, "segv": {"signal": 11}, "exit=3": {"exit_status": 3}}
    works = [list(deadly)[seq // 30 % 3] if seq % 30 == 0 else "" for seq in range(1, TINY_JOBS + 1)]
    calls = []
    for seq, work in enumerate(works, 1):
        call, *arguments = ("workload:die", 9) if work == "kill" else ("workload:work", work, seq)
        names = [str(ledger.directory), str(seq)]
        calls.append({"kind": "python", "call": call, "args": [*names, *arguments], "path": [str(WORKLOAD)]})
    text = "\n".join(map(json.dumps, calls)).encode()
    words = ("jobs", "--workers", 2, "--crash-limit", 1, "--output", "json", "-")
    outcomes = stage.private(*words, stdin=text).ends(QUARANTINED, 150).objects()
    assert Counter(job["seq"] for job in outcomes) == Counter(range(1, TINY_JOBS + 1))
    for job in outcomes:
        wanted = deadly.get(works[job["seq"] - 1])
        if wanted is None:
            assert (job["state"], job["value"], job["attempts"], job["crashes"]) == ("succeeded", job["seq"], 1, 0)
        else:
            assert job["state"] == "quarantined"
            assert {name: job[name] for name in wanted} == wanted
    ledger.check_no_start_behind_an_end({str(seq) for seq in range(1, TINY_JOBS + 1)})
    ledger.check_no_overlap()


def test_a_job_that_closes_its_workers_queues_costs_a_worker_and_no_more(stage: Stage) -> None:
    closing = {"kind": "python", "call": "os:closerange", "args": [3, 64]}
    innocent = {"kind": "python", "call": "math:factorial", "args": [4]}
    text = "\n".join(json.dumps(closing if seq in (5, 20) else innocent) for seq in range(1, 41)).encode()
    done = stage.private("jobs", "--workers", 2, "--crash-limit", 1, "--output", "json", "-", stdin=text).ends(OK)
    outcomes = {job["seq"]: (job["value"], job["attempts"], job["crashes"]) for job in done.objects()}
    assert outcomes == {seq: (None if seq in (5, 20) else 24, 1, 0) for seq in range(1, 41)}
    assert len(re.findall(r"Worker PID \d+ exited with status 3", done.stderr)) == 2, "they could not send"


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_all_workers_are_killed_again_and_again(stage: Stage, ledger: Ledger) -> None:
    """A pool of 4 whose every worker is killed at once, until 200 have died, in one run of 500 jobs.

    The last jobs wait at a gate until the kills are made, so that the batch cannot end before, however slow this
    process is beside the pool.
    """
    names = [str(number) for number in range(1, JOBS + 1)]
    text = "\n".join(json.dumps({"kind": "command", "argv": argv}) for argv in short_jobs_then_held(ledger, names))
    with ledger.gate():
        run = stage.private(
            "jobs", "--workers", WORKERS, "--crash-limit", "unlimited", "--output", "json", "-v", "-",
            stdin=text.encode(),
        )  # fmt: skip
        killed = kill_all_workers_again_and_again(dealer_of(run), ledger)
    run.ends(OK, 200)
    outcomes = run.objects()
    assert Counter(job["seq"] for job in outcomes) == Counter(range(1, JOBS + 1))
    assert {job["state"] for job in outcomes} == {"succeeded"}
    assert set(ledger.jobs("end")) == set(names)
    ledger.check_no_overlap()
    times = re.findall(r"\[Recovery\] Resent job \d+ after crash of \d+.* (\d+\.\d+) ms after", run.stderr)
    assert times
    tell(f"{killed} kills; slowest of {len(times)} recoveries: {max(map(float, times))} ms")


def short_jobs_then_held(ledger: Ledger, names: list[str]) -> list[list[str]]:
    """The command lines of the batch: short jobs, and behind them those that wait at the gate."""
    short, held = ledger.command("sleep=0.01"), ledger.command("gate")
    lines = [*[short] * (len(names) - HELD), *[held] * HELD]
    return [[name if word == "{}" else word for word in line] for name, line in zip(names, lines, strict=True)]


def kill_all_workers_again_and_again(dealer: int, ledger: Ledger) -> int:
    """Kill every worker each time that jobs have got on, until enough have died; returns how many."""
    killed = starts = ends = 0

    def got_on() -> bool:
        ended = ledger.count("end")
        all_at_the_gate = ended >= JOBS - HELD and ledger.count("start") >= starts + WORKERS
        return all_at_the_gate or ended >= ends + ENDS_BETWEEN_KILLS

    while killed < KILLS_MIN:
        until(got_on, "jobs that end, or that wait at the gate")
        # Counted before the kill: a spare may have started the next job before we get to look again.
        starts, ends = ledger.count("start"), ledger.count("end")
        killed += sum(kill(pid) for pid in until(lambda: workers_of(dealer), "workers to kill"))
    return killed

"""A pool that stands still as a whole: a stopped container, a frozen control group, here SIGSTOP of every process.

Nothing is timed out for it. What hangs alone, in a pool that goes on, is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from signal import SIGCONT, SIGSTOP

import pytest

from support.harness import FAILED, OK, Program, Stage, alive, dealer_of, kill, marked, until, workers_of
from support.ledger import WORKLOAD, Ledger

TIMEOUT_SECONDS = 4
PAUSE_SECONDS = 6.0  # beyond the time-out, TERM's grace, and what a generator waits for an answer


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """These processes stand still."""
    try:
        for pid in pids:
            kill(pid, SIGSTOP)
        yield
    finally:
        for pid in reversed(pids):
            kill(pid, SIGCONT)


def pause(*pids: int) -> None:
    """Stop these processes for longer than they have time."""
    with stopped(*pids):
        time.sleep(PAUSE_SECONDS)  # the pause itself


def command(stage: Stage, ledger: Ledger, *work: str, timeout: str = f"{TIMEOUT_SECONDS}s") -> Program:
    """One command job in the named pool, which has begun."""
    words = ledger.command(*work)
    started = stage.generator("command", "--pool", stage.pool, "--timeout", timeout, "--", *words, ":::", "1")
    ledger.wait("start", 1)
    return started


def python(stage: Stage, ledger: Ledger, *work: str) -> Program:
    """The same as a python job."""
    words = ["--path", WORKLOAD, "--timeout", f"{TIMEOUT_SECONDS}s", "workload:work"]
    line = json.dumps([str(ledger.directory), "1", *work]).encode() + b"\n"
    started = stage.generator("python", "--pool", stage.pool, *words, stdin=line)
    ledger.wait("start", 1)
    return started


@pytest.mark.parametrize(("job", "pauses"), [(command, 1), (command, 2), (python, 1)])
def test_a_job_has_its_time_whatever_the_pool_stands(stage: Stage, ledger: Ledger, job: object, pauses: int) -> None:
    assert callable(job)
    dealer = stage.dealer("--workers", 1)
    with ledger.gate():
        generator = job(stage, ledger, "gate")
        for _ in range(pauses):
            pause(dealer.pid, *marked(stage.pool))
    generator.ends(OK)
    assert ledger.jobs("start") == ledger.jobs("end") == {"1": 1}


def test_a_private_pool_stands_with_its_generator(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        words = ledger.command("gate")
        generator = stage.private("command", "--timeout", f"{TIMEOUT_SECONDS}s", "--", *words, ":::", "1")
        ledger.wait("start", 1)
        pause(generator.pid, dealer_of(generator), *marked(stage.pool))
    generator.ends(OK)
    assert ledger.jobs("start") == {"1": 1}


def test_a_pause_between_term_and_kill_is_no_grace(stage: Stage, ledger: Ledger) -> None:
    """The program tidies up when it is told to end, and has all of its grace for that."""
    dealer = stage.dealer("--workers", 1)
    script = (
        'trap \'echo told 1 $$ >>"$1"; flock -s "$2" true; echo tidied 1 $$ >>"$1"; exit\' TERM; '
        'echo start 1 $$ >>"$1"; while :; do sleep 0.05; done'
    )
    words = ["sh", "-c", script, "sh", str(ledger.path), str(ledger.directory / "gate")]
    with ledger.gate():
        generator = stage.generator("command", "--pool", stage.pool, "--timeout", "1s", "--", *words, ":::", "1")
        ledger.wait("told", 1)
        pause(dealer.pid, *marked(stage.pool))
    generator.ends(FAILED)
    assert ledger.count("tidied") == 1, "it was killed amid its grace"


def test_a_pause_while_the_pool_is_told_to_leave_ends_no_job(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1, "--drain-timeout", f"{TIMEOUT_SECONDS}s", "--journal", stage.directory / "j")
    with ledger.gate():
        words = ledger.command("gate")
        stage.generator("command", "--pool", stage.pool, "--detach", "--", *words, ":::", "1").ends(OK)
        ledger.wait("start", 1)
        dealer.popen.terminate()
        dealer.says("Draining")
        pause(dealer.pid, *marked(stage.pool))
    dealer.ends(OK)
    assert ledger.count("end") == 1


def test_a_worker_that_stands_alone_is_timed_out_by_its_dealer(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1, "--spares", 0)
    with ledger.gate():
        generator = command(stage, ledger, "gate", timeout="1s")
        with stopped(*workers_of(dealer.pid)):
            generator.ends(FAILED)
    assert "timed-out" in generator.stderr


def test_a_job_that_stands_alone_is_timed_out(stage: Stage, ledger: Ledger) -> None:
    stage.dealer("--workers", 1)
    with ledger.gate():
        generator = command(stage, ledger, "gate", timeout="1s")
        with stopped(*ledger.pids("start")):
            generator.ends(FAILED)
    assert "timed-out" in generator.stderr


def test_a_command_ends_on_time_while_its_dealer_stands(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1)
    with ledger.gate():
        generator = command(stage, ledger, "gate", timeout="1s")
        with stopped(dealer.pid):
            (job,) = ledger.pids("start")
            until(lambda: not alive(job), "the end of a command past its time-out")
        generator.ends(FAILED)

"""Private pools of which every process was killed: what they leave is gone when the next dealer starts."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import pytest

from support.harness import (
    OK,
    Program,
    Stage,
    alive,
    dealer_of,
    kill,
    program,
    programs_directory,
    queue_exists,
    state_of,
    until,
    workers_of,
)
from support.ledger import Ledger

SHARED = ("intake", "control", "events", "lock")


def left(pool: str) -> list[str]:
    return [name for name in SHARED if queue_exists(f"/tp.{pool}.{name}")]


def kill_together(run: Program) -> None:
    """Stop both before either can see the other's end, as the kernel does with a whole control group."""
    dealer = dealer_of(run)
    workers = workers_of(dealer)
    for number in (SIGSTOP, SIGKILL):
        kill(run.pid, number)
        kill(dealer, number)
    run.ends(-SIGKILL)
    until(lambda: not any(alive(pid) for pid in (dealer, *workers)), "the end of the killed pool")


def start_another(stage: Stage, what: str) -> None:
    if what == "generator":
        name = f"{stage.pool}-other"
        stage.pools.append(name)
        stage.generator("fib", "5", "--batch", name).ends(OK)
    else:
        name = f"{stage.pool}-named"
        stage.pools.append(name)
        other = stage.start([program("tp-dealer"), "--pool", name, "--metrics", "none", "--journal", "none"])
        other.says("Pool .* workers")
        other.send(SIGTERM)
        other.ends(OK)


@pytest.mark.parametrize("what", ["generator", "dealer"])
@pytest.mark.parametrize("journal", ["kept", "none", "elsewhere"])
def test_the_next_dealer_takes_away_the_queues(stage: Stage, ledger: Ledger, journal: str, what: str) -> None:
    places: dict[str, list[object]] = {"kept": [], "none": ["none"], "elsewhere": [stage.directory / "own"]}
    options = [f"--journal={place}" for place in places[journal]]
    words = ["--workers", "1", *options, "--", *ledger.command("sleep=0.3"), ":::", "a", "b", "c"]
    run = stage.private("command", *words)
    ledger.wait("start", 1)
    kill_together(run)
    assert left(stage.pool) == list(SHARED)
    start_another(stage, what)
    assert left(stage.pool) == []
    assert state_of(stage.pool).exists() == (journal != "none")
    if journal == "none":
        stage.private("command", *words).ends(OK)  # the name is free again
    else:
        resumed = stage.private("command", "--resume", *words).ends(OK)
        assert "3 jobs: 3 succeeded" in resumed.stderr
    assert ledger.jobs("end").keys() == {"a", "b", "c"}


def test_a_pool_inside_a_job_that_times_out(stage: Stage) -> None:
    inner = f"{stage.pool}-in"
    stage.pools.append(inner)
    line = f"tp-generator command -q --workers 1 --batch {inner} -- sleep ::: 30; :"
    path = f"{programs_directory()}:{os.environ['PATH']}"
    stage.private("command", "--timeout", "1.5s", "--shell", line, ":::", "x", env={"PATH": path}).ends(1)
    start_another(stage, "generator")
    assert left(inner) == []


def test_a_pool_whose_generator_is_about_to_start_its_dealer_again_is_left_alone(stage: Stage, ledger: Ledger) -> None:
    with ledger.gate():
        run = stage.private("command", "--workers", "1", "--", *ledger.command("gate"), ":::", "a")
        ledger.wait("start", 1)
        dealer = dealer_of(run)
        kill(run.pid, SIGSTOP)
        kill(dealer)
        until(lambda: not alive(dealer), "the end of the dealer")
        start_another(stage, "generator")
        assert left(stage.pool) == list(SHARED)
        run.send(SIGCONT)
        run.says("starting it again")
    run.ends(OK)


def test_a_generator_that_is_killed_frees_its_batch_long_before_its_lease_ends(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 1)
    words = ["--pool", stage.pool, "--batch", "b", "--", *ledger.command("gate"), ":::", "a", "b"]

    def reply_queues() -> list[str]:
        found = []
        for entry in Path(f"/proc/{dealer.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found.append(os.readlink(entry))
        return [link for link in found if ".reply." in link]

    with ledger.gate():
        run = stage.generator("command", *words)
        ledger.wait("start", 1)
        assert reply_queues()
        kill(run.pid)
        run.ends(-SIGKILL)
        until(lambda: not reply_queues(), "the queue of the dead generator to be closed", 20)
    stage.generator("command", "--resume", *words).ends(OK)
    assert ledger.jobs("end").keys() == {"a", "b"}
    dealer.send(SIGTERM)
    dealer.ends(OK)

"""kill -9 of a dealer, and a dealer that stands still: nothing it started outlives it by much, nothing of an
earlier life runs beside a new one, and what was left is found by the next start."""

from __future__ import annotations

import os
import time
from functools import partial
from signal import SIGCONT, SIGSTOP, SIGTERM

import pytest

from support.harness import OK, UNREACHABLE, Stage, alive, kill, marked, program, queue_exists, tell, until, workers_of
from support.ledger import Ledger

DEALER_KILLS = int(os.environ.get("TASKPOOL_DEALER_KILLS", "20"))
POOLS = 4  # killed at the same time, each time
STOPPED_SECONDS = 3.0


class Pool:
    """One of several pools whose dealers are killed: its name, its dealer, its busy workers."""

    def __init__(self, stage: Stage, ledger: Ledger, number: int) -> None:
        self.name = f"{stage.pool}-{number}"
        if self.name not in stage.pools:
            stage.pools.append(self.name)
        self._dealer = [program("tp-dealer"), "--pool", self.name, "--metrics", "none", "--journal", "none"]
        self.dealer = stage.start([*self._dealer, "--workers", "2", "--spares", "0"])
        command = [*ledger.command("sleep=3600"), ":::", f"{number}-1", f"{number}-2"]
        arguments = ["command", "--pool", self.name, "--detach", "--dealer-timeout", "40s", "--", *command]
        self.generator = stage.start([program("tp-generator"), *arguments])
        self._stage = stage

    def workers(self) -> list[int]:
        return workers_of(self.dealer.pid)

    def leave_in_order(self) -> None:
        """Started once more, it finds what was left, and takes it along when it goes."""
        assert queue_exists(f"/tp.{self.name}.intake")
        dealer = self._stage.start([*self._dealer, "--workers", "1"])
        dealer.says(r"epoch \d+")
        dealer.send(SIGTERM)
        dealer.ends(OK)
        assert not queue_exists(f"/tp.{self.name}.intake")


def all_dead(pids: list[int]) -> bool:
    return not any(map(alive, pids))


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_no_worker_outlives_a_killed_dealer(stage: Stage, ledger: Ledger) -> None:
    """As often as TASKPOOL_DEALER_KILLS says; several pools at a time, because their start is what takes long."""
    slowest, pools = 0.0, list[Pool]()
    for repetition in range(DEALER_KILLS // POOLS):
        pools = [Pool(stage, ledger, number) for number in range(POOLS)]
        ledger.wait("start", (repetition + 1) * 2 * POOLS)
        for pool in pools:
            pool.generator.ends(OK)
        workers = [pid for pool in pools for pid in pool.workers()]
        assert len(workers) >= 2 * POOLS
        began = time.monotonic()
        for pool in pools:
            kill(pool.dealer.pid)
        until(partial(all_dead, workers), "the end of all workers of killed dealers")
        slowest = max(slowest, time.monotonic() - began)
    tell(f"the last worker was gone {slowest * 1000:.0f} ms after the dealers at the latest")
    for pool in pools:
        pool.leave_in_order()
    until(lambda: not any(map(marked, stage.pools)), "the end of their jobs")
    ledger.check_no_overlap()


# What the jobs of one life of the dealer hold, the first job of the next life must find free.
LIFE = """
life=$1 dir=$2
if [ "$TP_SEQ" = 1 ] && [ "$life" -gt 1 ]; then # one job alone: two that look at once would see each other
    flock -n -x "$dir/life.$((life - 1))" true || echo "survivor $life $$" >>"$dir/lines"
fi
exec 8>>"$dir/life.$life"
flock -s 8
setsid sleep 3600 &
setsid sh -c 'trap "" TERM INT HUP; sleep 3600; sleep 3600' &
echo "start $life $$" >>"$dir/lines"
sleep 3600
"""


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_nothing_of_an_earlier_life_runs_when_the_first_job_is_sent(stage: Stage, ledger: Ledger) -> None:
    lives = 5
    for life in range(1, lives + 1):
        dealer = stage.dealer("--workers", 2, ready=0)
        job = ["--", "sh", "-c", LIFE, "sh", str(life), str(ledger.directory), ":::", "", ""]
        stage.generator("command", "--pool", stage.pool, "--detach", "--dealer-timeout", "40s", *job).ends(OK)
        ledger.wait("start", 2 * life)
        assert ledger.count("survivor") == 0, ledger.lines()
        kill(dealer.pid)
        dealer.wait()
    assert marked(stage.pool), "the grandchildren were to outlive their dealer: else this test shows nothing"
    dealer = stage.dealer("--workers", 1)
    dealer.says(r"ended \d+ processes of an earlier life")
    assert dealer.says(r"epoch (\d+)")[1] == str(lives + 1)
    assert stage.generator("fib", "20", "--pool", stage.pool).ends(OK).lines == ["6765"]
    dealer.send(SIGTERM)
    dealer.ends(OK)


def test_a_generator_that_waits_hears_of_its_dealers_death(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 2)
    command = [*ledger.command("sleep=3600"), ":::", "1", "2", "3"]
    run = stage.generator("command", "--pool", stage.pool, "--dealer-timeout", "3s", "--", *command)
    ledger.wait("start", 2)
    kill(dealer.pid)
    dealer.wait()
    run.ends(UNREACHABLE)
    assert stage.pool in run.stderr
    again = stage.dealer("--workers", 1)
    again.send(SIGTERM)
    again.ends(OK)


def test_a_dealer_that_stands_still_kills_no_worker_and_loses_nothing(stage: Stage, ledger: Ledger) -> None:
    dealer = stage.dealer("--workers", 3, "--spares", 0, ready=3)
    workers = workers_of(dealer.pid)
    assert len(workers) == 3
    names = [str(number) for number in range(1, 41)]
    options = ["--pool", stage.pool, "--timeout", "2.5s", "--output", "json"]
    run = stage.generator("command", *options, "--", *ledger.command("sleep=0.2"), ":::", *names)
    ledger.wait("end", 3)
    dealer.send(SIGSTOP)
    began = time.monotonic()
    until(lambda: time.monotonic() - began > STOPPED_SECONDS, "the time that the dealer stands still")
    dealer.send(SIGCONT)
    run.ends(OK)
    outcomes = run.objects()
    assert sorted(job["seq"] for job in outcomes) == list(range(1, 41))
    assert {(job["state"], job["attempts"]) for job in outcomes} == {("succeeded", 1)}
    assert workers_of(dealer.pid) == workers
    assert set(ledger.jobs("start").values()) == {1}
    dealer.send(SIGTERM)
    dealer.ends(OK)

"""kill -9 of a dealer, and a dealer that stands still: nothing it started outlives it by much, nothing of an
earlier life runs beside a new one, and what was left is found by the next start."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from signal import SIGCONT, SIGSTOP, SIGTERM
from tempfile import TemporaryDirectory

import pytest

from support.harness import (
    OK,
    UNREACHABLE,
    Program,
    Stage,
    alive,
    children_of,
    kill,
    marked,
    program,
    queue_exists,
    tell,
    until,
    workers_of,
)
from support.ledger import Ledger
from taskpool.procs.control_group import own_directory

DEALER_KILLS = int(os.environ.get("TASKPOOL_DEALER_KILLS", "20"))
POOLS = 4  # killed at the same time, each time
STOPPED_SECONDS = 3.0


# A job with a child and a grandchild that has left it, all of them deaf to what asks them to end.
DEAF = """
trap "" TERM INT HUP
for escape in "env -i" "setsid env -i"; do
    $escape sh -c 'trap "" TERM INT HUP; echo "start $2 $$" >>"$1/lines"; sleep 3600; sleep 3600' sh "$@" &
done
wait
"""


class Pool:
    """One of several pools whose dealers are killed: its name, its dealer, its busy workers."""

    def __init__(self, stage: Stage, ledger: Ledger, number: int) -> None:
        self.name = f"{stage.pool}-{number}"
        if self.name not in stage.pools:
            stage.pools.append(self.name)
        self._dealer = [program("tp-dealer"), "--pool", self.name, "--metrics", "none", "--journal", "none"]
        self.dealer = stage.start([*self._dealer, "--workers", "2", "--spares", "0"])
        command = ["sh", "-c", DEAF, "sh", str(ledger.directory), "{}", ":::", f"{number}-1", f"{number}-2"]
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
def test_no_worker_and_no_command_outlives_a_killed_dealer(stage: Stage, ledger: Ledger) -> None:
    """As often as TASKPOOL_DEALER_KILLS says; several pools at a time, because their start is what takes long."""
    slowest, pools = 0.0, list[Pool]()
    for repetition in range(DEALER_KILLS // POOLS):
        pools = [Pool(stage, ledger, number) for number in range(POOLS)]
        ledger.wait("start", (repetition + 1) * 2 * 2 * POOLS)
        for pool in pools:
            pool.generator.ends(OK)
        workers = [pid for pool in pools for pid in pool.workers()]
        assert len(workers) >= 2 * POOLS
        processes = workers + ledger.pids("start")
        began = time.monotonic()
        for pool in pools:
            kill(pool.dealer.pid)
        until(partial(all_dead, processes), "the end of all workers of killed dealers, and of their jobs")
        slowest = max(slowest, time.monotonic() - began)
    tell(f"the last process was gone {slowest * 1000:.0f} ms after the dealers at the latest")
    for pool in pools:
        pool.leave_in_order()


def kill_all(dealer: Program) -> None:
    """Kill a dealer and its workers, so that none is left to end what a job has started."""
    kill(dealer.pid, SIGSTOP)
    for worker in workers_of(dealer.pid):
        kill(worker)
    kill(dealer.pid)
    dealer.wait()


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
        kill_all(dealer)
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


# --- a second execution never finds the first one alive -------------------------------------------------


# The first execution writes its pid down and stays; the second one looks whether that is still alive.
WITNESS = """#!/bin/sh
if first=$(cat "{place}/first" 2>/dev/null); then
    grep -q '^State:.[^ZX]' "/proc/$first/status" 2>/dev/null && word=overlap || word=alone
    echo "$word" >"{place}/second.new" && mv "{place}/second.new" "{place}/second"
else
    echo "$$" >"{place}/first.new" && mv "{place}/first.new" "{place}/first"
    exec {sleep}
fi
"""
UNDUMPABLE = f"""{sys.executable} -c 'import ctypes, time; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); time.sleep(3600)'"""
BARE = "env -i PATH=/usr/bin:/bin"
ESCAPES = {
    "no environment": f"exec {BARE} $0",
    "no environment, deaf": f"trap '' TERM INT HUP; {BARE} $0",
    "no environment, orphaned": f"({BARE} $0 &); sleep 3600",
    "undumpable": "exec $0",
    "a pool of its own": f"exec {program('tp-generator')} command --workers 1 -q -- $0 ::: x",
    "another user": "exec setpriv --reuid=65534 --regid=65534 --clear-groups $0",
}
# Found in a control group only, once all that could end it is dead.
DAEMONS = {
    "own session, no environment": f"exec setsid -w {BARE} $0",
    "daemon": f"(setsid {BARE} $0 >/dev/null 2>&1 &); sleep 3600",
    "another user without environment": f"exec setpriv --reuid=65534 --regid=65534 --clear-groups {BARE} setsid -w $0",
}


def kill_dealer(dealer: Program) -> None:
    kill(dealer.pid)
    dealer.wait()


def kill_worker(dealer: Program) -> None:
    for worker in workers_of(dealer.pid):
        if children_of(worker):
            kill(worker)


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.needs_tool("setpriv")
@pytest.mark.parametrize("killing", [kill_dealer, kill_worker, kill_all])
@pytest.mark.parametrize("escape", [*ESCAPES, *DAEMONS])
def test_no_second_execution_beside_the_first(
    stage: Stage, place: Path, escape: str, killing: Callable[[Program], None]
) -> None:
    if "another user" in escape and os.geteuid() != 0:
        pytest.skip("only root can start a program as another user")
    if escape in DAEMONS and killing is kill_all and not may_make_control_groups():
        pytest.skip("no control group can be made here")
    witness, second = place / "witness", place / "second"
    witness.write_text(WITNESS.format(place=place, sleep=UNDUMPABLE if escape == "undumpable" else "sleep 3600"))
    witness.chmod(0o755)
    options = ("--workers", 1, "--journal", stage.directory / "journal.db")
    dealer = stage.dealer(*options)
    job = ["sh", "-c", {**ESCAPES, **DAEMONS}[escape], str(witness), ":::", "x"]
    stage.generator("command", "--pool", stage.pool, "--batch", "b", "--detach", "--", *job).ends(OK)
    until((place / "first").exists, "the first execution")
    killing(dealer)
    if killing is not kill_worker:
        stage.dealer(*options)
    until(second.exists, "the second execution")
    assert second.read_text() == "alone\n"


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory where every user may write."""
    with TemporaryDirectory() as name:
        os.chmod(name, 0o777)
        yield Path(name)


def may_make_control_groups() -> bool:
    directory = own_directory()
    return directory is not None and os.access(directory, os.W_OK)

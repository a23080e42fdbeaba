"""What an earlier life left is found by each of its traces, and nothing else is ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.harness import alive, marked, until
from support.programs import dies, run, start
from taskpool.clock import SECOND
from taskpool.errors import ConfigurationError
from taskpool.procs import orphans, process_tree, procfs
from taskpool.procs.control_group import ControlGroup, own_directory
from taskpool.procs.orphans import Life, WorkerList, last_life
from taskpool.procs.reap import reap
from taskpool.procs.state_dir import identity

Sleeper = Callable[..., int]  # conftest.py


def in_a_while() -> int:
    return time.monotonic_ns() + 10 * SECOND


def end_orphans(pool: str, deadline_mono_ns: int | None = None) -> int:
    """End what carries a mark of the pool of another epoch than 2."""
    return orphans.end_orphans(Life(pool, "home", {}, None), 2, deadline_mono_ns or in_a_while())


# --- by the mark --------------------------------------------------------------------------------------


def test_orphans_of_other_epochs_are_ended(sleeper: Sleeper, pool: str) -> None:
    orphans = [sleeper(f"{pool}/home/1/1"), sleeper(f"{pool}/home/1/2"), sleeper(f"{pool}/home/3/1")]
    others = (f"{pool}/home/2/1", f"{pool}x/home/1/1", f"{pool}/elsewhere/1/1", f"{pool}/home2/1/1")
    spared = {sleeper(mark) for mark in others}
    assert end_orphans(pool) == 3
    assert {reap(pid).signal for pid in orphans} == {signal.SIGKILL}
    assert {*marked(pool), *marked(f"{pool}x")} == spared
    assert end_orphans(pool) == 0


def test_orphans_need_not_be_our_children(pool: str) -> None:
    shell = subprocess.run(
        ["/bin/sh", "-c", "setsid sleep 60 >/dev/null & echo $!"],
        env={process_tree.MARK_VARIABLE: f"{pool}/home/1/1"},
        stdout=subprocess.PIPE,
    )
    orphan = os.pidfd_open(int(shell.stdout))
    assert end_orphans(pool) == 1
    assert dies(orphan)
    os.close(orphan)


def test_an_orphan_that_keeps_forking_is_ended(pool: str) -> None:
    env = {process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "while :; do /bin/true; done"], env)
    assert end_orphans(pool) >= 1
    assert reap(pid).signal == signal.SIGKILL
    assert marked(pool) == []


def test_an_orphan_born_behind_the_scan_is_found_by_the_next(
    sleeper: Sleeper, pool: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    early, late = sleeper(f"{pool}/home/1/1"), sleeper(f"{pool}/home/1/1")
    scans = iter([[early], [early]])
    monkeypatch.setattr(procfs, "all_pids", lambda: next(scans, [early, late]))
    assert end_orphans(pool) == 2


def test_orphans_alive_at_the_deadline_are_named(sleeper: Sleeper, pool: str) -> None:
    pid = sleeper(f"{pool}/home/1/1")
    before = os.listdir("/proc/self/fd")
    with pytest.raises(ConfigurationError, match=f"earlier life of pool {pool} do not die: {pid};"):
        end_orphans(pool, deadline_mono_ns=1)
    assert os.listdir("/proc/self/fd") == before


def test_a_dealer_started_by_a_job_does_not_end_itself(pool: str) -> None:
    program = """
import sys, time
from taskpool.procs.orphans import Life, end_orphans
print(end_orphans(Life(sys.argv[1], "home", {}, None), 2, time.monotonic_ns() + 10**10))
"""
    assert run(program, pool, env={process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}) == "0\n"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may look into and end another user's processes")
def test_another_users_orphan_is_ended_by_root(pool: str) -> None:
    env = {process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}
    with subprocess.Popen(["sleep", "60"], user=65534, env=env) as orphan:
        assert end_orphans(pool) == 1
        assert orphan.wait(20) == -signal.SIGKILL


def test_what_descends_from_an_orphan_is_ended_with_it(pool: str) -> None:
    text = "env -i setsid sh -c 'echo $$; exec sleep 60' & wait"
    env = {process_tree.MARK_VARIABLE: f"{pool}/home/1/1"}
    with subprocess.Popen(["/bin/sh", "-c", text], env=env, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout is not None
        child = int(orphan.stdout.readline())
        assert end_orphans(pool) == 2
        assert not alive(child)


# --- by the list of workers ---------------------------------------------------------------------------

WORKER = """
from taskpool.procs import prctl
prctl.lower_oom_protection()
prctl.become_subreaper()
import subprocess, sys
subprocess.run(["/bin/sh", "-c", sys.argv[1]])
"""


@pytest.fixture
def worker() -> Iterator[Callable[[str], tuple[subprocess.Popen[str], int]]]:
    """Starts a worker without a mark whose job is a line for the shell; returns it, and the pid that the job prints."""
    started: list[subprocess.Popen[str]] = []

    def run_worker(job: str) -> tuple[subprocess.Popen[str], int]:
        started.append(process := start(WORKER, job, under=("setsid",)))
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield run_worker
    for process in started:
        process.kill()
        process.communicate()


def noted(directory: Path, *pids: int, group: ControlGroup | None = None) -> Life:
    """What the next dealer reads when the last one had these workers."""
    with closing(WorkerList(directory, group)) as workers:
        for pid in pids:
            workers.add(pid)
    return last_life(directory, "demo")


def test_the_list_is_what_was_added_and_not_removed(tmp_path: Path, sleeper: Sleeper) -> None:
    one, two, three = sleeper(), sleeper(), sleeper()
    with closing(WorkerList(tmp_path, None)) as workers:
        workers.add(one)
        workers.add(two)
        workers.remove(one)
        workers.add(three)
        assert set(last_life(tmp_path, "demo").workers) == {two, three}
    assert last_life(tmp_path, "demo").state_id == identity(tmp_path)
    with closing(WorkerList(tmp_path, None)):
        assert last_life(tmp_path, "demo").workers == {}


@pytest.mark.parametrize("damage", [b"", b"{", b"{}\n", b"\0" * 9000])
def test_a_list_that_says_nothing(tmp_path: Path, sleeper: Sleeper, damage: bytes) -> None:
    noted(tmp_path, sleeper())
    (tmp_path / "workers").write_bytes(damage)
    assert last_life(tmp_path, "demo").workers == {}


def test_a_list_of_another_boot_says_nothing(tmp_path: Path, sleeper: Sleeper, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted(tmp_path, sleeper()).workers
    monkeypatch.setattr(procfs, "boot_id", lambda: "another")
    assert last_life(tmp_path, "demo").workers == {}


def test_a_list_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    with pytest.raises(
        ConfigurationError, match=f"cannot write the list of workers {tmp_path}/workers: Is a directory"
    ):
        WorkerList(tmp_path, None)


JOBS = ["exec env -i sh -c 'echo $$; exec sleep 60'", "exec env -i setsid sh -c 'echo $$; exec sleep 60'"]


@pytest.mark.parametrize("job", [*JOBS, "(env -i setsid sh -c 'echo $$; exec sleep 60' &); sleep 60"])
def test_a_worker_that_lives_is_ended_with_all_that_descends_from_it(
    tmp_path: Path, worker: Callable[[str], tuple[subprocess.Popen[str], int]], job: str
) -> None:
    process, child = worker(job)
    assert orphans.end_orphans(noted(tmp_path, process.pid), 0, in_a_while()) >= 2
    assert not alive(child)
    assert process.wait(20) == -signal.SIGKILL


def test_the_session_of_a_dead_worker_is_ended(
    tmp_path: Path, worker: Callable[[str], tuple[subprocess.Popen[str], int]]
) -> None:
    process, child = worker(JOBS[0])
    life = noted(tmp_path, process.pid)
    process.kill()
    process.wait()
    assert alive(child)
    assert orphans.end_orphans(life, 0, in_a_while()) == 1
    assert not alive(child)


def test_a_session_that_has_got_the_number_since_is_left(
    tmp_path: Path, worker: Callable[[str], tuple[subprocess.Popen[str], int]], sleeper: Sleeper
) -> None:
    """Its leader was started at another time, or its members are as protected as any process."""
    process, child = worker(JOBS[0])
    life = noted(tmp_path, process.pid)
    other = life._replace(workers={process.pid: life.workers[process.pid] - 1})
    assert orphans.end_orphans(other, 0, in_a_while()) == 0
    process.kill()
    process.wait()
    Path(f"/proc/{child}/oom_score_adj").write_text("400")
    assert orphans.end_orphans(life, 0, in_a_while()) == 0
    later = life._replace(workers={process.pid: life.workers[process.pid] + 1000})
    assert orphans.end_orphans(later, 0, in_a_while()) == 0
    assert alive(child)
    os.kill(child, signal.SIGKILL)


# --- by the control group -----------------------------------------------------------------------------

GROUPED = """
import os, sys, time
from pathlib import Path
from taskpool.procs.control_group import ControlGroup
group = ControlGroup.make(sys.argv[1])
print(group, flush=True)
if os.fork() == 0:
    if os.fork() == 0:  # a daemon
        os.setsid()
        os.execve("/bin/sh", ["sh", "-c", "echo $$; exec sleep 60"], {})
    os._exit(0)
os.wait()
sys.stdin.read()
if sys.argv[2:]:
    group.leave()
"""


@pytest.fixture
def around() -> Path:
    directory = own_directory()
    if directory is None or not os.access(directory, os.W_OK):
        pytest.skip("no control group can be made here")
    return directory


def test_a_group_is_ended_with_all_that_was_born_in_it(around: Path, tmp_path: Path, pool: str) -> None:
    with start(GROUPED, pool) as dealer:
        assert dealer.stdout is not None
        group = ControlGroup(Path(dealer.stdout.readline().strip()))
        daemon = int(dealer.stdout.readline())
        assert group.directory == around / f"tp.{pool}"
        assert {dealer.pid, daemon} <= group.pids()
        (group.directory / "tp.inner").mkdir()  # a pool within a job
        dealer.kill()
        dealer.wait()
        assert orphans.end_orphans(noted(tmp_path, group=group), 0, in_a_while()) >= 1
        assert not alive(daemon)
        assert not group.directory.exists()


def test_who_leaves_its_group_removes_it(around: Path, pool: str) -> None:
    with start(GROUPED, pool, "leave") as dealer:
        assert dealer.stdout is not None
        group = ControlGroup(Path(dealer.stdout.readline().strip()))
        os.kill(int(dealer.stdout.readline()), signal.SIGKILL)
        until(lambda: group.pids() == {dealer.pid}, "the end of the daemon")
        dealer.communicate()
        assert dealer.returncode == 0
    assert not group.directory.exists()


def test_a_group_is_not_ended_from_within(around: Path, tmp_path: Path, sleeper: Sleeper) -> None:
    """A job has started the dealer: it must not end itself."""
    assert not ControlGroup(around).kill(in_a_while())
    assert ControlGroup(around).holds_this_process


def test_a_group_that_is_gone(around: Path, tmp_path: Path) -> None:
    gone = ControlGroup(around / "tp.gone")
    assert gone.pids() == set()
    assert not gone.kill(in_a_while())
    assert orphans.end_orphans(noted(tmp_path, group=gone), 0, in_a_while()) == 0


def test_no_group_where_none_may_be_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for place in (None, tmp_path / "missing", tmp_path):  # a plain directory has no cgroup.kill
        monkeypatch.setattr("taskpool.procs.control_group.own_directory", lambda place=place: place)
        assert ControlGroup.make("demo") is None
    assert list(tmp_path.iterdir()) == []

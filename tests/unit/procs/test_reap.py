"""Who died, how, and at what cost."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from support.programs import run
from taskpool.procs.reap import kill_group, peek, reap


def start(*argv: str) -> int:
    return os.posix_spawnp(argv[0], argv, os.environ)


def start_and_wait(*argv: str) -> int:
    """The pid of a zombie."""
    pid = start(*argv)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def test_no_child_has_died() -> None:
    assert peek() is None
    pid = start("sleep", "60")
    try:
        assert peek() is None
    finally:
        os.kill(pid, signal.SIGKILL)
        reap(pid)
    assert peek() is None


@pytest.mark.parametrize("limit", ["0", "unlimited"])
def test_a_core_dump_is_told_as_the_kernel_tells_it(limit: str, tmp_path: Path) -> None:
    pid = start_and_wait("sh", "-c", f'cd "$1" && ulimit -S -c {limit}; kill -ABRT $$', "sh", str(tmp_path))
    found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert found is not None
    assert reap(pid).core_dumped is (found.si_code == os.CLD_DUMPED)


@pytest.mark.parametrize("status", [0, 1, 255])
def test_an_exit(status: int) -> None:
    pid = start_and_wait("sh", "-c", f"exit {status}")
    assert peek() == pid
    end = reap(pid)
    assert (end.pid, end.status, end.signal) == (pid, status, None)
    assert end.max_rss_bytes > 100_000
    assert peek() is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGRTMIN])
def test_a_death_by_signal(number: signal.Signals) -> None:
    pid = start_and_wait("sh", "-c", f"ulimit -c 0; kill -{int(number)} $$")
    end = reap(pid)
    assert (end.status, end.signal) == (None, number)


def test_cpu_time_is_measured() -> None:
    busy = reap(start("sh", "-c", "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done"))
    assert 10_000_000 < busy.cpu_ns < 60_000_000_000


def test_peek_leaves_the_dead_where_they_are() -> None:
    pid = start_and_wait("true")
    assert [peek(), peek()] == [pid, pid]
    os.kill(pid, 0)  # its number is still taken
    reap(pid)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ChildProcessError):
        reap(pid)


def test_fifty_deaths_behind_one_sigchld() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    try:
        started = {start_and_wait("true") for _ in range(50)}
        reaped = set()
        while (pid := peek()) is not None:
            reaped.add(reap(pid).pid)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
    assert reaped == started


def test_the_group_of_a_dead_leader_can_still_be_killed() -> None:
    leader = os.posix_spawn("/bin/true", ["true"], {}, setpgroup=0)
    member = os.posix_spawn("/bin/sleep", ["sleep", "60"], {}, setpgroup=leader)
    os.waitid(os.P_PID, leader, os.WEXITED | os.WNOWAIT)
    kill_group(leader)
    assert (reap(leader).status, reap(member).signal) == (0, signal.SIGKILL)


def test_killing_a_group_that_never_was() -> None:
    pid = start_and_wait("true")
    kill_group(pid)
    assert reap(pid).status == 0


def test_an_unknown_child_is_reaped_like_any_other() -> None:
    """A subreaper is handed children it never started."""
    program = """
import os
from taskpool.procs import reap
from taskpool.procs import prctl
prctl.become_subreaper()
known = os.posix_spawn("/bin/sh", ["sh", "-c", "sh -c 'read x; exit 7' <&3 & exit 0"], {},
                       file_actions=[(os.POSIX_SPAWN_DUP2, 0, 3)])
print(reap.reap(known).status, flush=True)
while (pid := reap.peek()) is None:
    pass
end = reap.reap(pid)
print(end.pid != known, end.status)
"""
    assert run(program).split() == ["0", "True", "7"]
